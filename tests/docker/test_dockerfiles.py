"""The Dockerfiles keep the usual rules, agree with the rest of the repository, and name what is there."""

import difflib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

import fairseq_mhmoe
from tests.docker import rules

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
HADOLINT = Path(sys.executable).parent / "hadolint"
LABELS = {"title", "description", "licenses", "version", "revision", "base.name"}
INSTRUCTIONS = {path.name: rules.parse(path.read_text()) for path in FILES}
each_file = pytest.mark.parametrize("instructions", INSTRUCTIONS.values(), ids=INSTRUCTIONS)
# tracked, and of no use in an image
LEFT_OUT = {".ci", ".dockerignore", ".gitignore", ".shellcheckrc", "CHANGELOG.md", "CITATION.cff"}


def hadolint(*words: str, stdin: str = "") -> list[dict]:
    """What hadolint has to say."""
    command = [str(HADOLINT), "--no-color", "--format=json", *words]
    return json.loads(subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60).stdout)


def test_there_are_both_dockerfiles():
    assert [path.name for path in FILES] == ["Dockerfile.a100", "Dockerfile.v100"]


def test_hadolint_and_its_shellcheck_find_nothing():
    assert hadolint(*map(str, FILES)) == []


# rule of hadolint -> a line that breaks it
BROKEN = {
    "DL3000": "WORKDIR opt/mhmoe",
    "DL3002": "USER root",
    "DL3004": "RUN sudo ls",
    "DL3007": "FROM ubuntu:latest AS other",
    "DL3008": "RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*",
    "DL3013": "RUN pip install --no-cache-dir torch",
    "DL3015": "RUN apt-get update && apt-get install -y g++=4:13.2.0-1 && rm -rf /var/lib/apt/lists/*",
    "DL3020": "ADD constraints.txt /opt/",
    "DL3025": "ENTRYPOINT bash run.sh",
    "DL3042": "RUN pip install torch==2.14.1",
    "DL4006": "RUN cat /etc/hosts | wc -l",
    "SC2086": "RUN ls $HOME",
}


def test_hadolint_finds_each_bad_line():
    lines = "\n".join(line for code, line in sorted(BROKEN.items(), reverse=True))
    found = {complaint["code"] for complaint in hadolint("-", stdin=f"FROM ubuntu:24.04\n{lines}\nUSER root\n")}
    assert set(BROKEN) - found == set()


@each_file
@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_our_own_rules_hold(rule, instructions):
    assert rule(instructions) == []


@pytest.mark.parametrize(
    "rule, broken",
    [
        (rules.bases_have_exact_versions, "FROM nvidia/cuda:12.6-base AS a"),
        (rules.bases_have_exact_versions, "FROM nvidia/cuda AS a"),
        (rules.ends_as_another_user, "FROM a:1.2.3-b AS a\nUSER 7:7\nUSER 0"),
        (rules.ends_as_another_user, "FROM a:1.2.3-b AS a"),
        (rules.ends_as_another_user, "USER mhmoe"),
        (rules.has_a_health_check, "FROM a:1.2.3-b AS a"),
        (rules.has_a_health_check, 'HEALTHCHECK --interval=1m CMD ["true"]'),
        (rules.has_no_secret, "ARG HUB_TOKEN=x"),
        (rules.has_no_secret, "RUN pip install -i https://me:word@host/simple x"),
        (rules.arguments_are_used, "ARG APEX=0\nRUN true"),
        (
            rules.installs_leave_no_cache,
            "RUN apt-get update\nRUN apt-get install -y g++=1 && rm -rf /var/lib/apt/lists",
        ),
        (rules.installs_leave_no_cache, "RUN bash scripts/setup.sh"),
        (rules.starts_one_program, 'ENTRYPOINT ["bash", "-c", "a & b"]'),
        (rules.starts_one_program, "ENTRYPOINT run.sh"),
    ],
)
def test_our_own_rules_find_a_bad_line(rule, broken):
    assert rule(rules.parse(broken + "\n"))


def test_both_files_differ_only_where_the_gpu_does():
    old, new = (path.read_text().splitlines() for path in FILES)
    changed = [line[1:] for line in difflib.unified_diff(old, new, n=0, lineterm="") if re.match(r"[+-][^+-]", line)]
    about_the_gpu = (
        "# MH-MoE for",
        "# Dockerfile.",
        "check_torch.py sm_",
        "TORCH_CUDA_ARCH_LIST",
        "PRECISION=",
        "title=",
    )
    assert 0 < len(changed) < 15
    assert [line for line in changed if not any(word in line for word in about_the_gpu)] == []


@each_file
def test_apex_is_built_for_the_gpus_that_torch_is_checked_for(instructions):
    text = " ".join(rules.rest_of(instructions, "RUN"))
    checked = re.search(r"check_torch\.py ((?:sm_\d+ ?)+)", text)[1].split()
    built = re.search(r'TORCH_CUDA_ARCH_LIST="([^"]+)"', text)[1].split()
    assert [f"sm_{name.replace('.', '')}" for name in built] == checked


@each_file
def test_all_cuda_images_and_the_index_of_torch_have_one_version(instructions):
    bases = [rest for rest in rules.rest_of(instructions, "FROM") if rest.startswith("nvidia/cuda")]
    versions = {re.search(r":([\d.]+)-\w+-(\w+)", base).groups() for base in bases}
    assert len(bases) == 2 and len(versions) == 1
    cuda = next(iter(versions))[0].split(".")
    index = next(rest for rest in rules.rest_of(instructions, "ARG") if rest.startswith("PIP_EXTRA_INDEX_URL"))
    assert index.rstrip('"').endswith(f"/cu{cuda[0]}{cuda[1]}")


@each_file
def test_python_is_one_of_setup_py_and_labels_tell_the_version(instructions):
    required = re.search(r'python_requires="(.+?)"', (ROOT / "setup.py").read_text())[1]
    pythons = set(re.findall(r"python(3\.\d+)-", " ".join(rules.rest_of(instructions, "RUN"))))
    assert len(pythons) == 1 and pythons.pop() in SpecifierSet(required)
    labels = " ".join(each.rest for each in instructions if each.word == "LABEL" and each.stage == "image")
    assert set(re.findall(r"org\.opencontainers\.image\.([\w.]+)=\"[^\"]", labels)) == LABELS
    assert f'image.version="{fairseq_mhmoe.__version__}"' in labels


@each_file
def test_named_files_exist(instructions):
    copied = " ".join(rest for rest in rules.rest_of(instructions, "COPY")).split()
    named = [word for word in copied if "." in word.strip("./")]
    named += re.findall(
        r"(?:/opt/mhmoe/|bash |python )((?:scripts|docker)/[\w./]+)", " ".join(i.rest for i in instructions)
    )
    assert {"scripts/setup.sh", "scripts/run.sh", "docker/healthcheck.py", "docker/check_torch.py"} <= set(named)
    assert [name for name in named if not (ROOT / name).is_file()] == []


@each_file
def test_the_layer_of_dependencies_has_what_setup_reads(instructions):
    here = [each.rest.split() for each in instructions if each.stage == "environment" and each.word == "COPY"]
    copied = {word for words in here for word in words[:-1]}
    setup_py, setup_sh = ((ROOT / name).read_text() for name in ("setup.py", "scripts/setup.sh"))
    read = set(re.findall(r'ROOT / "([^"]+)"', setup_py)) - {"README.md"}  # setup.py does without
    read |= set(re.findall(r"[\w.]+\.(?:py|toml|txt)\b", re.search(r"sha256sum (.+)", setup_sh)[1]))
    assert read <= copied
    assert not any(word in copied for word in (".", "fairseq_mhmoe", "scripts"))


def test_the_layer_of_dependencies_is_enough_to_read_what_is_needed(tmp_path):
    words = [each.rest.split() for each in INSTRUCTIONS["Dockerfile.a100"] if each.stage == "environment"]
    for *names, folder in (each for each in words if each[-1].endswith("/")):
        for name in names:
            (tmp_path / folder).mkdir(exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / folder)
    program = re.search(r"<<'PYTHON'\n(.+?)^PYTHON", (ROOT / "scripts/setup.sh").read_text(), re.MULTILINE | re.DOTALL)[
        1
    ]
    done = subprocess.run(
        [sys.executable, "-"], input=program, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert {"torchscale==0.3.0", "fairseq-fixed==0.12.3.1"} <= set(done.stdout.split())
    assert "pytest>=8" in done.stdout and "fairseq-mhmoe" not in done.stdout


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a checkout, to know which files are tracked")
def test_an_image_gets_the_code_and_nothing_else():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert lines[1] == "*"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=60).stdout
    top = {name.split("/")[0] for name in tracked.splitlines()}
    assert allowed <= top | {"docker"}, "there is no such file"
    assert top - allowed - LEFT_OUT == set(), "say in .dockerignore or in LEFT_OUT whether an image needs it"
