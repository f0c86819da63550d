"""Perplexity by document, bits per byte and experts in use of a checkpoint, with the options of fairseq-eval-lm.

With several sources (corpora, languages), of each of them and of all together; "de/test" is the test split of one.

    python -m fairseq_mhmoe.cli.evaluate data/demo-english --user-dir fairseq_mhmoe --task gpt \
        --path checkpoint_best.pt --gen-subset valid,test --tokens-per-sample 128 --output scores.json
"""

import json
import math
from dataclasses import asdict
from pathlib import Path

import torch
from fairseq import checkpoint_utils, options, tasks, utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from fairseq_mhmoe.cli.files import write_json
from fairseq_mhmoe.cli.messages import warnings_only
from fairseq_mhmoe.data.manifest import read_manifest
from fairseq_mhmoe.evaluation.activation import activated_experts
from fairseq_mhmoe.evaluation.documents import SplitScores, document_sizes, join, score_split
from fairseq_mhmoe.evaluation.parts import bytes_of, parts_of
from fairseq_mhmoe.evaluation.perplexity import perplexity, perplexity_interval


def evaluate(cfg) -> dict:
    """Score the splits that cfg (a fairseq configuration of eval-lm) names, by split; see `report` for each."""
    if cfg.eval_lm.context_window > 0:
        raise ValueError(
            f"--context-window {cfg.eval_lm.context_window}: documents need blocks without overlap; leave it out"
        )
    utils.import_user_module(cfg.common)
    task = tasks.setup_task(cfg.task)
    models, saved, task = checkpoint_utils.load_model_ensemble_and_task([cfg.common_eval.path], task=task)
    model = models[0].eval()
    if torch.cuda.is_available() and not cfg.common.cpu:
        model.cuda()
    return {split: evaluate_split(cfg, task, model, saved.model, split) for split in cfg.dataset.gen_subset.split(",")}


def evaluate_split(cfg, task, model, model_cfg, split: str) -> dict:
    """Score one split: `report` of all sources, and where there are several "sources": that of each."""
    folder = Path(utils.split_paths(cfg.task.data)[0])
    manifest = read_manifest(folder)
    parts = parts_of(task, folder, manifest, split)
    scores = {name: score_part(cfg, task, model, folder, part) for name, part in parts.items()}
    nbytes = {name: bytes_of(manifest, name, part, int(scores[name].tokens.sum())) for name, part in parts.items()}
    result = report(join(scores.values()), None if None in nbytes.values() else sum(nbytes.values()), model_cfg)
    if "/" not in split and len(getattr(task, "source_names", ())) > 1:
        result["sources"] = {name: report(scores[name], nbytes[name], model_cfg, documents=False) for name in parts}
    return result


def score_part(cfg, task, model, folder: Path, split: str) -> SplitScores:
    """Score the split of one source with the batches of fairseq-eval-lm."""
    task.load_dataset(split)
    batches = task.eval_lm_dataloader(
        dataset=task.dataset(split),
        max_tokens=cfg.dataset.max_tokens or 36000,
        batch_size=cfg.dataset.batch_size,
        max_positions=utils.resolve_max_positions(model.max_positions()),
        num_workers=cfg.dataset.num_workers,
    )
    # The task may have cut the blocks to what the model can take: its dataset is asked for afterwards.
    dataset = task.dataset(split)
    return score_split(model, dataset, batches, document_sizes(dataset, folder, split, task.source_dictionary))


def report(scores: SplitScores, nbytes: float | None, model_cfg, documents: bool = True) -> dict:
    """The figures as plain numbers: nll in nats, perplexity with its interval, bits per byte, experts in use.

    Args:
        nbytes: UTF-8 bytes of the text that was scored; None where they are not known.
        documents: whether the scores of each document, in the order of the sources, are wanted.
    """
    nll, tokens = float(scores.nll.sum()), int(scores.tokens.sum())
    activation = activated_experts(scores.layer_stats, model_cfg.moe_top_k, model_cfg.mhmoe_heads_number)
    figures = {
        "documents": len(scores.nll),
        "tokens": tokens,
        "nll": nll,
        "bits_per_token": nll / tokens / math.log(2),
        "perplexity": perplexity(nll, tokens),
        "perplexity_95": list(perplexity_interval(scores.nll, scores.tokens)),
        "bits_per_byte": nll / nbytes / math.log(2) if nbytes else None,
        "activated_experts": asdict(activation) if activation else None,
    }
    if documents:
        figures |= {"document_nll": scores.nll.tolist(), "document_tokens": scores.tokens.tolist()}
    return figures


def main() -> None:
    """Command line: the options of fairseq-eval-lm, and --output."""
    parser = options.get_eval_lm_parser()
    parser.add_argument("--output", help="JSON file for the result; standard output when absent")
    args = options.parse_args_and_arch(parser)
    warnings_only()
    result = evaluate(convert_namespace_to_omegaconf(args))
    if args.output:
        write_json(Path(args.output), result)
    else:
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
