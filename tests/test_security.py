"""Files from elsewhere are read as data: no way of reading or writing objects that could run code comes in."""

import ast
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for folder in ("fairseq_mhmoe", "data_prep") for path in (ROOT / folder).rglob("*.py"))
PICKLES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
# module -> why it may know pickle
MAY_PICKLE = {"data_prep/local_tasks.py": "tries whether an error can be sent to the parent process"}
REFUSED = {
    "yaml.load", "yaml.full_load", "yaml.unsafe_load", "tempfile.mktemp", "os.system", "os.popen", "np.save", "np.load",
    "tarfile.extractall", "zipfile.extractall", "pd.read_pickle",
}  # fmt: skip
SAVERS = {"fairseq_mhmoe/checkpoint/writing.py", "fairseq_mhmoe/vision/files.py"}


def calls(path):
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_pickled(path):
    name = path.relative_to(ROOT).as_posix()
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert not imported & PICKLES or name in MAY_PICKLE
    if any(ast.unparse(call.func) == "torch.save" for call in calls(path)):
        assert name in SAVERS, "checkpoints and tokenizers have one writer each, whose files are read with weights_only"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_call_that_builds_objects_or_unpacks_archives(path):
    for call in calls(path):
        name = ast.unparse(call.func)
        plain = any(word.arg == "allow_pickle" and ast.unparse(word.value) == "False" for word in call.keywords)
        assert name not in REFUSED or (name in ("np.save", "np.load") and plain), f"line {call.lineno}: {name}"
        assert not name.endswith((".extractall", ".extract")), f"line {call.lineno}: {name}"


def pins(text):
    """Package -> version, of the lines that hold on Python 3.11."""
    found = {}
    for line in text.splitlines():
        line = line.removesuffix("\\").strip()
        if not line or line.startswith(("#", "--hash")):
            continue
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"python_version": "3.11"}):
            found[requirement.name.lower().replace("_", "-")] = str(requirement.specifier)
    return found


def test_hashes_are_of_the_pinned_versions():
    locked = pins((ROOT / "constraints-hashes.txt").read_text())
    pinned = pins((ROOT / "constraints.txt").read_text())
    differing = {name: (pin, locked[name]) for name, pin in pinned.items() if locked.get(name, pin) != pin}
    assert differing == {}, "bash scripts/lock.sh writes constraints-hashes.txt anew"
    assert {"torch", "fairseq-fixed", "numpy", "setuptools", "wheel"} <= set(locked)


def test_every_locked_package_has_hashes():
    entries = (ROOT / "constraints-hashes.txt").read_text().split("\n")
    names = [number for number, line in enumerate(entries) if line[:1].isalnum()]
    assert len(names) > 100
    assert all(entries[number + 1].strip().startswith("--hash=sha256:") for number in names)
