# shellcheck shell=bash
# The text of `bash scripts/run.sh --help`.

usage() {
  cat <<'TEXT'
Train MH-MoE language models with stock fairseq.

  bash scripts/run.sh
      The demonstration: environment, real text, a dense, an X-MoE and an MH-MoE model of equal
      training FLOPs, their perplexities in one table and in runs/demo/results.json. About eight
      minutes on two CPU cores after the set-up. Run it again to go on after an interruption.

  bash scripts/run.sh NGPUS NNODES SAVE_DIR BATCH LR EXPERTS TOPK FREQ ["OPTIONS"]
      One training run.

Arguments                                                                        example
  NGPUS     GPUs (processes) per node                                            16
  NNODES    nodes; run the same line on each of them                             1
  SAVE_DIR  folder of the checkpoints and TensorBoard logs                       moe8-top1-freq2-random-6e-4
  BATCH     global batch in sequences; must be a multiple of
            NGPUS x NNODES x UPDATE_FREQ                                         512
  LR        highest learning rate                                                6e-4
  EXPERTS   experts per MoE layer, spread over P processes: the largest number
            that divides EXPERTS and NGPUS x NNODES (smaller ones by
            --moe-expert-parallel-size in OPTIONS)                               8
  TOPK      experts chosen per (sub-)token, 1 to EXPERTS                         1
  FREQ      every FREQ-th layer is an MoE layer; 0 = a dense model               2
  OPTIONS   more options for fairseq-train in one string; they come last and win
            over those set here. Quotes inside are understood; $, ` and * are
            ordinary characters.           "--moe-second-expert-policy random --moe-ffn-dim 2048"

The published example:
  bash scripts/run.sh 16 1 moe8-top1-freq2-random-6e-4 512 6e-4 8 1 2 \
      "--moe-second-expert-policy random --moe-ffn-dim 2048"
MH-MoE instead of SMoE (2 heads, 40 experts, top 2):
  bash scripts/run.sh 8 1 runs/mhmoe 512 6e-4 40 2 2 "--mhmoe-heads-number 2 --moe-ffn-dim 768"
Seeing the whole command without running it:
  DRY_RUN=1 bash scripts/run.sh 8 1 runs/mhmoe 512 6e-4 40 2 2 "--mhmoe-heads-number 2"
A few steps of a small model on a CPU:
  ARCH=mhmoe_lm_tiny MAX_UPDATE=20 TOKENS_PER_SAMPLE=128 UPDATE_FREQ=1 LOG_INTERVAL=1 \
      bash scripts/run.sh 1 1 runs/try 8 1e-3 8 2 2 "--mhmoe-heads-number 2"

Environment variables                                                            default
  DATA_DIR               prepared data folder, of one source or several          data/demo-english here
  SPM_MODEL              SentencePiece model of that data                        DATA_DIR/spm.model
  ARCH                   architecture                                            gpt_small_v2
  UPDATE_FREQ            batches accumulated per update                          4
  TOKENS_PER_SAMPLE      sequence length                                         2048
  MAX_UPDATE             updates; the learning rate decays over as many          100000
  WARMUP_UPDATES         updates of linear warm-up                               375
  END_LR                 learning rate at the end                                3e-5
  PRECISION              memory-efficient-fp16, fp16, bf16 or fp32               memory-efficient-fp16; fp32 on a CPU
  VALIDATE               1 = validate at every save (writes checkpoint_best.pt)  0
  SAVE_INTERVAL_UPDATES  updates between checkpoints                             5000
  LOG_INTERVAL           updates between log lines                               100
  NUM_WORKERS            data loading processes per rank                         2
  SEED                   seed of initialisation and data order                   1
  MAX_RESTARTS           how often torchrun starts the processes again when
                         one has failed; they go on from the last checkpoint     0
  DEVICE                 auto, cuda or cpu                                       auto: GPUs when there are any
  VENV                   virtual environment with fairseq                        .venv here
  DRY_RUN                1 = print the command and run nothing                   0
  MASTER_ADDR            address of node 0 (NNODES > 1)                          first host of the Slurm job
  MASTER_PORT            its port                                                29500
  NODE_RANK              number of this node from 0 (NNODES > 1)                 from SLURM_NODEID, GROUP_RANK
                                                                                 or OMPI_COMM_WORLD_RANK

Start the script once per node, not once per GPU. A relative SAVE_DIR, DATA_DIR or VENV is seen from
the folder you call from. Training goes on from SAVE_DIR/checkpoint_last.pt when that is there.
SIGTERM or SIGUSR1: it saves, writes SAVE_DIR/stopped_early.json and ends (docs/clusters.md).
Exit code 2: an argument is wrong; each one gets a line with the remedy.
TEXT
}
