"""What the tests of scripts share."""

from functools import partial

import pytest

from .machines import make_machine


@pytest.fixture
def machine(tmp_path):
    """machine(programs, files, ...): a Machine in which only these exist."""
    return partial(make_machine, tmp_path)
