"""Files of captions: results in COCO's official form, and the reference captions that they are scored against."""

from collections.abc import Iterable
from pathlib import Path

from data_prep.finetuning_index import read_json
from fairseq_mhmoe.data.index_files import IndexFiles


def read_references(path: Path) -> dict[int, list[str]]:
    """The captions of each image, out of annotations in COCO's form.

    Args:
        path: {"annotations": [{"image_id", "caption"}, ...]}, with "images" where some have no caption.
    Raises:
        ValueError: no such file, or another form.
    """
    content = read_json(path)
    try:
        found = {}
        for annotation in content["annotations"]:
            found.setdefault(_number(annotation["image_id"]), []).append(_text(annotation["caption"]))
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'{path}: no annotations of captions ({error!r}); expected {{"annotations": [{{"image_id": 1, "caption": '
            '"..."}, ...]}'
        ) from None
    return found


def references_of_index(records: IndexFiles) -> dict[int, list[str]]:
    """The captions of each image out of an index file; empty unless every record has its caption as a string."""
    found = {}
    for index in range(len(records)):
        record = records[index]
        text = record.get("text_segment") or record.get("text")
        if not isinstance(text, str):
            return {}
        found.setdefault(record["image_id"], []).append(text)
    return found


def find_references(folder: Path, split: str, records: IndexFiles, given: Path | None) -> dict[int, list[str]]:
    """Reference captions of the images of a split: of a file that was given, of the data folder's, or of the index.

    Args:
        given: annotations, of more images than the split's if need be.
    Returns:
        empty where none are known, as for a hidden test.
    Raises:
        ValueError: see `read_references`; an image without a caption.
    """
    path = given or folder / f"captioning.{split}.references.json"
    if given is None and not path.is_file():
        return references_of_index(records)
    captions = read_references(path)
    wanted = {records[index]["image_id"] for index in range(len(records))}
    missing = sorted(wanted - set(captions))
    if missing:
        raise ValueError(f"{path}: no captions of {len(missing)} of {len(wanted)} images, for example {missing[0]}")
    return {number: captions[number] for number in wanted}


def read_results(path: Path) -> dict[int, str]:
    """The caption of each image, out of a result file [{"image_id", "caption"}, ...]; ValueError for another form."""
    content = read_json(path)
    try:
        found = {_number(result["image_id"]): _text(result["caption"]) for result in content}
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'{path}: no captions ({error!r}); expected [{{"image_id": 1, "caption": "..."}}, ...]'
        ) from None
    if len(found) != len(content):
        raise ValueError(f"{path}: {len(content)} captions of {len(found)} images, expected one of each")
    return found


def official_results(captions: Iterable[dict]) -> list[dict]:
    """What the official evaluation reads, out of captions with more figures."""
    return [{"image_id": caption["image_id"], "caption": caption["caption"]} for caption in captions]


def _number(value) -> int:
    if type(value) is not int:
        raise TypeError(f"image_id {value!r}")
    return value


def _text(value) -> str:
    if not isinstance(value, str):
        raise TypeError(f"caption {value!r}")
    return value
