#!/usr/bin/env bash
# Pre-training in English in one call: prepare the text, train, evaluate; called again it goes on. --help explains.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# shellcheck source=lib/pretrain.sh
source "$ROOT/scripts/lib/pretrain.sh"

# How the text is prepared: sets PREPARE.
choose_text() {
  if [[ $SIZE == demo ]]; then
    PREPARE=("$VENV/bin/python" -m data_prep.demo_english --output "$DATA_DIR" --sources wikipedia gutenberg passages)
  else
    PREPARE=("$VENV/bin/python" -m data_prep --output "$DATA_DIR" --tokenizer "${TOKENIZER:-cl100k_base}")
    add_raw_files
  fi
}

# Options of the task for this text: sets TASK_OPTIONS.
choose_sampling() { TASK_OPTIONS=(--sampling-alpha "${ALPHA:=1.0}"); }

pretrain english "$@"
