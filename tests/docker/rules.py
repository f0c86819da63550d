"""Rules for the Dockerfiles that hadolint has not: what each of them finds is a list of complaints."""

import json
import re
from dataclasses import dataclass

SECRET = re.compile(r"(?i)(passw|secret|token|credential|api_?key|private_?key)|//[^/\s]+:[^/\s]+@")


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile: its word, the rest on one line, and the stage that it is in."""

    word: str
    rest: str
    stage: str


def parse(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile; comments are left out and continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    found, stage = [], ""
    for line in filter(str.strip, text.splitlines()):
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            stage = rest.split(" AS ")[-1]
        found.append(Instruction(word, " ".join(rest.split()), stage))
    return found


def rest_of(instructions, word) -> list[str]:
    return [each.rest for each in instructions if each.word == word]


def bases_have_exact_versions(instructions) -> list[str]:
    stages = {each.stage for each in instructions}
    bases = [rest.split()[0] for rest in rest_of(instructions, "FROM")]
    bases += re.findall(r"--from=(\S+)", " ".join(rest_of(instructions, "COPY")))
    return [
        f"{base}: expected a tag with three numbers, or a stage"
        for base in bases
        if base not in stages and "$" not in base and not re.search(r":\d+\.\d+\.\d+-[\w.-]+$", base)
    ]


def ends_as_another_user(instructions) -> list[str]:
    users = rest_of(instructions, "USER")
    if not users or users[-1].split(":")[0] in ("root", "0"):
        return ["the last USER is root"]
    # Kubernetes' runAsNonRoot refuses names
    return (
        [] if re.fullmatch(r"(\d+|\$\{UID\}):(\d+|\$\{GID\})", users[-1]) else [f"USER {users[-1]}: expected numbers"]
    )


def has_a_health_check(instructions) -> list[str]:
    checks = rest_of(instructions, "HEALTHCHECK")
    if len(checks) != 1 or "CMD [" not in checks[0]:
        return ["expected one HEALTHCHECK with CMD as a list"]
    return [f"HEALTHCHECK without --{name}" for name in ("interval", "timeout") if f"--{name}=" not in checks[0]]


def has_no_secret(instructions) -> list[str]:
    lines = [f"{each.word} {each.rest}" for each in instructions if each.word in ("ARG", "ENV", "RUN", "LABEL")]
    return [f"{line}: a secret stays in the image's history" for line in lines if SECRET.search(line)]


def arguments_are_used(instructions) -> list[str]:
    """Each ARG stands in a later line; TORCH_SPEC and the like are read by setup.sh and pip, as variables."""
    found = []
    for number, each in enumerate(instructions):
        name = each.rest.partition("=")[0]
        later = " ".join(other.rest for other in instructions[number + 1 :])
        by_programs = name in ("TORCH_SPEC", "PIP_EXTRA_INDEX_URL") and "scripts/setup.sh" in later
        if each.word == "ARG" and not by_programs and not re.search(rf"\$\{{?{name}\b", later):
            found.append(f"ARG {name} is used by nothing")
    return found


def installs_leave_no_cache(instructions) -> list[str]:
    found = []
    for rest in rest_of(instructions, "RUN"):
        if "apt-get install" in rest and not re.search(
            r"apt-get update .*apt-get install .*rm -rf /var/lib/apt/lists", rest
        ):
            found.append(f"{rest[:60]}: update, install and rm of the lists belong into one RUN")
        pip = re.search(r"pip (install|wheel)|setup\.sh", rest)
        if pip and "--mount=type=cache,target=/root/.cache/pip" not in rest and "--no-cache-dir" not in rest:
            found.append(f"{rest[:60]}: pip's cache stays in the layer")
    return found


def starts_one_program(instructions) -> list[str]:
    entries = rest_of(instructions, "ENTRYPOINT")
    try:
        words = json.loads(entries[-1]) if len(entries) == 1 else []
    except ValueError:
        words = []
    good = words and not any(word in ("-c", "supervisord") or "&" in word for word in words)
    return [] if good else ["expected one ENTRYPOINT as a list of words, without a shell's line"]


RULES = (
    bases_have_exact_versions,
    ends_as_another_user,
    has_a_health_check,
    has_no_secret,
    arguments_are_used,
    installs_leave_no_cache,
    starts_one_program,
)
