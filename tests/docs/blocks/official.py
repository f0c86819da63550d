"""Raw files as others publish them, a few records each: what the documents' preparation commands read."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import zstandard

from ...finetuning_data import write_jsonl
from ...multimodal_data import caption, draw


def write_image_tar(path: Path, first: int = 0) -> Path:
    """Twelve pictures with captions as img2dataset packs them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number in range(first, first + 12):
            text = caption(number)
            members = {"png": draw(number), "txt": text.encode(), "json": json.dumps({"caption": text}).encode()}
            for ending, content in members.items():
                info = tarfile.TarInfo(f"{number:09d}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def write_regions(folder: Path) -> None:
    """Visual Genome: phrases, and the pictures in a folder of their own."""
    (folder / "VG_100K").mkdir(parents=True)
    images = []
    for number in range(61, 73):
        (folder / f"VG_100K/{number}.jpg").write_bytes(draw(number))
        images.append({"id": number, "regions": [{"image_id": number, "phrase": caption(number)}]})
    (folder / "region_descriptions.json").write_text(json.dumps(images))


def write_coco_captions(folder: Path) -> None:
    """COCO: annotations/captions_train2014.json, and the pictures."""
    (folder / "annotations").mkdir(parents=True)
    images, annotations = [], []
    for number in range(30, 42):
        name = f"COCO_train2014_{number:012d}.jpg"
        (folder / name).write_bytes(draw(number))
        images.append({"id": number, "file_name": name})
        annotations.append({"id": number, "image_id": number, "caption": caption(number)})
    content = {"images": images, "annotations": annotations}
    (folder / "annotations/captions_train2014.json").write_text(json.dumps(content))


def write_vqa(folder: Path) -> None:
    """VQAv2's five files; the validation questions are those of finetuning_data.write_vqa_data, too."""
    folder.mkdir(parents=True)

    def question(number):
        return {"question_id": number, "image_id": number // 10, "question": f"Is this {number}?"}

    def annotation(number):
        answer = "yes" if number % 2 else "red"
        answers = [{"answer": answer if each < 8 else "no", "answer_id": each} for each in range(10)]
        fields = {"question_id": number, "image_id": number // 10, "answers": answers, "answer_type": "other"}
        return fields | {"multiple_choice_answer": answer, "question_type": "is this"}

    for split, numbers in (
        ("train2014", range(100, 160)),
        ("val2014", range(1000, 1060)),
        ("test2015", range(2000, 2006)),
    ):
        name = f"v2_OpenEnded_mscoco_{split}_questions.json"
        (folder / name).write_text(json.dumps({"questions": [question(number) for number in numbers]}))
        if split != "test2015":
            content = {"annotations": [annotation(number) for number in numbers]}
            (folder / f"v2_mscoco_{split}_annotations.json").write_text(json.dumps(content))


def write_nlvr2(folder: Path) -> None:
    """NLVR2's three files."""
    folder.mkdir(parents=True)
    for split in ("train", "dev", "test1"):
        example = {"identifier": f"{split}-10-0-1", "sentence": "Two dogs.", "label": "True", "directory": 11}
        write_jsonl(folder / f"{split}.json", [example])


def write_coco(path: Path) -> None:
    """Karpathy's split."""
    images = []
    for number, split in enumerate(("train", "restval", "val", "test") * 3):
        name = f"COCO_val2014_{number:012d}.jpg"
        sentences = [{"raw": "A dog runs."}, {"raw": "a dog"}]
        fields = {"filepath": "val2014", "filename": name, "split": split, "sentences": sentences, "cocoid": number}
        images.append(fields)
    path.write_text(json.dumps({"images": images, "dataset": "coco"}))


def write_json_lines(path: Path, texts: list[str], fields: dict) -> None:
    """Documents as RedPajama and SlimPajama publish them; compressed as the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps({"text": text, **fields}) + "\n" for text in texts).encode()
    packed = {".zst": zstandard.compress, ".gz": gzip.compress}.get(path.suffix, bytes)(content)
    path.write_bytes(packed)


def write_records(folder: Path) -> None:
    """Questions of PIQA as `python -m data_prep.zero_shot` leaves them."""
    (folder / "piqa").mkdir(parents=True)
    records = [
        {"goal": f"wash the house {number}", "sol1": "use the water", "sol2": "use the system", "label": number % 2}
        for number in range(4)
    ]
    write_jsonl(folder / "piqa/validation.jsonl", records)
    (folder / "manifest.json").write_text("{}")
