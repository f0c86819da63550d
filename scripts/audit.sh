#!/usr/bin/env bash
# Asks a vulnerability service about every pinned package. Needs the network; not part of the tests.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PIP_AUDIT=${PIP_AUDIT:-pip-audit}
SERVICE=${SERVICE:-pypi}

usage() {
  cat <<'TEXT'
usage: bash scripts/audit.sh

Asks a vulnerability service about every package of constraints-hashes.txt with pip-audit. Nothing is installed. A package that
the service does not know is an error: it was not looked at. Findings that do not concern us are in IGNORED in this
script, each with its reason. Exit status: 0 if nothing is left.

Variables:
  PIP_AUDIT  the program, pip-audit             default: pip-audit
  SERVICE    pypi (the index's own), osv        default: pypi
TEXT
}

# "ID  reason", one a line: none so far
IGNORED=()

main() {
  if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    usage
    return
  fi
  command -v "$PIP_AUDIT" >/dev/null || {
    printf 'audit: error: no program %s\naudit: remedy: pip install pip-audit, in an environment of its own\n' "$PIP_AUDIT" >&2
    exit 1
  }
  local options=() finding
  for finding in "${IGNORED[@]}"; do
    options+=(--ignore-vuln "${finding%% *}")
  done
  "$PIP_AUDIT" --strict --disable-pip --require-hashes --vulnerability-service "$SERVICE" "${options[@]}" \
    --requirement "$ROOT/constraints-hashes.txt"
}

main "$@"
