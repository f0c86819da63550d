"""scripts/cluster/: what they start, and what they do when the training was stopped early; launchers are stand-ins."""

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "scripts" / "cluster"
SCRIPTS = ("slurm_gpu.sbatch", "slurm_node.sbatch", "openmpi.sh", "elastic.sh", "ssh.sh")
# a launcher that notes its words, and its signal or its end; TRAINING says what the training does
STAND_IN = """#!/usr/bin/env bash
printf '%s\\n' "$0 $*" >>"$NOTES"
marker=$SAVE_DIR/stopped_early.json
for name in USR1 TERM; do
  trap 'echo "got SIG'$name'" >>"$NOTES"; touch "$marker"; exit 75' "$name"
done
echo $$ >"$NOTES.pid"; touch "$NOTES.started"
case $TRAINING in
  wait) for ((i = 0; i < 1200; i++)); do sleep 0.05; done ;;
  fail) exit 3 ;;
esac
"""
NOTE = '#!/usr/bin/env bash\nprintf "%s\\n" "$0 $*" >>"$NOTES"\n'
SCONTROL = NOTE + '[[ $1 != show ]] || printf "node7\\nnode8\\n"\n'
SCANCEL = NOTE + 'kill -TERM "$(cat "$NOTES.pid")"\n'
# a host of its own: runs the line here
SSH = NOTE + 'bash -c "${*: -1}"\n'


@pytest.fixture
def place(tmp_path):
    """A folder with stand-ins on PATH, an environment and data; its environment variables."""
    programs, venv = tmp_path / "programs", tmp_path / "venv/bin"
    for folder in (programs, venv, tmp_path / "data"):
        folder.mkdir(parents=True)
    (tmp_path / "data/dict.txt").touch()
    (tmp_path / "hosts.txt").write_text("# hosts\nnode7 slots=2\nnode8 slots=2\n")
    texts = {"srun": STAND_IN, "mpirun": STAND_IN, "scontrol": SCONTROL, "scancel": SCANCEL, "ssh": SSH}
    for path, text in [*((programs / name, text) for name, text in texts.items()), (venv / "torchrun", STAND_IN)]:
        path.write_text(text)
        path.chmod(0o755)
    (venv / "fairseq-train").symlink_to(venv / "torchrun")
    return {
        "PATH": f"{programs}:{os.environ['PATH']}", "NOTES": str(tmp_path / "notes"), "TRAINING": "finish",
        "ROOT": str(tmp_path), "VENV": str(tmp_path / "venv"), "DATA_DIR": str(tmp_path / "data"),
        "SAVE_DIR": str(tmp_path / "my run"), "HOSTFILE": str(tmp_path / "hosts.txt"), "HOSTS": "node7 node8",
        "SLURM_JOB_ID": "42", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[7-8]", "NGPUS": "2",
    }  # fmt: skip


def start(script, place, *words):
    return subprocess.Popen(
        ["bash", str(FOLDER / script), *words], env=place, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def run(script, place, *words):
    """(exit status, output)"""
    process = start(script, place, *words)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def notes(place):
    path = Path(place["NOTES"])
    return path.read_text() if path.exists() else ""


def run_and_signal(script, place, number):
    place["TRAINING"] = "wait"
    process = start(script, place)
    end = time.monotonic() + 60
    while not Path(f"{place['NOTES']}.started").exists() and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_how_to_start_it(script, place):
    status, output = run(script, place, "--help")
    assert status == 0 and f"scripts/cluster/{script}" in output


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_prints_the_command_and_starts_nothing(script, place):
    status, output = run(script, place | {"DRY_RUN": "1"}, "--lr", "1 e-3")
    assert status == 0 and "scontrol requeue" not in notes(place)
    words = shlex.split(output)
    if script == "ssh.sh":
        assert words[:2] == ["ssh", "node7"]
        words = shlex.split(words[2])
    assert words[-2:] == ["--lr", "1 e-3"] and str(Path(place["SAVE_DIR"])) in words
    assert not Path(place["SAVE_DIR"]).exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_training_that_finishes_is_not_queued_again(script, place):
    folder = Path(place["SAVE_DIR"])
    folder.mkdir()
    if script != "elastic.sh":  # on several nodes: the training removes it
        (folder / "stopped_early.json").touch()  # of an earlier start
    status, output = run(script, place)
    assert (status, "finished with status 0" in output) == (0, True), output
    assert "requeue" not in notes(place)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_failure_is_not_queued_again(script, place):
    status, output = run(script, place | {"TRAINING": "fail"})
    assert (status, "failed with status 3" in output) == (3, True), output
    assert "requeue" not in notes(place)


def test_an_elastic_job_that_failed_early_does_not_end_as_the_one_before(place):
    folder = Path(place["SAVE_DIR"])
    folder.mkdir()
    (folder / "stopped_early.json").write_text('{"updates": 7}')
    status, output = run("elastic.sh", place | {"TRAINING": "fail"})
    assert (status, "failed with status 3" in output) == (3, True), output


@pytest.mark.parametrize("script, passed_on", [("slurm_gpu.sbatch", "SIGUSR1"), ("slurm_node.sbatch", "SIGTERM")])
def test_near_the_time_limit_a_job_saves_and_is_queued_again(script, passed_on, place):
    status, output = run_and_signal(script, place, signal.SIGUSR1)
    assert status == 0, output
    assert f"got {passed_on}" in notes(place) and "scontrol requeue 42" in notes(place)


@pytest.mark.parametrize("script", ["slurm_gpu.sbatch", "slurm_node.sbatch"])
def test_a_job_that_was_cancelled_saves_and_is_not_queued_again(script, place):
    status, output = run_and_signal(script, place, signal.SIGTERM)
    assert status == 75, output
    assert "got SIG" in notes(place) and "requeue" not in notes(place)


@pytest.mark.parametrize(
    "script, sent, passed_on",
    [("openmpi.sh", "SIGTERM", "SIGUSR1"), ("elastic.sh", "SIGUSR1", "SIGTERM"), ("ssh.sh", "SIGUSR1", "SIGTERM")],
)
def test_stopped_early_has_a_status_of_its_own(script, sent, passed_on, place):
    status, output = run_and_signal(script, place, signal.Signals[sent])
    assert (status, "stopped early: the same command goes on" in output) == (75, True), output
    assert f"got {passed_on}" in notes(place)


def test_slurm_jobs_need_slurm(place):
    del place["SLURM_JOB_ID"]
    status, output = run("slurm_gpu.sbatch", place)
    assert (status, "start it with sbatch" in output) == (2, True)


@pytest.mark.parametrize("script", SCRIPTS)
def test_data_that_are_not_there_are_named(script, place):
    status, output = run(script, place | {"DATA_DIR": "/nowhere"})
    assert (status, "DATA_DIR /nowhere has no dict.txt" in output) == (2, True)


def test_open_mpi_counts_the_slots_and_meets_at_the_first_host(place):
    _, output = run("openmpi.sh", place | {"DRY_RUN": "1"})
    words = shlex.split(output)
    assert words[words.index("-np") + 1] == "4" and "MASTER_ADDR=node7" in words


def test_ranks_of_an_elastic_job_share_the_batches_of_an_update(place):
    status, _ = run("elastic.sh", place | {"WORLD_SIZE": "16", "BATCHES": "64"}, "--rank", "data")
    assert status == 0 and notes(place).endswith("fairseq-train data --update-freq 4\n")
    status, output = run("elastic.sh", place | {"WORLD_SIZE": "3", "BATCHES": "64"}, "--rank", "data")
    assert (status, "not a multiple of the 3 ranks" in output) == (2, True)
