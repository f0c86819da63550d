# shellcheck shell=bash
# The text of `bash scripts/run_english.sh --help` and of run_multilingual.sh.

pretrain_usage() {
  cat <<TEXT
Pre-train a language model in one call: prepare the text, train, evaluate. Every step runs a program whose command line
is shown. Called again, it goes on where it stopped; what is done is not done again.

  bash scripts/$PROGRAM [OPTIONS of fairseq-train]

  SIZE=demo bash scripts/$PROGRAM            tiny model, text out of packages; about ten minutes on two CPU cores
  SIZE=paper RAW='NAME=GLOB ...' bash scripts/$PROGRAM    the papers' sizes; one source for each NAME
TEXT
  if [[ $PROGRAM == run_english.sh ]]; then
    cat <<'TEXT'

  Eight GPUs, RedPajama:
    SIZE=paper NGPUS=8 RAW='redpajama=/corpora/redpajama/*.jsonl.zst' bash scripts/run_english.sh
TEXT
  else
    cat <<'TEXT'

  Eight GPUs, Wikipedia dumps, XLM-R's vocabulary (without TOKENIZER a new one of 250,000 pieces):
    SIZE=paper NGPUS=8 RAW='de=/dumps/dewiki-*.bz2 fr=/dumps/frwiki-*.bz2' TOKENIZER=sentencepiece.bpe.model \
        bash scripts/run_multilingual.sh
TEXT
  fi
  cat <<TEXT
  Two nodes of a Slurm cluster (one task a node; the folders are shared):
    SIZE=paper NGPUS=8 NNODES=2 DATA_DIR=/shared/data SAVE_DIR=/shared/run \\
        srun --nodes 2 --ntasks-per-node 1 --gpus-per-node 8 bash scripts/$PROGRAM
  What would be done:
    DRY_RUN=1 SIZE=paper NGPUS=8 DATA_DIR=/shared/data bash scripts/$PROGRAM --dropout 0.0

Environment variables                                                       demo; paper
  SIZE                   demo or paper                                      demo
  MODEL                  mhmoe, xmoe, smoe or dense                         mhmoe
  PAPER                  v1 or v2: whose training; SIZE=paper only          v1
  ARCH                   architecture                                       MODEL_lm_tiny; MODEL_lm_PAPER
  DATA_DIR               prepared folder, made if it has no manifest.json   data/demo-...; data/CORPUS
  RAW                    NAME=GLOB ...: files to prepare; SIZE=paper only
  TOKENIZER              SentencePiece model or tiktoken; SIZE=paper only   English: cl100k_base; else a new one
  PREPARE_OPTIONS        more options for data_prep; SIZE=paper only        (--executor slurm ... or --exact-dedup)
  ALPHA                  sources are sampled by p^ALPHA                     English: 1.0; multilingual: 0.7
  SAVE_DIR               checkpoints, logs, scores.json                     runs/CORPUS-SIZE-MODEL
  NGPUS, NNODES          processes a node; nodes (start it once on each)    1
  BATCH                  sequences an update, of all processes              8; 256
  UPDATE_FREQ            batches that an update is made of                  1; 4
  TOKENS_PER_SAMPLE      sequence length                                    128; 4096 (v2: 2048)
  MAX_UPDATE             updates                                            400; 100000
  WARMUP_UPDATES         of them with a rising rate                         40; 10000 (v2: 375)
  LR, END_LR             highest and last learning rate                     3e-3, 3e-4; 5e-4, 0 (v2: 6e-4, 3e-5)
  SAVE_INTERVAL_UPDATES  updates between checkpoints and validations        200; 2000
  LOG_INTERVAL           updates between log lines                          20; 100
  EVAL_BATCH             sequences a batch of the evaluation                16; 4
  NUM_WORKERS            data loading processes a process                   0; 4
  SEED                   of initialisation and data order                   1
  PRECISION              memory-efficient-fp16, fp16, bf16 or fp32          memory-efficient-fp16; fp32 on a CPU
  DEVICE                 auto, cuda or cpu                                  auto
  VENV                   virtual environment with fairseq                   .venv here
  DRY_RUN                1 = print the commands and run nothing             0
  MASTER_ADDR, MASTER_PORT, NODE_RANK    as for scripts/run.sh (NNODES > 1) from Slurm where it runs

Results: SAVE_DIR/scores.json (perplexity with its interval, bits per byte, of all and of each source), printed as a
table. Exit code 2: a setting is wrong; each one gets a line with the remedy.
TEXT
}
