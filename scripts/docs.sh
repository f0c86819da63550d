#!/usr/bin/env bash
# Builds the documents as a site, or shows it while they are written.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${VENV:-$ROOT/.venv}
SITE=${SITE:-$ROOT/build/site}

usage() {
  cat <<'TEXT'
usage: bash scripts/docs.sh [serve [ADDRESS]]

Builds the documents as a site into build/site (SITE names another folder); open its index.html in a browser. A broken
link is an error. With serve: shows it under ADDRESS (default 127.0.0.1:8000) and builds again at every change.
Needs an environment with the extra "docs", as scripts/setup.sh makes it; VENV names another. No network is used.
TEXT
}

die() {
  printf 'docs.sh: error: %s\n' "$*" >&2
  exit 2
}

main() {
  case ${1:-build} in
    -h | --help)
      usage
      return
      ;;
    build | serve) ;;
    *) die "'$1' is unknown; choose serve, or nothing to build" ;;
  esac
  [[ -x $VENV/bin/mkdocs ]] || die "no mkdocs in $VENV/bin; run bash scripts/setup.sh first, or pip install '.[docs]'"
  cd "$ROOT"
  export NO_MKDOCS_2_WARNING=1
  if [[ ${1:-} == serve ]]; then
    exec "$VENV/bin/mkdocs" serve --dev-addr "${2:-127.0.0.1:8000}"
  fi
  "$VENV/bin/mkdocs" build --strict --site-dir "$SITE"
  printf 'docs.sh: the site is in %s\n' "$SITE"
}

main "$@"
