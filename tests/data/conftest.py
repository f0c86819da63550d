"""What the tests of data and tasks read."""

import pytest

from tests.data import folders


@pytest.fixture(scope="session")
def write_files():
    """write_files(prefix, shard, ..., dtype=np.uint16) -> TokenFiles: see folders.py."""
    return folders.write_files


@pytest.fixture(scope="session")
def write_sources():
    """write_sources(folder, manifest=True, weights=None, en={"train": [shard, ...]}, ...) -> folder: see folders.py."""
    return folders.write_sources
