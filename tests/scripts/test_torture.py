"""scripts/torture.sh: its usage and its complaints; tests/distributed/test_kill.py holds what it does."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*words, **environment):
    command = ["bash", str(ROOT / "scripts" / "torture.sh"), *words]
    env = {"PATH": "/usr/bin:/bin", **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)


def test_help_explains_every_option():
    result = run("--help")
    assert result.returncode == 0
    for option in ("--kills", "--processes", "--seed", "--launcher", "--json", "--keep"):
        assert option in result.stdout


def test_a_missing_environment_is_named():
    result = run("--kills", "1", VENV="/nowhere")
    assert result.returncode == 2
    assert "no python in /nowhere/bin; run bash scripts/setup.sh first" in result.stderr
