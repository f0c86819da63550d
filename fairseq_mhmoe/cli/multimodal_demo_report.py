"""What the multimodal demonstration found: perplexities of models and scores of answers, as JSON and tables."""

from collections.abc import Sequence
from typing import Any

from fairseq_mhmoe.cli.multimodal_demo_steps import Training
from fairseq_mhmoe.cli.text_table import text_table

PARTS = {
    "image": "images",
    "pair_image": "images of pairs",
    "text": "texts",
    "pair_text": "captions",
}


def pretraining_row(training: Training) -> dict[str, Any]:
    """Cost, speed and validation figures of one pre-trained model."""
    result, cost = training.result(), training.model.cost
    return {
        "model": training.model.name,
        "params_total": cost.params_total,
        "params_activated": cost.params_activated,
        "flops_per_token": cost.flops_per_token,
        "updates": result["updates"],
        "masked_positions_per_s": result["tokens_per_s"],
        "training_command": result["command"],
        "evaluation_command": result["evaluation_command"],
        "scores": result["scores"],
    }


def finetuning_row(training: Training, questions: int) -> dict[str, Any]:
    """Score of one fine-tuned model on the test questions."""
    result = training.result()
    return {
        "model": training.model.name,
        "start": "pre-trained" if training.start is not None else "from scratch",
        "questions": questions,
        "updates": result["updates"],
        "vqa_score": result["scores"]["metrics"]["vqa_score"],
        "training_command": result["command"],
        "evaluation_command": result["evaluation_command"],
    }


def perplexity_table(rows: Sequence[dict]) -> str:
    """One line for each model: perplexities on the validation data, of everything and of each stream."""
    header = ["model", "parameters", "activated", "MFLOPs/token", "valid ppl", *PARTS.values(), "captions right"]
    body = []
    for row in rows:
        valid = row["scores"]["splits"]["valid"]
        streams = valid["streams"]
        body.append(
            [
                row["model"],
                f"{row['params_total'] / 1e6:.2f}M",
                f"{row['params_activated'] / 1e6:.2f}M",
                f"{row['flops_per_token'] / 1e6:.2f}",
                f"{valid['all']['perplexity']:.2f}",
                *(f"{streams[name]['perplexity']:.2f}" for name in PARTS),
                f"{streams['pair_text']['accuracy']:.1%}",
            ]
        )
    return text_table(header, body)


def answer_table(rows: Sequence[dict], prior: dict[str, float]) -> str:
    """One line for each fine-tuned model, and what is right without looking."""
    header = ["model", "start", "training questions", "updates", "VQA score"]
    body = [["none", "the commonest answer", "-", "-", f"{100 * prior['commonest_answer']:.2f}"]]
    score = f"{100 * prior['commonest_answer_of_the_question']:.2f}"
    body.append(["none", "the question's commonest answer", "-", "-", score])
    for row in rows:
        questions = f"{row['questions']:,}"
        body.append([row["model"], row["start"], questions, str(row["updates"]), f"{row['vqa_score']:.2f}"])
    return text_table(header, body)


def sentence(rows: Sequence[dict], prior: dict[str, float]) -> str:
    """Whether pre-training is ahead of scratch and of the answers without looking, at each number of questions."""
    blind = 100 * prior["commonest_answer_of_the_question"]
    parts = []
    for questions in dict.fromkeys(row["questions"] for row in rows):
        for model in dict.fromkeys(row["model"] for row in rows):
            of = {r["start"]: r["vqa_score"] for r in rows if (r["model"], r["questions"]) == (model, questions)}
            if len(of) == 2:
                ahead = of["pre-trained"] - of["from scratch"]
                parts.append(
                    f"{questions:,} questions: {model} is {ahead:+.2f} points with pre-training against scratch, and "
                    f"{of['pre-trained'] - blind:+.2f} against the question's commonest answer"
                )
    return "; ".join(parts) or "no model was fine-tuned both ways"


LEGEND = """\
Perplexities: of masked codes of patches and masked words, validation pictures and texts; "valid ppl" counts every
masked position once. MFLOPs/token: training, of a masked pair. VQA score: test questions of easy-VQA, each of which
has one right answer. Both starts have the same model, questions, order and updates."""
