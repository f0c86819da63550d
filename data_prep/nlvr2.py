"""NLVR2's statements -> index files of task nlvr2.

python -m data_prep.nlvr2 --annotations nlvr/nlvr2/data --output data/nlvr2 --tokenizer data/multimodal/text
    nlvr/nlvr2/data     folder of train.json, dev.json, test1.json (a JSON object a line)
    data/nlvr2          gets nlvr2.train.jsonl, nlvr2.valid.jsonl, nlvr2.test.jsonl, nlvr2.json; images lie there too
                        (images/train/11/..., dev/..., test1/...), or where --image-root of the training says
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from data_prep.finetuning_index import index_parser, run, write_index, write_manifest

# official file -> (our split, folder of its images)
SPLITS = {"train": ("train", "images/train"), "dev": ("valid", "dev"), "test1": ("test", "test1")}
LABELS = {"True": 1, "False": 0, "true": 1, "false": 0}


def records_of(path: Path, folder: str) -> Iterator[dict]:
    """Records of the index; ValueError with file and line for one that is not NLVR2's."""
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield record_of(json.loads(line), folder)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise ValueError(
                        f"{path}, line {number}: no example of NLVR2 ({error!r}); expected identifier, sentence, label"
                    ) from None


def record_of(example: dict, folder: str) -> dict:
    """One example: two images, a sentence, 1 where it is true; without a label in a hidden test."""
    directory = f"{folder}/{example['directory']}" if "directory" in example else folder
    pictures = f"{directory}/{example['identifier'].rpartition('-')[0]}"
    record = {
        "image_path": f"{pictures}-img0.png",
        "image2_path": f"{pictures}-img1.png",
        "text": example["sentence"],
        "identifier": example["identifier"],
    }
    return record | ({"label": LABELS[str(example["label"])]} if "label" in example else {})


def prepare(annotations: Path, output: Path) -> dict:
    """Write the index of every split that is there; returns the manifest.

    Raises:
        ValueError: no train.json, or a line that is not NLVR2's.
    """
    if not (annotations / "train.json").is_file():
        raise ValueError(f"no {annotations / 'train.json'}; name the folder nlvr2/data of the NLVR repository")
    written, inputs = {}, []
    for name, (split, folder) in SPLITS.items():
        path = annotations / f"{name}.json"
        if path.is_file():
            inputs.append(path)
            index = output / f"nlvr2.{split}.jsonl"
            written[index.name] = write_index(index, records_of(path, folder))
    return write_manifest(output / "nlvr2.json", inputs, records=written)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    return index_parser("nlvr2", __doc__, "folder of train.json, dev.json, test1.json")


def main(words: list[str] | None = None) -> None:
    """Command line; exits with status 1 and one line when something is wrong."""
    options = make_parser().parse_args(words)
    run(lambda _: prepare(options.annotations, options.output), options, "statements")


if __name__ == "__main__":
    main()
