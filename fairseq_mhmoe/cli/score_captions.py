"""Scores of captions in COCO's official form, of whatever model.

    python -m fairseq_mhmoe.cli.score_captions captions_test_results.json captions_val2014.json --output scores.json

BLEU@1-4 and CIDEr, METEOR and SPICE where Java can compute them, and otherwise why not.
"""

import argparse
from pathlib import Path

from fairseq_mhmoe.cli.files import write_json
from fairseq_mhmoe.cli.messages import run
from fairseq_mhmoe.cli.text_table import text_table


def score_file(arguments: argparse.Namespace) -> dict:
    """Score a file of results, print the table and write the scores, if an output is named.

    Raises:
        ValueError: a file that is not what it should be, or images without references.
    """
    from fairseq_mhmoe.evaluation.caption_files import read_references, read_results

    results, references = read_results(arguments.results), read_references(arguments.references)
    unknown = [number for number in results if number not in references]
    if unknown:
        raise ValueError(f"{arguments.references}: no captions of {len(unknown)} images, for example {unknown[0]}")
    # the annotations of all of COCO's validation images hold those of Karpathy's test split
    references = {number: references[number] for number in results}
    scores = {"task": "captioning", "split": arguments.references.name, "checkpoint": str(arguments.results)}
    scores |= {"examples": len(results), "metrics": {}}
    add_metrics(scores, results, references, arguments)
    if arguments.output is not None:
        write_json(arguments.output, scores)
    return scores


def add_metrics(scores: dict, captions: dict, references: dict, arguments: argparse.Namespace) -> None:
    """Score captions and print a table of one row.

    Args:
        scores: gets the figures: "metrics" in percent, as papers have them, "tokenizer", "notes", "of_images".
        captions, references: by image, see evaluation.caption_metrics.
        arguments: those of `add_score_arguments`.
    """
    from fairseq_mhmoe.evaluation.caption_metrics import METRICS, score_captions, table_row

    report = score_captions(captions, references, java=not arguments.no_java, timeout=arguments.java_timeout)
    scores["metrics"] = {name: 100 * value for name, value in report["scores"].items() if value is not None}
    scores |= {name: report[name] for name in ("references", "tokenizer", "notes")}
    scores["of_images"] = {"image_id": report["image_ids"], **report["of_images"]}
    print(text_table(["split", "images", *METRICS], [table_row(scores["split"], report)]))
    print(f"words: {report['tokenizer']}")
    for name, note in report["notes"].items():
        print(f"{name}: {note}")


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of a program that scores captions."""
    parser.add_argument("--no-java", action="store_true", help="no METEOR, no SPICE, and words found without Java")
    parser.add_argument("--java-timeout", type=seconds, default=1800.0, help="seconds for each Java program")


def seconds(text: str) -> float:
    """A time of more than 0."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text}: expected more than 0")
    return value


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fairseq_mhmoe.cli.score_captions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", type=Path, help='[{"image_id": 1, "caption": "..."}, ...]')
    parser.add_argument("references", type=Path, help="annotations in COCO's form, of these images or of more")
    parser.add_argument("--output", type=Path, help="JSON file for the scores, those of each image too")
    add_score_arguments(parser)
    return parser


def main(words: list[str] | None = None) -> None:
    """Command line; status 1 and one line when something is wrong."""
    run(score_file, make_parser(), words)


if __name__ == "__main__":
    main()
