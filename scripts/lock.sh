#!/usr/bin/env bash
# Writes constraints-hashes.txt: every package of the environment with the hashes of the index's files.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${VENV:-$ROOT/.venv}
UV=${UV:-uv}

usage() {
  cat <<'TEXT'
usage: bash scripts/lock.sh

Writes constraints-hashes.txt from what is installed in the environment, which bash scripts/setup.sh has made from
constraints.txt: each package's version, and the SHA-256 of each of its files on the package index. Nothing is installed.
HASHES=1 bash scripts/setup.sh installs by it. Needs the network and the program uv.

Variables:
  VENV  the environment                  default: .venv in this repository
  UV    the program                      default: uv
TEXT
}

say() { printf 'lock: %s\n' "$*"; }

fail() {
  printf 'lock: error: %s\nlock: remedy: %s\n' "$1" "$2" >&2
  exit 1
}

main() {
  if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    usage
    return
  fi
  (($# == 0)) || fail "unknown argument: $1" "bash scripts/lock.sh --help"
  command -v "$UV" >/dev/null || fail "no program $UV" "pip install uv, in an environment of its own, and name it with UV"
  [[ -x $VENV/bin/python ]] || fail "no environment $VENV" "bash scripts/setup.sh"
  local folder version
  folder=$(mktemp -d)
  # shellcheck disable=SC2064  # the folder's name is known now
  trap "rm -rf '$folder'" EXIT
  version=$("$VENV/bin/python" -c 'import platform; print(platform.python_version())')
  "$VENV/bin/python" -m pip freeze --all --exclude-editable --disable-pip-version-check | grep -v '^#' >"$folder/installed.txt"
  "$UV" pip compile --quiet --no-config --no-deps --generate-hashes --no-header --no-annotate \
    --python "$VENV/bin/python" --python-version "$version" --python-platform x86_64-manylinux_2_28 \
    --output-file "$folder/hashes.txt" "$folder/installed.txt" >/dev/null ||
    fail "not every installed package is on the index" "see above; packages from elsewhere have no hashes there"
  {
    printf '# What HASHES=1 bash scripts/setup.sh installs on Python %s, Linux x86-64: written by scripts/lock.sh.\n' "${version%.*}"
    cat "$folder/hashes.txt"
  } >"$ROOT/constraints-hashes.txt.tmp"
  mv "$ROOT/constraints-hashes.txt.tmp" "$ROOT/constraints-hashes.txt"
  say "constraints-hashes.txt: $(grep -c '^[A-Za-z0-9]' "$ROOT/constraints-hashes.txt") packages"
}

main "$@"
