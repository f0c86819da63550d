#!/usr/bin/env bash
# Lint and tests. With arguments: pytest with these arguments only.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${VENV:-$ROOT/.venv}
# Many small tests side by side: one thread each.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

usage() {
  cat <<'TEXT'
usage: bash scripts/test.sh [PYTEST ARGUMENTS]

Makes the virtual environment if it is missing (scripts/setup.sh), then runs ruff, mypy, bandit, shellcheck and all
tests.
With arguments it runs only pytest with them, e.g.: bash scripts/test.sh tests/moe -k capacity
or, without those above ten seconds: bash scripts/test.sh -n 2 --dist loadfile -m "not slow"
TEXT
}

say() { printf 'test: %s\n' "$*"; }

lint() {
  say "ruff"
  "$VENV/bin/ruff" check .
  say "mypy (about 20 s the first time)"
  "$VENV/bin/mypy"
  say "bandit"
  "$VENV/bin/bandit" --quiet --recursive --configfile pyproject.toml fairseq_mhmoe data_prep
  if [[ ! -x $VENV/bin/shellcheck ]]; then
    say "shellcheck is not installed here: shell scripts are not checked"
    return
  fi
  say "shellcheck"
  local files
  mapfile -t files < <(find scripts benchmarks examples .ci -type f \( -name '*.sh' -o -path '.ci/run' \))
  "$VENV/bin/shellcheck" --external-sources "${files[@]}"
}

# Beside the environment, not in it: fairseq imports wandb into every process where it is installed.
add_trackers() {
  local folder=$VENV/trackers
  [[ ! -d $folder/wandb ]] || return 0
  say "wandb, for its own tests"
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --target "$folder" \
    -c "$VENV/constraints.txt" wandb || say "wandb could not be installed: its tests are skipped"
}

main() {
  if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    usage
    return
  fi
  cd "$ROOT"
  VENV=$VENV bash scripts/setup.sh
  if (($# > 0)); then
    exec "$VENV/bin/python" -m pytest "$@"
  fi
  lint
  add_trackers
  say "tests"
  # a file stays in one process, so that its tests share what they prepare; tests/conftest.py puts the longest first
  "$VENV/bin/python" -m pytest -q --numprocesses 2 --dist loadfile --no-loadscope-reorder
  say "all passed after $SECONDS s"
}

main "$@"
