"""VQAv2's questions and annotations -> index files of task vqa and the list of answers.

python -m data_prep.vqa --annotations vqa --output data/vqav2 --tokenizer data/multimodal/text
    vqa                 folder of v2_OpenEnded_mscoco_*_questions.json and v2_mscoco_*_annotations.json
    data/vqav2          gets vqa.train.jsonl, vqa.trainable_val.jsonl, vqa.rest_val.jsonl, vqa.test.jsonl,
                        vqa.test-dev.jsonl, answer2label.txt, vqa.json; images lie there too (train2014/, ...), or
                        where --image-root of the training says

Answers are the normalised most frequent ones of questions, if 9 or more questions of train and val have them (3,129).
1,000 images of val, chosen by a hash of their numbers, are for validation (rest_val), the others for training.
"""

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_prep.files import write_text
from data_prep.finetuning_index import index_parser, read_json, run, write_index, write_manifest
from data_prep.vqa_answers import normalize_answer

MIN_COUNT = 9
VALID_IMAGES = 1000
SOFT_SCORES = (0.0, 0.3, 0.6, 0.9, 1.0)  # by the number of people who gave an answer


class Split(NamedTuple):
    """Official names. required: whether there are annotations, and without them no index."""

    name: str
    questions: str
    images: str
    annotations: str | None


SPLITS = (
    Split("train", "train2014", "train2014", "v2_mscoco_train2014_annotations.json"),
    Split("val", "val2014", "val2014", "v2_mscoco_val2014_annotations.json"),
    Split("test", "test2015", "test2015", None),
    Split("test-dev", "test-dev2015", "test2015", None),
)


def soft_score(people: int) -> float:
    """Score of an answer that this many of ten people gave."""
    return SOFT_SCORES[min(people, len(SOFT_SCORES) - 1)]


def answer_list(annotations: dict[str, dict], min_count: int) -> list[str]:
    """Answers that are the most frequent one of `min_count` questions or more, the frequent ones first."""
    counts = Counter(
        normalize_answer(found["multiple_choice_answer"])
        for of_split in annotations.values()
        for found in of_split.values()
    )
    kept = [(-count, answer) for answer, count in counts.items() if count >= min_count and answer]
    return [answer for _, answer in sorted(kept)]


def labels_of(annotation: dict, numbers: dict[str, int]) -> dict[str, list]:
    """{"labels", "scores"} of a question's ten answers, those of the list only."""
    people = Counter(normalize_answer(answer["answer"]) for answer in annotation["answers"])
    known = [(numbers[answer], soft_score(count)) for answer, count in people.items() if answer in numbers]
    return {"labels": [label for label, _ in known], "scores": [score for _, score in known]}


def read_questions(path: Path) -> list[dict]:
    """The questions of an official file; ValueError when it is none, or a number comes twice."""
    questions = _part(path, "questions", ("question_id", "image_id", "question"))
    if len({question["question_id"] for question in questions}) < len(questions):
        raise ValueError(f"{path}: a question_id comes more than once; fetch the file again")
    return questions


def read_annotations(path: Path) -> dict[int, dict]:
    """{question_id: annotation} of an official file; ValueError when it is none."""
    found = _part(path, "annotations", ("question_id", "answers", "multiple_choice_answer"))
    return {annotation["question_id"]: annotation for annotation in found}


def _part(path: Path, name: str, keys: tuple[str, ...]) -> list[dict]:
    content = read_json(path)
    part = content.get(name) if isinstance(content, dict) else None
    if not isinstance(part, list) or not part or not all(isinstance(x, dict) and set(keys) <= x.keys() for x in part):
        raise ValueError(f"{path} is no official file of VQAv2: expected {name!r}, a list of {', '.join(keys)}")
    return part


def validation_images(image_ids: set[int], count: int) -> set[int]:
    """`count` of these images, always the same ones; half of them at most."""
    ordered = sorted(image_ids, key=lambda number: hashlib.sha256(str(number).encode()).digest())
    return set(ordered[: min(count, len(ordered) // 2)])


class Preparation:
    """Index files out of a folder of official files.

    Args:
        annotations: the folder. output: where index files go. images: folder of the images' folders, whose missing
            images are told; None: nobody looks.
    Raises:
        ValueError: a file of train or val is missing, or one is not what its name says.
    """

    def __init__(self, annotations: Path, output: Path, images: Path | None, min_count: int, valid_images: int):
        self.output, self.images, self.valid_images = output, images, valid_images
        self.inputs, self.questions, self.annotations = [], {}, {}
        for split in SPLITS:
            path = annotations / f"v2_OpenEnded_mscoco_{split.questions}_questions.json"
            if split.annotations is None and not path.is_file():
                continue
            self.questions[split.name] = read_questions(path)
            self.inputs.append(path)
            if split.annotations is not None:
                self.inputs.append(annotations / split.annotations)
                self.annotations[split.name] = read_annotations(self.inputs[-1])
        self.answers = answer_list(self.annotations, min_count)
        if len(self.answers) < 2:
            raise ValueError(f"--min-count {min_count}: {len(self.answers)} answers are that frequent; lower it")
        self.numbers = {answer: number for number, answer in enumerate(self.answers)}
        self.counts = Counter()

    def run(self) -> dict:
        """Write everything; returns the manifest."""
        lines = [json.dumps({"answer": a, "label": n}, ensure_ascii=False) for n, a in enumerate(self.answers)]
        write_text(self.output / "answer2label.txt", "\n".join(lines) + "\n")
        valid = validation_images({q["image_id"] for q in self.questions["val"]}, self.valid_images)
        parts = {"train": ("train", None), "trainable_val": ("val", False), "rest_val": ("val", True)}
        parts |= {name: (name, None) for name in ("test", "test-dev") if name in self.questions}
        written = {}
        for name, (split, of_valid) in parts.items():
            chosen = (q for q in self.questions[split] if of_valid is None or (q["image_id"] in valid) == of_valid)
            keep_all = name not in ("train", "trainable_val")
            path = self.output / f"vqa.{name}.jsonl"
            written[path.name] = write_index(path, self.records(split, chosen, keep_all))
        return write_manifest(
            self.output / "vqa.json",
            self.inputs,
            answers=len(self.answers),
            records=written,
            left_out=dict(self.counts),
        )

    def records(self, split: str, questions: Iterator[dict], keep_all: bool) -> Iterator[dict]:
        """Records of the index. Training leaves out questions without an answer of the list; scores would suffer
        from nothing else, so evaluation keeps them."""
        folder = next(each.images for each in SPLITS if each.name == split)
        there = self._images_in(folder)
        annotations = self.annotations.get(split)
        for question in questions:
            name = f"COCO_{folder}_{question['image_id']:012d}.jpg"
            record = {"image_path": f"{folder}/{name}", "text": question["question"], "qid": question["question_id"]}
            if there is not None and name not in there:
                self.counts[f"{split}: no image"] += 1
                continue
            if annotations is not None:
                if question["question_id"] not in annotations:
                    self.counts[f"{split}: no annotation"] += 1
                    continue
                record |= labels_of(annotations[question["question_id"]], self.numbers)
                if not record["labels"] and not keep_all:
                    self.counts[f"{split}: no answer of the list"] += 1
                    continue
            yield record

    def _images_in(self, folder: str) -> set[str] | None:
        if self.images is None:
            return None
        if not (self.images / folder).is_dir():
            raise ValueError(f"--images {self.images}: no folder {folder} in it")
        return {path.name for path in (self.images / folder).iterdir()}


def prepare(options: argparse.Namespace) -> dict:
    """Write the index files that the command line asks for; returns the manifest, ValueError as `Preparation`."""
    if options.min_count < 1 or options.valid_images < 1:
        raise ValueError("--min-count and --valid-images: expected 1 or more")
    inputs = options.annotations, options.output, options.images, options.min_count, options.valid_images
    try:
        return Preparation(*inputs).run()
    except (KeyError, TypeError) as error:
        raise ValueError(f"{options.annotations}: not as VQAv2's files ({error!r}); fetch them again") from None


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = index_parser("vqa", __doc__, "folder of the official JSON files")
    parser.add_argument("--images", type=Path, help="folder of train2014/, ...: leave out questions without image")
    parser.add_argument(
        "--min-count", type=int, default=MIN_COUNT, help="questions that make an answer one of the list"
    )
    parser.add_argument("--valid-images", type=int, default=VALID_IMAGES, help="images of val kept for validation")
    return parser


def main(words: list[str] | None = None) -> None:
    """Command line; exits with status 1 and one line when something is wrong."""
    options = make_parser().parse_args(words)
    manifest = run(prepare, options, "questions")
    print(f"{options.output / 'answer2label.txt'}: {manifest['answers']:,} answers")
    for reason, count in manifest["left_out"].items():
        print(f"left out: {count:,} questions of {reason}")


if __name__ == "__main__":
    main()
