"""To how many different experts the sub-tokens of a token go, and of which words (MH-MoE v1, figure 7).

    mhmoe-analyze diversity runs/mhmoe/checkpoint_best.pt data/wiki
    mhmoe-analyze diversity runs/mhmoe/checkpoint_best.pt data/wiki --split de/test --words my-words.txt
    mhmoe-analyze diversity runs/mhmoe/checkpoint_best.pt data/wiki --text story.txt --html story.html
    mhmoe-analyze diversity runs/multimodal/checkpoint_1_{100,400}.pt --images cat.jpg tree.png

Words of a list (ours: polysemous English words and false cognates) are compared with all others, with and without
regard to how frequent they are. Writes diversity.json (all figures) and diversity.png (histograms); --html FILE colours
the text by token. With --images the number of each patch is drawn over the image, for one or more checkpoints
of a multimodal model (figures 8 and 10). docs/analysis.md explains.
"""

import argparse
from pathlib import Path

import torch

from fairseq_mhmoe.analysis.activation_run import progress
from fairseq_mhmoe.analysis.diversity import DEFINITION, Sizes, sizes_of
from fairseq_mhmoe.analysis.diversity_pictures import histograms_picture
from fairseq_mhmoe.analysis.diversity_report import printable, printed
from fairseq_mhmoe.analysis.diversity_run import Measured, measure
from fairseq_mhmoe.analysis.diversity_words import extremes
from fairseq_mhmoe.analysis.pictures import save_png
from fairseq_mhmoe.analysis.word_lists import WordList, read_word_list, shipped_lists
from fairseq_mhmoe.cli.analyze_diversity_images import run_images
from fairseq_mhmoe.cli.analyze_text import add_reading_arguments, batches_of, check_text, load, named
from fairseq_mhmoe.cli.files import write_bytes, write_json
from fairseq_mhmoe.evaluation.loading import Loaded

HTML_TOKENS = 2000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `mhmoe-analyze diversity`."""
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="CHECKPOINT DATA",
        help="of a model with 2 heads or more, and the prepared folder with dictionary, tokenizer and text; with "
        "--images one or more checkpoints, and DATA only where they don't name it",
    )
    parser.add_argument("--images", nargs="+", type=Path, metavar="FILE", help="draw maps over these pictures instead")
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="of the checkpoints of --images")
    add_reading_arguments(parser)
    parser.add_argument(
        "--words",
        type=Path,
        action="append",
        metavar="FILE",
        help="list to compare with the rest instead of ours, one word a line; may be given more than once",
    )
    parser.add_argument(
        "--min-count",
        type=int,
        default=10,
        metavar="N",
        help="occurrences that a token needs for the table (default 10)",
    )
    parser.add_argument("--top", type=int, default=15, metavar="N", help="lines of the tables (default: 15)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the text, coloured by token")
    parser.add_argument(
        "--html-tokens",
        type=int,
        metavar="N",
        help=f"tokens that --html shows, the first ones (default: {HTML_TOKENS})",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/analysis"), metavar="FOLDER", help="default: runs/analysis"
    )


def run(arguments: argparse.Namespace) -> None:
    """Count, write the figures and draw.

    Raises:
        ValueError: options that don't go together, a file that is not there or not as it should be, or a model whose
            tokens have no sub-tokens.
    """
    if arguments.images:
        refuse_text(arguments)
        *checkpoints, last = arguments.paths
        checkpoints, data = (checkpoints, last) if last.is_dir() and checkpoints else (arguments.paths, None)
        run_images(checkpoints, data, arguments)
        return
    check(arguments)
    lists = word_lists(arguments.words)
    loaded = load(arguments.checkpoint, arguments)
    sizes = sizes_of(loaded)
    torch.manual_seed(arguments.seed)
    shown = arguments.html_tokens or HTML_TOKENS
    _, batches = batches_of(loaded, arguments)
    found = measure(loaded, sizes, progress("diversity", batches), lists, shown if arguments.html else 0)
    if not found.counter.tokens:
        raise ValueError(f"{arguments.text or arguments.split or 'valid'}: the text has no tokens to look at")
    content = report(found, loaded, sizes, arguments, lists)
    write(content, found, arguments)


# what is about text, and its defaults
TEXT_OPTIONS = {
    **dict.fromkeys(("split", "sources", "text", "max_tokens", "tokens_per_sample", "words", "html", "html_tokens")),
    **{"batch_size": 8, "min_count": 10, "top": 15},
}


def refuse_text(arguments: argparse.Namespace) -> None:
    """ValueError for options about text beside --images."""
    given = [f"--{name.replace('_', '-')}" for name, value in TEXT_OPTIONS.items() if getattr(arguments, name) != value]
    if given:
        raise ValueError(f"{', '.join(given)}: about text, and --images is about pictures; leave one of them out")


def check(arguments: argparse.Namespace) -> None:
    """ValueError for options that can't be; the two paths get their names."""
    if len(arguments.paths) != 2:
        raise ValueError(
            f"{len(arguments.paths)} paths: expected one CHECKPOINT and DATA; several checkpoints go with --images"
        )
    if arguments.labels:
        raise ValueError("--labels has no effect without --images")
    arguments.checkpoint, arguments.data = arguments.paths
    check_text(arguments, "min_count", "top", "html_tokens")
    if arguments.html_tokens is not None and arguments.html is None:
        raise ValueError(f"--html-tokens {arguments.html_tokens} has no effect without --html FILE")


def word_lists(paths: list[Path] | None) -> list[WordList]:
    """The user's lists, or ours; tells about words that a file has twice."""
    lists = [read_word_list(path) for path in paths] if paths else shipped_lists()
    names = [each.name for each in lists]
    if len(set(names)) < len(names) or "rest" in names:
        raise ValueError(
            f"--words: lists are named after their files, and these are {', '.join(names)}; expected different names, "
            "none of them 'rest'"
        )
    for each in lists:
        for line in each.repeated:
            print(f"--words: {line}")
    return lists


def report(found: Measured, loaded: Loaded, sizes: Sizes, arguments: argparse.Namespace, lists: list[WordList]) -> dict:
    """All figures, as diversity.json holds them."""
    by_token = ((printable(found.pieces(token)), sums) for token, sums in found.by_token.items())
    return {
        "checkpoint": str(arguments.checkpoint),
        "data": str(arguments.data),
        **named(arguments),
        "max_tokens": arguments.max_tokens,
        "tokens_per_sample": loaded.task.args.tokens_per_sample,
        "definition": DEFINITION,
        "experts": sizes.experts,
        "heads": sizes.heads,
        "top_k": sizes.top_k,
        "largest_possible": sizes.largest,
        "tokens": found.counter.report(),
        "different_words": len(found.by_word.words),
        "lists": [found.by_word.compare(each) for each in lists],
        "min_count": arguments.min_count,
        "by_token": extremes(by_token, arguments.min_count, arguments.top),
        "by_word": extremes(found.by_word.words.items(), arguments.min_count, arguments.top),
    }


def write(content: dict, found: Measured, arguments: argparse.Namespace) -> None:
    """diversity.json, the picture, the page if it is wanted, and what to read at once."""
    written = [arguments.output / "diversity.json", arguments.output / "diversity.png"]
    write_json(written[0], content)
    save_png(histograms_picture(content["lists"], content["tokens"]), written[1])
    if arguments.html:
        write_bytes(arguments.html, found.page.html(content, found.by_word.listed).encode())
        written.append(arguments.html)
    print(printed(content))
    print(f"written: {', '.join(map(str, written))}")
