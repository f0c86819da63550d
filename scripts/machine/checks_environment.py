"""What the environment is made with and made of: Python, compiler, package index, versions, second copies."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .host import Finding, Machine, ok, problem, warning

PYTHONS = ("python3", "python3.12", "python3.11", "python3.10")
SUPPORTED = ((3, 10), (3, 12))


def _version(machine: Machine, python: str) -> tuple[int, ...] | None:
    found = re.match(r"Python (\d+)\.(\d+)\.(\d+)", machine.run(python, "--version").output)
    return tuple(map(int, found.groups())) if found else None


def python(machine: Machine) -> Iterator[Finding]:
    """A Python that scripts/setup.sh would take, with what it needs to make an environment and to compile."""
    asked = machine.variables.get("PYTHON")
    versions = {name: _version(machine, name) for name in ([asked] if asked else PYTHONS) if machine.find(name)}
    good = [name for name, version in versions.items() if version and SUPPORTED[0] <= version[:2] <= SUPPORTED[1]]
    install = "install one (Debian: apt-get install python3 python3-venv python3-dev), or name it: PYTHON=path"
    if not good:
        found = ", ".join(f"{name} {'.'.join(map(str, version))}" for name, version in versions.items() if version)
        # an environment that is there needs no other Python
        level = warning if machine.python.exists() else problem
        yield level("Python", f"no Python 3.10, 3.11 or 3.12; found: {found or 'none'}", install)
        return
    text = f"{good[0]} is Python {'.'.join(map(str, versions[good[0]]))}"
    for what, code, package in (
        ("venv module", "import ensurepip, venv", "python3-venv"),
        (
            "C headers",
            'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))',
            "python3-dev",
        ),
    ):
        if machine.run(good[0], "-c", code).status != 0:
            level = warning if machine.python.exists() else problem
            yield level("Python", f"{text}, without {what}", f"apt-get install {package}   # Debian")
            return
    yield ok("Python", f"{text}, with venv module and headers")


def compiler(machine: Machine) -> Iterator[Finding]:
    """The C++ compiler that fairseq is built with."""
    name = next(filter(machine.find, [machine.variables.get("CXX") or "c++", "g++"]), None)
    if name is None:
        level = warning if machine.python.exists() else problem
        yield level("compiler", "no C++ compiler; fairseq is compiled", "apt-get install g++   # Debian; or set CXX")
    else:
        yield ok("compiler", machine.run(name, "--version").output.partition("\n")[0] or name)


def package_index(machine: Machine) -> Iterator[Finding]:
    """Whether pip reaches a package index."""
    if not machine.network:
        yield ok("package index", "not asked (--network)")
        return
    pip = str(machine.python) if machine.python.exists() else machine.variables.get("PYTHON") or "python3"
    answer = machine.run(pip, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--dest",
                         machine.variables.get("TMPDIR") or "/tmp", "iniconfig==2.1.0", seconds=60)  # fmt: skip
    if answer.status == 0:
        yield ok("package index", "pip fetched a small package")
    else:
        remedy = "proxy: export HTTPS_PROXY=http://HOST:PORT; a mirror: export PIP_INDEX_URL=..."
        yield problem("package index", f"pip fetches nothing: {answer.last_line}", remedy)


def environment(machine: Machine) -> Iterator[Finding]:
    """The environment: there, complete, made from the files at hand."""
    if not machine.python.exists():
        yield problem("environment", f"none in {machine.venv}", machine.setup)
        return
    if _version(machine, str(machine.python)) is None:
        broken = f"{machine.python} does not start: was the Python removed that it was made with?"
        yield problem("environment", broken, machine.anew)
        return
    if not (machine.venv / "bin/fairseq-train").exists():
        yield problem("environment", f"{machine.venv} is not complete", machine.setup)
        return
    setup = machine.run("bash", str(machine.root / "scripts/setup.sh"), "--check", VENV=str(machine.venv))
    if setup.status == 0:
        yield ok("environment", f"{machine.venv} is up to date")
    else:
        changed = "setup.py, pyproject.toml, constraints.txt or TORCH_SPEC changed since, or setup.sh did not end"
        yield warning("environment", f"{machine.venv} is not up to date: {changed}", machine.setup)
    active = machine.variables.get("VIRTUAL_ENV")
    if active and machine.root / active != machine.venv:
        remedy = f"deactivate, or VENV={active}"
        yield warning("environment", f"{active} is active, and the scripts use {machine.venv}", remedy)


def versions(machine: Machine) -> Iterator[Finding]:
    """What is installed beside what setup.py allows and constraints.txt pins."""
    facts = machine.ask("packages", str(machine.root), str(machine.venv))
    if "error" in facts:
        yield problem("versions", f"can't be asked: {facts['error']}", machine.anew)
        return
    outside = [f"{name} {found or 'is missing'}, {wanted} needed" for name, found, wanted in facts["outside"]]
    if outside:
        yield problem("versions", "; ".join(outside), machine.setup)
    missing = [f"{name} {found or 'is missing'}, {wanted} wanted" for name, found, wanted in facts["optional"]]
    if missing:
        yield warning("versions", "for some programs or tests: " + "; ".join(missing), machine.setup)
    other = [f"{name} {found} instead of {pinned}" for name, found, pinned in facts["other"]]
    if other:
        yield warning("versions", "not those that the tests ran with: " + "; ".join(other), machine.setup)
    if not outside + missing + other:
        yield ok("versions", f"{facts['pinned']} packages as pinned, all within the ranges of setup.py")


def fairseq_copies(machine: Machine) -> Iterator[Finding]:
    """Distributions of fairseq beside each other: they overwrite each other's files."""
    facts = machine.ask("packages", str(machine.root), str(machine.venv))
    if "error" in facts:
        return
    if len(facts["fairseq"]) > 1:
        names = " and ".join(facts["fairseq"])
        yield problem("fairseq", f"{names} are installed beside each other", machine.anew)
    elif facts["fairseq"] != ["fairseq-fixed"]:
        found = facts["fairseq"][0] if facts["fairseq"] else "nothing"
        yield problem("fairseq", f"fairseq-fixed is needed, {found} installed", machine.setup)
    else:
        yield ok("fairseq", "fairseq-fixed, no other distribution of it")


def own_copies(machine: Machine) -> Iterator[Finding]:
    """Which copy of fairseq_mhmoe a program imports, and whether there is a second one."""
    facts = machine.ask("packages", str(machine.root), str(machine.venv))
    if "error" in facts:
        return
    here = str((machine.root / "fairseq_mhmoe").resolve())
    others = [path for path in facts["ours"] if path != here]
    if others:
        python_path = " (PYTHONPATH is set)" if machine.variables.get("PYTHONPATH") else ""
        text = f"also on Python's path{python_path}: {', '.join(others)}; --user-dir {here} would be refused"
        remedy = f"unset PYTHONPATH; {machine.python} -m pip uninstall fairseq-mhmoe; {machine.setup}"
        yield warning("this package", text, remedy)
    elif not facts["ours"]:
        yield problem("this package", "not installed in the environment", machine.setup)
    else:
        yield ok("this package", here)


def imports(machine: Machine) -> Iterator[Finding]:
    """torch and this package import; fairseq's compiled parts fit this torch."""
    facts = machine.ask("torch_facts")
    if "error" in facts:
        remedy = f"{machine.python} -c 'import torch, fairseq_mhmoe'   # shows all of it; then {machine.anew}"
        yield problem("imports", facts["error"], remedy)
        return
    for name, reason in facts["imports"].items():
        if reason:
            yield problem("imports", f"{name} does not import: {reason}", machine.anew)
    if not any(facts["imports"].values()):
        yield ok("imports", ", ".join(["torch", *facts["imports"]]))


def apex(machine: Machine) -> Iterator[Finding]:
    """apex, which fairseq uses for its fused optimizer and norm where it is."""
    facts = machine.ask("torch_facts")
    if "error" in facts:
        return
    if facts["apex"] is None:
        yield ok("apex", "not installed (optional)")
    elif facts["apex"]:
        remedy = "build it against this torch (docker/README.md), or pip uninstall apex"
        yield problem("apex", f"installed, and does not import: {facts['apex']}", remedy)
    else:
        yield ok("apex", "imports")


def optional_programs(machine: Machine) -> Iterator[Finding]:
    """Programs that some tools need."""
    if machine.find("java"):
        yield ok("java", "found (METEOR)")
    else:
        yield ok("java", "not found (optional): reports of captions are without METEOR")
    for name in ("ruff", "shellcheck", "pytest"):
        if machine.python.exists() and not (machine.venv / "bin" / name).exists() and not machine.find(name):
            yield warning("tests", f"{name} is missing: scripts/test.sh can't do all of its work", machine.setup)
    if not machine.find("git"):
        yield warning("git", "missing: results can't say which commit they belong to", "apt-get install git")


BEFORE = (python, compiler, package_index, environment, optional_programs)
INSIDE = (versions, fairseq_copies, own_copies, imports, apex)
