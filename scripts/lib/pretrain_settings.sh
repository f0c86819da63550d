# shellcheck shell=bash
# Reads and checks the settings of scripts/run_english.sh and run_multilingual.sh.
# shellcheck disable=SC2034  # pretrain.sh uses them

# read_pretrain_settings CORPUS OPTIONS...: environment variables, else what the size says.
read_pretrain_settings() {
  CORPUS=$1
  shift
  SIZE=${SIZE:-demo}
  MODEL=${MODEL:-mhmoe}
  NGPUS=${NGPUS:-1}
  NNODES=${NNODES:-1}
  DEVICE=${DEVICE:-auto}
  PRECISION=${PRECISION:-}
  SEED=${SEED:-1}
  case $SIZE in
    demo) demo_settings ;;
    paper) paper_settings ;;
    *) complain "SIZE is '$SIZE'; choose demo or paper" ;;
  esac
  stop_on_errors
  DATA_DIR=$(absolute "$DATA_DIR")
  SAVE_DIR=$(absolute "${SAVE_DIR:-$ROOT/runs/$CORPUS-$SIZE-$MODEL}")
  VENV=$(absolute "$VENV")
  if (($# > 0)) && [[ $1 != -* ]]; then
    complain "'$1' is no option; further options of fairseq-train start with --, all else is an environment variable"
  fi
}

# Tiny models on the corpora out of packages: minutes on two cores.
demo_settings() {
  if [[ $CORPUS == english ]]; then
    DATA_DIR=${DATA_DIR:-$ROOT/data/demo-english-mix}
  else
    DATA_DIR=${DATA_DIR:-$ROOT/data/demo-multilingual}
  fi
  ARCH=${ARCH:-${MODEL}_lm_tiny}
  TOKENS_PER_SAMPLE=${TOKENS_PER_SAMPLE:-128}
  BATCH=${BATCH:-8}
  UPDATE_FREQ=${UPDATE_FREQ:-1}
  LR=${LR:-3e-3}
  END_LR=${END_LR:-3e-4}
  WARMUP_UPDATES=${WARMUP_UPDATES:-40}
  MAX_UPDATE=${MAX_UPDATE:-400}
  ADAM_BETAS='(0.9, 0.95)'
  WEIGHT_DECAY=0.1
  CLIP_NORM=1.0
  SAVE_INTERVAL_UPDATES=${SAVE_INTERVAL_UPDATES:-200}
  LOG_INTERVAL=${LOG_INTERVAL:-20}
  NUM_WORKERS=${NUM_WORKERS:-0}
  EVAL_BATCH=${EVAL_BATCH:-16}
  MEMORY_OPTIONS=()
}

# MH-MoE v1, tables 9 and 10 (256 sequences of 4096 tokens, about 1M an update), or v2 (256 of 2048, 0.5M).
paper_settings() {
  PAPER=${PAPER:-v1}
  case $PAPER in
    v1)
      TOKENS_PER_SAMPLE=${TOKENS_PER_SAMPLE:-4096}
      LR=${LR:-5e-4}
      END_LR=${END_LR:-0}
      WARMUP_UPDATES=${WARMUP_UPDATES:-10000}
      ADAM_BETAS='(0.9, 0.98)'
      WEIGHT_DECAY=0.01
      ;;
    v2)
      TOKENS_PER_SAMPLE=${TOKENS_PER_SAMPLE:-2048}
      LR=${LR:-6e-4}
      END_LR=${END_LR:-3e-5}
      WARMUP_UPDATES=${WARMUP_UPDATES:-375}
      ADAM_BETAS='(0.9, 0.95)'
      WEIGHT_DECAY=0.1
      ;;
    *) complain "PAPER is '$PAPER'; choose v1 or v2" ;;
  esac
  DATA_DIR=${DATA_DIR:-$ROOT/data/$CORPUS}
  ARCH=${ARCH:-$(paper_architecture)}
  BATCH=${BATCH:-256}
  UPDATE_FREQ=${UPDATE_FREQ:-4}
  MAX_UPDATE=${MAX_UPDATE:-100000}
  CLIP_NORM=2.0
  SAVE_INTERVAL_UPDATES=${SAVE_INTERVAL_UPDATES:-2000}
  LOG_INTERVAL=${LOG_INTERVAL:-100}
  NUM_WORKERS=${NUM_WORKERS:-4}
  EVAL_BATCH=${EVAL_BATCH:-4}
  # as configs/shared: logits of 100k or 250k words are never held for a whole batch
  MEMORY_OPTIONS=(--checkpoint-activations --chunked-cross-entropy --cross-entropy-chunk 1024)
  if [[ $CORPUS == english ]]; then
    RAW_EXAMPLE='redpajama=/corpora/redpajama/*.jsonl.zst'
  else
    RAW_EXAMPLE='de=/dumps/dewiki-*.xml.bz2 fr=/dumps/frwiki-*.xml.bz2'
  fi
}

# SMoE and X-MoE are each in one of the papers only; the other one's stand-ins have the same body.
paper_architecture() {
  case $MODEL-$PAPER in
    smoe-v1) printf 'xmoe_lm_v1' ;; # refused by check_pretrain_settings
    xmoe-v2) printf 'xmoe_lm_base' ;;
    *) printf '%s_lm_%s' "$MODEL" "$PAPER" ;;
  esac
}

check_pretrain_settings() {
  local name
  case $MODEL in
    mhmoe | xmoe | smoe | dense) ;;
    *) complain "MODEL is '$MODEL'; choose mhmoe, xmoe, smoe or dense" ;;
  esac
  if [[ $MODEL == smoe && $ARCH == xmoe_lm_v1 ]]; then
    complain "MODEL=smoe is not in the first paper; take PAPER=v2, MODEL=xmoe, or name an ARCH"
  fi
  for name in NGPUS NNODES TOKENS_PER_SAMPLE BATCH UPDATE_FREQ MAX_UPDATE SAVE_INTERVAL_UPDATES LOG_INTERVAL EVAL_BATCH; do
    is_positive_integer "${!name}" || complain "$name is '${!name}'; give a whole number of 1 or more"
  done
  for name in WARMUP_UPDATES NUM_WORKERS SEED; do
    is_whole_number "${!name}" || complain "$name is '${!name}'; give a whole number of 0 or more"
  done
  is_positive_real "$LR" || complain "LR is '$LR'; give a number above 0, for example 5e-4"
  [[ $END_LR == 0 ]] || is_positive_real "$END_LR" || complain "END_LR is '$END_LR'; give 0 or a number above it"
  [[ -z ${ALPHA:-} || $ALPHA == 0 ]] || is_positive_real "$ALPHA" || complain "ALPHA is '$ALPHA'; give a number from 0 to 1"
  case $DEVICE in
    auto | cuda | cpu) ;;
    *) complain "DEVICE is '$DEVICE'; choose auto, cuda or cpu" ;;
  esac
  [[ $DRY_RUN == [01] ]] || complain "DRY_RUN is '$DRY_RUN'; give 0 or 1"
  stop_on_errors # what follows calculates with these numbers
  local step=$((NGPUS * NNODES * UPDATE_FREQ))
  if ((BATCH % step != 0)); then
    complain "BATCH $BATCH is not a multiple of NGPUS x NNODES x UPDATE_FREQ = $NGPUS x $NNODES x $UPDATE_FREQ = $step;" \
      "take another UPDATE_FREQ, or BATCH $(((BATCH / step + 1) * step))"
  fi
  if ((WARMUP_UPDATES >= MAX_UPDATE)); then
    complain "WARMUP_UPDATES $WARMUP_UPDATES is not below MAX_UPDATE $MAX_UPDATE; set WARMUP_UPDATES too"
  fi
  stop_on_errors
}

# The path as seen from the folder of the call.
absolute() {
  if [[ $1 == /* ]]; then
    printf '%s' "$1"
  else
    printf '%s' "$PWD/$1"
  fi
}
