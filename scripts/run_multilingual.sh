#!/usr/bin/env bash
# Multilingual pre-training in one call: prepare the text, train, evaluate; called again it goes on. --help explains.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# shellcheck source=lib/pretrain.sh
source "$ROOT/scripts/lib/pretrain.sh"

# How the text is prepared: sets PREPARE.
choose_text() {
  if [[ $SIZE == demo ]]; then
    PREPARE=("$VENV/bin/python" -m data_prep.demo_multilingual --output "$DATA_DIR")
    return
  fi
  PREPARE=("$VENV/bin/python" -m data_prep --output "$DATA_DIR")
  if [[ -n ${TOKENIZER:-} ]]; then
    PREPARE+=(--tokenizer "$TOKENIZER")
  else
    PREPARE+=(--vocab-size 250000 --spm-alpha "$ALPHA")
  fi
  add_raw_files
}

# Options of the task for this text: languages by p^alpha, p their shares of the tokens. Sets TASK_OPTIONS.
choose_sampling() { TASK_OPTIONS=(--sampling-alpha "${ALPHA:=0.7}"); }

pretrain multilingual "$@"
