"""scripts/doctor.sh: GPUs, and processes that have to find each other, on stand-in machines."""

import json
import socket
import sys
from pathlib import Path

import pytest

from scripts.machine import checks_environment, checks_gpu, checks_network
from scripts.machine.host import Machine
from scripts.machine.probes import torch_facts

from .machines import worst

ROOT = Path(__file__).resolve().parents[2]


def test_a_host_name_without_address_is_a_problem(machine):
    found = worst(checks_network.host_name(machine({"hostname": "echo node7", "getent": "exit 2"})))
    assert (found.level, "/etc/hosts" in found.remedy) == ("problem", True)
    found = worst(checks_network.host_name(machine({"hostname": "echo node7", "getent": "echo 10.0.0.7 node7"})))
    assert found.text == "node7 is 10.0.0.7"


def test_an_interface_that_is_not_there_is_a_problem(machine):
    files = {"sys/class/net/eth0/mtu": "", "sys/class/net/lo/mtu": ""}
    found = worst(checks_network.interfaces(machine(files=files, GLOO_SOCKET_IFNAME="ib0")))
    assert (found.level, "eth0, lo" in found.text) == ("problem", True)
    assert worst(checks_network.interfaces(machine(files=files, NCCL_SOCKET_IFNAME="eth"))).level == "ok"


def test_a_port_that_is_taken_is_a_warning(machine):
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        port = listener.getsockname()[1]
        found = worst(checks_network.port(machine(MASTER_PORT=str(port))))
    assert (found.level, "MASTER_PORT=" in found.remedy) == ("warning", True)
    assert worst(checks_network.port(machine(MASTER_PORT="none"))).level == "problem"


@pytest.mark.parametrize(
    "variables, level",
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "warning"),
        ({"OMPI_COMM_WORLD_RANK": "1"}, "warning"),
        ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "0"}, "warning"),
        ({"SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}, "ok"),
        ({"MASTER_ADDR": "localhost"}, "ok"),
    ],
)
def test_variables_of_a_launcher_in_a_shell(machine, variables, level):
    assert worst(checks_network.launcher(machine(**variables))).level == level


@pytest.mark.parametrize("value, level", [("0", "warning"), ("many", "warning"), ("100000", "warning"), ("1", "ok")])
def test_odd_numbers_of_threads(machine, value, level):
    assert worst(checks_network.threads(machine(OMP_NUM_THREADS=value))).level == level


def test_variables_that_hurt_are_named(machine):
    found = worst(checks_network.variables(machine(NCCL_P2P_DISABLE="1")))
    assert (found.level, "NCCL_P2P_DISABLE" in found.text, found.remedy) == ("warning", True, "unset NCCL_P2P_DISABLE")
    assert worst(checks_network.variables(machine(NCCL_P2P_DISABLE="0"))).level == "ok"


def test_a_proxy_must_leave_this_machine_out_and_is_not_shown(machine):
    found = worst(checks_network.proxies(machine(https_proxy="http://user:word@proxy:1")))
    assert (found.level, "word" in str(found)) == ("warning", False)
    assert worst(checks_network.proxies(machine(HTTPS_PROXY="x", no_proxy="localhost"))).level == "ok"


def test_a_gloo_that_finds_nobody_is_a_problem(machine):
    here = machine()
    here.answers["gloo"] = {"error": "no answer after 90 s"}
    assert worst(checks_network.gloo(here)).level == "problem"


SMI = r"""
if [[ $1 == --query-gpu* ]]; then
  echo "{name}, 560.35.03, {persistence}, {errors}"
else
  echo "| NVIDIA-SMI 560.35.03    Driver Version: 560.35.03    CUDA Version: {cuda} |"
fi
"""
V100 = {"name": "Tesla V100-SXM2-32GB", "capability": [7, 0], "memory": 2**35}
H100 = {"name": "NVIDIA H100 80GB HBM3", "capability": [9, 0], "memory": 5 * 2**34}


def smi(name="NVIDIA H100", persistence="Enabled", errors="0", cuda="13.0"):
    return {"nvidia-smi": SMI.format(name=name, persistence=persistence, errors=errors, cuda=cuda)}


def test_no_gpu_is_no_problem(machine):
    found = worst(checks_gpu.driver(machine()))
    assert (found.level, "no NVIDIA GPU" in found.text) == ("ok", True)


def test_a_gpu_whose_driver_does_not_answer_is_a_problem(machine):
    assert worst(checks_gpu.driver(machine(files={"dev/nvidia0": ""}))).level == "problem"
    found = worst(checks_gpu.driver(machine({"nvidia-smi": "echo Driver/library version mismatch >&2; exit 18"})))
    assert (found.level, "version mismatch" in found.text) == ("problem", True)


def test_what_nvidia_smi_says_of_persistence_and_memory_errors(machine):
    assert worst(checks_gpu.driver(machine(smi()))).text == "1 x NVIDIA H100, driver 560.35.03, up to CUDA 13.0"
    found = worst(checks_gpu.driver(machine(smi(persistence="Disabled"))))
    assert (found.level, "persistence" in found.text) == ("warning", True)
    found = worst(checks_gpu.driver(machine(smi(errors="3"))))
    assert (found.level, "memory errors on GPU 0" in found.text) == ("problem", True)


@pytest.mark.parametrize(
    "torch, variables, words",
    [
        ({"cuda": None}, {}, "it can't use the GPUs"),
        ({"cuda": "13.0"}, {"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES is ''"),
        ({"cuda": "13.0"}, {}, "the driver goes up to CUDA 12.6"),
        ({"cuda": "12.6", "why": "RuntimeError: unknown error"}, {}, "unknown error"),
    ],
)
def test_a_torch_that_sees_no_gpu_says_why(machine, torch, variables, words):
    found = worst(checks_gpu.torch_build(machine(smi(cuda="12.6"), torch=torch, **variables)))
    assert (found.level, words in found.text) == ("problem", True)


@pytest.mark.parametrize(
    "device, architectures, level",
    [
        (V100, ["sm_75", "sm_80", "sm_90", "compute_90"], "problem"),
        (V100, ["sm_50", "sm_60", "sm_70", "sm_80"], "ok"),
        (V100, ["sm_50", "compute_50"], "ok"),
        (H100, ["sm_80", "sm_90"], "ok"),
        (H100, ["sm_80", "sm_100"], "problem"),
    ],
)
def test_a_torch_without_code_for_the_gpu_is_a_problem(machine, device, architectures, level):
    torch = {"cuda": "12.6", "devices": [device], "architectures": architectures}
    assert worst(checks_gpu.torch_build(machine(smi(), torch=torch))).level == level


def test_nccl_is_asked_only_where_torch_sees_a_gpu(machine):
    assert list(checks_gpu.nccl(machine())) == []
    here = machine(torch={"devices": [H100], "nccl": True})
    here.answers["nccl"] = {"error": "no answer after 90 s"}
    assert worst(checks_gpu.nccl(here)).level == "problem"
    here.answers["nccl"] = {"version": "2.27.3", "seconds": 1.0}
    assert worst(checks_gpu.nccl(here)).text.startswith("2.27.3")


def test_the_probes_of_this_environment(tmp_path, capsys):
    here = Machine(ROOT, Path(sys.prefix))
    packages = here.ask("packages", str(ROOT), str(tmp_path))
    assert packages["fairseq"] == ["fairseq-fixed"] and packages["outside"] == []
    assert str(ROOT / "fairseq_mhmoe") in packages["ours"]
    assert 0 < here.ask("gloo", str(checks_network.free_port()))["seconds"] < 60
    torch_facts.main()
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["gloo"] and set(facts["imports"].values()) == {""}
    here.answers["torch_facts"] = facts
    assert worst(checks_environment.imports(here)).level == "ok"
