"""scripts/doctor.sh on stand-in machines: files, programs and variables of each finding's making."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.machine import checks_environment, checks_host, doctor
from scripts.machine.host import Machine, ok

from .machines import worst

ROOT = Path(__file__).resolve().parents[2]


def test_a_group_with_fewer_cores_than_the_machine_is_seen(machine):
    cores = os.cpu_count()
    files = {"proc/self/cgroup": "0::/job", "sys/fs/cgroup/job/cpu.max": f"{cores * 50000} 100000"}
    found = worst(checks_host.processors(machine(files=files)))
    assert (found.level, f"may use {cores / 2:g}" in found.text) == ("warning", True)
    assert f"OMP_NUM_THREADS={max(1, cores // 2)}" in found.remedy
    files = {"proc/self/cgroup": "0::/job", "sys/fs/cgroup/job/cpu.max": "max 100000"}
    assert worst(checks_host.processors(machine(files=files))).level in ("ok", "warning")


@pytest.mark.parametrize(
    "files",
    [
        {"sys/fs/cgroup/memory.max": str(2**32), "sys/fs/cgroup/memory.current": str(2**30)},
        {
            "proc/self/cgroup": "4:memory:/job",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": str(2**32),
            "sys/fs/cgroup/memory/job/memory.usage_in_bytes": str(2**30),
        },
    ],
    ids=["cgroup 2", "cgroup 1"],
)
def test_memory_is_what_the_group_may_have(machine, files):
    files = {**files, "proc/meminfo": f"MemTotal: {2**25} kB\nMemAvailable: {2**24} kB\n"}
    found = worst(checks_host.memory(machine(files=files)))
    assert (found.level, "may have 4.0 GB, 3.0 of them free" in found.text) == ("warning", True)


def test_a_small_dev_shm_is_a_warning_and_none_a_problem(machine, tmp_path, monkeypatch):
    assert worst(checks_host.shared_memory(machine())).level == "problem"
    (tmp_path / "system/dev/shm").mkdir(parents=True)
    usage = type("Usage", (), {"total": 64 * 2**20, "free": 64 * 2**20})
    monkeypatch.setattr(checks_host.shutil, "disk_usage", lambda path: usage)
    found = worst(checks_host.shared_memory(machine()))
    assert (found.level, "64 MB" in found.text, "--ipc=host" in found.remedy) == ("warning", True, True)


def test_full_disks_are_named_and_a_missing_environment_needs_more(machine, monkeypatch):
    usage = type("Usage", (), {"total": 2**40, "free": 2**30})
    monkeypatch.setattr(checks_host.shutil, "disk_usage", lambda path: usage)
    levels = {finding.name: finding.level for finding in checks_host.disks(machine())}
    assert levels == {"disk: environment": "problem", "disk: TMPDIR": "warning", "disk: checkpoints": "warning"}


def test_few_open_files_are_a_warning(machine, monkeypatch):
    monkeypatch.setattr(checks_host.resource, "getrlimit", lambda kind: (256, 256))
    found = worst(checks_host.limits(machine()))
    assert (found.level, "256" in found.text, "ulimit -n" in found.remedy) == ("warning", True, True)


def test_infiniband_needs_locked_memory(machine, monkeypatch):
    monkeypatch.setattr(checks_host.resource, "getrlimit", lambda kind: (65536, 65536))
    found = worst(checks_host.limits(machine(files={"sys/class/infiniband/mlx5_0/name": ""})))
    assert "locked memory" in found.text and "memlock" in found.remedy


@pytest.mark.parametrize("name, level", [("de_DE.ISO-8859-1", "problem"), ("C.UTF-8", "ok"), ("C", "ok")])
def test_a_locale_without_utf8_is_a_problem(machine, name, level):
    assert worst(checks_host.text_encoding(machine(LC_ALL=name))).level == level


def test_a_clock_that_lies_behind_is_seen(machine, tmp_path):
    here = machine()
    (here.root / "setup.py").write_text("")
    os.utime(here.root / "setup.py", (2**32, 2**32))
    assert worst(checks_host.clock(here)).level == "warning"


def test_locks_are_tried_where_checkpoints_go(machine, monkeypatch):
    here = machine({"stat": "echo nfs"})
    assert "nfs, locks work" in worst(checks_host.file_system(here)).text
    monkeypatch.setattr(Machine, "ask_self", lambda *words: {"error": "No locks available"})
    found = worst(checks_host.file_system(here))
    assert (found.level, "No locks available" in found.text) == ("warning", True)


def test_an_old_python_is_a_problem_unless_there_is_an_environment(machine):
    found = worst(checks_environment.python(machine({"python3": "echo Python 3.9.2"})))
    assert (found.level, "python3 3.9.2" in found.text) == ("problem", True)
    programs = {"python3": "echo Python 3.9.2", "venv/bin/python": "echo Python 3.11.2"}
    assert worst(checks_environment.python(machine(programs))).level == "warning"


def test_a_python_without_headers_is_named(machine):
    body = "[[ $1 == --version ]] && echo Python 3.11.2; [[ $* != *Python.h* ]]"
    found = worst(checks_environment.python(machine({"python3": body})))
    assert (found.level, "without C headers" in found.text, "python3-dev" in found.remedy) == ("problem", True, True)


def test_no_compiler_is_a_problem(machine):
    assert worst(checks_environment.compiler(machine())).level == "problem"
    assert worst(checks_environment.compiler(machine({"g++": "echo g++ 12"}))).text == "g++ 12"


def test_a_package_index_out_of_reach_is_told_with_pips_words(machine):
    here = machine({"python3": "echo 'No matching distribution found' >&2; exit 1"})
    here.network = True
    found = worst(checks_environment.package_index(here))
    assert (found.level, "No matching distribution found" in found.text) == ("problem", True)


def test_states_of_an_environment(machine):
    assert worst(checks_environment.environment(machine())).text.startswith("none in")
    broken = machine({"venv/bin/python": "exit 127"})
    assert "does not start" in worst(checks_environment.environment(broken)).text
    cut = machine({"venv/bin/python": "echo Python 3.11.2"})
    assert "is not complete" in worst(checks_environment.environment(cut)).text
    whole = {"venv/bin/python": "echo Python 3.11.2", "venv/bin/fairseq-train": ""}
    stale = machine({**whole, "repository/scripts/setup.sh": "[[ $1 != --check ]]"})
    assert worst(checks_environment.environment(stale)).level == "warning"
    fresh = machine({**whole, "repository/scripts/setup.sh": "exit 0"})
    assert worst(checks_environment.environment(fresh)).level == "ok"
    other = machine({**whole, "repository/scripts/setup.sh": "exit 0"}, VIRTUAL_ENV="/other")
    assert "/other is active" in worst(checks_environment.environment(other)).text


@pytest.mark.parametrize(
    "packages, level, words",
    [
        ({"outside": [["numpy", "1.26.4", ">=2"]]}, "problem", "numpy 1.26.4, >=2 needed"),
        ({"outside": [["torchscale", None, "==0.3.0"]]}, "problem", "torchscale is missing"),
        ({"optional": [["ray", None, ">=2.9"]]}, "warning", "ray is missing"),
        ({"other": [["scipy", "1.15.0", "1.17.1"]]}, "warning", "scipy 1.15.0 instead of 1.17.1"),
        ({"error": "ended by signal 11: no message"}, "problem", "ended by signal 11"),
        ({}, "ok", "50 packages as pinned"),
    ],
)
def test_versions(machine, packages, level, words):
    found = worst(checks_environment.versions(machine(packages=packages)))
    assert (found.level, words in found.text) == (level, True)


@pytest.mark.parametrize(
    "names, level", [(["fairseq", "fairseq-fixed"], "problem"), (["fairseq"], "problem"), ([], "problem")]
)
def test_other_distributions_of_fairseq_are_problems(machine, names, level):
    assert worst(checks_environment.fairseq_copies(machine(packages={"fairseq": names}))).level == level


def test_a_second_copy_of_this_package_is_named(machine):
    found = worst(checks_environment.own_copies(machine(packages={"ours": ["/opt/fairseq_mhmoe"]}, PYTHONPATH="/opt")))
    assert "/opt/fairseq_mhmoe" in found.text and "PYTHONPATH is set" in found.text


def test_what_does_not_import_is_a_problem(machine):
    reasons = {"fairseq": "", "fairseq.libbase": "ImportError: undefined symbol"}
    found = worst(checks_environment.imports(machine(torch={"imports": reasons})))
    assert (found.level, "undefined symbol" in found.text) == ("problem", True)
    assert worst(checks_environment.apex(machine(torch={"apex": "ImportError: no CUDA"}))).level == "problem"


def test_a_probe_that_crashes_or_hangs_is_a_finding(machine):
    here = machine({"venv/bin/python": "kill -SEGV $$"})
    assert here.ask("gpu")["error"].startswith("ended by signal 11")
    here = machine({"venv/bin/python": "exec /bin/sleep 60"})
    assert here.ask("gpu", seconds=0.2)["error"] == "no answer after 0.2 s"


def test_a_check_that_fails_does_not_end_the_others(machine):
    def broken(machine):
        yield ok("broken", "so far")
        raise OSError("no such device")

    assert worst(doctor.findings(machine(), broken)).level == "warning"


def test_the_program_without_an_environment(tmp_path):
    command = ["bash", str(ROOT / "scripts/doctor.sh"), "--json"]
    env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "VENV": str(tmp_path / "none")}
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    report = json.loads(result.stdout)
    assert result.returncode == 1 and report["problems"] >= 1
    assert [row["text"] for row in report["findings"] if row["name"] == "environment"] == [f"none in {tmp_path}/none"]


def test_the_program_without_any_python(tmp_path):
    (tmp_path / "dirname").symlink_to("/usr/bin/dirname")
    script = (ROOT / "scripts/doctor.sh").read_text().replace("/usr/bin/python3 ", "")
    (tmp_path / "doctor.sh").write_text(script)
    env = {"PATH": str(tmp_path), "VENV": "/nowhere"}
    result = subprocess.run(
        ["/bin/bash", str(tmp_path / "doctor.sh")], capture_output=True, text=True, env=env, timeout=60
    )
    assert result.returncode == 2 and "no Python from 3.8 on" in result.stderr


def test_help_explains_every_option():
    result = subprocess.run(
        ["bash", str(ROOT / "scripts/doctor.sh"), "--help"], capture_output=True, text=True, timeout=60
    )
    named = {option for action in doctor.make_parser()._actions for option in action.option_strings if "--" in option}
    assert result.returncode == 0 and all(option in result.stdout for option in named - {"--help"})


@pytest.mark.parametrize("path", sorted((ROOT / "scripts/machine").rglob("*.py")), ids=lambda path: path.name)
def test_an_old_python_without_packages_can_run_it(path):
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    assert ast.get_docstring(tree)
    if path.parent.name == "probes" and path.name != "lock.py":
        return  # run by the environment's Python
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        assert all(name.partition(".")[0] in sys.stdlib_module_names for name in names)
