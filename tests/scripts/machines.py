"""Stand-in machines for the tests of scripts/machine: only the files, programs and variables that a test names."""

from pathlib import Path

from scripts.machine.host import Finding, Machine

TORCH = {"version": "2.14.1", "cuda": None, "devices": [], "architectures": [], "why": "", "gloo": True, "nccl": False}
PACKAGES = {"outside": [], "optional": [], "other": [], "pinned": 50, "fairseq": ["fairseq-fixed"], "ours": []}


def make_machine(folder: Path, programs=None, files=None, packages=None, torch=None, **variables) -> Machine:
    """A Machine in a folder; programs: name (or path in the folder) -> lines of shell; packages, torch: answers."""
    (folder / "bin").mkdir(exist_ok=True)
    for name in ("bash", "sh"):
        (folder / "bin" / name).unlink(missing_ok=True)
        (folder / "bin" / name).symlink_to("/bin/bash")
    for name, body in (programs or {}).items():
        path = folder / "bin" / name if "/" not in name else folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
    for name, text in (files or {}).items():
        path = folder / "system" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "repository").mkdir(exist_ok=True)
    return Machine(
        root=folder / "repository",
        venv=folder / "venv",
        variables={"PATH": str(folder / "bin"), "TMPDIR": str(folder), **variables},
        files=folder / "system",
        save_dir=folder,
        answers={"packages": {**PACKAGES, **(packages or {})}, "torch_facts": {**TORCH, **(torch or {})}},
    )


def worst(found) -> Finding:
    """The worst finding of a check, which must have a remedy if it is not ok."""
    found = sorted(found, key=lambda finding: ("problem", "warning", "ok").index(finding.level))
    assert all(finding.remedy for finding in found if finding.level != "ok")
    return found[0]
