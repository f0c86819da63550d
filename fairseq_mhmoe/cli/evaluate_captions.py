"""Captions of a fine-tuned model for the images of a split, in COCO's official form, and their scores.

    python -m fairseq_mhmoe.cli.evaluate_captions runs/coco/checkpoint_best.pt data/coco --split test --output runs/coco

writes captioning_test_results.json ([{"image_id": ..., "caption": ...}], for the evaluation server) and
captioning_test_scores.json: BLEU@1-4 and CIDEr, METEOR and SPICE where Java can compute them, and otherwise why not.
"""

import argparse
from pathlib import Path

from fairseq_mhmoe.cli.files import write_json
from fairseq_mhmoe.cli.finetuning_table import load_model, model_parser, scores_of
from fairseq_mhmoe.cli.messages import run
from fairseq_mhmoe.cli.score_captions import add_metrics, add_score_arguments

PROGRESS = 500  # images between two lines


def evaluate(arguments: argparse.Namespace) -> dict:
    """Caption the split, write both files and print the table; returns the scores.

    Raises:
        ValueError: another kind of checkpoint, a split or references that are not there, an image that can't be read.
    """
    from fairseq_mhmoe.data.captioning import CaptionedImages, check_image_record
    from fairseq_mhmoe.data.index_files import IndexFiles
    from fairseq_mhmoe.evaluation.caption_files import find_references, official_results
    from fairseq_mhmoe.evaluation.caption_generation import generate_captions
    from fairseq_mhmoe.evaluation.caption_search import Beam

    loaded = load_model(arguments, "captioning")
    longest = arguments.max_length if arguments.max_length is not None else loaded.task.max_text_positions - 2
    beam = Beam(arguments.beam, longest, arguments.length_penalty)
    records = IndexFiles(loaded.task.index_files(arguments.split), check_image_record)
    images = CaptionedImages(records)
    references = find_references(arguments.data, arguments.split, records, arguments.references)
    captions = []
    for caption in generate_captions(
        loaded, images, beam, arguments.batch_size, arguments.num_workers, not arguments.without_memory
    ):
        captions.append(caption)
        if len(captions) % PROGRESS == 0 and arguments.log_format != "none":
            print(f"{len(captions):,} of {len(images.ids):,} images", flush=True)
    folder = arguments.output or arguments.checkpoint.parent
    write_json(folder / f"captioning_{arguments.split}_results.json", official_results(captions))
    scores = scores_of(arguments, "captioning", len(captions), {})
    scores["generation"] = {
        "beam": beam.width,
        "max_length": beam.longest,
        "length_penalty": beam.length_penalty,
        "mean_score": sum(caption["score"] for caption in captions) / len(captions),
    }
    if references:
        add_metrics(scores, {each["image_id"]: each["caption"] for each in captions}, references, arguments)
    else:
        print("No reference captions of this split are known: there are results for the evaluation server, no scores")
    write_json(folder / f"captioning_{arguments.split}_scores.json", scores)
    return scores


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = model_parser("evaluate_captions", __doc__)
    parser.add_argument(
        "--references",
        type=Path,
        help="annotations in COCO's form (default: captioning.SPLIT.references.json of the data, else its index)",
    )
    parser.add_argument("--beam", type=int, default=3, help="captions that are looked at together; 1 is greedy")
    parser.add_argument(
        "--max-length", type=int, help="most tokens of a caption, without <s> and </s> (default: what the model takes)"
    )
    parser.add_argument(
        "--length-penalty",
        type=float,
        default=0.6,
        help="exponent of a caption's length that its log-probability is divided by; more for longer captions",
    )
    add_score_arguments(parser)
    parser.add_argument(
        "--without-memory",
        action="store_true",
        help="compute images anew at every step; for experts with a capacity, which would drop other tokens",
    )
    return parser


def main(words: list[str] | None = None) -> None:
    """Command line; status 1 and one line when something is wrong."""
    run(evaluate, make_parser(), words)


if __name__ == "__main__":
    main()
