#!/usr/bin/env bash
# Kills trainings at random moments, mostly while they save, and holds what they come to against an undisturbed run.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${VENV:-$ROOT/.venv}

usage() {
  cat <<'TEXT'
usage: bash scripts/torture.sh [--kills N] [--processes P] [--seed S] [--launcher fork|torchrun] [--json FILE] [--keep]

Trains a tiny model with experts spread over P processes on the CPU (default 2), kills one process or all of them N
times (default 5) with SIGKILL, three quarters of the times inside a save, and starts the same command again each time.
Prints the kills by stage of the save. Exit status 0: every run ended with the same bits (loss, weights, optimizer,
position in the data) as a run that nobody disturbed; 1: one did not. About 8 seconds a kill on two cores.

  --launcher torchrun  start every training with torchrun instead of forks of one prepared process; slower
  --json FILE          write the figures, kill by kill
  --keep               keep the folders of the runs and say where they are
TEXT
}

main() {
  if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    usage
    return
  fi
  if [[ ! -x $VENV/bin/python ]]; then
    printf 'torture.sh: no python in %s; run bash scripts/setup.sh first, or set VENV\n' "$VENV/bin" >&2
    exit 2
  fi
  cd "$ROOT"
  # one thread each: the processes share the cores
  export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
  exec "$VENV/bin/python" -W ignore -m tests.distributed.kill_runs "$@"
}

main "$@"
