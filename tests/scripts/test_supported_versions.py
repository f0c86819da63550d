"""scripts/supported_versions.sh, with a stand-in for scripts/setup.sh that makes environments of shell scripts."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.machine import versions
from scripts.machine.files import table
from scripts.machine.host import Machine

ROOT = Path(__file__).resolve().parents[2]
SETUP = r"""
echo "setup with $PYTHON for ${TORCH_SPEC-the pinned torch}"
[[ -z ${BROKEN-} ]] || exit 1
mkdir -p "$VENV/bin"
cat >"$VENV/bin/python" <<'TEXT'
#!/bin/bash
if [[ $1 == -m ]]; then
  for word; do [[ $word != --junitxml=* ]] || report=${word#*=}; done
  echo "tests: $*"
  echo "<testsuite tests='7' failures='${FAILURES:-0}' errors='0' skipped='2'/>" >"$report"
  exit "${FAILURES:-0}"
fi
echo '{"python": "3.10.13", "torch": "2.6.0", "torchvision": "0.21.0", "numpy": "2.2.6"}'
TEXT
chmod +x "$VENV/bin/python"
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """start(*words, **variables) -> exit status, results; Python 3.10 and 3.12 are there, setup.sh is a stand-in."""
    (tmp_path / "repository/scripts").mkdir(parents=True)
    (tmp_path / "repository/scripts/setup.sh").write_text(SETUP)
    (tmp_path / "repository/constraints.txt").write_text("torch==2.14.1\ntorchvision==0.29.1\n")
    for name in ("3.10", "3.12"):
        path = tmp_path / f"bin/python{name}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\necho Python {name}.7\n")
        path.chmod(0o755)

    def run(*words, commit="0123456789ab", **variables):
        settings = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "PYENV_ROOT": str(tmp_path), **variables}
        here = Machine(tmp_path / "repository", tmp_path / "none", variables=settings)
        monkeypatch.setattr(
            versions, "Machine", lambda root, venv, **more: Machine(here.root, venv, variables=settings)
        )
        monkeypatch.setattr(versions, "commit", lambda root: commit)
        results = tmp_path / "results/versions.json"
        folder = tmp_path / "environments"
        status = versions.main(["--json", str(results), "--folder", str(folder), *words])
        return status, json.loads(results.read_text())["results"]

    return run


def test_a_pair_is_made_tested_recorded_and_removed(start, tmp_path, capsys):
    status, (row,) = start("--pairs", "3.10:2.6")
    assert status == 0
    assert {key: row[key] for key in ("result", "passed", "failed", "skipped", "torch", "numpy", "commit")} == {
        "result": "passed", "passed": 5, "failed": 0, "skipped": 2, "torch": "2.6.0", "numpy": "2.2.6",
        "commit": "0123456789ab",
    }  # fmt: skip
    log = (tmp_path / "results/python3.10-torch2.6.log").read_text()
    assert "python3.10 for torch==2.6.* torchvision==0.21.*" in log and "-m not slow tests/moe" in log
    assert not (tmp_path / "environments").exists()
    assert "| 3.10.13 | 2.6.0 " in capsys.readouterr().out


def test_what_passed_is_not_repeated_unless_asked_or_the_code_changed(start, capsys):
    start("--pairs", "3.10:2.6")
    assert "passed before" not in capsys.readouterr().out
    for words, commit, repeated in (((), "0123456789ab", False), (("--again",), "0123456789ab", True), ((), "b", True)):
        start("--pairs", "3.10:2.6", *words, commit=commit)
        assert ("passed before" in capsys.readouterr().out) is not repeated
    start("--pairs", "3.10:2.6", commit="b+")
    assert "passed before" not in capsys.readouterr().out


def test_failures_are_recorded_and_tried_again(start, capsys):
    status, (row,) = start("--pairs", "3.12:2.8", FAILURES="3")
    assert (status, row["result"], row["failed"]) == (1, "failed", 3)
    status, rows = start("--pairs", "3.12:2.8")
    assert (status, [row["result"] for row in rows]) == (0, ["passed"])


def test_an_environment_that_can_not_be_made_is_a_result(start, tmp_path):
    status, (row,) = start("--pairs", "3.10:2.6", BROKEN="1")
    assert (status, row["result"]) == (1, "no environment")
    assert not (tmp_path / "environments").exists()


def test_a_python_that_is_not_here_is_a_result(start):
    status, (row,) = start("--pairs", "3.19:2.6")
    assert (status, row["result"]) == (1, "no Python 3.19 here")


def test_environments_are_kept_when_asked(start, tmp_path):
    start("--pairs", "3.12:2.14", "--keep", "--quick")
    assert (tmp_path / "environments/python3.12-torch2.14/venv/bin/python").exists()
    assert "for the pinned torch" in (tmp_path / "results/python3.12-torch2.14.log").read_text()


@pytest.mark.parametrize(
    "version, expected",
    [
        ("2.6", "torch==2.6.* torchvision==0.21.*"),
        ("2.8.0", "torch==2.8.0 torchvision==0.23.*"),
        ("2.14", None),
        ("2.14.1", None),
        ("2.1", "torch==2.1.* torchvision==0.16.*"),
    ],
)
def test_torch_and_torchvision_belong_together(version, expected):
    assert versions.torch_spec(version, "torch==2.14.1\n") == expected


@pytest.mark.parametrize("text", ["3.10", "3.10-2.6", "", "2.7:2.6"])
def test_wrong_pairs_are_refused_with_an_example(text):
    with pytest.raises(argparse.ArgumentTypeError, match="give such as 3.10:2.6"):
        versions.read_pairs(text)


def test_tests_that_end_without_a_report_have_failed(tmp_path):
    assert versions.counts(tmp_path / "none.xml") == {"passed": 0, "failed": 1, "skipped": 0}


def test_the_chosen_tests_exist():
    assert all(
        (ROOT / word).exists() for words in versions.TESTS.values() for word in words if word.startswith("tests")
    )


def test_tables_are_markdown():
    assert table(["a", "bb"], [["1", "2"]]) == "| a | bb |\n|---|----|\n| 1 | 2  |"


def test_help_explains_every_option():
    command = ["bash", str(ROOT / "scripts/supported_versions.sh"), "--help"]
    env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=env).stdout
    named = {word for action in versions.make_parser()._actions for word in action.option_strings if word[:2] == "--"}
    assert all(word in text for word in named - {"--help"})
