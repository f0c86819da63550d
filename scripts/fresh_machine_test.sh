#!/usr/bin/env bash
# Tries the two commands of README.md in a new home with nothing in it, timed, with a log.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
  cat <<'TEXT'
usage: bash scripts/fresh_machine_test.sh [--only run|test] [--new-user] [--python DIR] [--repository URL]
                                          [--output DIR] [--hours H] [--keep]

Makes a new, empty home, clones what is committed here into it, and runs there, with an empty pip cache, no environment
and no variables but proxies, certificates and package indexes, what README.md begins with:

  bash scripts/run.sh
  bash scripts/test.sh

One log with the time before every line, a table, and a summary in JSON. Afterwards the home is removed; nothing else is
touched. About 9 GB, and 40 minutes on two cores. Exit status 0: both passed, 1: one did not, 2: wrong arguments.

  --only run|test   one of the two
  --new-user        as a user of its own too, who is made and removed (root only)
  --python DIR      folder that comes first on PATH, for a Python that is not the system's
  --repository URL  clone another place                           default: this repository
  --output DIR      where log.txt and summary.json go             default: runs/fresh-machine
  --hours H         a command that takes longer is ended          default: 3
  --keep            keep the home and say where it is

Variables:
  FRESH_RUN_ARGUMENTS, FRESH_TEST_ARGUMENTS   words for the two commands, to try less, e.g. --help or tests/moe
TEXT
}

main() {
  if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    usage
    return
  fi
  exec "${PYTHON:-python3}" "$ROOT/scripts/machine" fresh "$@"
}

main "$@"
