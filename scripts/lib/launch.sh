# shellcheck shell=bash
# Builds the command of a training run: where it runs (launcher, device, precision) and what it trains.

# Counts the GPUs that torch can use; sets DEVICE to cuda or cpu.
choose_device() {
  if ((DRY_RUN)); then
    [[ $DEVICE != auto ]] || DEVICE=cuda
    return
  fi
  [[ -x $VENV/bin/fairseq-train ]] ||
    die "no fairseq-train in $VENV/bin; run bash scripts/setup.sh first, or set VENV to an environment that has it"
  [[ $DEVICE != cpu ]] || return 0
  local gpus
  gpus=$("$VENV/bin/python" -c 'import torch; print(torch.cuda.device_count())') ||
    die "torch does not start in $VENV; repair it with bash scripts/setup.sh"
  if ((gpus >= NGPUS)); then
    DEVICE=cuda
  elif ((gpus > 0)); then
    die "NGPUS is $NGPUS, but this machine has $gpus; take NGPUS $gpus (BATCH stays the same), or DEVICE=cpu"
  elif [[ $DEVICE == cuda ]]; then
    die "DEVICE=cuda, but torch sees no GPU; check nvidia-smi and that $VENV holds a CUDA build, or set DEVICE=cpu"
  else
    DEVICE=cpu
    note "no GPU: training on the CPU ($NGPUS process(es), $(getconf _NPROCESSORS_ONLN) cores)"
  fi
}

choose_precision() {
  if [[ $DEVICE == cuda ]]; then
    PRECISION=${PRECISION:-memory-efficient-fp16}
    return
  fi
  case $PRECISION in
    '')
      note "a CPU computes fp16 in emulation: memory-efficient fp16 is left out, PRECISION=fp32 (bf16 works too)"
      PRECISION=fp32
      ;;
    fp32 | bf16) ;;
    *) die "PRECISION=$PRECISION makes no sense on a CPU, which computes fp16 in emulation; take fp32 or bf16" ;;
  esac
}

# Number of this node, 0 to NNODES-1. The script must have been started once per node.
find_node_rank() {
  NODE_RANK=${NODE_RANK:-${GROUP_RANK:-${SLURM_NODEID:-${OMPI_COMM_WORLD_RANK:-}}}}
  if ((NNODES == 1)); then
    NODE_RANK=0
    return
  fi
  local local_rank=${SLURM_LOCALID:-${OMPI_COMM_WORLD_LOCAL_RANK:-${LOCAL_RANK:-0}}}
  if [[ $local_rank != 0 ]]; then
    die "started more than once on this node (local rank $local_rank); start it once per node, it starts NGPUS itself"
  fi
  if [[ -z $NODE_RANK ]] && ((DRY_RUN)); then
    note "the number of this node is not known here: shown as 0"
    NODE_RANK=0
  fi
  [[ -n $NODE_RANK ]] || die "NNODES is $NNODES, but the number of this node is not known; set NODE_RANK (0 to $((NNODES - 1)))"
  if ! is_whole_number "$NODE_RANK" || ((NODE_RANK >= NNODES)); then
    die "the number of this node is '$NODE_RANK', expected 0 to $((NNODES - 1)); check NNODES and NODE_RANK"
  fi
}

find_master() {
  MASTER_PORT=${MASTER_PORT:-29500}
  if ! is_positive_integer "$MASTER_PORT" || ((MASTER_PORT > 65535)); then
    die "MASTER_PORT is '$MASTER_PORT'; give a port from 1 to 65535"
  fi
  if [[ -n ${MASTER_ADDR:-} ]]; then
    return
  fi
  if ((NNODES == 1)); then
    MASTER_ADDR=127.0.0.1
  elif [[ -n ${SLURM_JOB_NODELIST:-} ]] && command -v scontrol >/dev/null; then
    MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
  elif ((DRY_RUN)); then
    note "MASTER_ADDR is not set: shown as 127.0.0.1"
    MASTER_ADDR=127.0.0.1
  fi
  [[ -n ${MASTER_ADDR:-} ]] || die "NNODES is $NNODES, but MASTER_ADDR is not set; set it to the address of node 0"
}

# Sets LAUNCHER and DEVICE_OPTIONS.
build_launcher() {
  local ranks=$((NGPUS * NNODES))
  MAX_RESTARTS=${MAX_RESTARTS:-0} # the scripts of pre-training have no such setting of their own
  # Always given: fairseq otherwise takes every GPU that it sees.
  DEVICE_OPTIONS=(--distributed-world-size "$ranks")
  if [[ $DEVICE == cpu ]]; then
    DEVICE_OPTIONS+=(--cpu)
  fi
  LAUNCHER=("$VENV/bin/fairseq-train")
  if ((ranks == 1 && MAX_RESTARTS == 0)); then
    return
  fi
  find_node_rank
  find_master
  if [[ $DEVICE == cpu ]]; then
    DEVICE_OPTIONS+=(--distributed-backend gloo)
  fi
  local restarts=()
  ((MAX_RESTARTS == 0)) || restarts=(--max-restarts "$MAX_RESTARTS")
  LAUNCHER=("$VENV/bin/torchrun" --nnodes "$NNODES" --node-rank "$NODE_RANK" --nproc-per-node "$NGPUS"
    --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT" "${restarts[@]}" "$VENV/bin/fairseq-train")
  give_ranks_time_to_save
}

# torchrun passes SIGTERM on and kills after 30 seconds; SIGUSR1 would end it and leave the ranks behind. Variables
# instead of options, because releases of torch that do not know these take no notice.
give_ranks_time_to_save() {
  export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600}
  export PET_SIGNALS_TO_HANDLE=${PET_SIGNALS_TO_HANDLE:-SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1}
}

# glibc otherwise gives large buffers back to the system and fetches fresh ones at every update. What is set stays.
keep_large_buffers() {
  export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-1073741824}
  export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-4294967296}
}

# Sets PRECISION_OPTIONS.
build_precision() {
  case $PRECISION in
    memory-efficient-fp16 | fp16) PRECISION_OPTIONS=("--$PRECISION" --fp16-init-scale 4) ;;
    bf16) PRECISION_OPTIONS=(--bf16) ;;
    fp32) PRECISION_OPTIONS=() ;;
  esac
}

# Sets COMMAND: the published options in their order, then OPTIONS, which win. Two are left out on purpose:
# --reset-dataloader would start the data from the beginning at each resume, and with it the same text twice;
# --disable-validation goes when VALIDATE=1.
build_command() {
  choose_device
  choose_precision
  build_launcher
  build_precision
  local validation=(--disable-validation) top1=() tokenizer=() expert_count=$EXPERTS
  ((FREQ > 0)) || expert_count=0 # fairseq_mhmoe refuses experts that no layer has
  ((VALIDATE == 0)) || validation=()
  ((TOPK > 1)) || top1=(--moe-top1-expert)
  [[ -z $SPM_MODEL ]] || tokenizer=(--spm-model "$SPM_MODEL")
  # shellcheck disable=SC2034  # run.sh prints and runs it
  COMMAND=(
    "${LAUNCHER[@]}" "$DATA_DIR"
    --user-dir "$ROOT/fairseq_mhmoe" "${DEVICE_OPTIONS[@]}"
    --save-dir "$SAVE_DIR" --tensorboard-logdir "$SAVE_DIR/tb-logs"
    --num-workers "$NUM_WORKERS" --activation-fn silu --share-decoder-input-output-embed
    --save-interval-updates "$SAVE_INTERVAL_UPDATES" --no-epoch-checkpoints
    "${PRECISION_OPTIONS[@]}" --checkpoint-activations
    --input-quant-method absmax_per_token --weight-quant-method absmean --input-bits 32 --weight-bits 32
    --task gpt --sample-break-mode none
    --tokens-per-sample "$TOKENS_PER_SAMPLE" --scale-length "$TOKENS_PER_SAMPLE"
    --arch "$ARCH" --log-format simple --log-interval "$LOG_INTERVAL" "${validation[@]}"
    --optimizer adam --adam-betas '(0.9, 0.95)' --adam-eps 1e-06 --clip-norm 2.0
    --lr "$LR" --end-learning-rate "$END_LR" --lr-scheduler polynomial_decay --warmup-updates "$WARMUP_UPDATES"
    --dropout 0.0 --attention-dropout 0.0 --weight-decay 0.1
    --batch-size "$((BATCH / (NGPUS * NNODES * UPDATE_FREQ)))" --update-freq "$UPDATE_FREQ"
    --required-batch-size-multiple 1
    --total-num-update "$MAX_UPDATE" --max-update "$MAX_UPDATE" --seed "$SEED" --ddp-backend no_c10d
    --moe-expert-count "$expert_count" --moe-freq "$FREQ" --moe-top-k "$TOPK" --pad-to-max-len "${top1[@]}"
    --moe-gating-use-fp32 --moe-normalize-gate-prob-before-dropping --moe-eval-capacity-token-fraction -1.0
    --criterion moe_cross_entropy --moe-gate-loss-wt 0.01 --moe-gate-loss-combine-method sum
    --flash-attention "${tokenizer[@]}"
    --rotary-embed --no-token-positional-embeddings --no-scale-embedding --no-bias --rms-norm
    --batch-read-ahead 100 "${OPTION_WORDS[@]}"
  )
}
