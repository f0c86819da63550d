#!/usr/bin/env bash
# The main job: `bash scripts/run.sh` is the demonstration, with arguments it is one training run; --help explains.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${VENV:-$ROOT/.venv}
DRY_RUN=${DRY_RUN:-0}

# shellcheck source=lib/common.sh
source "$ROOT/scripts/lib/common.sh"
# shellcheck source=lib/usage.sh
source "$ROOT/scripts/lib/usage.sh"
# shellcheck source=lib/arguments.sh
source "$ROOT/scripts/lib/arguments.sh"
# shellcheck source=lib/launch.sh
source "$ROOT/scripts/lib/launch.sh"
# shellcheck source=lib/demonstration.sh
source "$ROOT/scripts/lib/demonstration.sh"

train() {
  read_settings "$@"
  check_settings
  build_command
  quote_words "${COMMAND[@]}"
  if ((DRY_RUN)); then
    return
  fi
  mkdir -p "$SAVE_DIR" || die "SAVE_DIR $SAVE_DIR cannot be made; give a folder in which you may write"
  [[ $DEVICE != cpu ]] || keep_large_buffers
  exec "${COMMAND[@]}"
}

main() {
  if (($# == 0)); then
    demonstration
  elif [[ $1 == --help || $1 == -h ]]; then
    usage
  elif (($# == 8 || $# == 9)); then
    train "$@"
  else
    complain "$# arguments; expected none (the demonstration), or" \
      'NGPUS NNODES SAVE_DIR BATCH LR EXPERTS TOPK FREQ ["OPTIONS"] with all options in one pair of quotes'
    stop_on_errors
  fi
}

main "$@"
