"""Scripts of the repository within a block, and options of programs that are not ours."""

import os
import subprocess
from pathlib import Path

from ...forks import ROOT
from .checking import check_lines

BASH = "/bin/bash"
# How a script is run: "run", for real, its programs made small; "dry", with DRY_RUN=1, or "option", with --dry-run:
# what it prints is parsed; "is there": that, and its syntax, is checked. With the reason, where it is not run.
SCRIPTS = {
    "scripts/evaluate.sh": ("run", ""),
    "scripts/train_image_tokenizer.sh": ("run", ""),
    "scripts/run.sh": ("dry", "minutes; with arguments it runs (see below)"),
    "scripts/run_english.sh": ("dry", "fetches packages, trains for minutes; tests/scripts/test_pretrain_training.py"),
    "scripts/run_multilingual.sh": ("dry", "the same"),
    "scripts/run_multimodal.sh": ("dry", "25 minutes; tests/cli/test_multimodal_demo.py"),
    "scripts/reproduce.sh": ("dry", "45 minutes; tests/cli/test_reproduce.py"),
    "scripts/cluster/slurm_gpu.sbatch": ("dry", "tests/scripts/test_cluster_scripts.py"),
    "scripts/cluster/slurm_node.sbatch": ("dry", "tests/scripts/test_cluster_scripts.py"),
    "scripts/cluster/openmpi.sh": ("dry", "tests/scripts/test_cluster_scripts.py"),
    "scripts/cluster/elastic.sh": ("dry", "tests/scripts/test_cluster_scripts.py"),
    "scripts/cluster/ssh.sh": ("dry", "tests/scripts/test_cluster_scripts.py"),
    "examples/custom_router/run.sh": ("run", ""),
    "benchmarks/performance.sh": ("option", "45 minutes; tests/benchmarks"),
    "benchmarks/gpu.sh": ("option", "needs a GPU; tests/benchmarks/test_scripts.py"),
    "scripts/test.sh": ("is there", "it is what runs this"),
    "scripts/doctor.sh": ("is there", "imports torch four times; tests/scripts/test_doctor.py"),
    "scripts/supported_versions.sh": ("is there", "makes environments; tests/scripts/test_supported_versions.py"),
    "scripts/fresh_machine_test.sh": ("is there", "makes an environment; tests/scripts/test_fresh_machine.py"),
    "scripts/setup.sh": ("is there", "makes an environment of gigabytes"),
    "scripts/lock.sh": ("is there", "asks the package index"),
    "scripts/audit.sh": ("is there", "asks a vulnerability service"),
}


def bash(words: list[str]):
    """bash FILE WORDS: a script of the repository as SCRIPTS says; anything else is bash's own business."""
    if not words or words[0].startswith("-"):
        os.execv(BASH, ["bash", *words])
    file = Path(words[0])
    if not file.is_file() or not file.resolve().is_relative_to(ROOT):
        os.execv(BASH, ["bash", *words])
    name = file.resolve().relative_to(ROOT).as_posix()
    if name not in SCRIPTS:
        raise SystemExit(
            f"bash {name}: nobody has decided how it is tested; see SCRIPTS in tests/docs/blocks/scripts.py"
        )
    how, _ = SCRIPTS[name]
    if os.environ.get("DRY_RUN") == "1" and words[1:] not in (["--help"], ["-h"]):
        how = "dry"
    if words[1:] in (["--help"], ["-h"]) or how == "run" or (
        name == "scripts/run.sh" and len(words) > 1 and "DRY_RUN" not in os.environ
    ):
        os.execv(BASH, ["bash", *words])
    if how == "is there":
        return subprocess.run([BASH, "-n", words[0]], check=True).returncode
    more, environment = (["--dry-run"], os.environ) if how == "option" else ([], os.environ | {"DRY_RUN": "1"})
    done = subprocess.run([BASH, *words, *more], env=environment, stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="")
    if done.returncode == 0 and check_lines(done.stdout) == 0:
        raise SystemExit(f"bash {name}: DRY_RUN=1 showed no command")
    return done.returncode


def take_options(program: str, words: list[str], valued: str, flags: str) -> tuple[dict[str, list[str]], list[str]]:
    """({option: its values}, the words behind the options). SystemExit for an option that is in neither list."""
    given, words = {}, list(words)
    while words and words[0].startswith("-") and words[0] != "-":
        name, equals, content = words.pop(0).partition("=")
        if name == "--":
            break
        if name in flags.split():
            given.setdefault(name, []).append(content)
        elif name in valued.split():
            if not equals and not words:
                raise SystemExit(f"{program}: {name} needs a value")
            given.setdefault(name, []).append(content if equals else words.pop(0))
        else:
            raise SystemExit(f"{program}: option {name} is not known in tests/docs/blocks/stand_ins.py; is it right?")
    return given, words
