"""A folder that looks like a checkout, in which a block is typed: the repository's folders are behind links."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ... import forks
from ...forks import QUIET, ROOT
from . import service
from .given import needed
from .makers import Makers
from .reading import Block

# Programs of the system that a document may use as they are. Others are "command not found".
TOOLS = """
    awk basename bunzip2 bzip2 cat chmod cmp comm cp cut date diff dirname du echo env expr find flock getconf grep
    gunzip gzip head hostname id install ln ls mkdir mktemp mv nproc od paste printf pwd readlink realpath rm rmdir sed
    seq sha256sum sleep sort stat tail tar tee test timeout touch tr true false uname uniq wc which xargs
""".split()
# What a checkout shows; docs/ and others are for reading, the rest of a block's folder is its own.
SHOWN = ("benchmarks", "configs", "data_prep", "docker", "docs", "examples", "fairseq_mhmoe", "scripts", "tests")
FILES = ("README.md", "constraints.txt", "pyproject.toml", "setup.py", "mkdocs.yml")
SECONDS = 200


class Service:
    """The service of forks, and the folder of programs that ask it."""

    def __init__(self, programs: list[str], address: str = "socket"):
        self.folder = Path(tempfile.mkdtemp(prefix="blocks-"))
        self.log = self.folder / "log.jsonl"
        socket = str(self.folder / address)
        self.bin = self.folder / "bin"
        self.bin.mkdir()
        client = f"#!{sys.executable} -IS\n" + Path(service.__file__).with_name("client.py").read_text()
        for name in programs:
            file = self.bin / name
            file.write_text(client.replace("@ADDRESS@", socket))
            file.chmod(0o755)
        for name in TOOLS:
            if path := shutil.which(name):
                (self.bin / name).symlink_to(path)
        self.process = forks.server().Process(target=service.serve, args=(socket, str(self.log)))
        self.process.start()
        end = time.monotonic() + 120
        while not Path(socket).exists():
            if self.process.exitcode is not None or time.monotonic() > end:
                raise RuntimeError(f"the service of forks did not start; its exit code is {self.process.exitcode}")
            time.sleep(0.05)

    def environment(self, home: Path) -> dict[str, str]:
        """What a program sees: nothing of the environment that the tests were started in."""
        quiet = {**QUIET, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "LANG": "C.UTF-8", "USER": "reader"}
        quiet["MHMOE_BENCHMARK_ALLOCATOR"] = "glibc"  # benchmarks need not start again under another
        return {"PATH": str(self.bin), "HOME": str(home), "TMPDIR": str(home), **quiet}

    def close(self):
        self.process.kill()
        self.process.join(10)
        shutil.rmtree(self.folder)


def make_folder(folder: Path, programs: Path) -> Path:
    """An empty checkout: links to the repository's folders, an environment whose programs are those of the service."""
    folder.mkdir(parents=True)
    for name in (*SHOWN, *FILES):
        if (ROOT / name).exists():
            (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").mkdir()
    (folder / ".venv/bin").symlink_to(programs)
    (folder / "home").mkdir()
    for name in ("activate",):
        (programs / name).touch()
    return folder


def type_in(script: str, folder: Path, service: Service) -> subprocess.CompletedProcess:
    """What bash makes of these lines; it stops at the first command that fails, also within a pipe."""
    process = subprocess.Popen(
        ["/bin/bash", "--norc", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=service.environment(folder / "home"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)  # clients whose programs end with them
            process.wait(10)
    return subprocess.CompletedProcess(script, process.returncode, output)


def run_blocks(blocks: list[Block], folder: Path, service: Service, makers: Makers) -> subprocess.CompletedProcess:
    """Blocks of a document, typed one after the other in a new folder with the files that they mention."""
    make_folder(folder, service.bin)
    text = "".join(block.script for block in blocks)
    for path, maker in needed(blocks[0].document, text).items():
        makers.copy(maker, folder / path)
    for block in blocks:
        script = block.script
        if block.language == "python":
            file = folder / (block.file or "typed.py")
            file.parent.mkdir(exist_ok=True)
            file.write_text(block.text)
            script = f"python {file.relative_to(folder)}"
        done = type_in(script, folder, service)
        done.args = f"{block.name}\n{script}"
        if done.returncode:
            break
    return done
