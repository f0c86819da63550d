"""What can't run in a test, each with what stands for it and why. How to decide about a new block:

Run `pytest tests/docs/test_blocks.py -k DOCUMENT`. A command that a reader types is run for real (programs.py), made
small (small.py), on files of given.py. If that fails because
- "command not found": nobody has decided about the program. A harmless tool of the system goes into sandbox.TOOLS; what
  needs a network, a GPU, a cluster or root gets an entry in STAND_INS: a function of its words that checks them as
  strictly as it can, leaves behind what the next command needs, and raises SystemExit("why") for a wrong one;
- a file is missing: an entry in given.GIVEN (for one document: given.GIVEN_OF);
- it takes long: words in small.py;
- "..." stands for options: small.OMITTED;
- a script is new: scripts.SCRIPTS says whether it runs, or only shows its commands (DRY_RUN=1), which are then parsed;
- it is wrong: the document is to be corrected.
"""

import re
from pathlib import Path

from packaging.requirements import Requirement

from ...forks import ROOT
from .checking import parse_only
from .clusters import CLUSTERS
from .official import write_image_tar
from .programs import our_module
from .scripts import bash, take_options

# What a reader is told to install beside this package.
INSTALLED_BY_READERS = {"img2dataset", "ray", "wandb", "pip", "build", "uv"}
# What docs/installing.md installs before fairseq.
INSTALLED_BY_READERS |= {"torch", "torchvision", "numpy", "cython", "pybind11", "setuptools", "wheel", "fairseq-fixed"}


def pip(words: list[str]):
    """pip install: our own extras must be declared, other packages be known, named files be there."""
    if words[:1] != ["install"]:
        raise SystemExit(f"pip {' '.join(words)}: only install is known here")
    files, names = [], []
    valued = "-e --editable -r --requirement -c --constraint --index-url --extra-index-url --find-links -f --target"
    valued += " --no-binary"
    flags = "-U --upgrade -q --quiet --no-index --no-deps --no-build-isolation --require-hashes --no-cache-dir --user"
    rest = words[1:]
    while rest:
        given, rest = take_options("pip install", rest, valued, flags)
        for option, values in given.items():
            files += values if option in "-r --requirement -c --constraint".split() else []
            names += values if option in ("-e", "--editable") else []
        while rest and not rest[0].startswith("-"):
            names.append(rest.pop(0))
    for file in files:
        if not Path(file).is_file():
            raise SystemExit(f"pip install: no file {file}")
    for name in names:
        check_requirement(name)
    return 0


def check_requirement(word: str) -> None:
    """A requirement, a wheel or the folder of a checkout, with extras that setup.py declares."""
    path, _, extras = word.partition("[")
    if path.startswith((".", "/")) or path.endswith(".whl"):
        if not Path(path).exists() and not list(Path().glob(path)):
            raise SystemExit(f"pip install: no {path}")
        requirement = Requirement(f"fairseq-mhmoe[{extras}" if extras else "fairseq-mhmoe")
    else:
        requirement = Requirement(word)
    if requirement.name == "fairseq-mhmoe":
        declared = set(
            re.findall(r'^ +"?(\w+)"?[:=] ', (ROOT / "setup.py").read_text().split("extras_require")[1], re.M)
        )
        if requirement.extras - declared:
            raise SystemExit(f"pip install: no extra {requirement.extras - declared}; there are {sorted(declared)}")
    elif requirement.name not in INSTALLED_BY_READERS:
        raise SystemExit(f"pip install: is {requirement.name} meant? Then it belongs into INSTALLED_BY_READERS")


def git(words: list[str]):
    """git clone URL: this checkout stands for the copy."""
    if words[:1] != ["clone"] or not words[1].startswith("https://"):
        raise SystemExit(f"git {' '.join(words)}: only clone of a https address is known here")
    Path(words[2] if len(words) > 2 else Path(words[1]).stem).symlink_to(".", target_is_directory=True)


def wget(words: list[str]):
    """A download: the file is there afterwards, with the form of the real one."""
    [address] = words
    if not re.fullmatch(r"https://[\w.-]+/[\w./-]+", address):
        raise SystemExit(f"wget: {address} is no address")
    Path(Path(address).name).write_text("https://example.org/1.jpg\tA dog.\nhttps://example.org/2.jpg\tA cat.\n")


def img2dataset(words: list[str]):
    """Tars as it writes them; the list of addresses must have the columns that are named."""
    valued = "--url_list --input_format --url_col --caption_col --output_format --output_folder --processes_count"
    valued += " --thread_count --image_size --resize_mode --resize_only_if_bigger"
    given, rest = take_options("img2dataset", words, valued, "")
    columns = Path(given["--url_list"][0]).read_text().splitlines()[0].split("\t")
    if rest or {given["--url_col"][0], given["--caption_col"][0]} - set(columns):
        raise SystemExit(f"img2dataset: {given} {rest}; the list has the columns {columns}")
    write_image_tar(Path(given["--output_folder"][0]) / "00000.tar")


# Programs of ours that fetch packages; tests/data_prep runs them on what they would fetch.
PARSED_ONLY = [f"data_prep.{name}" for name in ("demo_english", "demo_multilingual", "demo_multimodal", "zero_shot")]


def parsed_only(module: str):
    """What stands for a program of ours that fetches packages: its parser."""
    return lambda words: parse_only(our_module, module, words)


def data_prep(words: list[str]):
    """For real, but on no Ray cluster: tests/data_prep/test_executors.py starts one."""
    if "ray" in words:
        return parse_only(our_module, "data_prep", words)
    return our_module("data_prep", words)


def tensorboard(words: list[str]):
    """It would serve for ever: the folder must hold events."""
    given, rest = take_options("tensorboard", words, "--logdir --port --host", "--bind_all")
    if rest or not list(Path(given["--logdir"][0]).rglob("events.out.tfevents.*")):
        raise SystemExit(f"tensorboard: no events in {given['--logdir']}; {rest}")


def build(words: list[str]):
    """python -m build: the wheel's name; tests/packaging builds it."""
    if words:
        raise SystemExit(f"python -m build {' '.join(words)}: no options are known here")
    version = re.search(r'^__version__ = "(.+)"$', (ROOT / "fairseq_mhmoe/__init__.py").read_text(), re.M)[1]
    Path("dist").mkdir(exist_ok=True)
    Path("dist", f"fairseq_mhmoe-{version}-py3-none-any.whl").touch()


STAND_INS = {
    "build": build,  # network, for what it builds with
    "tensorboard": tensorboard,  # a server
    "bash": bash,  # scripts of the repository that take minutes
    "sh": bash,
    "pip": pip,  # network
    "git": git,  # network
    "wget": wget,  # network
    "img2dataset": img2dataset,  # network, not installed
    **CLUSTERS,
    "data_prep": data_prep,  # a cluster, with --executor ray
    **{name: parsed_only(name) for name in PARSED_ONLY},
}
