"""scripts/fresh_machine_test.sh, with a small repository whose two commands tell what they see."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from scripts.machine import fresh

ROOT = Path(__file__).resolve().parents[2]
RUN = """
echo "home $HOME cache ${PIP_CACHE_DIR-none} venv ${VENV-none} index ${PIP_INDEX_URL-none} words $*"
ls -A "$HOME"
"""


def git(folder, *words):
    names = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a"}
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder), **names}
    subprocess.run(["git", "-C", str(folder), *words], check=True, env=env, timeout=60, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    """repository(run=..., test=...): a repository with these two scripts, committed."""

    def make(run=RUN, test="echo all passed"):
        folder = tmp_path / "repository"
        (folder / "scripts").mkdir(parents=True)
        (folder / "scripts/run.sh").write_text(run + "\n")
        (folder / "scripts/test.sh").write_text(test + "\n")
        git(tmp_path, "init", "--quiet", str(folder))
        git(folder, "add", "scripts")
        git(folder, "commit", "--quiet", "-m", "scripts")
        return folder

    return make


@pytest.fixture
def start(tmp_path, monkeypatch):
    """start(repository, *words) -> exit status, log, summary; TMPDIR is a folder of the test."""

    def run(repository, *words):
        monkeypatch.setattr(fresh.tempfile, "tempdir", str(tmp_path / "temporary"))
        (tmp_path / "temporary").mkdir(exist_ok=True)
        output = tmp_path / "output"
        status = fresh.main(["--repository", str(repository), "--output", str(output), *words])
        return status, (output / "log.txt").read_text(), json.loads((output / "summary.json").read_text())

    return run


def test_both_commands_run_in_an_empty_home_and_nothing_stays(repository, start, tmp_path, monkeypatch):
    for name, value in (("PIP_CACHE_DIR", "/cache"), ("VENV", "/venv"), ("PIP_INDEX_URL", "index")):
        monkeypatch.setenv(name, value)
    status, log, summary = start(repository())
    assert status == 0 and summary["passed"]
    assert [step["step"] for step in summary["steps"]] == ["clone", "run", "test"]
    line = next(line for line in log.splitlines() if "cache" in line).split()
    assert line[3:] == ["cache", "none", "venv", "none", "index", "index", "words"]
    assert Path(line[2]).parent == tmp_path / "temporary"
    assert {line.split()[-1] for line in log.splitlines()} >= {"tmp", "fairseq-mhmoe"}
    assert list((tmp_path / "temporary").iterdir()) == []


def test_what_is_not_committed_is_not_tried(repository, start, capsys):
    folder = repository()
    (folder / "scripts/run.sh").write_text("echo changed; exit 1\n")
    status, log, summary = start(folder)
    assert status == 0 and "changed" not in log and "differ from the last commit" in capsys.readouterr().out
    assert len(summary["commit"]) == 12


def test_a_command_that_fails_is_told_and_the_other_is_tried_all_the_same(repository, start, capsys):
    status, _, summary = start(repository(run="echo no compiler; exit 3"))
    assert status == 1 and not summary["passed"]
    assert [(step["step"], step["status"]) for step in summary["steps"]] == [("clone", 0), ("run", 3), ("test", 0)]
    assert summary["steps"][1]["last_line"] == "no compiler" and "failed with exit status 3" in capsys.readouterr().out


def test_a_command_that_takes_too_long_is_ended_with_its_children(repository, start, tmp_path):
    beat = tmp_path / "beat"
    run = f"(while true; do echo >>{beat}; sleep 0.05; done) & sleep 60"
    status, _, summary = start(repository(run=run), "--only", "run", "--hours", "0.0002")
    assert status == 1 and summary["steps"][1]["status"] is None
    size = beat.stat().st_size
    assert summary["steps"][1]["seconds"] < 30
    subprocess.run(["sleep", "0.3"], check=True)
    assert beat.stat().st_size == size


def test_one_command_alone_with_words_of_its_own(repository, start, monkeypatch):
    monkeypatch.setenv("FRESH_RUN_ARGUMENTS", "--help 'two words'")
    _, log, summary = start(repository(), "--only", "run")
    assert [step["step"] for step in summary["steps"]] == ["clone", "run"]
    assert summary["steps"][1]["arguments"] == ["--help", "two words"] and "words --help two words" in log


def test_no_repository_is_an_error_and_leaves_nothing(start, tmp_path):
    status, _, summary = start(tmp_path / "nowhere")
    assert status == 1 and len(summary["steps"]) == 1 and list((tmp_path / "temporary").iterdir()) == []


def test_write_protected_files_go_too(repository, start, tmp_path):
    run = 'mkdir "$HOME/cache" && touch "$HOME/cache/file" && chmod 500 "$HOME/cache"'
    assert start(repository(run=run), "--only", "run")[0] == 0
    assert list((tmp_path / "temporary").iterdir()) == []


def test_proxies_and_certificates_stay_and_nothing_else():
    variables = {
        "https_proxy": "p",
        "NO_PROXY": "n",
        "PIP_CERT": "c",
        "PIP_TARGET": "t",
        "LD_LIBRARY_PATH": "l",
        "VENV": "v",
    }
    found = fresh.fresh_environment(Path("/home/new"), "new", "/opt/bin", variables)
    assert {"https_proxy", "NO_PROXY", "PIP_CERT"} <= set(found) and not {
        "PIP_TARGET",
        "LD_LIBRARY_PATH",
        "VENV",
    } & set(found)
    assert found["PATH"].startswith("/opt/bin:/usr/local") and found["HOME"] == "/home/new"


def test_help_explains_every_option():
    command = ["bash", str(ROOT / "scripts/fresh_machine_test.sh"), "--help"]
    text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    named = {word for action in fresh.make_parser()._actions for word in action.option_strings if word.startswith("--")}
    assert all(word in text for word in named - {"--help"})


@pytest.mark.skipif(os.getuid() == 0, reason="root may make users")
def test_a_new_user_needs_root(repository, start):
    with pytest.raises(SystemExit):
        start(repository(), "--new-user")
