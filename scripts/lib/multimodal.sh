# shellcheck shell=bash
# Masked image-text pre-training at the paper's size, for scripts/run_multimodal.sh. The caller has set ROOT and VENV.

usage() {
  cat <<'TEXT'
Masked image-text pre-training, from pictures to answers, in one call. Called again, it goes on where it stopped.

  bash scripts/run_multimodal.sh [OPTIONS]   the demonstration: data out of packages, visual tokenizer, pre-training of
                                             tiny dense, X-MoE and MH-MoE models, questions about pictures from
                                             pre-training and from scratch; under 25 minutes on two CPU cores.
                                             OPTIONS are those of python -m fairseq_mhmoe.cli.multimodal_demo --help
  SIZE=paper DATA_DIR=data/multimodal bash scripts/run_multimodal.sh [OVERRIDES]
                                             pre-training at the paper's size: configs/v1/multimodal_MODEL.yaml, with
                                             OVERRIDES as fairseq-hydra-train takes them (optimization.max_update=1000)

  Eight GPUs:
    SIZE=paper NGPUS=8 DATA_DIR=data/multimodal bash scripts/run_multimodal.sh
  Two nodes of a Slurm cluster (one task a node; the folders are shared):
    SIZE=paper NGPUS=8 NNODES=2 DATA_DIR=/shared/data SAVE_DIR=/shared/run \
        srun --nodes 2 --ntasks-per-node 1 --gpus-per-node 8 bash scripts/run_multimodal.sh
  What would be done:
    DRY_RUN=1 SIZE=paper NGPUS=8 DATA_DIR=data/multimodal bash scripts/run_multimodal.sh

The paper's settings: 224 pixels in patches of 16, codes of BEiT v2's VQ-KD tokenizer, 512 images, texts and pairs an
update, AdamW (0.9, 0.98), eps 1e-6, learning rate 2.8e-3 with cosine decay, 10,000 updates of warm-up, weight decay 0.05,
stochastic depth 0.1.

Environment variables, SIZE=paper
  DATA_DIR               folder with text/, pairs/, images/ and image_tokenizer.pt; docs/image-data.md makes them
  IMAGE_TOKENIZER        visual tokenizer, ours or a published one          DATA_DIR/image_tokenizer.pt
  MODEL                  dense, xmoe_8experts, xmoe_32experts, mhmoe_8experts or mhmoe_32experts    mhmoe_8experts
  SAVE_DIR               checkpoints, logs, scores.json                     runs/multimodal-paper-MODEL
  NGPUS, NNODES          processes a node; nodes (start it once on each)    1
  BATCH                  images, texts and pairs an update, of all processes    512
  UPDATE_FREQ            batches that an update is made of                  512 / (NGPUS x NNODES x 64), at least 1
  DEVICE                 auto, cuda or cpu                                  auto
  VENV                   virtual environment with fairseq                   .venv here
  DRY_RUN                1 = print the commands and run nothing             0
  MASTER_ADDR, MASTER_PORT, NODE_RANK    as for scripts/run.sh (NNODES > 1) from Slurm where it runs

Results of SIZE=paper: SAVE_DIR/scores.json, perplexities of every stream. Fine-tuning for VQAv2, NLVR2 and captions:
docs/finetuning.md. Exit code 2: a setting is wrong.
TEXT
}

# paper_training OVERRIDES...: pre-train with the paper's settings, and evaluate on node 0.
paper_training() {
  read_paper_settings "$@"
  check_paper_settings
  choose_device
  build_launcher
  find_node_rank
  local program=("$VENV/bin/python")
  if ((NGPUS * NNODES > 1)); then
    program=("$VENV/bin/torchrun" --nnodes "$NNODES" --node-rank "$NODE_RANK" --nproc-per-node "$NGPUS"
      --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT")
  fi
  local overrides=(
    task.data="$DATA_DIR" task.image_tokenizer="$IMAGE_TOKENIZER" checkpoint.save_dir="$SAVE_DIR"
    dataset.batch_size="$((BATCH / (NGPUS * NNODES * UPDATE_FREQ)))" "optimization.update_freq=[$UPDATE_FREQ]"
    common.tensorboard_logdir="$SAVE_DIR/tb-logs" common.log_file="$SAVE_DIR/train.log"
  )
  [[ $DEVICE != cpu ]] || overrides+=(common.cpu=true common.bf16=false)
  cd "$ROOT" || die "cannot enter $ROOT"
  run_step "${program[@]}" -m fairseq_mhmoe.cli.hydra_train --config-dir configs \
    --config-name "v1/multimodal_$MODEL" "${overrides[@]}" "$@"
  ((NODE_RANK == 0)) || return 0
  run_step "$VENV/bin/python" -m fairseq_mhmoe.cli.evaluate_multimodal "$SAVE_DIR/checkpoint_best.pt" "$DATA_DIR" \
    --split valid --output "$SAVE_DIR/scores.json"
}

# Shows a command; runs it unless DRY_RUN=1.
run_step() {
  quote_words "$@"
  if ((!DRY_RUN)); then
    mkdir -p "$SAVE_DIR" || die "SAVE_DIR $SAVE_DIR cannot be made; give a folder in which you may write"
    "$@"
  fi
}

read_paper_settings() {
  NGPUS=${NGPUS:-1}
  NNODES=${NNODES:-1}
  DEVICE=${DEVICE:-auto}
  BATCH=${BATCH:-512}
  MODEL=${MODEL:-mhmoe_8experts}
  DATA_DIR=$(absolute "${DATA_DIR:-$ROOT/data/multimodal}")
  IMAGE_TOKENIZER=$(absolute "${IMAGE_TOKENIZER:-$DATA_DIR/image_tokenizer.pt}")
  SAVE_DIR=$(absolute "${SAVE_DIR:-$ROOT/runs/multimodal-paper-$MODEL}")
  VENV=$(absolute "$VENV")
  if (($# > 0)) && [[ $1 != *=* ]]; then
    complain "'$1' is no override; expected NAME=VALUE as fairseq-hydra-train takes it, all else is a variable"
  fi
}

check_paper_settings() {
  local name
  [[ -f $ROOT/configs/v1/multimodal_$MODEL.yaml ]] ||
    complain "MODEL is '$MODEL'; choose dense, xmoe_8experts, xmoe_32experts, mhmoe_8experts or mhmoe_32experts"
  for name in NGPUS NNODES BATCH; do
    is_positive_integer "${!name}" || complain "$name is '${!name}'; give a whole number of 1 or more"
  done
  case $DEVICE in
    auto | cuda | cpu) ;;
    *) complain "DEVICE is '$DEVICE'; choose auto, cuda or cpu" ;;
  esac
  [[ $DRY_RUN == [01] ]] || complain "DRY_RUN is '$DRY_RUN'; give 0 or 1"
  stop_on_errors # what follows calculates with these numbers
  local ranks=$((NGPUS * NNODES))
  UPDATE_FREQ=${UPDATE_FREQ:-$((BATCH >= ranks * 64 ? BATCH / (ranks * 64) : 1))}
  is_positive_integer "$UPDATE_FREQ" || complain "UPDATE_FREQ is '$UPDATE_FREQ'; give a whole number of 1 or more"
  stop_on_errors
  if ((BATCH % (ranks * UPDATE_FREQ) != 0)); then
    complain "BATCH $BATCH is not a multiple of NGPUS x NNODES x UPDATE_FREQ = $((ranks * UPDATE_FREQ)); change one"
  fi
  if ((!DRY_RUN)); then
    for name in text pairs images; do
      [[ -f $DATA_DIR/$name/manifest.json ]] ||
        complain "no $DATA_DIR/$name/manifest.json; python -m data_prep$([[ $name == text ]] || printf .images)" \
          "--output $DATA_DIR/$name ... prepares it, see docs/image-data.md"
    done
    [[ -f $IMAGE_TOKENIZER ]] ||
      complain "no visual tokenizer $IMAGE_TOKENIZER; name a published one with IMAGE_TOKENIZER (docs/image-tokenizers.md)"
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
