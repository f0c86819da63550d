"""The files that the documents' commands are given: small ones of the real formats, under the documents' names."""

import re
from fnmatch import fnmatch
from itertools import product

# Where a document's name is found -> what is there: a method of Makers, with its argument.
GIVEN = {
    "data/english": "text",
    "data/wiki": "wiki",
    "data/text": "text",
    "data/demo-english": "text",
    "data/demo-english-mix": "text",
    "data/redpajama": "text",
    "data/mm": "multimodal",
    "data/multimodal": "multimodal",
    "DATA": "multimodal",
    "data/pairs": "pairs",
    "data/vqav2": "vqa",
    "data/nlvr2": "nlvr2",
    "data/coco": "coco",
    "data/zero-shot": "zero_shot",
    "dumps": "dumps",
    "data/raw": "raw",
    "SlimPajama-627B/train": "slimpajama",
    "redpajama": "original",
    "old-data": "original",
    "vqa": "official_vqa",
    "nlvr/nlvr2/data": "official_nlvr2",
    "dataset_coco.json": "official_coco",
    "cc12m": "tars",
    "raw/cc12m": "tars",
    "raw/cc3m": "tars",
    "raw/sbu": "tars",
    "raw/coco": "coco_images",
    "raw/vg": "regions",
    "raw/winter21_whole": "tars",
    "raw/photos": "photos",
    "coco": "coco_pictures",
    "photo.jpg": "photo",
    "cat.jpg": "photo",
    "street.png": "photo",
    "story.txt": "story",
    "my-words.txt": "words",
    "vqkd.pth": "tokenizer",
    "image_tokenizer.pt": "tokenizer",
    "runs/dense": "run dense",
    "runs/smoe": "run smoe",
    "runs/xmoe": "run xmoe",
    "runs/mhmoe": "run mhmoe",
    "runs/dense-1": "run dense",
    "runs/dense-2": "run dense",
    "runs/mhmoe-1": "run mhmoe",
    "runs/mhmoe-2": "run mhmoe",
    "runs/x": "run mhmoe",
    "runs/english-demo-mhmoe": "run mhmoe",
    "run": "run mhmoe",
    "exported": "exported",
    "runs/mm": "run multimodal",
    "runs/pretrained": "run multimodal",
    "runs/multimodal": "run multimodal",
    "runs/vqav2": "run vqa",
    "runs/nlvr2": "run nlvr2",
    "runs/coco": "run captioning",
}
# The same names, where a document means others by them.
GIVEN_OF = {
    "docs/multimodal.md": {"runs/mhmoe": "run multimodal"},
    "docs/analysis.md": {
        f"runs/mhmoe/checkpoint_1_{updates}.pt": "checkpoint multimodal" for updates in (1000, 10000, 50000)
    },
}
# What is there before a command writes to such a folder.
BEFORE = {"data/vqav2": "vqa_images"}
# What a program reads that a document need not name.
IMPLIED = {
    "lm-eval": "data/zero-shot",
    "lm_eval": "data/zero-shot",
    "evaluate.sh": "data/zero-shot",
    "cl100k_base": "data/text",
    "data_prep ...": "dumps",
    "scripts/run.sh": "data/demo-english",
    "custom_router/run.sh": "data/demo-english",
    "mhmoe:": "data/demo-english",
}


def expand(word: str) -> list[str]:
    """Braces as bash expands them."""
    parts = re.split(r"\{([^{}]*,[^{}]*)\}", word)
    choices = [part.split(",") if number % 2 else [part] for number, part in enumerate(parts)]
    return ["".join(chosen) for chosen in product(*choices)]


def mentioned(text: str) -> list[str]:
    """The paths of a block, in their order, patterns as they are."""
    words = re.split(r"[\s\"'=();]+", text)
    return [path.rstrip("/") for word in words for path in expand(word) if path]


def touches(path: str, given: str) -> bool:
    """Whether a path of a block, perhaps a pattern, is `given`, or above or below it."""
    parts, others = path.split("/"), given.split("/")
    return parts[0].strip("*.") != "" and all(fnmatch(b, a) or fnmatch(a, b) for a, b in zip(parts, others))


def needed(document: str, text: str) -> dict[str, str]:
    """{path: maker} for a block: what it mentions, but for folders that it first mentions as a place to write to."""
    table = {**GIVEN, **GIVEN_OF.get(document, {})}
    text = re.sub(r"python -m data_prep\.(demo|zero)\w+ --output", "parsed only:", text)
    outputs = r"(?:--save-dir|--output|--output_folder|checkpoint\.save_dir|run\.sh \d+ \d+|mhmoe-export \S+)[ =]+(\S+)"
    written = {found[1].rstrip("/"): found.start(1) for found in reversed([*re.finditer(outputs, text)])}
    paths, chosen = mentioned(text), {}
    for path, maker in table.items():
        if not any(touches(each, path) for each in paths):
            continue
        if path in written and text.index(path) >= written[path]:
            maker = BEFORE.get(path, "")
        chosen[path] = maker
    for word, path in IMPLIED.items():
        if word in text:
            chosen.setdefault(path, GIVEN[path])
    return {path: maker for path, maker in chosen.items() if maker}
