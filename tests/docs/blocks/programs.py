"""What a program's name means within a block: the real program, made small; or what stands for it (stand_ins.py)."""

import logging
import multiprocessing
import os
import re
import runpy
import signal
import sys
import tempfile
import warnings
from importlib import import_module
from pathlib import Path

from torch.distributed.run import get_args_parser

from ...distributed.launcher import free_port, torchrun_environment
from ...forks import PROGRAMS, ROOT
from .service import exit_status
from .small import shrink

RANKS = 2  # of any launcher, whatever the document says
OURS = ("fairseq_mhmoe", "data_prep", "benchmarks")
# Files that take minutes: as far as their parsers; tests/benchmarks runs them.
MINUTES = ("benchmarks/expert_parallel.py",)
MODULES_OF_OTHERS = ("json.tool",)


def console_scripts() -> dict[str, str]:
    """{"mhmoe-cost": "fairseq_mhmoe.cli.cost:main"}, as the checkout declares them, installed or not."""
    text = (ROOT / "setup.py").read_text() + (ROOT / "pyproject.toml").read_text()
    return dict(re.findall(r"^\W*(mhmoe-[\w-]+)\W+=\s*\"?([\w.]+:\w+)\"", text, re.MULTILINE))


def names() -> list[str]:
    """Programs that are run for real."""
    return [*PROGRAMS, *console_scripts(), "python", "python3", "torchrun", "bash", "sh"]


def run(words: list[str]):
    """Runs a command in this process, which is a fork made for it -> what its main() returns."""
    from .stand_ins import STAND_INS  # uses this module

    name, *rest = words
    multiprocessing.set_start_method("fork", force=True)
    warnings.simplefilter("ignore")
    if name in STAND_INS:
        return STAND_INS[name](rest)
    if name in ("python", "python3"):
        return python(rest)
    if name == "torchrun":
        return torchrun(rest)
    if name in PROGRAMS:
        return fairseq_program(name, rest)
    module, function = console_scripts()[name].split(":")
    return call(module, function, name, rest)


def accept_user_dir() -> None:
    """The folder of a block shows the package behind a link; it is the one that is imported."""
    import fairseq_mhmoe

    here = Path("fairseq_mhmoe").absolute()
    if here.exists() and here.samefile(ROOT / "fairseq_mhmoe"):
        fairseq_mhmoe.__path__.append(str(here))


def fairseq_program(name: str, words: list[str]):
    """A program of fairseq."""
    # as each does it when it is the first to import fairseq
    form = "%(asctime)s | %(levelname)s | %(name)s | %(message)s"
    level = os.environ.get("LOGLEVEL", "INFO").upper()
    logging.basicConfig(format=form, datefmt="%Y-%m-%d %H:%M:%S", level=level, stream=sys.stdout, force=True)
    return call(PROGRAMS[name], "cli_main", name, words)


def call(module: str, function: str, name: str, words: list[str]):
    """A program's function, with its words made small."""
    accept_user_dir()
    if name in ("mhmoe-lm-eval", "fairseq_mhmoe.cli.lm_eval"):
        from .checking import check_tasks  # uses this module

        check_tasks(words)
    sys.argv = [name, *shrink(name, words)]
    return getattr(import_module(module), function)()


def python(words: list[str]):
    """python -m MODULE, FILE, -c CODE, or a program from stdin."""
    words = list(words)
    while words and words[0] in ("-u", "-I", "-B", "-W"):
        del words[: 2 if words[0] == "-W" else 1]
    if words[:1] in (["-V"], ["--version"]):
        print(f"Python {sys.version.split()[0]}")
        return 0
    if words[:1] == ["-m"]:
        return module(words[1], words[2:])
    sys.path.insert(0, os.getcwd())
    if words[:1] == ["-c"] or words[:1] in ([], ["-"]):
        code, rest = (words[1], words[2:]) if words[:1] == ["-c"] else (sys.stdin.read(), words[1:])
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "typed.py")
            file.write_text(code)
            return script(file, ["-c", *rest])
    return script(Path(words[0]), words)


def script(file: Path, words: list[str]):
    """A Python file as the main program."""
    if not file.is_file():
        raise SystemExit(f"python: can't open file {str(file)!r}")
    accept_user_dir()
    if str(file) != words[0]:
        sys.argv = words
    elif words[0] in MINUTES:
        from .checking import parse_only  # uses this module

        return parse_only(main_program, file, words)
    else:
        sys.path[0] = str(file.parent.absolute())
        sys.argv = [words[0], *shrink(words[0], words[1:])]
    return runpy.run_path(str(file), run_name="__main__") and None


def main_program(file: Path, words: list[str]):
    """The file's main program with words as they are."""
    sys.argv = words
    runpy.run_path(str(file), run_name="__main__")


def module(name: str, words: list[str]):
    """python -m NAME."""
    from .stand_ins import STAND_INS

    if name in STAND_INS:
        return STAND_INS[name](words)
    if name in ("torch.distributed.run", "torch.distributed.launch"):
        return torchrun(words)
    if name.split(".")[0] in OURS:
        return our_module(name, words)
    if name in MODULES_OF_OTHERS:
        sys.argv = [name, *words]
        return runpy.run_module(name, run_name="__main__", alter_sys=True)
    raise SystemExit(
        f"python -m {name}: nobody has decided what that does in a test; see tests/docs/blocks/stand_ins.py"
    )


def our_module(name: str, words: list[str]):
    """python -m NAME, a module or package of this repository."""
    found = import_module(name)
    if hasattr(found, "__path__"):
        found = import_module(f"{name}.__main__")
    return call(found.__name__, "main" if hasattr(found, "main") else "cli_main", name, words)


def torchrun(words: list[str]):
    """Its options through its own parser; then RANKS processes on this machine, however many there are on paper."""
    given = get_args_parser().parse_args(words)
    nodes = int(str(given.nnodes).split(":")[-1])
    if given.nproc_per_node not in ("auto", "gpu", "cpu") and not given.nproc_per_node.isdigit():
        raise SystemExit(f"torchrun: --nproc-per-node {given.nproc_per_node}: expected a number, auto, gpu or cpu")
    count = 1 if given.nproc_per_node == "1" and nodes == 1 else RANKS
    inner = given.training_script_args
    if given.training_script.endswith(".lm_eval"):
        count = 1  # tests/cli/test_lm_eval.py runs it in two
    if given.module:
        command = ["python", "-m", given.training_script, *inner]
    else:
        file = Path(given.training_script)
        if not file.is_file():
            raise SystemExit(f"torchrun: no file {file}")
        name = file.name
        command = [name, *inner] if name in names() else ["python", str(file), *inner]
    return ranks(command, count, torchrun_environment)


def ranks(command: list[str], count: int, environment):
    """A command in `count` forks with a launcher's variables -> the first exit status but 0, which ends the others."""
    port, processes = free_port(), {}
    words = one_machine(command, count)
    for rank in range(count):
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.environ.update(environment(rank, count, port), GLOO_SOCKET_IFNAME="lo")
            status = exit_status(run, words)
            sys.stdout.flush()
            os._exit(status)
        processes[child] = rank
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _: [os.kill(child, number) for child in processes])
    failed = 0
    while processes:
        child, status = os.wait()
        processes.pop(child, None)
        if status and not failed:
            failed = os.waitstatus_to_exitcode(status)
            for other in processes:
                os.kill(other, signal.SIGKILL)
    return failed if failed >= 0 else 128 - failed


def one_machine(command: list[str], count: int) -> list[str]:
    """The command with as many processes as there are."""
    sizes = [number + 1 for number, word in enumerate(command) if word == "--distributed-world-size"]
    return [str(count) if number in sizes else word for number, word in enumerate(command)]
