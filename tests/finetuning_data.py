"""Tiny data folders of the fine-tuning tasks: pictures of one colour with a text that the colours decide."""

import json
import shutil
from pathlib import Path

import numpy as np

COLORS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 40, 220)}
QUESTION = "what is the city of the river"


def write_jsonl(path, records):
    """One record a line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def picture(number: int, color: str):
    """A PIL image of 40 x 32 pixels: a noisy ground of this colour."""
    from PIL import Image

    noise = np.random.default_rng(number).integers(-25, 26, size=(32, 40, 3))
    return Image.fromarray(np.clip(COLORS[color] + noise, 0, 255).astype(np.uint8))


def folder_of(path: Path, text_folder: Path) -> Path:
    """The folder with a tokenizer and pictures images/N.png, N % 3 the number of its colour."""
    (path / "images").mkdir(parents=True)
    for name in ("dict.txt", "spm.model"):
        shutil.copy(text_folder / name, path / name)
    for number in range(12):
        picture(number, list(COLORS)[number % 3]).save(path / f"images/{number}.png")
    return path


def write_vqa_data(path: Path, text_folder: Path) -> Path:
    """24 questions for training, 6 for validation and 6 without answers; the answer is the colour, or half right."""
    folder_of(path, text_folder)
    lines = [{"answer": answer, "label": label} for label, answer in enumerate([*COLORS, "yes"])]
    write_jsonl(path / "answer2label.txt", lines)

    def question(number, answered=True):
        record = {"image_path": f"images/{number % 12}.png", "text": QUESTION, "qid": 1000 + number}
        return record | ({"labels": [number % 3, 3], "scores": [1.0, 0.3]} if answered else {})

    write_jsonl(path / "vqa.train.jsonl", [question(number) for number in range(24)])
    write_jsonl(path / "vqa.rest_val.jsonl", [question(number) for number in range(24, 30)])
    write_jsonl(path / "vqa.test.jsonl", [question(number, False) for number in range(30, 36)])
    return path


def write_nlvr2_data(path: Path, text_folder: Path) -> Path:
    """18 statements for training and 6 for validation: true where the pictures have one colour."""
    folder_of(path, text_folder)

    def statement(number):
        left, right = number % 12, (number * 5 + number // 2) % 12
        return {
            "image_path": f"images/{left}.png",
            "image2_path": f"images/{right}.png",
            "text": "one of the two",
            "label": int(left % 3 == right % 3),
            "identifier": f"dev-{number // 4}-{number % 2}-{number // 2 % 2}",
        }

    write_jsonl(path / "nlvr2.train.jsonl", [statement(number) for number in range(18)])
    write_jsonl(path / "nlvr2.dev.index.jsonl", [statement(number) for number in range(18, 24)])
    return path
