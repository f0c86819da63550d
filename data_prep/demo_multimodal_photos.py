"""Real pictures: crops of the photos in scikit-image and scikit-learn, and the images and questions of easy-VQA."""

import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from data_prep.fetch import FetchError, download_wheel, read_members

SCIKIT_IMAGE = "scikit-image==0.26.0"
SCIKIT_LEARN = "scikit-learn==1.9.1"
EASY_VQA = "easy-vqa==1.0"
SMALLEST_CROP, LARGEST_CROP = 0.15, 0.9  # of a photo's shorter side
VALID_EVERY = 8  # of easy-VQA's training images every eighth is for validation
# Photos by split: no part of a photo is in two of them. A name and what is known of its rights.
PHOTOS = {
    "train": {
        "astronaut.png": "NASA, public domain",
        "brick.png": "CC0Textures, CC0",
        "camera.png": "Lav Varshney, CC0",
        "chelsea.png": "Stefan van der Walt, CC0",
        "coffee.png": "Rachel Michetti, CC0",
        "gravel.png": "CC0Textures, CC0",
        "hubble_deep_field.jpg": "NASA, public domain",
        "ihc.png": "CMMI, no known copyright restrictions",
        "retina.jpg": "Mikael Häggström, CC0",
        "rocket.jpg": "SpaceX, public domain",
        "china.jpg": "danielbuechele, CC BY 2.0",
    },
    "valid": {"grass.png": "linolafett, CC0", "flower.jpg": "vultilion, CC BY 2.0"},
    "test": {
        "coins.png": "Brooklyn Museum, no known copyright restrictions",
        "motorcycle_left.png": "Nera Nesic and others, Middlebury 2014 stereo benchmark, CC0",
    },
}


def attribution() -> str:
    """Whom the photos are by."""
    rights = [f"{name}: {by}" for photos in PHOTOS.values() for name, by in photos.items()]
    return f"Photos bundled with scikit-image and scikit-learn. {'; '.join(rights)}."


def read_photos(cache: Path) -> dict[str, dict[str, Image.Image]]:
    """split -> name -> photo, RGB, in the order of PHOTOS; FetchError when a package can't be fetched or lacks one."""
    files = {}
    for package, pattern in ((SCIKIT_IMAGE, "skimage/data/*.*g"), (SCIKIT_LEARN, "sklearn/datasets/images/*.jpg")):
        members = read_members(download_wheel(package, cache), pattern)
        files |= {Path(path).name: content for path, content in members}
    if missing := [name for photos in PHOTOS.values() for name in photos if name not in files]:
        raise FetchError(f"no {', '.join(missing)} in {SCIKIT_IMAGE} and {SCIKIT_LEARN}; fetch the packages anew")
    return {
        split: {name: Image.open(io.BytesIO(files[name])).convert("RGB") for name in photos}
        for split, photos in PHOTOS.items()
    }


def crop(photo: Image.Image, side: int, rng: random.Random) -> Image.Image:
    """A random square of a photo, sometimes mirrored, as a picture of side x side pixels."""
    length = round(min(photo.size) * rng.uniform(SMALLEST_CROP, LARGEST_CROP))
    left, top = rng.randint(0, photo.width - length), rng.randint(0, photo.height - length)
    picture = photo.resize((side, side), Image.Resampling.BICUBIC, (left, top, left + length, top + length))
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else picture


@dataclass(frozen=True)
class Question:
    """A question of easy-VQA on one of its images."""

    number: int
    split: str  # train, valid, test
    image: str  # "easy-vqa/train/12.png"
    text: str
    answer: str


@dataclass(frozen=True)
class EasyVQA:
    """The data set: images as files, by path and split, and its questions in their order."""

    images: dict[str, bytes]
    splits: dict[str, str]  # path -> split
    questions: list[Question]

    def images_of(self, split: str) -> Iterator[tuple[str, bytes]]:
        """(path, file) of a split's images."""
        return ((path, content) for path, content in self.images.items() if self.splits[path] == split)


def read_easy_vqa(cache: Path) -> EasyVQA:
    """The package's test images and questions are the test; of its training images every eighth is for validation.

    Raises:
        FetchError: the package can't be fetched, or is not as expected.
    """
    wheel = download_wheel(EASY_VQA, cache)
    images, splits, questions = {}, {}, []
    for half in ("train", "test"):
        files = {
            Path(path).stem: content for path, content in read_members(wheel, f"easy_vqa/data/{half}/images/*.png")
        }
        for name in sorted(files, key=int):
            path = f"easy-vqa/{half}/{name}.png"
            images[path] = files[name]
            splits[path] = "test" if half == "test" else "valid" if int(name) % VALID_EVERY == 0 else "train"
        for _, content in read_members(wheel, f"easy_vqa/data/{half}/questions.json"):
            for text, answer, image in json.loads(content):
                path = f"easy-vqa/{half}/{image}.png"
                if path not in images:
                    raise FetchError(f"{EASY_VQA} has a question on an image that it lacks; fetch the package anew")
                questions.append(Question(len(questions), splits[path], path, text, answer))
    return EasyVQA(images, splits, questions)
