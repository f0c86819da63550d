"""constraints.txt: one version of every package for each Python that setup.py supports."""

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
PINS = [
    Requirement(line.partition(" #")[0])
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
PYTHONS = ("3.10.12", "3.11.2", "3.11.7", "3.12.1")  # two of distributions, two newer ones


def holds(pin, python):
    environment = {"python_version": python.rpartition(".")[0], "python_full_version": python}
    return pin.marker is None or pin.marker.evaluate(environment)


@pytest.mark.parametrize("python", PYTHONS)
def test_every_package_has_one_version(python):
    names = [pin.name.lower() for pin in PINS if holds(pin, python)]
    assert sorted(names) == sorted({pin.name.lower() for pin in PINS})


def test_a_pin_is_an_exact_version():
    assert all(re.fullmatch(r"==[\w.+]+", str(pin.specifier)) for pin in PINS)


def test_a_package_that_left_a_python_behind_has_another_line_for_it():
    missing = []
    for pin in PINS:
        try:
            found = metadata.metadata(pin.name)
        except metadata.PackageNotFoundError:
            continue
        if str(pin.specifier) != f"=={found['Version'].partition('+')[0]}":
            continue
        allowed = SpecifierSet(found["Requires-Python"] or "")
        missing += [f"{pin} on {python}" for python in PYTHONS if holds(pin, python) and python not in allowed]
    assert missing == []
