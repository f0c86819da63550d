"""Parameters and training FLOPs per token of models, and experts that make two of them cost the same.

    mhmoe-cost configs/v2/english_mhmoe_2heads.yaml configs/v2/english_smoe.yaml
    mhmoe-cost configs/v1/english_mhmoe_8experts.yaml model.moe_top_k=1 --json
    mhmoe-cost --arch mhmoe_lm_v2 --moe-expert-count 32 --vocab-size 32000 --tokens-per-sample 2048
    mhmoe-cost configs/v2/english_mhmoe_2heads.yaml --match configs/v2/english_smoe.yaml
    mhmoe-cost --arch mhmoe_multimodal_base --vocab-size 64010 --image-size 224
    mhmoe-cost --table 11

Without --arch all words are configuration files and overrides of them (model.moe_top_k=1); with it, everything else is
an option of fairseq-train. FLOPs are those of matrix products, 3 x the forward pass, attention over all keys;
of a multimodal model per token of a masked image-text pair, the text as long as --caption-length.
--json prints params_total, params_non_expert, params_expert, params_activated, flops_per_token; several models by name.
"""

import argparse
import json
import logging
import sys
import warnings
from contextlib import contextmanager
from dataclasses import asdict

from fairseq_mhmoe.cli.cost_match import match_models, match_text
from fairseq_mhmoe.cli.cost_models import config_model, named_model, words_model
from fairseq_mhmoe.cli.cost_table11 import table_11, table_11_text
from fairseq_mhmoe.cli.user_dir import add_user_dir
from fairseq_mhmoe.moe.multimodal_cost import cost_of


def parser(with_arch: bool) -> argparse.ArgumentParser:
    """The command line; with --arch the rest belongs to fairseq-train."""
    result = argparse.ArgumentParser(
        prog="mhmoe-cost", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    result.error = _refuse
    if not with_arch:
        help_text = "training configurations (.yaml) and overrides of them (model.moe_top_k=1)"
        result.add_argument("configs", nargs="*", metavar="CONFIG", help=help_text)
    result.add_argument("--json", action="store_true", help="print JSON")
    help_text = "rows of the embedding; default for CONFIG: its cost.vocab_size"
    result.add_argument("--vocab-size", type=int, metavar="V", help=help_text)
    help_text = "CONFIG or architecture: solve for experts with which the model costs as much as BASE"
    result.add_argument("--match", metavar="BASE", help=help_text)
    help_text = "what --match makes equal: v1: parameters; v2: FLOPs, then parameters (default: by kind of model)"
    result.add_argument("--parity", choices=("v1", "v2"), help=help_text)
    add_user_dir(result)
    result.add_argument("--table", type=int, choices=(11,), help="parameter counts of v1's table 11, ours and its own")
    if not with_arch:
        result.add_argument("--arch", metavar="NAME", help="architecture; takes fairseq-train's options")
    return result


def main(arguments=None) -> int:
    """Command line; returns the exit status (2: the command asks for what can't be) and says errors in one line."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        with _quiet():
            print(_answer(arguments))
        return 0
    except (ValueError, OSError) as error:
        print(f"mhmoe-cost: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _answer(arguments: list[str]) -> str:
    with_arch = any(word in ("--arch", "-a") or word.startswith("--arch=") for word in arguments)
    asks_help = {"-h", "--help"} & set(arguments)
    args, rest = parser(with_arch and not asks_help).parse_known_args(arguments)
    if rest and not with_arch:
        raise ValueError(f"{' '.join(rest)}: not known; options of fairseq-train need --arch NAME")
    if args.table:
        return _table(args, with_arch or args.configs)
    if with_arch:
        if args.vocab_size is None:
            raise ValueError("--arch needs --vocab-size V, the rows of the embedding")
        models = [words_model(rest, args.vocab_size)]
    else:
        overrides = [word for word in args.configs if "=" in word]
        paths = [word for word in args.configs if "=" not in word]
        if not paths:
            raise ValueError("nothing to count; expected CONFIG files, --arch NAME or --table 11 (see --help)")
        models = [config_model(path, overrides, args.vocab_size) for path in paths]
    if args.match:
        return _match(args, models)
    if args.parity:
        raise ValueError("--parity has no effect without --match BASE")
    return _costs(args, models)


def _costs(args, models) -> str:
    costs = {model.name: cost_of(model.shape) for model in models}
    if args.json:
        found = {name: asdict(cost) for name, cost in costs.items()}
        return json.dumps(found if len(models) > 1 else found[models[0].name], indent=2)
    width = max(len(name) for name in costs)
    lines = [f"{'':<{width}}  {'millions of parameters':^47}  GFLOPs per"]
    columns = "".join(f"{name:>12}" for name in ("total", "non-expert", "experts", "activated"))
    lines.append(f"{'model':<{width}}{columns}  token of training, at vocabulary / tokens per sample")
    for model, cost in zip(models, costs.values()):
        parts = (cost.params_total, cost.params_non_expert, cost.params_expert, cost.params_activated)
        counts = "".join(f"{count / 1e6:>12,.2f}" for count in parts)
        at = f"{model.shape.vocab_size:,} / {model.shape.tokens_per_sample:,}"
        lines.append(f"{model.name:<{width}}{counts}  {cost.flops_per_token / 1e9:,.3f}, at {at}")
    return "\n".join(lines)


def _match(args, models) -> str:
    if len(models) != 1:
        raise ValueError(f"--match solves for one model; {len(models)} are given")
    model = models[0]
    # an architecture takes the model's vocabulary, a file has its own
    own_size = args.vocab_size if args.match.endswith(".yaml") else model.shape.vocab_size
    base = named_model(args.match, own_size, model.shape.tokens_per_sample)
    found = match_models(model.shape, base.shape, args.parity)
    return json.dumps(found, indent=2) if args.json else match_text(found, model.shape, model.name, base.name)


def _table(args, models) -> str:
    if models or args.match or args.parity or args.vocab_size is not None:
        raise ValueError("--table 11 stands alone, or with --json: its models and vocabulary are the paper's")
    rows = table_11()
    return json.dumps([asdict(row) for row in rows], indent=2) if args.json else table_11_text(rows)


@contextmanager
def _quiet():
    """Keep what fairseq and hydra say in passing to themselves; errors come through."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _refuse(message: str) -> None:
    raise ValueError(f"{message} (see --help)")


if __name__ == "__main__":
    sys.exit(main())
