# shellcheck shell=bash
# Reads and checks the arguments and environment variables of a training run.

read_settings() {
  NGPUS=$1 NNODES=$2 SAVE_DIR=$3 BATCH=$4 LR=$5 EXPERTS=$6 TOPK=$7 FREQ=$8 OPTIONS=${9:-}
  DATA_DIR=${DATA_DIR:-$ROOT/data/demo-english}
  SPM_MODEL=${SPM_MODEL:-$(model_of_data)}
  ARCH=${ARCH:-gpt_small_v2}
  UPDATE_FREQ=${UPDATE_FREQ:-4}
  TOKENS_PER_SAMPLE=${TOKENS_PER_SAMPLE:-2048}
  MAX_UPDATE=${MAX_UPDATE:-100000}
  WARMUP_UPDATES=${WARMUP_UPDATES:-375}
  END_LR=${END_LR:-3e-5}
  PRECISION=${PRECISION:-}
  VALIDATE=${VALIDATE:-0}
  SAVE_INTERVAL_UPDATES=${SAVE_INTERVAL_UPDATES:-5000}
  LOG_INTERVAL=${LOG_INTERVAL:-100}
  NUM_WORKERS=${NUM_WORKERS:-2}
  SEED=${SEED:-1}
  DEVICE=${DEVICE:-auto}
  MAX_RESTARTS=${MAX_RESTARTS:-0}
}

# The data's SentencePiece model; none where they were tokenized by tiktoken, whose file the task finds by itself.
model_of_data() { [[ -f $DATA_DIR/tokenizer.tiktoken ]] || printf '%s' "$DATA_DIR/spm.model"; }

check_settings() {
  check_numbers
  check_choices
  split_options
  stop_on_errors # what follows calculates with these numbers
  check_batch
  note_other_batch
  check_experts
  check_expert_parallel
  check_heads
  check_folders
  stop_on_errors
}

check_numbers() {
  local name
  for name in NGPUS NNODES BATCH EXPERTS TOPK UPDATE_FREQ TOKENS_PER_SAMPLE MAX_UPDATE SAVE_INTERVAL_UPDATES \
    LOG_INTERVAL; do
    is_positive_integer "${!name}" || complain "$name is '${!name}'; give a whole number of 1 or more"
  done
  for name in FREQ WARMUP_UPDATES NUM_WORKERS SEED MAX_RESTARTS; do
    is_whole_number "${!name}" || complain "$name is '${!name}'; give a whole number of 0 or more"
  done
  for name in LR END_LR; do
    is_positive_real "${!name}" || complain "$name is '${!name}'; give a number above 0, for example 6e-4"
  done
}

check_choices() {
  [[ -n $SAVE_DIR ]] || complain "SAVE_DIR is empty; give the folder for the checkpoints, for example runs/mhmoe"
  if [[ $SAVE_DIR == -* ]]; then
    complain "SAVE_DIR is '$SAVE_DIR'; a name that starts with '-' looks like an option, write ./$SAVE_DIR"
  fi
  case $PRECISION in
    '' | memory-efficient-fp16 | fp16 | bf16 | fp32) ;;
    *) complain "PRECISION is '$PRECISION'; choose memory-efficient-fp16, fp16, bf16 or fp32" ;;
  esac
  case $DEVICE in
    auto | cuda | cpu) ;;
    *) complain "DEVICE is '$DEVICE'; choose auto, cuda or cpu" ;;
  esac
  local name
  for name in VALIDATE DRY_RUN; do
    [[ ${!name} == [01] ]] || complain "$name is '${!name}'; give 0 or 1"
  done
}

# OPTIONS -> the array OPTION_WORDS. xargs understands quotes and backslashes and expands nothing.
split_options() {
  OPTION_WORDS=()
  local listing
  listing=$(mktemp)
  if printf '%s' "$OPTIONS" | tr '\n' ' ' | xargs -r printf '%s\0' >"$listing" 2>/dev/null; then
    mapfile -d '' OPTION_WORDS <"$listing"
  else
    complain "OPTIONS has a quote without its partner: $OPTIONS"
  fi
  rm -f "$listing"
  if ((${#OPTION_WORDS[@]} > 0)) && [[ ${OPTION_WORDS[0]} != -* ]]; then
    complain "OPTIONS starts with '${OPTION_WORDS[0]}'; it must start with an option such as --moe-ffn-dim 2048"
  fi
}

# The value of an option inside OPTIONS, the last one if it stands there twice; $2 when it is absent.
option_value() {
  local value=$2 index word
  for index in "${!OPTION_WORDS[@]}"; do
    word=${OPTION_WORDS[index]}
    case $word in
      "$1") value=${OPTION_WORDS[index + 1]:-} ;;
      "$1="*) value=${word#*=} ;;
    esac
  done
  printf '%s' "$value"
}

check_batch() {
  local step=$((NGPUS * NNODES * UPDATE_FREQ))
  if ((BATCH % step != 0)); then
    local lower=$((BATCH / step * step))
    local choices="$((lower + step))"
    ((lower == 0)) || choices="$lower or $choices"
    complain "BATCH $BATCH is not a multiple of NGPUS x NNODES x UPDATE_FREQ = $NGPUS x $NNODES x $UPDATE_FREQ = $step;" \
      "take $choices, or another UPDATE_FREQ"
  fi
  if awk -v lr="$LR" -v end="$END_LR" 'BEGIN { exit !(lr + 0 < end + 0) }'; then
    complain "LR $LR is below END_LR $END_LR, so the rate would rise; set END_LR to $LR or less"
  fi
}

# OPTIONS win over everything; what BATCH means then changes.
note_other_batch() {
  local name
  for name in --batch-size --max-sentences --max-tokens --update-freq; do
    [[ -z $(option_value "$name" "") ]] ||
      note "OPTIONS has $name, which wins: an update is then not BATCH $BATCH sequences"
  done
}

check_experts() {
  if ((TOPK > EXPERTS)); then
    complain "TOPK $TOPK is more than EXPERTS $EXPERTS; a token can choose each expert once, take TOPK 1 to $EXPERTS"
  fi
  local layers
  layers=$(option_value --decoder-layers "$(preset_shape 2)")
  if is_positive_integer "$layers" && ((FREQ > layers)); then
    complain "FREQ $FREQ is more than the $layers layers of $ARCH, so no layer would have experts; take 1 to $layers," \
      "or 0 for a dense model"
  fi
}

# Experts are spread over P processes, P a divisor of EXPERTS and of their number; fairseq_mhmoe chooses by the same rule.
check_expert_parallel() {
  local ranks=$((NGPUS * NNODES)) fitting size
  if ((FREQ == 0 || ranks == 1)); then
    return
  fi
  fitting=$(common_divisors "$EXPERTS" "$ranks")
  size=$(option_value --moe-expert-parallel-size "${fitting##* }")
  if [[ ! $size =~ ^[0-9]+$ || " $fitting " != *" $size "* ]]; then
    complain "--moe-expert-parallel-size is '$size'; it must divide both EXPERTS $EXPERTS and" \
      "NGPUS x NNODES = $ranks: take one of ${fitting// /, }, or leave it out for ${fitting##* }"
    return
  fi
  note "P = $size, replicas = $((ranks / size)): each process holds $((EXPERTS / size)) of $EXPERTS experts of a layer"
}

# The numbers that divide both $1 and $2, in one line.
common_divisors() {
  local divisor fitting=()
  for ((divisor = 1; divisor <= ($1 < $2 ? $1 : $2); divisor++)); do
    if (($1 % divisor == 0 && $2 % divisor == 0)); then
      fitting+=("$divisor")
    fi
  done
  printf '%s' "${fitting[*]}"
}

check_heads() {
  local heads width
  heads=$(option_value --mhmoe-heads-number 1)
  width=$(option_value --decoder-embed-dim "$(preset_shape 1)")
  if ! is_positive_integer "$heads"; then
    complain "--mhmoe-heads-number is '$heads'; give a whole number of 1 or more"
  elif is_positive_integer "$width" && ((width % heads != 0)); then
    complain "--mhmoe-heads-number $heads does not divide the model width $width of $ARCH; take a divisor of $width"
  fi
}

# Width (field 1) or layers (field 2) of ARCH; empty for a name that this table does not know,
# which fairseq-train then judges. A test compares the table with fairseq_mhmoe/models.
preset_shape() {
  local shape
  case $ARCH in
    dense_lm_tiny | smoe_lm_tiny | xmoe_lm_tiny | mhmoe_lm_tiny) shape="192 4" ;;
    dense_lm_base | smoe_lm_base | xmoe_lm_base | mhmoe_lm_base) shape="768 12" ;;
    dense_lm_v1 | xmoe_lm_v1 | mhmoe_lm_v1) shape="768 12" ;;
    dense_lm_v2 | smoe_lm_v2 | finegrained_lm_v2 | mhmoe_lm_v2 | mhmoe_lm_v2_3heads) shape="768 12" ;;
    gpt_tiny) shape="512 6" ;;
    gpt_small | gpt_small_v2) shape="768 12" ;;
    gpt_medium | gpt_medium_v2) shape="1024 24" ;;
    gpt_large) shape="1536 24" ;;
    gpt_xl) shape="2048 24" ;;
    gpt_2_7B) shape="2560 32" ;;
    gpt_6_7B | llama_7B) shape="4096 32" ;;
    *) shape=" " ;;
  esac
  cut -d ' ' -f "$1" <<<"$shape"
}

check_folders() {
  if [[ -e $SAVE_DIR && ! -d $SAVE_DIR ]]; then
    complain "SAVE_DIR $SAVE_DIR is a file; give a folder"
  fi
  if ((DRY_RUN)); then
    return # the command may be meant for another machine
  fi
  local file
  if [[ ! -d $DATA_DIR ]]; then
    complain "DATA_DIR $DATA_DIR does not exist; $(data_remedy)"
    return
  fi
  local files=(dict.txt train.bin train.idx)
  # what lies in a folder with a manifest, of one source or several, fairseq_mhmoe checks
  [[ ! -f $DATA_DIR/manifest.json ]] || files=(dict.txt)
  for file in "${files[@]}"; do
    [[ -f $DATA_DIR/$file ]] || complain "DATA_DIR $DATA_DIR has no $file; $(data_remedy)"
  done
  [[ -z $SPM_MODEL || -f $SPM_MODEL ]] || complain "SPM_MODEL $SPM_MODEL does not exist; name the SentencePiece model of the data"
}

data_remedy() {
  if [[ $DATA_DIR == "$ROOT/data/demo-english" ]]; then
    printf 'make it with: cd %s && %s/bin/python -m data_prep.demo_english --output data/demo-english' "$ROOT" "$VENV"
  else
    printf 'name a folder that data_prep has written'
  fi
}
