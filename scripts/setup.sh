#!/usr/bin/env bash
# Makes the virtual environment: torch, fairseq, this package. A second call with nothing changed returns at once.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${VENV:-$ROOT/.venv}
LOG=$VENV/setup.log
STAMP=$VENV/setup.stamp
CHOSEN_TORCH=$VENV/setup.torch
NEEDED_GB=8
CLOCK=""
DEPENDENCIES_ONLY=0

usage() {
  cat <<'TEXT'
usage: bash scripts/setup.sh [--dependencies | --check]

Makes a virtual environment with everything that training, the demonstration and the tests need: about 8 GB (most of it
torch with CUDA) and 5 to 10 minutes, of which about 4 to compile fairseq. Needs Python 3.10, 3.11 or 3.12 with its venv
module and headers, a C++ compiler, and a package index that pip reaches. Called again, it does only what is missing.

With --dependencies everything but this package itself: the layer of an image that stays when the code changes. Of this
package it reads setup.py, pyproject.toml, constraints.txt and fairseq_mhmoe/__init__.py.
With --check it changes nothing; exit status 0: the environment is up to date, 1: it is not.

Variables:
  VENV        where to make it                                    default: .venv in this repository
  PYTHON      the Python to make it with                          default: python3, else python3.12, 3.11, 3.10
  TORCH_SPEC  what to install for torch and torchvision, together, default: the versions in constraints.txt
              e.g. TORCH_SPEC="torch==2.9.1 torchvision==0.24.1"
  HASHES=1    take only files whose hashes stand in constraints-hashes.txt (Python 3.11, Linux on x86-64)
  PIP_...     pip's own, e.g. PIP_INDEX_URL or PIP_EXTRA_INDEX_URL for another build of torch
TEXT
}

say() { printf 'setup: %s\n' "$*"; }

fail() {
  printf 'setup: error: %s\n' "$1" >&2
  printf 'setup: remedy: %s\n' "$2" >&2
  exit 1
}

supported_python() {
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

# Sets PYTHON to one that will do.
find_python() {
  if [[ -n ${PYTHON:-} ]]; then
    supported_python "$PYTHON" || fail "PYTHON=$PYTHON is not Python 3.10, 3.11 or 3.12" "name one that is, or unset PYTHON"
    return
  fi
  for PYTHON in python3 python3.12 python3.11 python3.10; do
    supported_python "$PYTHON" && return
  done
  fail "no Python 3.10, 3.11 or 3.12 found" "install one (Debian: apt-get install python3 python3-venv python3-dev)"
}

check_build_tools() {
  "$PYTHON" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
    fail "$PYTHON has no venv module" "install it (Debian: apt-get install python3-venv)"
  "$PYTHON" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
    fail "$PYTHON has no C headers, and fairseq is compiled" "install them (Debian: apt-get install python3-dev)"
  command -v "${CXX:-c++}" >/dev/null || command -v g++ >/dev/null ||
    fail "no C++ compiler, and fairseq is compiled" "install one (Debian: apt-get install g++), or set CXX"
}

check_disk() {
  local place=$VENV free_kb
  while [[ ! -d $place ]]; do place=$(dirname "$place"); done
  free_kb=$(df -Pk "$place" | awk 'NR == 2 { print $4 }')
  ((free_kb >= NEEDED_GB * 1024 * 1024)) ||
    fail "$((free_kb / 1024 / 1024)) GB free in $place, about $NEEDED_GB needed" "make room, or set VENV to a larger disk"
}

# What the environment was made from: when this changes, setup runs again.
fingerprint() {
  (
    cd "$ROOT"
    sha256sum setup.py pyproject.toml constraints.txt
    printf '%s\n' "$ROOT" "$(torch_spec)"
  ) | sha256sum
}

# TORCH_SPEC, now or when the environment was made; else the pinned versions.
torch_spec() {
  if [[ -n ${TORCH_SPEC:-} ]]; then
    printf '%s\n' "$TORCH_SPEC"
  elif [[ -f $CHOSEN_TORCH ]]; then
    cat "$CHOSEN_TORCH"
  else
    pinned_torch
  fi
}

pinned_torch() { grep -E '^torch(vision)?==' "$ROOT/constraints.txt" | paste -sd ' '; }

up_to_date() {
  [[ -x $VENV/bin/fairseq-train && -f $STAMP && $(cat "$STAMP") == "$(fingerprint)" ]]
}

# Says every half minute how long a step takes, as long as this script lives.
show_time() {
  while sleep 30 && kill -0 $$ 2>/dev/null; do
    say "  ... $((SECONDS - $1)) s"
  done
}

stop_clock() {
  if [[ -n $CLOCK ]]; then
    kill "$CLOCK" 2>/dev/null || true
    wait "$CLOCK" 2>/dev/null || true
    CLOCK=""
  fi
}

# step TITLE REMEDY COMMAND...: runs a command with its output in the log, says how long it took.
# The command stays in the foreground, so that Ctrl-C reaches it.
step() {
  local title=$1 remedy=$2 start=$SECONDS status=0
  shift 2
  say "$title"
  printf '\n== %s\n' "$title" >>"$LOG"
  show_time "$start" &
  CLOCK=$!
  "$@" >>"$LOG" 2>&1 || status=$?
  stop_clock
  if ((status != 0)); then
    printf 'setup: the end of %s:\n' "$LOG" >&2
    tail -n 15 "$LOG" >&2
    fail "\"$title\" failed" "$remedy"
  fi
  say "  done in $((SECONDS - start)) s"
}

pip_install() {
  "$VENV/bin/python" -m pip install --disable-pip-version-check --progress-bar off "$@"
}

# constraints.txt, with torch as it is now installed: TORCH_SPEC may have asked for another one.
write_constraints() {
  local installed
  installed=$("$VENV/bin/python" -m pip freeze --disable-pip-version-check | grep -E '^torch(vision)?==')
  {
    printf '%s\n' "$installed"
    grep -vE '^(#|torch==|torchvision==)' "$ROOT/constraints.txt" | if [[ $(torch_spec) != "$(pinned_torch)" ]]; then
      grep -v '^torchaudio=='
    else
      cat
    fi
  } >"$VENV/constraints.txt"
}

# pinned NAME...: the entries of constraints-hashes.txt that have these names; "all but NAME..." for the others.
pinned() {
  local but=0
  if [[ $1 == "all but" ]]; then
    but=1
    shift
  fi
  awk -v names=" $* " -v but="$but" '
    /^[A-Za-z0-9]/ { split($0, parts, "=="); wanted = (index(names, " " tolower(parts[1]) " ") > 0) != but }
    wanted' "$ROOT/constraints-hashes.txt"
}

install_by_hashes() {
  local remedy="see the log above; a hash that differs is a file that differs: ask where it comes from before going on"
  local options=(--require-hashes --no-deps --no-build-isolation)
  "$VENV/bin/python" -c "import platform, sys
sys.exit((*sys.version_info[:2], platform.machine()) != (3, 11, 'x86_64'))" ||
    fail "constraints-hashes.txt is for Python 3.11 on x86-64" "choose it with PYTHON, or leave out HASHES"
  [[ $(torch_spec) == "$(pinned_torch)" ]] ||
    fail "TORCH_SPEC asks for a torch that has no hashes" "leave out TORCH_SPEC or HASHES"
  pinned pip setuptools wheel cython numpy pybind11 packaging >"$VENV/hashes-tools.txt"
  pinned "all but" fairseq-fixed >"$VENV/hashes-rest.txt"
  pinned fairseq-fixed >"$VENV/hashes-fairseq.txt"
  step "build tools, by their hashes" "$remedy" pip_install "${options[@]}" -r "$VENV/hashes-tools.txt"
  step "torch and what else is needed, by their hashes (a large download)" "$remedy" \
    pip_install "${options[@]}" -r "$VENV/hashes-rest.txt"
  step "fairseq, compiled here against that torch (about 4 minutes)" "$remedy" \
    pip_install "${options[@]}" --no-cache-dir --no-binary fairseq-fixed -r "$VENV/hashes-fairseq.txt"
  ((DEPENDENCIES_ONLY)) || step "this package" "$remedy" pip_install --no-deps --no-build-isolation --editable "$ROOT"
}

# What setup.py asks for; it only has to be read, so that the package's own files may be missing.
requirements() {
  (
    cd "$ROOT"
    "$VENV/bin/python" - <<'PYTHON'
import setuptools  # brings distutils
from distutils.core import run_setup

package = run_setup("setup.py", stop_after="init")
print(*package.install_requires, *package.extras_require["dev"], sep="\n")
PYTHON
  )
}

install_by_versions() {
  local network="see the log above; is the package index reachable? (proxy: HTTPS_PROXY; a mirror: PIP_INDEX_URL)"
  local spec
  read -ra spec <<<"$(torch_spec)"

  step "build tools" "$network" \
    pip_install --upgrade -c "$ROOT/constraints.txt" pip "setuptools>=70" wheel cython numpy pybind11
  step "${spec[*]} (a large download)" "$network" pip_install "${spec[@]}"
  write_constraints
  # neither a wheel of the index nor one of pip's cache: they were compiled against other versions of torch
  step "fairseq, compiled here against that torch (about 4 minutes)" \
    "see the log above: a compiler error is often missing memory (set MAX_JOBS=1) or missing headers (python3-dev)" \
    pip_install --no-build-isolation --no-cache-dir --no-binary fairseq-fixed -c "$VENV/constraints.txt" \
    fairseq-fixed==0.12.3.1
  if ((DEPENDENCIES_ONLY)); then
    requirements >"$VENV/requirements.txt"
    step "what this package and its tests need" "$network" \
      pip_install -c "$VENV/constraints.txt" -r "$VENV/requirements.txt"
    return
  fi
  step "this package and what its tests need" "$network" \
    pip_install -c "$VENV/constraints.txt" --editable "${ROOT}[dev]"
}

install_everything() {
  if [[ ! -x $VENV/bin/python ]]; then
    "$PYTHON" -m venv "$VENV" || fail "cannot make $VENV" "choose a folder that can be written: VENV=path"
  fi
  supported_python "$VENV/bin/python" ||
    fail "$VENV has no working Python 3.10, 3.11 or 3.12" "remove it, or set VENV to another path"
  : >"$LOG"
  if [[ -n ${HASHES:-} ]]; then
    install_by_hashes
  else
    install_by_versions
  fi
  if ((DEPENDENCIES_ONLY)); then
    return
  fi
  step "trying it" "remove $VENV and run bash scripts/setup.sh again; the log says what does not import" \
    "$VENV/bin/python" -c 'import torch, torchvision, torchscale, fairseq.libbase, fairseq_mhmoe; print(torch.__version__)'
}

main() {
  if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    usage
    return
  fi
  if [[ ${1:-} == --dependencies ]]; then
    DEPENDENCIES_ONLY=1
    shift
  fi
  if [[ $# == 1 && $1 == --check ]]; then
    up_to_date || exit 1
    return
  fi
  (($# == 0)) || fail "unknown argument: $1" "bash scripts/setup.sh --help"
  if ((!DEPENDENCIES_ONLY)) && up_to_date; then
    say "$VENV is up to date"
    return
  fi
  local start=$SECONDS
  trap stop_clock EXIT
  find_python
  check_build_tools
  [[ -x $VENV/bin/fairseq-train ]] || check_disk
  say "making $VENV with $("$PYTHON" --version); details in $LOG"
  rm -f "$STAMP"
  install_everything
  [[ -z ${TORCH_SPEC:-} ]] || printf '%s\n' "$TORCH_SPEC" >"$CHOSEN_TORCH"
  if ((!DEPENDENCIES_ONLY)); then
    fingerprint >"$STAMP.tmp"
    mv "$STAMP.tmp" "$STAMP"
  fi
  say "$VENV is ready after $((SECONDS - start)) s"
}

main "$@"
