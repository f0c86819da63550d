"""The rank of a process, from the variables of each launcher."""

import pytest

from fairseq_mhmoe.integration.launchers import Place, find_place

MEET = {"MASTER_ADDR": "node3", "MASTER_PORT": "4000"}
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", **MEET}
OPEN_MPI = {f"OMPI_COMM_WORLD_{name}": value for name, value in (("RANK", "3"), ("SIZE", "4"), ("LOCAL_RANK", "1"))}
SLURM = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}
SLURM_STEP = {**SLURM, "SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_ID": "17", "SLURM_STEP_ID": "2"}


@pytest.fixture
def place_in(monkeypatch):
    def find(variables):
        for name in [*TORCHRUN, *OPEN_MPI, *SLURM_STEP, "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"]:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return find_place()

    return find


@pytest.mark.parametrize(
    "variables, expected",
    [
        (TORCHRUN, Place("torchrun", 3, 4, 1, "env://")),
        ({**OPEN_MPI, **MEET}, Place("Open MPI", 3, 4, 1, "tcp://node3:4000")),
        ({**SLURM, **MEET}, Place("Slurm", 3, 4, 1, "tcp://node3:4000")),
        ({**SLURM_STEP, "SLURM_STEP_NODELIST": "node7"}, Place("Slurm", 3, 4, 1, "tcp://node7:20019")),
        ({**SLURM_STEP, "SLURM_NTASKS": "8", **MEET}, Place("Slurm", 3, 4, 1, "tcp://node3:4000")),
        ({**SLURM_STEP, **OPEN_MPI, **MEET}, Place("Open MPI", 3, 4, 1, "tcp://node3:4000")),
        ({**SLURM_STEP, **TORCHRUN}, Place("torchrun", 3, 4, 1, "env://")),
    ],
)
def test_each_launcher_is_understood(variables, expected, place_in):
    assert place_in(variables) == expected


@pytest.mark.parametrize(
    "variables",
    [
        {},
        MEET,
        {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "4"},  # the shell of salloc
        {**SLURM_STEP, "SLURM_STEP_NUM_TASKS": "1"},  # its interactive step
        {"SLURM_JOB_ID": "17", **SLURM, "SLURM_PROCID": "0"},  # a script given to sbatch
        {**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "1"},
    ],
)
def test_a_process_alone_stays_alone(variables, place_in):
    assert place_in(variables) is None


@pytest.mark.parametrize(
    "variables, missing, message",
    [
        (TORCHRUN, "LOCAL_RANK", "LOCAL_RANK is not set; set it to the number of this process on its machine"),
        (TORCHRUN, "MASTER_ADDR", "MASTER_ADDR is not set; set it to the address of the machine of rank 0"),
        ({**OPEN_MPI, **MEET}, "MASTER_PORT", "Open MPI.*MASTER_PORT is not set; set it to a free port"),
        ({**OPEN_MPI, **MEET}, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_RANK is not set"),
        ({**SLURM, **MEET}, "MASTER_ADDR", "Slurm: MASTER_ADDR is not set, and the job's first host is not known"),
        ({**SLURM, **MEET}, "MASTER_PORT", "Slurm: MASTER_PORT is not set"),
        ({**SLURM, **MEET}, "SLURM_LOCALID", "SLURM_LOCALID is not set"),
    ],
)
def test_a_missing_variable_is_named_with_what_to_set(variables, missing, message, place_in):
    with pytest.raises(ValueError, match=message):
        place_in({name: value for name, value in variables.items() if name != missing})


@pytest.mark.parametrize(
    "variables, message",
    [
        ({**TORCHRUN, "RANK": "four"}, "RANK is 'four', expected a whole number"),
        ({**TORCHRUN, "RANK": "4"}, "rank 4 of 4 processes"),
    ],
)
def test_a_wrong_variable_is_named(variables, message, place_in):
    with pytest.raises(ValueError, match=message):
        place_in(variables)


def test_the_first_host_of_a_slurm_job_is_asked_of_scontrol(place_in, tmp_path, monkeypatch):
    program = tmp_path / "scontrol"
    program.write_text('#!/bin/sh\n[ "$*" = "show hostnames node[5-6]" ] && printf "node5\\nnode6\\n"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    place = place_in({**SLURM_STEP, "SLURM_STEP_NODELIST": "node[5-6]"})
    assert place.init_method == "tcp://node5:20019"
