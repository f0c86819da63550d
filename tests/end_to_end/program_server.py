"""Runs fairseq's programs in forks of one process that has imported them, since importing costs seconds each time.

One request is one line of JSON: {"program", "words", "folder", "input", "output"}. The answer is the exit status.
"""

import json
import logging
import os
import sys

from fairseq_cli import eval_lm, generate, interactive, train, validate

import fairseq_mhmoe  # noqa: F401

PROGRAMS = {
    "fairseq-train": train.cli_main,
    "fairseq-eval-lm": eval_lm.cli_main,
    "fairseq-generate": generate.cli_main,
    "fairseq-interactive": interactive.cli_main,
    "fairseq-validate": validate.cli_main,
}


def next_request():
    """Answers requests with forks; returns the request in each fork, None when there are no more."""
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            return request
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return None


def become(request):
    """What a shell does before it starts a program."""
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(os.open(request["input"], os.O_RDONLY), 0)
    sys.stdin = open(0)
    os.chdir(request["folder"])
    # As each program does it when it is the first to import fairseq.
    form = "%(asctime)s | %(levelname)s | %(name)s | %(message)s"
    logging.basicConfig(format=form, datefmt="%Y-%m-%d %H:%M:%S", level=logging.INFO, stream=sys.stdout, force=True)
    sys.argv = [request["program"], *request["words"]]
    return PROGRAMS[request["program"]]


if __name__ == "__main__":
    request = next_request()
    if request is not None:
        become(request)()
