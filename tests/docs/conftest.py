"""What the tests of the documents' blocks share: the service of forks, and the files that blocks are given."""

import subprocess

import pytest

from ..forks import ROOT
from .blocks import programs
from .blocks.makers import Makers
from .blocks.sandbox import Service, type_in
from .blocks.stand_ins import STAND_INS


@pytest.fixture(scope="session")
def service():
    """The service, with the programs that a reader may call."""
    started = Service(sorted({*programs.names(), *(name for name in STAND_INS if "." not in name)}))
    yield started
    started.close()


@pytest.fixture(scope="session")
def makers(service, tmp_path_factory, tiny_data_dir, multimodal_data_dir, write_dump, write_articles):
    """Makes the files of given.py."""
    folder = tmp_path_factory.mktemp("given")

    def run(words):
        command = [service.bin / str(words[0]), *map(str, words[1:])]
        environment = service.environment(folder)
        done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=200)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]

    return Makers(folder, tiny_data_dir, multimodal_data_dir, write_dump, write_articles, run)


@pytest.fixture
def typed(service, tmp_path):
    """typed(lines): what bash and the programs make of them in an empty checkout."""
    from .blocks.sandbox import make_folder

    folder = make_folder(tmp_path / "checkout", service.bin)
    return lambda lines: type_in(lines, folder, service)
