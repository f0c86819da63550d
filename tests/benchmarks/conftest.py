"""How the tests start a benchmark."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def run_program():
    """run_program("benchmarks/NAME.py", "--option", value, check=True) -> CompletedProcess, as text."""

    def run(program, *words, check=True):
        result = subprocess.run(
            [sys.executable, program, *map(str, words)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=200,
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        )
        assert not check or result.returncode == 0, result.stderr[-4000:]
        return result

    return run
