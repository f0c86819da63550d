"""benchmarks/gpu.sh and performance.sh: what they would run, and what they say when they can't."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
VENV = Path(sys.executable).parents[1]


def run(script, *words, **environment):
    command = ["bash", str(ROOT / "benchmarks" / script), *words]
    env = {"PATH": "/usr/bin:/bin", "VENV": str(VENV), **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)


def commands(script, *words, **environment):
    """The commands of a dry run, as lists of words."""
    result = run(script, *words, "--dry-run", **environment)
    assert result.returncode == 0, result.stderr
    return [line.split() for line in result.stdout.splitlines()]


@pytest.mark.parametrize("script", ["gpu.sh", "performance.sh", "programs.sh"])
def test_passes_shellcheck(script):
    shellcheck = VENV / "bin/shellcheck"
    if not shellcheck.exists():
        pytest.skip("shellcheck is not installed")
    result = subprocess.run(
        [shellcheck, "--external-sources", f"benchmarks/{script}"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", ["gpu.sh", "performance.sh"])
@pytest.mark.parametrize("words", [(), ("--quick",)], ids=["full", "quick"])
def test_programs_are_there_and_know_their_options(script, words):
    for command in commands(script, *words):
        assert command[0] == "python"
        if command[1] == "-m":
            assert command[2] == "pytest"
            continue
        source = (ROOT / command[1]).read_text()
        for option in (word for word in command[2:] if word.startswith("--")):
            assert f'"{option}"' in source or f'"{option[2:]}"' in source, f"{command[1]} does not know {option}"


def test_performance_measures_on_the_cpu_and_reports_last():
    planned = commands("performance.sh", "--quick")
    assert [Path(command[1]).stem for command in planned] == [
        "moe_layer", "train_step", "cross_entropy", "profile_step", "expected", "performance_report",
    ]  # fmt: skip
    assert all(["--device", "cpu"] == command[command.index("--device") :][:2] for command in planned[:4])
    assert all("--quick" in command for command in planned[:3])
    targets = [command[command.index("--json") + 1] for command in planned[:-1]]
    assert targets == [f"benchmarks/figures/{Path(command[1]).stem}.json" for command in planned[:-1]]
    assert commands("performance.sh", "--report-only") == [["python", "benchmarks/performance_report.py"]]


@pytest.mark.parametrize("extent, parts", [((), 5), (("--full",), 1)])
def test_performance_writes_the_parts_of_the_layer_side_by_side(extent, parts):
    layer = [c for c in commands("performance.sh", *extent) if c[1].endswith("moe_layer.py")]
    names = [Path(command[command.index("--json") + 1]).stem for command in layer]
    assert names[0] == "moe_layer" and all(name.startswith("moe_layer-") for name in names[1:])
    assert len(set(names)) == len(names) == parts


@pytest.mark.parametrize("capability, half", [("7.0", "fp16"), ("8.0", "bf16"), ("9.0", "bf16"), ("12.0", "bf16")])
def test_gpu_takes_the_types_that_it_has(capability, half):
    planned = commands("gpu.sh", CAPABILITY=capability)
    types = [command[command.index("--dtypes") + 1 :][:2] for command in planned if "--dtypes" in command]
    assert types == [["fp32", half]] * 2
    steps = [command[command.index("--precision") + 1] for command in planned if "train_step" in command[1]]
    assert steps == (["fp32", "bf16"] if half == "bf16" else ["fp32"])


def test_gpu_writes_everything_into_one_folder():
    planned = commands("gpu.sh", "--output", "some/where")
    files = [word for command in planned for word in command if word.endswith((".json", ".png", ".json.gz"))]
    assert len(files) == len(set(files)) >= 8 and all(name.startswith("some/where/") for name in files)
    assert planned[0][1:5] == ["-m", "pytest", "-q", "-m"] and planned[-1][1:] == [
        "benchmarks/gpu_report.py",
        "some/where",
    ]


def test_without_a_gpu_it_says_so(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    result = run("gpu.sh", "--output", str(tmp_path / "out"))
    assert result.returncode == 2
    assert re.search(r"gpu\.sh: torch \d\S+ finds no CUDA device; expected an NVIDIA GPU", result.stderr)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("script", ["gpu.sh", "performance.sh"])
def test_wrong_starts_are_explained(script):
    unknown = run(script, "--fast")
    assert unknown.returncode == 2 and "unknown option --fast" in unknown.stderr and "usage:" in unknown.stderr
    nowhere = run(script, VENV="/nowhere")
    assert nowhere.returncode == 2 and "no python in /nowhere/bin; run bash scripts/setup.sh" in nowhere.stderr
    explained = run(script, "--help")
    assert explained.returncode == 0 and "--dry-run" in explained.stdout


def test_a_failure_does_not_stop_the_rest(tmp_path):
    # a python that sees a GPU, and whose programs say their name; one of them fails
    python = tmp_path / "venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(
        '#!/bin/sh\n[ "$1" = - ] && echo 8.0 && exit\necho "$3"\ncase $3 in *train_step.py) exit 3 ;; esac\n'
    )
    python.chmod(0o755)
    result = run("gpu.sh", "--output", str(tmp_path / "out"), VENV=str(tmp_path / "venv"))
    assert result.returncode == 1
    assert "gpu.sh: failed: train_step_fp32 train_step_bf16; see the logs in" in result.stderr
    assert result.stdout.splitlines()[-1] == "benchmarks/gpu_report.py"
    assert (tmp_path / "out/train_step_bf16.log").read_text().endswith("\nbenchmarks/train_step.py\n")
