"""Where stages run: Slurm's job files, jobs under a stand-in for sbatch, a real Ray; all give the same bytes."""

import filecmp
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from data_prep.executors import Executor, Stage, run_stages
from data_prep.pipeline import prepare
from data_prep.recipe import InputFile, Recipe, Settings

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = Settings(vocab_size=320, min_chars=10, valid_share=0.1, test_share=0.1)

SBATCH = """#!{python}
import os, re, subprocess, sys
job = open(sys.argv[-1]).read()
if "merge_stats" not in job:
    for task in range(int(re.search(r"--array=0-(\\d+)", job)[1]) + 1):
        environment = dict(os.environ, SLURM_ARRAY_TASK_ID=str(task), RUN_OFFSET="0")
        subprocess.run(["bash", sys.argv[-1]], env=environment, check=True, stdout=sys.stderr)
print("Submitted batch job", os.getpid())
"""
SRUN = '#!/bin/bash\nwhile [[ $1 == -* ]]; do [[ $1 == -n ]] && shift; shift; done\nexec "$@"\n'

RAY = """
import os, sys
from pathlib import Path
import ray
from data_prep.executors import Executor
from data_prep.pipeline import prepare
from data_prep.recipe import InputFile, Recipe, Settings

folder, temporary = Path(sys.argv[1]), sys.argv[2]
settings = Settings(vocab_size=320, min_chars=10, valid_share=0.1, test_share=0.1)
ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", _temp_dir=temporary,
         object_store_memory=80 * 2**20, log_to_driver=False)
executor = Executor("ray", workers=2)
def inputs(*names):
    return tuple(InputFile(folder / name, "jsonl", "a") for name in names)
try:
    prepare(Recipe("r", inputs("0.jsonl", "bad.jsonl.gz")), settings, folder / "bad", executor)
except RuntimeError as error:
    print("failed:", error)
prepare(Recipe("r", inputs("0.jsonl", "1.jsonl")), settings, folder / "ray", executor)
ray.shutdown()
"""


@pytest.fixture
def corpus(tmp_path, write_jsonl, make_texts):
    """Recipe of two small files in tmp_path."""
    files = [write_jsonl(tmp_path / f"{number}.jsonl", make_texts(60, number)) for number in range(2)]
    return Recipe("r", tuple(InputFile(path, "jsonl", "a") for path in files))


def assert_same_data(one, other):
    names = [path.relative_to(one) for path in one.rglob("*") if path.is_file() and "work" not in path.parts]
    assert len(names) == 9
    assert filecmp.cmpfiles(one, other, names, shallow=False) == (names, [], [])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kind": "dask"}, "executor is 'dask'; expected one of local, slurm, ray"),
        ({"workers": 0}, "workers is 0"),
        ({"kind": "slurm"}, "--slurm-partition"),
        ({"kind": "slurm", "slurm_partition": "a b"}, "'a b' for Slurm"),
        ({"kind": "slurm", "slurm_partition": "a", "slurm_sbatch": {"comment": "x\n#SBATCH"}}, "for Slurm"),
        ({"kind": "slurm", "slurm_partition": "a", "slurm_sbatch": {"comment": "$(date)"}}, "for Slurm"),
    ],
)
def test_impossible_executors_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Executor(**options)


def test_a_dry_run_shows_the_stages_and_runs_none(tmp_path, corpus, capsys):
    assert prepare(corpus, SETTINGS, tmp_path / "out", Executor(dry_run=True)) == {}
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["stage text", "stage vocabulary", "stage index", "stage publish"]
    assert "2 tasks" in lines[0] and not list(tmp_path.glob("out/work/*/logs"))


def test_slurm_gets_a_chain_of_arrays(tmp_path, corpus, capsys):
    executor = Executor(
        "slurm", workers=5, slurm_partition="cpu", slurm_time="02:00:00", slurm_sbatch={"account": "me"}, dry_run=True
    )
    assert prepare(corpus, SETTINGS, tmp_path / "out", executor) == {}
    jobs = re.split(r"^# job (\d+): ", capsys.readouterr().out, flags=re.MULTILINE)[1:]
    stages = {number: job for number, job in zip(jobs[::2], jobs[1::2], strict=True) if "merge_stats" not in job}
    assert [re.search(r"--job-name=(\S+)", job)[1] for job in stages.values()] == [
        f"data_prep-{name}" for name in ("text", "vocabulary", "index", "publish")
    ]
    assert [re.search(r"--array=(\S+)", job)[1] for job in stages.values()] == ["0-1%5", "0-0%5", "0-1%5", "0-0%5"]
    numbers = list(stages)
    waits = [re.search(r"--dependency=(\S+)", job.splitlines()[0]) for job in stages.values()]
    assert waits[0] is None and [wait[1] for wait in waits[1:]] == [f"afterok:{number}" for number in numbers[:-1]]
    first = stages[numbers[0]]
    for line in ("--partition=cpu", "--time=02:00:00", "--account=me", "--mem-per-cpu=4G", "--kill-on-invalid-dep=yes"):
        assert f"#SBATCH {line}\n" in first
    assert "qos" not in first and f"PYTHONPATH={ROOT}" in first
    pickled = re.search(r"launch_pickled_pipeline (\S+)", first)[1]
    assert Path(pickled).is_relative_to(tmp_path) and Path(pickled).is_file()
    script = next(tmp_path.glob("out/work/*/logs/text/launch_script.slurm"))
    assert script.read_text().strip() in first


def test_a_folder_that_job_files_cannot_name_is_refused(tmp_path, corpus):
    with pytest.raises(ValueError, match="Slurm's job files cannot name it"):
        prepare(corpus, SETTINGS, tmp_path / "my data", Executor("slurm", slurm_partition="cpu", dry_run=True))


@pytest.mark.slow
def test_slurms_jobs_give_the_same_bytes(tmp_path, corpus, monkeypatch):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("sbatch", SBATCH.format(python=sys.executable)), ("srun", SRUN)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    assert prepare(corpus, SETTINGS, tmp_path / "slurm", Executor("slurm", slurm_partition="cpu")) == {}
    prepare(corpus, SETTINGS, tmp_path / "local")
    assert_same_data(tmp_path / "local", tmp_path / "slurm")


@pytest.mark.slow
def test_ray_gives_the_same_bytes_and_tells_what_failed(tmp_path, corpus):
    (tmp_path / "bad.jsonl.gz").write_bytes(b"\x1f\x8b\x08" + bytes(50))
    # the names of Ray's sockets must be short
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as temporary:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
        run = subprocess.run(
            [sys.executable, "-c", RAY, str(tmp_path), temporary],
            env=environment, capture_output=True, text=True, timeout=400,
        )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    assert re.search(r"failed: stage text: 1 of 2 tasks failed: task 1: DamagedFile: \S*bad.jsonl.gz", run.stdout)
    prepare(corpus, SETTINGS, tmp_path / "local")
    assert_same_data(tmp_path / "local", tmp_path / "ray")


class Fail:
    """A step that fails in its second task."""

    def __init__(self, error):
        self.error = error

    def __call__(self, data, rank, world_size):
        if rank:
            raise self.error
        return data


@pytest.mark.parametrize("workers", [1, 2])
def test_a_local_tasks_error_stops_the_run_and_comes_out_as_it_is(tmp_path, workers):
    stages = [Stage("one", [Fail(ValueError("oh"))], 2), Stage("two", [Fail(ValueError("late"))], 2)]
    with pytest.raises(ValueError, match="oh"):
        run_stages(stages, tmp_path, Executor(workers=workers))
    assert not (tmp_path / "two").exists()


class EndItself:
    """A step whose second task is killed."""

    def __call__(self, data, rank, world_size):
        if rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return data


def test_a_task_that_was_killed_is_an_error_and_not_waited_for(tmp_path):
    with pytest.raises(RuntimeError, match=r"task 1 was ended from outside \(exit code -9"):
        run_stages([Stage("one", [EndItself()], 2)], tmp_path, Executor(workers=2))
    assert [path.name for path in tmp_path.glob("one/completions/*")] in (["00000"], [])
