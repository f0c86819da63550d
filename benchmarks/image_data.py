"""Speed per core of preparing image-text pairs and of reading them in random order, on made-up photographs.

    python benchmarks/image_data.py --json figures.json

A tar as img2dataset writes it (JPEG of quality 95, text, JSON) is indexed with its captions, then read through
ImageShards: bytes and check of the hash alone, and decoded too. Seconds are CPU time of one thread.
"""

import argparse
import io
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, Optional

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import commit, describe

from data_prep.files import write_text
from data_prep.images.captions import CaptionEncoder
from data_prep.images.publish import Published, publish
from data_prep.images.settings import ImageInput, ImageSettings
from data_prep.images.tars import TarWriter
from data_prep.images.tasks import do_task, plan_tasks
from fairseq_mhmoe.data.image_shards import ImageShards

SIZE = (341, 256)
ADJECTIVES = "old red small wooden young happy two many".split()
THINGS = "dog street river child table boat hills".split()


def photograph(number: int, size=SIZE) -> bytes:
    """A JPEG of 30 to 40 kB: coarse and fine noise, about as much detail as photographs have."""
    generator = np.random.default_rng(number)
    coarse = Image.fromarray(generator.integers(256, size=(12, 16, 3), dtype=np.uint8))
    coarse = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC))
    fine = generator.normal(0, 4, size=(size[1], size[0], 1))
    content = io.BytesIO()
    Image.fromarray(np.clip(coarse + fine, 0, 255).astype(np.uint8)).save(content, "JPEG", quality=95)
    return content.getvalue()


def caption(generator: random.Random) -> str:
    """Eight words."""
    first, second = generator.choices(THINGS, k=2)
    return f"a {generator.choice(ADJECTIVES)} {first} beside the {second} in summer"


def measure(images: int, dictionary: Optional[Path], folder: Path) -> Dict[str, float]:
    """Figures for a tar of so many pairs; without a dictionary, of images without captions."""
    generator, different = random.Random(0), [photograph(number) for number in range(min(images, 200))]
    with TarWriter(folder / "00000.tar") as tar:
        for number in range(images):
            # bytes behind the end of a JPEG change its hash and nothing else
            content = different[number % len(different)] + number.to_bytes(4, "big")
            text = caption(generator)
            tar.add(f"{number:09d}.jpg", content)
            tar.add(f"{number:09d}.json", json.dumps({"caption": text, "status": "success", "width": 341}).encode())
            tar.add(f"{number:09d}.txt", text.encode())
    settings, output = ImageSettings(), folder / "out"
    encoder = CaptionEncoder(dictionary) if dictionary else None
    source = ImageInput("made", (folder / "00000.tar",), "webdataset")
    tasks, folders = plan_tasks([source], settings, encoder, output)
    start = time.process_time()
    do_task(tasks[0], settings, encoder, output)
    indexing = time.process_time() - start
    start = time.process_time()
    published = {"made": Published(str(folders["made"]), packed=False, formats=("webdataset",))}
    publish(output, "made", published, [("made", tasks[0].index(output))], settings, encoder, "-")
    publishing = time.process_time() - start
    shards = ImageShards(output, "train")
    order = generator.sample(range(len(shards)), min(len(shards), 2000))
    figures = {
        "images": images,
        "bytes_per_image": round(sum(map(len, different)) / len(different)),
        "indexed_per_s": round(images / indexing),
        "published_per_s": round(images / publishing),
        "index_bytes_per_record": round(sum(f.stat().st_size for f in output.glob("train.*.npy")) / len(shards)),
    }
    for name, read in (("read_per_s", shards.image), ("decoded_per_s", shards.picture)):
        start = time.process_time()
        for index in order:
            read(index)
        figures[name] = round(len(order) / (time.process_time() - start))
    return figures


def main(words: Optional[List[str]] = None) -> None:
    """Print the figures, and write them where --json says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--dictionary", type=Path, help="prepared text folder; default: images without captions")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options.images, options.dictionary, Path(folder))
    print(json.dumps(figures, indent=2))
    if options.json:
        content = {"rows": [figures], "machine": describe(), "load": os.getloadavg(), "commit": commit()}
        write_text(options.json, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
