# shellcheck shell=bash
# Pre-training in one call, for scripts/run_english.sh and run_multilingual.sh: settings, then prepare, train, evaluate.
# The caller has set ROOT, and has the functions choose_text and choose_sampling.

VENV=${VENV:-$ROOT/.venv}
DRY_RUN=${DRY_RUN:-0}
WAIT_SECONDS=10

# shellcheck source=common.sh
source "$ROOT/scripts/lib/common.sh"
# shellcheck source=launch.sh
source "$ROOT/scripts/lib/launch.sh"
# shellcheck source=demonstration.sh
source "$ROOT/scripts/lib/demonstration.sh"
# shellcheck source=pretrain_settings.sh
source "$ROOT/scripts/lib/pretrain_settings.sh"
# shellcheck source=pretrain_usage.sh
source "$ROOT/scripts/lib/pretrain_usage.sh"

# pretrain CORPUS OPTIONS...
pretrain() {
  local corpus=$1
  shift
  if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    pretrain_usage
    return
  fi
  read_pretrain_settings "$corpus" "$@"
  check_pretrain_settings
  if ((!DRY_RUN)) && [[ $SIZE == demo ]]; then
    prepare_environment
  fi
  choose_device
  choose_precision
  build_launcher
  build_precision
  find_node_rank
  choose_sampling
  # what the libraries say about themselves would hide the rest
  export PYTHONWARNINGS=${PYTHONWARNINGS:-ignore}
  prepare_text
  train_model "$@"
  evaluate_model
}

# Shows a command; runs it unless DRY_RUN=1.
run_step() {
  quote_words "$@"
  ((DRY_RUN)) || "$@"
}

# Node 0 prepares, the others wait for its manifest, which comes last.
prepare_text() {
  if [[ -f $DATA_DIR/manifest.json ]]; then
    note "$DATA_DIR is prepared"
    return
  fi
  choose_text
  stop_on_errors
  if ((NODE_RANK == 0)); then
    run_step "${PREPARE[@]}"
  elif ((!DRY_RUN)); then
    note "waiting for node 0 to prepare $DATA_DIR"
    until [[ -f $DATA_DIR/manifest.json ]]; do sleep "$WAIT_SECONDS"; done
  fi
  ((DRY_RUN)) || [[ -f $DATA_DIR/manifest.json ]] ||
    die "$DATA_DIR is not prepared yet (jobs of another executor may be at it); run this again when it has a manifest.json"
}

# RAW -> options of data_prep; every NAME=GLOB is a source. Words of PREPARE_OPTIONS come last.
add_raw_files() {
  local words source
  read -ra words <<<"${RAW:-}"
  ((${#words[@]} > 0)) ||
    complain "DATA_DIR $DATA_DIR has no manifest.json; name a prepared folder, or in RAW the files to prepare it from," \
      "for example RAW='$RAW_EXAMPLE'"
  for source in "${words[@]}"; do
    [[ $source == *?=?* ]] || complain "RAW has '$source'; expected NAME=GLOB"
    PREPARE+=(--source "$source")
    [[ $CORPUS != multilingual ]] || PREPARE+=(--language "${source%%=*}=${source%%=*}")
  done
  read -ra words <<<"${PREPARE_OPTIONS:-}"
  PREPARE+=("${words[@]}")
}

train_model() {
  local per_process=$((BATCH / (NGPUS * NNODES * UPDATE_FREQ)))
  local command=(
    "${LAUNCHER[@]}" "$DATA_DIR" --user-dir "$ROOT/fairseq_mhmoe" "${DEVICE_OPTIONS[@]}" "${PRECISION_OPTIONS[@]}"
    --task gpt --sample-break-mode none --tokens-per-sample "$TOKENS_PER_SAMPLE" "${TASK_OPTIONS[@]}"
    --arch "$ARCH" --criterion moe_cross_entropy --moe-gate-loss-wt 0.01
    --optimizer adam --adam-betas "$ADAM_BETAS" --adam-eps 1e-6 --weight-decay "$WEIGHT_DECAY" --clip-norm "$CLIP_NORM"
    --lr "$LR" --lr-scheduler polynomial_decay --end-learning-rate "$END_LR" --warmup-updates "$WARMUP_UPDATES"
    --total-num-update "$MAX_UPDATE" --max-update "$MAX_UPDATE" --seed "$SEED"
    --batch-size "$per_process" --update-freq "$UPDATE_FREQ" --required-batch-size-multiple 1
    --ddp-backend legacy_ddp --num-workers "$NUM_WORKERS"
    --save-dir "$SAVE_DIR" --save-interval-updates "$SAVE_INTERVAL_UPDATES" --keep-interval-updates 1
    --no-epoch-checkpoints --tensorboard-logdir "$SAVE_DIR/tb-logs" --log-file "$SAVE_DIR/train.log"
    --log-format simple --log-interval "$LOG_INTERVAL" "${MEMORY_OPTIONS[@]}" "$@"
  )
  if ((!DRY_RUN)); then
    mkdir -p "$SAVE_DIR" || die "SAVE_DIR $SAVE_DIR cannot be made; give a folder in which you may write"
    # what is started inherits the lock: training that outlives this script keeps the folder to itself
    exec {LOCK}>"$SAVE_DIR/.lock-$NODE_RANK"
    flock --nonblock "$LOCK" || die "another call is at work in $SAVE_DIR; wait for it, or end it"
    if [[ $DEVICE == cpu ]]; then
      keep_large_buffers
      export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} # threads that spin slow a busy machine down
    fi
  fi
  run_step "${command[@]}"
}

# log_step NAME COMMAND...: shows a command and runs it; all that it says goes into SAVE_DIR/NAME.log.
log_step() {
  local log=$SAVE_DIR/$1.log
  shift
  quote_words "$@"
  ((!DRY_RUN)) || return 0
  # fairseq-eval-lm logs its result: a level that hides it must not be inherited
  [[ ${LOGLEVEL:-} == DEBUG ]] || local -x LOGLEVEL=INFO
  if ! "$@" >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    die "the evaluation failed; all of its output is in $log"
  fi
}

# score_split SPLIT COMMAND...: runs fairseq-eval-lm and shows what it found.
score_split() {
  local split=$1
  log_step "eval-lm-$split" "${@:2}"
  ((DRY_RUN)) || note "$split: $(sed -n 's/.*\(Loss (base 2).*\)/\1/p' "$SAVE_DIR/eval-lm-$split.log" | tail -n 1)"
}

# On node 0, in one process: perplexity of each split by fairseq-eval-lm, and by source with bits per byte.
evaluate_model() {
  ((NODE_RANK == 0)) || return 0
  local scores=$SAVE_DIR/scores.json split options
  local checkpoint=$SAVE_DIR/checkpoint_best.pt
  if ((DRY_RUN == 0)) && [[ ! -f $checkpoint ]]; then
    checkpoint=$SAVE_DIR/checkpoint_last.pt
  fi
  options=("$DATA_DIR" --user-dir "$ROOT/fairseq_mhmoe" --distributed-world-size 1 --task gpt --path "$checkpoint"
    --sample-break-mode none --tokens-per-sample "$TOKENS_PER_SAMPLE" --batch-size "$EVAL_BATCH"
    --num-workers "$NUM_WORKERS")
  [[ $DEVICE != cpu ]] || options+=(--cpu)
  if [[ -f $scores && $scores -nt $checkpoint ]] && ((!DRY_RUN)); then
    note "$checkpoint is evaluated"
  else
    for split in valid test; do
      score_split "$split" "$VENV/bin/fairseq-eval-lm" "${options[@]}" --gen-subset "$split"
    done
    log_step evaluate "$VENV/bin/python" -m fairseq_mhmoe.cli.evaluate "${options[@]}" --gen-subset valid,test \
      --output "$scores"
  fi
  run_step "$VENV/bin/python" -m fairseq_mhmoe.cli.score_table "$scores"
}
