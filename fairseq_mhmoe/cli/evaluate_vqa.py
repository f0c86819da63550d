"""Answers of a fine-tuned model to a split of VQAv2, in the official format, and their score.

    python -m fairseq_mhmoe.cli.evaluate_vqa runs/vqa/checkpoint_best.pt data/vqav2 --split test --output runs/vqa

writes vqa_test_results.json ([{"question_id": ..., "answer": ...}], for the evaluation server) and
vqa_test_scores.json. With --annotations FILE (official JSON) the scores hold the official accuracy; with scores in the
index the soft score, which training shows; for a hidden test neither.
"""

import argparse
from pathlib import Path

from data_prep.finetuning_index import read_json
from fairseq_mhmoe.cli.files import write_json
from fairseq_mhmoe.cli.finetuning_table import load_model, model_parser, report, scores_of
from fairseq_mhmoe.cli.messages import run


def evaluate(arguments: argparse.Namespace) -> dict:
    """Answer the split and write both files; returns the scores.

    Raises:
        ValueError: another kind of checkpoint, a split that is not there, annotations of another split.
    """
    from fairseq_mhmoe.evaluation.classification import predict

    annotations = None if arguments.annotations is None else read_annotations(arguments.annotations)
    loaded = load_model(arguments, "vqa", answers=arguments.answers)
    labels, dataset = predict(
        loaded, arguments.split, arguments.batch_size, arguments.num_workers, arguments.log_format
    )
    records = [dataset.records[index] for index in range(len(dataset))]
    chosen = [int(label) for label in labels]
    results = [
        {"question_id": record["qid"], "answer": loaded.task.answers[label]}
        for record, label in zip(records, chosen, strict=True)
    ]
    folder = arguments.output or arguments.checkpoint.parent
    write_json(folder / f"vqa_{arguments.split}_results.json", results)
    scores = scores_of(arguments, "vqa", len(results), metrics_of(records, chosen, results, annotations))
    report(folder / f"vqa_{arguments.split}_scores.json", scores)
    return scores


def metrics_of(records: list[dict], labels: list[int], results: list[dict], annotations: dict | None) -> dict:
    """Soft score by the index, and official accuracy where there are annotations; both in percent."""
    from fairseq_mhmoe.evaluation.vqa_score import vqa_scores

    metrics = {}
    if any(record.get("labels") for record in records):
        of_index = [dict(zip(r.get("labels") or (), r.get("scores") or (), strict=True)) for r in records]
        scores = [known.get(label, 0.0) for known, label in zip(of_index, labels, strict=True)]
        metrics["vqa_score"] = 100 * sum(scores) / len(scores)
    if annotations is not None:
        metrics |= vqa_scores({each["question_id"]: each["answer"] for each in results}, annotations)
    return metrics


def read_annotations(path: Path) -> dict[int, dict]:
    """{question_id: annotation} of an official file; ValueError when it is none."""
    content = read_json(path)
    try:
        found = {each["question_id"]: each for each in content["annotations"]}
        [answer["answer"] for each in found.values() for answer in each["answers"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"--annotations {path}: no annotations of VQAv2 ({error!r})") from None
    return found


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = model_parser("evaluate_vqa", __doc__)
    parser.add_argument("--annotations", type=Path, help="official annotations of the split, for the official accuracy")
    parser.add_argument("--answers", help="list of answers (default: as in training)")
    return parser


def main(words: list[str] | None = None) -> None:
    """Command line; status 1 and one line when something is wrong."""
    run(evaluate, make_parser(), words)


if __name__ == "__main__":
    main()
