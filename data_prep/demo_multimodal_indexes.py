"""Index files of the demonstration's fine-tuning tasks, in BEiT-3's format: VQA, statements on two images, captions."""

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from data_prep.demo_multimodal_drawing import Draughtsman, png
from data_prep.demo_multimodal_photos import EasyVQA, Question
from data_prep.demo_multimodal_scenes import COLOURS, Background, Scene, Scenes, Thing, article, captions
from data_prep.files import write_text
from data_prep.recipe import SPLITS

FEW = (500, 2000, 8000)  # sizes of small training sets: vqa.train-500.jsonl, ...


def write_lines(path: Path, records: Iterable[dict]) -> int:
    """One JSON object a line; returns how many."""
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    write_text(path, "\n".join(lines) + "\n")
    return len(lines)


def write_picture(path: Path, content: bytes) -> None:
    """Write one of thousands of small files; not flushed to the disk one by one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_vqa(folder: Path, easy: EasyVQA) -> dict[str, int]:
    """vqa.{train,valid,test}.jsonl, answer2label.txt and the images; returns the number of questions of each split.

    An answer that the people who were asked agree on has score 1.
    """
    for path, content in easy.images.items():
        write_picture(folder / path, content)
    counts = Counter(question.answer for question in easy.questions if question.split == "train")
    answers = sorted(counts, key=lambda answer: (-counts[answer], answer))
    labels = {answer: label for label, answer in enumerate(answers)}
    write_lines(folder / "answer2label.txt", ({"answer": answer, "label": label} for answer, label in labels.items()))

    def record(question: Question) -> dict:
        known = question.answer in labels
        return {
            "image_path": question.image,
            "text_segment": question.text,
            "labels": [labels[question.answer]] if known else [],
            "scores": [1.0] if known else [],
            "qid": question.number,
        }

    records = {split: [record(q) for q in easy.questions if q.split == split] for split in SPLITS}
    for count in FEW:
        chosen = random.Random(f"vqa {count}").sample(records["train"], min(count, len(records["train"])))
        write_lines(folder / f"vqa.train-{count}.jsonl", chosen)
    return {split: write_lines(folder / f"vqa.{split}.jsonl", found) for split, found in records.items()}


def answer_prior(easy: EasyVQA) -> dict[str, float]:
    """Accuracy on the test questions without looking: of the commonest answer, and of each question's commonest."""
    train = [question for question in easy.questions if question.split == "train"]
    test = [question for question in easy.questions if question.split == "test"]
    overall = Counter(question.answer for question in train).most_common(1)[0][0]
    by_text: dict[str, Counter] = {}
    for question in train:
        by_text.setdefault(question.text, Counter())[question.answer] += 1

    def best(question: Question) -> str:
        found = by_text.get(question.text)
        return found.most_common(1)[0][0] if found else overall

    return {
        "commonest_answer": sum(question.answer == overall for question in test) / len(test),
        "commonest_answer_of_the_question": sum(question.answer == best(question) for question in test) / len(test),
    }


def write_captions(folder: Path, split: str, scenes: Sequence[Scene], draughtsman: Draughtsman) -> int:
    """captioning.SPLIT.jsonl with every true caption of each scene, and the pictures; returns their number."""
    records = []
    for number, scene in enumerate(scenes):
        path = f"drawn/captions-{split}/{number}.png"
        write_picture(folder / path, png(draughtsman.draw(scene)))
        records += [{"image_path": path, "text_segment": text, "image_id": number} for text in captions(scene)]
    return write_lines(folder / f"captioning.{split}.jsonl", records)


def write_statements(folder: Path, split: str, count: int, scenes: Scenes, draughtsman: Draughtsman) -> int:
    """nlvr2.SPLIT.jsonl: statements on two pictures, half of each kind true; returns their number."""
    records = []
    for number in range(count):
        text, pair = statement(scenes, KINDS[number // 2 % len(KINDS)], number % 2 == 0)
        paths = [f"drawn/nlvr2-{split}/{number}-{side}.png" for side in ("left", "right")]
        for path, scene in zip(paths, pair, strict=True):
            write_picture(folder / path, png(draughtsman.draw(scene)))
        records.append(
            {"image_path": paths[0], "image2_path": paths[1], "text_segment": text, "label": int(number % 2 == 0)}
        )
    scenes.rng.shuffle(records)
    return write_lines(folder / f"nlvr2.{split}.jsonl", records)


KINDS = ("both", "side", "background", "same colour", "one each")


def statement(scenes: Scenes, kind: str, true: bool) -> tuple[str, tuple[Scene, Scene]]:
    """A statement on two pictures and two pictures of which it is true, or false. kind: one of KINDS.

    A false one differs from a true one in a single thing or colour, which is drawn as often in true ones.
    """
    rng = scenes.rng
    wanted, *others = rng.sample(scenes.emoji, 4)

    def thing(emoji) -> Thing:
        found = scenes.emoji_thing()
        return Thing(emoji, found.x, found.y, found.size)

    def plain(colour: str) -> Background:
        return Background("solid", (colour,))

    if kind in ("background", "same colour"):
        colour, other, third = rng.sample(list(COLOURS), 3)
        things = [thing(emoji) for emoji in others[:2]]
        if kind == "background":
            left = rng.random() < 0.5
            text = f"the background of the {'left' if left else 'right'} image is {colour}"
            shown, elsewhere = (colour, rng.choice([other, colour])) if true else (other, rng.choice([colour, third]))
            colours = (shown, elsewhere) if left else (elsewhere, shown)
        else:
            text, colours = "both images have backgrounds of the same colour", (colour, colour if true else other)
        return text, tuple(scenes.of([one], plain(behind)) for one, behind in zip(things, colours, strict=True))
    if kind == "both":
        text = f"there is {article(wanted.name)} in both images"
        shown = [wanted, wanted if true else others[0]]
        rng.shuffle(shown)
    elif kind == "side":
        left = rng.random() < 0.5
        text = f"there is {article(wanted.name)} in the {'left' if left else 'right'} image"
        shown = [wanted, others[0]] if left == true else [others[0], wanted]
    else:
        text = f"one image shows {article(wanted.name)} and the other one {article(others[0].name)}"
        shown = [wanted, others[0] if true else others[1]]
        rng.shuffle(shown)
    return text, tuple(scenes.of([thing(emoji)]) for emoji in shown)
