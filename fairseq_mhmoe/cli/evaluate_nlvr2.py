"""What a fine-tuned model says of the statements of a split of NLVR2, in the official format, and its scores.

    python -m fairseq_mhmoe.cli.evaluate_nlvr2 runs/nlvr2/checkpoint_best.pt data/nlvr2 --split test --output runs/nlvr2

writes nlvr2_test_predictions.csv (lines "test1-0-0-0,True") and nlvr2_test_scores.json: accuracy, and consistency (the
share of sentences that are right for all of their pairs of images), where the index has labels.
"""

import argparse

from fairseq_mhmoe.cli.files import write_bytes
from fairseq_mhmoe.cli.finetuning_table import load_model, model_parser, report, scores_of
from fairseq_mhmoe.cli.messages import run


def evaluate(arguments: argparse.Namespace) -> dict:
    """Judge the split and write both files; returns the scores. ValueError as in `evaluate_vqa`."""
    from fairseq_mhmoe.evaluation.classification import predict
    from fairseq_mhmoe.evaluation.vqa_score import nlvr2_scores

    loaded = load_model(arguments, "nlvr2")
    labels, dataset = predict(
        loaded, arguments.split, arguments.batch_size, arguments.num_workers, arguments.log_format
    )
    examples = []
    for index, label in enumerate(labels.tolist()):
        record = dataset.records[index]
        examples.append((str(record.get("identifier", index)), bool(label), record.get("label")))
    folder = arguments.output or arguments.checkpoint.parent
    lines = "".join(f"{identifier},{found}\n" for identifier, found, _ in examples)
    write_bytes(folder / f"nlvr2_{arguments.split}_predictions.csv", lines.encode())
    known = [(identifier, found == bool(label)) for identifier, found, label in examples if label is not None]
    scores = scores_of(arguments, "nlvr2", len(examples), nlvr2_scores(known) if known else {})
    report(folder / f"nlvr2_{arguments.split}_scores.json", scores)
    return scores


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    return model_parser("evaluate_nlvr2", __doc__)


def main(words: list[str] | None = None) -> None:
    """Command line; status 1 and one line when something is wrong."""
    run(evaluate, make_parser(), words)


if __name__ == "__main__":
    main()
