"""COCO's captions in Karpathy's split -> index files of task captioning, and reference captions for their scores.

python -m data_prep.coco_captions --annotations dataset_coco.json --output data/coco --tokenizer data/multimodal/text
    dataset_coco.json   Karpathy's file; those of Flickr8k and Flickr30k have the same form
    data/coco           gets captioning.{train,valid,test}.jsonl, a record for each caption; captioning.{valid,test}.
                        references.json, annotations in COCO's form; captioning.json. Images lie there too (train2014/,
                        val2014/), or where --image-root of the training says
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from data_prep.files import write_text
from data_prep.finetuning_index import index_parser, read_json, run, write_index, write_manifest

# Karpathy's name -> ours; "restval" are images of COCO's validation set that everybody trains on
SPLITS = {"train": "train", "restval": "train", "val": "valid", "test": "test"}
SCORED = ("valid", "test")


def images_of(content: object, path: Path) -> dict[str, list[dict]]:
    """The images of each of our splits: {"id", "path", "captions"}.

    Raises:
        ValueError: an image that is not as Karpathy's, or two images with one number.
    """
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise ValueError(f'{path}: expected Karpathy\'s split, {{"images": [...]}}')
    found: dict[str, list[dict]] = {split: [] for split in SPLITS.values()}
    numbers = set()
    for place, image in enumerate(content["images"]):
        try:
            split, number = SPLITS[image["split"]], image["cocoid"] if "cocoid" in image else image["imgid"]
            captions = [" ".join(sentence["raw"].split()) for sentence in image["sentences"]]
            name = "/".join(filter(None, (image.get("filepath"), image["filename"])))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}, image {place}: not as Karpathy's ({error!r}); expected split, filename, cocoid or imgid, and "
                "sentences with raw"
            ) from None
        if type(number) is not int or number in numbers:
            raise ValueError(f"{path}, image {place}: number {number!r}, expected one that no other image has")
        numbers.add(number)
        found[split].append({"id": number, "path": name, "captions": captions})
    return found


def records_of(images: list[dict]) -> Iterator[dict]:
    """A record of the index for each caption."""
    for image in images:
        for caption in filter(None, image["captions"]):
            yield {"image_path": image["path"], "text": caption, "image_id": image["id"]}


def references_of(images: list[dict]) -> dict:
    """Reference captions as COCO's annotations have them, which its own evaluation reads too."""
    annotations = [(image["id"], caption) for image in images for caption in filter(None, image["captions"])]
    return {
        "images": [{"id": image["id"], "file_name": image["path"]} for image in images],
        "annotations": [
            {"id": number, "image_id": image, "caption": caption} for number, (image, caption) in enumerate(annotations)
        ],
    }


def prepare(annotations: Path, output: Path) -> dict:
    """Write index and references of every split; returns the manifest, with what was left out.

    Raises:
        ValueError: the file is not Karpathy's, or a split has no captions.
    """
    splits = images_of(read_json(annotations), annotations)
    records, empty = {}, {}
    for split, images in splits.items():
        index = output / f"captioning.{split}.jsonl"
        if not any(records_of(images)):
            raise ValueError(f"{annotations}: no captions of split {split!r}; fetch the file again")
        records[index.name] = write_index(index, records_of(images))
        empty[split] = sum(not caption for image in images for caption in image["captions"])
        if split in SCORED:
            text = json.dumps(references_of(images), ensure_ascii=False) + "\n"
            write_text(output / f"captioning.{split}.references.json", text)
    of_images = {split: len(images) for split, images in splits.items()}
    return write_manifest(
        output / "captioning.json", [annotations], records=records, images=of_images, empty_captions=empty
    )


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    return index_parser("coco_captions", __doc__, "Karpathy's dataset_coco.json")


def main(words: list[str] | None = None) -> None:
    """Command line; exits with status 1 and one line when something is wrong."""
    options = make_parser().parse_args(words)
    manifest = run(lambda _: prepare(options.annotations, options.output), options, "captions")
    if sum(manifest["empty_captions"].values()):
        print(f"{sum(manifest['empty_captions'].values()):,} empty captions are left out")


if __name__ == "__main__":
    main()
