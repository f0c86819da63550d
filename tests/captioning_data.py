"""A folder of task `captioning`: small drawn pictures, captions that name what is on them, the tiny tokenizer."""

import io
import json
import shutil
from pathlib import Path

COLORS = {"red": (220, 40, 30), "green": (40, 180, 60), "blue": (30, 60, 200), "white": (240, 240, 240)}
# each one symbol of the tiny tokenizer, so that few updates are enough
WORDS = dict(zip(COLORS, ("the", "an", "one", "and"), strict=True))
SPLITS = {"train": 16, "valid": 6, "test": 5}


def draw(color: str, size: int = 24) -> bytes:
    """A PNG of one colour with a black bar."""
    from PIL import Image

    image = Image.new("RGB", (size, size + 8), COLORS[color])
    image.paste((0, 0, 0), (0, 0, size // 3, size))
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def captions_of(color: str) -> list[str]:
    """Two captions of such a picture."""
    return [f"of {WORDS[color]}", f"of {WORDS[color]} of"]


def write_captioning_data(folder: Path, text_folder: Path, texts: tuple[str, ...] = ("train", "valid", "test")) -> Path:
    """captioning.SPLIT.jsonl with two captions an image, those of splits not in `texts` without; returns the folder."""
    (folder / "pictures").mkdir(parents=True)
    for name in ("dict.txt", "spm.model"):
        shutil.copy(text_folder / name, folder / name)
    number = 100
    for split, count in SPLITS.items():
        lines = []
        for place in range(count):
            color = list(COLORS)[place % len(COLORS)]
            path = f"pictures/{number}.png"
            (folder / path).write_bytes(draw(color))
            record = {"image_path": path, "image_id": number}
            lines += [record | {"text": text} for text in captions_of(color)] if split in texts else [record]
            number += 1
        (folder / f"captioning.{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
