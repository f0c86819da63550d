"""fairseq-eval-lm and fairseq-validate in several processes, for fairseq 0.12.3.1: one result, the one of one process.

There, each process of fairseq-eval-lm prints its share of the data as if it were the result. A rank whose share is
shorter skips a turn; with --context-window and in fairseq-validate it stops there. The context before a batch is what
the process saw last (with several --num-workers in one process too), not what stands before it in the text; and the
end of one source is the context of the next.
Here the experts are spread over the ranks as far as they go, whoever wrote the checkpoint; a rank without a batch takes
part with a blank one; sums are added over ranks in float64, so that the result depends on their number no further than
by the order of summation.
"""

import itertools
import logging
import math
import sys

import numpy as np
import torch
import torch.distributed as dist
from fairseq import utils
from fairseq.data import LMContextWindowDataset
from fairseq.distributed import utils as distributed_utils
from fairseq.logging.meters import StopwatchMeter
from fairseq.sequence_scorer import SequenceScorer
from fairseq.tasks import FairseqTask

from fairseq_mhmoe.integration.distributed import program_of
from fairseq_mhmoe.integration.empty_batches import blank_batch
from fairseq_mhmoe.integration.hooks import wrap
from fairseq_mhmoe.moe import parallel

logger = logging.getLogger(__name__)


def install():
    """Installs the hooks of this file."""
    wrap(distributed_utils, "call_main", call_main)
    wrap(FairseqTask, "valid_step", valid_step)
    wrap(LMContextWindowDataset, "collater", collate_with_context)
    wrap(LMContextWindowDataset, "batch_by_size", batches_of_one_source)


def call_main(original, cfg, main, **kwargs):
    """Starts a program of fairseq; those that evaluate, with the experts spread over the ranks."""
    if program_of(main) in ("eval_lm", "validate"):
        main = EvaluateTogether(main)
    return original(cfg, main, **kwargs)


class EvaluateTogether:
    """The main function of a program that evaluates; it pickles, for processes that fairseq spawns itself."""

    def __init__(self, main):
        self.main = main

    def __call__(self, cfg, **kwargs):
        """Runs the program on this rank. Raises ValueError for options that make sense in one process only."""
        if not in_several_processes():
            return self.main(cfg, **kwargs)
        program = sys.modules[self.main.__module__]
        if hasattr(program, "eval_lm"):
            check_options(cfg)
            wrap(program, "eval_lm", eval_lm)
        if hasattr(program, "reset_logging"):
            wrap(program, "reset_logging", reset_logging)
        with parallel.widest_groups():
            return self.main(cfg, **kwargs)


def in_several_processes():
    """Whether this process is one of several that work together."""
    return dist.is_initialized() and dist.get_world_size() > 1


def check_options(cfg):
    """Refuses what fairseq-eval-lm does with words or shares of the data.

    Raises:
        ValueError: with the option and the remedy.
    """
    refused = {
        "--output-word-probs": cfg.eval_lm.output_word_probs,
        "--output-word-stats": cfg.eval_lm.output_word_stats,
        "--post-process": cfg.common_eval.post_process is not None,
        "--num-shards": cfg.dataset.num_shards > 1,
    }
    for option, given in refused.items():
        if given:
            raise ValueError(
                f"fairseq-eval-lm with {option} works in one process, and there are {dist.get_world_size()}: "
                "start it without the launcher, or leave the option out"
            )


def eval_lm(original, **arguments):
    """fairseq_cli.eval_lm.eval_lm over the batches of all ranks.

    Returns:
        "loss" in bits per token and "perplexity"; the same on all ranks.
    """
    if not in_several_processes():
        return original(**arguments)
    dictionary = arguments.get("target_dictionary") or arguments["source_dictionary"]
    device = arguments.get("device") or next(arguments["models"][0].parameters()).device
    scorer = SequenceScorer(dictionary, arguments.get("softmax_batch", 0))
    timer = StopwatchMeter()
    sums = torch.zeros(3, dtype=torch.float64, device=device)  # log-probability, tokens scored, tokens seen
    for sample in batches_and_blanks(arguments["batch_iterator"], dictionary.pad()):
        sample = utils.move_to_cuda(sample, device=device)
        timer.start()
        hypotheses = scorer.generate(arguments["models"], sample)
        timer.stop(sample["ntokens"])
        for [hypothesis] in hypotheses:
            scores = hypothesis["positional_scores"].double()
            if arguments.get("remove_bos_token") and scores.numel() > 0:
                assert hypothesis["tokens"][0].item() == dictionary.bos()
                scores = scores[1:]
            finite = scores.isfinite()
            sums[0] += scores[finite].sum()
            sums[1] += finite.sum()
    sums[2] = timer.n
    dist.all_reduce(sums)
    log_probability, count, seen = sums.tolist()
    logger.info(f"Evaluated {seen:,.0f} tokens in {timer.sum:.1f}s ({seen / max(timer.sum, 1e-9):.2f} tokens/s)")
    loss = -log_probability / count / math.log(2) if count > 0 else 0
    return {"loss": loss, "perplexity": 2**loss}


def batches_and_blanks(iterator, pad):
    """This rank's batches, blank ones where it has none: all ranks' shares are equally long."""
    iterator = iter(iterator)
    first = list(itertools.islice(iterator, 1))
    # with fewer batches than ranks, some see none of their own; rank 0 has the first
    blank = [blank_batch(first[0], pad) if first and "net_input" in first[0] else None]
    dist.broadcast_object_list(blank, src=0)
    for sample in itertools.chain(first, iterator):
        yield sample if "net_input" in sample else blank[0]


def collate_with_context(original, dataset, samples):
    """A batch of consecutive samples with the --context-window tokens that stand before them in the text."""
    if len(samples) == 0:
        return {}
    dataset.prev_tokens = tokens_before(dataset, samples[0]["id"])
    return original(dataset, samples)


def tokens_before(dataset, index):
    """The last --context-window tokens of the samples before number `index`; fewer at the beginning of a source."""
    parts, missing = [np.empty(0, dtype=np.int64)], dataset.context_window
    beginning = max((end for end in source_ends(dataset) if end <= index), default=0)
    while index > beginning and missing > 0:
        index -= 1
        source = dataset.dataset[index]["source"].numpy()
        parts.insert(0, source[source != dataset.pad_idx][-missing:])
        missing -= len(parts[0])
    return np.concatenate(parts)


def source_ends(dataset):
    """Numbers of the samples that come after those of each source; none where the dataset doesn't tell."""
    return getattr(dataset.dataset, "ends", np.empty(0, dtype=np.int64))


def batches_of_one_source(original, dataset, *args, **kwargs):
    """Batches of consecutive samples, cut where a source ends: the next one's text does not continue its."""
    ends = source_ends(dataset)
    batches = original(dataset, *args, **kwargs)
    return [part for batch in batches for part in np.split(batch, np.searchsorted(batch, ends)) if len(part)]


def valid_step(original, task, sample, model, criterion):
    """One batch of fairseq-validate; a rank without a batch takes part with a blank one that counts for nothing."""
    if len(sample) > 0 or not in_several_processes():
        return original(task, sample, model, criterion)
    dataset = next(iter(task.datasets.values()))
    sample = blank_batch(dataset.collater([dataset[0]]), task.source_dictionary.pad())
    sample = utils.move_to_cuda(sample, device=next(model.parameters()).device)
    loss, _, logged = original(task, sample, model, criterion)
    return loss * 0, 0, {name: value * 0 for name, value in logged.items()}


def reset_logging(original):
    """fairseq-validate sets up its log anew, and each rank would then print the result."""
    original()
    if dist.get_rank() > 0:
        logging.getLogger().setLevel(logging.WARNING)
