#!/usr/bin/env bash
# Trains an MH-MoE model twice, with the xmoe router and with the one of this folder, and prints both perplexities.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
VENV=${VENV:-$ROOT/.venv}
DATA=${DATA:-$ROOT/data/demo-english}
OUTPUT=${OUTPUT:-$ROOT/runs/custom-router}
UPDATES=${UPDATES:-400}
EXAMPLE=$ROOT/examples/custom_router

usage() {
  cat <<'TEXT'
usage: bash examples/custom_router/run.sh

Prepares the English demonstration text, trains two small MH-MoE models on the CPU that differ in nothing but their
router, evaluates both with fairseq-eval-lm and prints their cost and perplexity: some minutes. Called again it goes on.

environment variables: VENV (default .venv of the repository), DATA (data/demo-english; prepared if it is not there),
OUTPUT (runs/custom-router), UPDATES (400)
TEXT
}

train() {
  local log=$OUTPUT/$1-training.log
  printf '%s: training, see %s\n' "$1" "$log"
  "$VENV/bin/fairseq-train" "${COMMON[@]}" --sample-break-mode none --batch-size 8 --criterion moe_cross_entropy \
    "${MODEL[@]}" --moe-router "$1" --optimizer adam --adam-betas '(0.9, 0.95)' --weight-decay 0.1 \
    --no-weight-decay-on router --clip-norm 1.0 --lr 4e-3 --lr-scheduler polynomial_decay \
    --warmup-updates $((UPDATES < 100 ? UPDATES / 2 : 50)) --total-num-update "$UPDATES" --max-update "$UPDATES" \
    --save-dir "$OUTPUT/$1" --no-epoch-checkpoints --disable-validation --log-format simple --log-interval 20 \
    --seed 1 >"$log" 2>&1 || die "the training failed; $log tells why"
}

perplexity() {
  "$VENV/bin/fairseq-eval-lm" "${COMMON[@]}" --path "$OUTPUT/$1/checkpoint_last.pt" --gen-subset test \
    --sample-break-mode none --batch-size 16 >"$OUTPUT/$1-test.log" 2>&1 ||
    die "the evaluation failed; $OUTPUT/$1-test.log tells why"
  grep -o 'Perplexity: .*' "$OUTPUT/$1-test.log"
}

die() {
  printf 'run.sh: error: %s\n' "$*" >&2
  exit 2
}

main() {
  case ${1:-} in
    '') ;;
    -h | --help)
      usage
      return
      ;;
    *) die "'$1': there are no arguments; --help tells the environment variables" ;;
  esac
  [[ $UPDATES =~ ^[1-9][0-9]{0,8}$ ]] || die "UPDATES is '$UPDATES'; give a whole number of 1 or more"
  [[ -x $VENV/bin/fairseq-train ]] || die "no fairseq-train in $VENV/bin; run bash scripts/setup.sh first, or set VENV"
  # the package is found although another folder is the user-dir, installed or not
  export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH} PYTHONWARNINGS=${PYTHONWARNINGS:-ignore}
  mkdir -p "$OUTPUT"
  [[ -f $DATA/dict.txt ]] || "$VENV/bin/python" -m data_prep.demo_english --output "$DATA"
  COMMON=("$DATA" --user-dir "$EXAMPLE" --task gpt --tokens-per-sample 128 --cpu --num-workers 0)
  MODEL=(--arch mhmoe_lm_tiny --decoder-embed-dim 128 --decoder-ffn-embed-dim 384 --decoder-attention-heads 4
    --moe-ffn-dim 128 --moe-expert-count 12)
  local router
  for router in xmoe headwise; do
    train "$router"
  done
  for router in xmoe headwise; do
    printf '\n%s\n' "$router"
    "$VENV/bin/mhmoe-cost" "${MODEL[@]}" --vocab-size $(($(wc -l <"$DATA/dict.txt") + 4)) --tokens-per-sample 128 \
      --user-dir "$EXAMPLE" --moe-router "$router"
    printf 'test '
    perplexity "$router"
  done
}

main "$@"
