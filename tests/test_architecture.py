"""Who may import whom, and rules about files that a reader should be able to rely on."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fairseq_mhmoe"
SOURCES = sorted(path for folder in ("fairseq_mhmoe", "data_prep") for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
SCRIPTS = sorted([*(ROOT / "scripts").rglob("*.sh"), *(ROOT / "scripts").rglob("*.sbatch"), ROOT / ".ci" / "run"])
MAX_LINES = 320

OURS = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
STANDARD = set(sys.stdlib_module_names)
LEAVES = {"evaluation", "analysis", "export", "cli"}

# Room -> other rooms that it may import; third-party packages that it may import (None: any).
ALLOWED = {
    "moe": (set(), {"torch"}),
    "checkpoint": (set(), {"torch"}),
    "integration": ({"checkpoint", "moe"}, {"torch", "fairseq", "numpy", "omegaconf", "wandb"}),
    "models": ({"moe"}, None),
    "criterions": ({"moe"}, None),
    "vision": (set(), {"torch"}),
    "data": ({"moe", "vision"}, None),
    "tasks": ({"moe", "vision", "data"}, None),
}


def imported_modules(path):
    """Full names of the modules that a file imports, relative imports resolved."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            prefix = parts[: len(parts) - node.level] if node.level else []
            names.append(".".join([*prefix, *(node.module or "").split(".")]).strip("."))
            if names[-1] == "fairseq_mhmoe":
                names[-1:] = [f"fairseq_mhmoe.{alias.name}" for alias in node.names]
    return names


def room_files(room):
    return sorted((PACKAGE / room).rglob("*.py"))


@pytest.mark.parametrize("room", sorted(OURS))
def test_a_room_imports_only_rooms_below_it(room):
    if room in LEAVES:
        return
    rooms, packages = ALLOWED[room]
    for path in room_files(room):
        for name in imported_modules(path):
            top, _, rest = name.partition(".")
            if top == "fairseq_mhmoe":
                other = rest.partition(".")[0]
                assert other in rooms | {room}, f"{path.relative_to(ROOT)} imports {name}"
            elif packages is not None and top not in STANDARD:
                assert top in packages, f"{path.relative_to(ROOT)} imports {name}"


def test_only_the_package_itself_imports_integration():
    importers = {
        path.relative_to(PACKAGE).parts[0]
        for path in PACKAGE.rglob("*.py")
        if any(name.startswith("fairseq_mhmoe.integration") for name in imported_modules(path))
    }
    assert importers <= {"__init__.py", "integration"}


def test_data_preparation_does_not_need_the_models():
    for path in sorted((ROOT / "data_prep").rglob("*.py")):
        rooms = {name.split(".")[1] for name in imported_modules(path) if name.startswith("fairseq_mhmoe.")}
        assert rooms <= {"data"}, f"{path.relative_to(ROOT)} imports {rooms}"


@pytest.mark.parametrize("path", [*SOURCES, *TESTS, *SCRIPTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_can_be_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text())), "no docstring at the top"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_is_built_from_strings(path):
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    names = {call.id for call in calls if isinstance(call, ast.Name)}
    assert not names & {"eval", "exec"}
    shells = [
        keyword
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "shell" and getattr(keyword.value, "value", False)
    ]
    assert not shells


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_checkpoints_are_read_without_running_their_code(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            # the one place in which a user may name a file to be trusted
            is_reader = path == PACKAGE / "checkpoint" / "loading.py"
            assert ("weights_only=not trusted" if is_reader else "weights_only=True") in ast.unparse(node)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_shell_scripts_pass_shellcheck(path):
    shellcheck = Path(sys.executable).with_name("shellcheck")
    if not shellcheck.exists() and shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    command = [str(shellcheck if shellcheck.exists() else "shellcheck"), "--external-sources", str(path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    "path", [path for path in SCRIPTS if path.parent.name != "lib"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_shell_scripts_stop_at_the_first_error(path):
    assert re.search(r"^set -euo pipefail$", path.read_text(), re.MULTILINE)
