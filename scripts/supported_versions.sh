#!/usr/bin/env bash
# Makes an environment for each pair of Python and torch, runs tests in it, and tells what passed (docs/versions.md).
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
  cat <<'TEXT'
usage: bash scripts/supported_versions.sh [--pairs LIST] [--quick | --full] [--again] [--keep] [--folder DIR]
                                          [--json FILE] [--workers N]

For each pair of Python (3.10, 3.11, 3.12, on PATH or of pyenv) and torch (2.6, 2.8, 2.14) it makes an environment with
scripts/setup.sh, runs tests in it, and removes it: about 9 GB and 15 minutes a pair on two cores. Prints a table and
writes it as JSON, with a log per pair beside it. What passed at this commit is not repeated when it is called again.
Exit status 0: all that was asked for has passed, 1: not all, 2: wrong arguments.

  --pairs LIST   such as 3.10:2.6,3.12:2.8                        default: all nine
  --quick        only one training of each model and its use
  --full         all tests                                        default: a chosen set, without slow ones
  --again        repeat what has passed
  --keep         keep the environments
  --folder DIR   where environments are made                      default: in TMPDIR, else /tmp
  --json FILE    where the results go                             default: runs/versions/versions.json
  --workers N    test processes                                   default: 2

Variables: those of scripts/setup.sh but VENV, PYTHON and TORCH_SPEC, e.g. PIP_INDEX_URL.
TEXT
}

main() {
  if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    usage
    return
  fi
  exec "${PYTHON:-python3}" "$ROOT/scripts/machine" versions "$@"
}

main "$@"
