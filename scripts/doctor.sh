#!/usr/bin/env bash
# Looks at the machine and the environment, and says what is wrong and what to do about it. Needs no environment.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
  cat <<'TEXT'
usage: bash scripts/doctor.sh [--json] [--network] [--save-dir DIR]

Prints the machine and the environment, each line ok, warning or problem with a remedy to copy: processors, memory, disks
and limits as this process may use them, /dev/shm, Python, compiler, versions against setup.py and constraints.txt,
copies of fairseq beside each other, torch against driver and GPUs, NCCL, gloo, host name, ports, and variables that
are known to hurt. Changes nothing; about half a minute, most of it importing torch. It works without an environment.
Exit status 0: no problem (there may be warnings), 1: at least one problem, 2: wrong arguments, or no Python to run it.

  --json          print the findings as JSON
  --network       ask the package index too: fetches one small package
  --save-dir DIR  where checkpoints will go                       default: this folder

Variables:
  VENV            the environment to look at                      default: .venv in this repository
TEXT
}

# Any Python from 3.8 on; the environment's own comes last, as it may be what is broken.
find_python() {
  local name
  for name in python3 python3.12 python3.11 python3.10 /usr/bin/python3 "${VENV:-$ROOT/.venv}/bin/python"; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 8))' >/dev/null 2>&1; then
      printf '%s\n' "$name"
      return
    fi
  done
  printf 'doctor.sh: error: no Python from 3.8 on was found\n' >&2
  printf 'doctor.sh: remedy: apt-get install python3 python3-venv python3-dev   # Debian\n' >&2
  exit 2
}

main() {
  if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    usage
    return
  fi
  local python
  python=$(find_python)
  exec "$python" "$ROOT/scripts/machine" doctor "$@"
}

main "$@"
