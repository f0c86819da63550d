"""The formats that pictures and captions come in, by name, and how each is read."""

import re
from collections.abc import Iterator
from pathlib import Path

from data_prep.images.decoding import SUFFIXES
from data_prep.images.listings import Entry, Pictures, Reader, folder_of, is_url, merged, read_folder, read_json
from data_prep.images.settings import ImageInput, ImageSettings

# tars that are indexed where they are; of "tar", every picture is a record and has no caption
TARS = ("webdataset", "tar")
BAD_LINE = "bad_line"
# lines by which the columns of a table are told
SAMPLE = 100
REFERENCES = ("url", "image", "image_path", "path", "file", "filepath", "file_name", "filename")
CAPTIONS = ("caption", "text", "title", "alt")
# Karpathy's split of COCO
KARPATHY = {"train": "train", "restval": "train", "val": "valid", "test": "test"}
COCO_FOLDER = re.compile(r"COCO_([a-z]+\d{4})_")


def read_tsv(source: ImageInput, settings: ImageSettings) -> Iterator[Entry]:
    """Lines of a caption and an address or path, in this order or the other; CC3M and CC12M, with or without names."""
    pictures = Pictures(source)
    for path in source.files:
        yield from merged(_lines(path, pictures))


def read_sbu(source: ImageInput, settings: ImageSettings) -> Iterator[Entry]:
    """SBU captions: its JSON, pairs in JSON, or two text files *url*.txt and *caption*.txt."""
    pictures = Pictures(source)
    if all(path.suffix == ".txt" for path in source.files):
        urls = [path for path in source.files if "url" in path.name.lower()]
        texts = [path for path in source.files if "caption" in path.name.lower() and path not in urls]
        if len(urls) != 1 or len(texts) != 1 or len(source.files) != 2:
            raise ValueError(f"{source.source}: expected two text files, *url*.txt and *captions*.txt, in --source")
        pairs = zip(_texts(urls[0]), _texts(texts[0]), strict=True)
        try:
            yield from merged(pictures.entry(url.strip(), [caption]) for url, caption in pairs)
        except ValueError as error:
            raise ValueError(f"{urls[0]} and {texts[0]} have different numbers of lines ({error})") from None
        return
    for path in source.files:
        content = read_json(path)
        if isinstance(content, dict):
            columns = content.get("image_urls"), content.get("captions")
            if not all(isinstance(column, list) for column in columns) or len(columns[0]) != len(columns[1]):
                raise ValueError(f"{path}: expected lists `image_urls` and `captions` of one length")
            content = list(zip(*columns, strict=True))
        if not isinstance(content, list):
            raise ValueError(f"{path}: expected an object or a list of pairs (address or path, caption)")
        yield from merged(_pair(path, number, pair, pictures) for number, pair in enumerate(content))


def read_coco(source: ImageInput, settings: ImageSettings) -> Iterator[Entry]:
    """COCO's captions_*.json, or Karpathy's dataset_coco.json, whose splits are kept (restval: train)."""
    folder_of(source)
    for path in source.files:
        content = read_json(path)
        try:
            if "annotations" in content:
                captions: dict = {}
                for annotation in content["annotations"]:
                    captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
                for image in content["images"]:
                    places = _coco_places(image["file_name"], image.get("coco_url", ""))
                    yield Entry(image["file_name"], places, captions.get(image["id"], []), source.split)
            else:
                for image in content["images"]:
                    places = [f"{image['filepath']}/{image['filename']}"] if image.get("filepath") else []
                    places += _coco_places(image["filename"], "")
                    texts = [sentence["raw"] for sentence in image["sentences"]]
                    yield Entry(places[0], places, texts, source.split or KARPATHY[image["split"]])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not COCO's layout, nor Karpathy's: {error!r}") from None


def read_visual_genome(source: ImageInput, settings: ImageSettings) -> Iterator[Entry]:
    """Visual Genome's region_descriptions.json: each phrase is a caption of its whole picture."""
    folder_of(source)
    for path in source.files:
        # a region is much larger than what is needed of it, and there are five million
        content = read_json(path, lambda found: found["phrase"] if "phrase" in found else found)
        try:
            for image in content:
                number = image["id"] if "id" in image else image["image_id"]
                places = [f"{folder}{int(number)}.jpg" for folder in ("VG_100K/", "VG_100K_2/", "")]
                captions = list(dict.fromkeys(image["regions"]))
                yield Entry(f"{int(number)}.jpg", places, captions, source.split)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not the layout of region_descriptions.json: {error!r}") from None


READERS: dict[str, Reader] = {
    "folder": read_folder,
    "tsv": read_tsv,
    "sbu": read_sbu,
    "coco": read_coco,
    "visual-genome": read_visual_genome,
}
FORMATS = (*TARS, *READERS)


def format_of(path: Path) -> str:
    """Format by a path's kind and ending; ValueError where it does not tell."""
    if path.is_dir():
        return "folder"
    if path.suffix.lower() == ".tar":
        return "webdataset"
    if path.suffix.lower() == ".tsv":
        return "tsv"
    raise ValueError(f"{path}: the name does not tell the format; give --format NAME=FORMAT, of {', '.join(FORMATS)}")


def _lines(path: Path, pictures: Pictures) -> Iterator[Entry]:
    with open(path, "rb") as file:
        sample = [_columns(line) for _, line in zip(range(SAMPLE), file)]
    if not sample:
        raise ValueError(f"{path} is empty; expected lines of a caption, a tab, and an address or path")
    reference, caption, header = _find_columns(path, sample)
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            columns = _columns(line)
            if number == 1 and header:
                continue
            if len(columns) != len(sample[0]):
                why = f"{BAD_LINE}: {len(columns)} columns, expected {len(sample[0])}"
                yield Entry(f"{path.name}:{number}", reason=why)
            else:
                yield pictures.entry(columns[reference].strip(), [columns[caption]])


def _columns(line: bytes) -> list[str]:
    return line.decode("utf-8", "surrogateescape").rstrip("\r\n").split("\t")


def _find_columns(path: Path, sample: list[list[str]]) -> tuple[int, int, bool]:
    """Numbers of the columns of references and of captions, and whether the first line names them."""
    names = [name.strip().lower() for name in sample[0]]
    reference = next((names.index(name) for name in REFERENCES if name in names), None)
    caption = next((names.index(name) for name in CAPTIONS if name in names), None)
    if reference is not None and caption is not None:
        return reference, caption, True
    if len(names) == 2:
        looks = [sum(_is_reference(line[column]) for line in sample if len(line) == 2) for column in (0, 1)]
        if looks[0] != looks[1]:
            reference = 0 if looks[0] > looks[1] else 1
            return reference, 1 - reference, False
    raise ValueError(
        f"{path}: no telling which column has the captions; expected two columns, or a first line that names them, one "
        f"of {', '.join(REFERENCES)} and one of {', '.join(CAPTIONS)}"
    )


def _is_reference(text: str) -> bool:
    text = text.strip()
    return " " not in text and (is_url(text) or text.rpartition(".")[2].lower() in SUFFIXES)


def _texts(path: Path) -> list[str]:
    lines = path.read_bytes().decode("utf-8", "surrogateescape").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _pair(path: Path, number: int, pair: object, pictures: Pictures) -> Entry:
    if isinstance(pair, dict):
        pair = next((pair[key] for key in REFERENCES if key in pair), None), pair.get("caption")
    if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
        return Entry(
            f"{path.name}[{number}]", reason=f"{BAD_LINE}: {str(pair)[:60]}, expected a reference and a caption"
        )
    return pictures.entry(pair[0], [pair[1]])


def _coco_places(file: str, url: str) -> list[str]:
    """COCO's pictures lie in one folder, or in those of their parts, as train2014 and val2017."""
    places = [file]
    if found := COCO_FOLDER.match(file):
        places.append(f"{found[1]}/{file}")
    if is_url(url):
        places.append("/".join(url.split("/")[-2:]))
    return places
