"""Small pictures, tars of them, and preparations in this process."""

import io
import json
import tarfile

import numpy as np
import pytest


@pytest.fixture(scope="session")
def draw():
    """draw(number, size=(20, 16), kind="PNG", **options): bytes of a picture that no other number has."""
    from PIL import Image

    def make(number, size=(20, 16), kind="PNG", **options):
        pixels = np.random.default_rng(number).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, kind, **options)
        return content.getvalue()

    return make


@pytest.fixture(scope="session")
def write_tar():
    """write_tar(path, [(name, content), ...]) -> path; content: bytes, text, or fields of a JSON file."""

    def write(path, members):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for name, content in members:
                content = json.dumps(content) if isinstance(content, dict) else content
                content = content.encode() if isinstance(content, str) else content
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return path

    return write


@pytest.fixture(scope="session")
def prepare():
    """prepare(output, {"a": paths}, dictionary=None, format="webdataset", ...) -> manifest; half to training."""
    from data_prep.executors import Executor
    from data_prep.images.pipeline import prepare_images
    from data_prep.images.settings import ImageInput, ImageSettings

    def run(
        output, sources, dictionary=None, format="webdataset", images=None, split=None, info=None, workers=1, **settings
    ):
        inputs = [ImageInput(name, tuple(paths), format, images, split) for name, paths in sources.items()]
        chosen = ImageSettings(**{"valid_share": 0.2, "test_share": 0.2, **settings})
        return prepare_images(inputs, output, chosen, dictionary, info, executor=Executor(workers=workers))

    return run


@pytest.fixture(scope="session")
def contents():
    """contents(output): all files of a prepared folder, without what is under work/: name -> bytes."""

    def read(output):
        files = (path for path in sorted(output.rglob("*")) if path.is_file())
        names = {path.relative_to(output).as_posix(): path for path in files}
        return {name: path.read_bytes() for name, path in names.items() if not name.startswith("work/")}

    return read
