"""The wheel holds what the programs read, and nothing else; it works without the repository."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("fairseq_mhmoe", "data_prep")


def files_of(folder, *endings):
    return {path.relative_to(ROOT).as_posix() for end in endings for path in (ROOT / folder).rglob(f"*{end}")}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder with the source archive, and the wheel that was built from it."""
    place = tmp_path_factory.mktemp("packages")
    listed = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git repository")
    for name in filter(None, listed.stdout.decode().split("\0")):
        source = ROOT / name
        if source.is_file():
            target = place / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(place), str(place / "source")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=place)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return place


@pytest.fixture(scope="module")
def wheel(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        yield archive


def test_the_wheel_holds_all_modules_and_data_files(wheel):
    expected = set().union(*(files_of(package, ".py", ".txt", ".yaml", "py.typed") for package in PACKAGES))
    expected |= {f"fairseq_mhmoe/{name}" for name in files_of("configs", ".yaml")}
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert found == expected


def test_metadata(wheel):
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = wheel.read(name).decode()
    version = re.search(r'^__version__ = "(.+)"$', (ROOT / "fairseq_mhmoe/__init__.py").read_text(), re.MULTILINE)[1]
    for line in (f"Version: {version}", "License-Expression: MIT", "Requires-Python: >=3.10,<3.13"):
        assert f"\n{line}\n" in metadata
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_the_source_archive_is_the_repository(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("tests/conftest.py", "configs/v1/english_mhmoe_8experts.yaml", "scripts/setup.sh", "constraints.txt"):
        assert name in names
    source = built / "source"
    missing = {path.relative_to(source).as_posix() for path in (source / "tests").rglob("*") if path.is_file()} - names
    assert {name for name in missing if "__pycache__" not in name} == set()


def test_an_installed_program_needs_no_repository(wheel, tmp_path):
    site = tmp_path / "site"
    wheel.extractall(site)
    program = (
        "import sys; from fairseq_mhmoe.cli.cost import main; import fairseq_mhmoe; "
        "print(fairseq_mhmoe.__path__[0]); sys.exit(main())"
    )
    config = site / "fairseq_mhmoe/configs/v1/english_mhmoe_8experts.yaml"
    result = subprocess.run(
        [sys.executable, "-c", program, str(config)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(site))
    assert "354.00" in result.stdout
