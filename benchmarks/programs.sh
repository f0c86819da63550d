# shellcheck shell=bash
# Starts the benchmarks, for performance.sh and gpu.sh; DRY_RUN=1 prints the commands instead.

PYTHON=${VENV:-$ROOT/.venv}/bin/python
DRY_RUN=${DRY_RUN:-0}
# One thread; and on a machine that others use too, waiting threads must not burn the processor.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

fail() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 2
}

need_python() {
  [[ -x $PYTHON ]] || fail "no python in $(dirname "$PYTHON"); run bash scripts/setup.sh first, or set VENV"
}

# python ARGUMENTS: runs it in the repository's root, or prints it.
python() {
  if ((DRY_RUN)); then
    printf 'python'
    printf ' %q' "$@"
    printf '\n'
    return
  fi
  printf '%s: python %s\n' "$(basename "$0")" "$*" >&2
  "$PYTHON" -W ignore "$@"
}
