# shellcheck shell=bash
# The text of `bash scripts/evaluate.sh --help`.

evaluate_usage() {
  cat <<'TEXT'
Evaluate a checkpoint: perplexity and bits per byte of each split and source, and tasks of lm-evaluation-harness, in
one table. Called again, it goes on where it stopped; what is done for this checkpoint is not done again.

  bash scripts/evaluate.sh CHECKPOINT [DATA]

  bash scripts/evaluate.sh runs/english-demo-mhmoe/checkpoint_best.pt
      perplexity, and OpenBookQA, PIQA, BoolQ and CommonsenseQA out of a package
  TASKS=mhmoe_zero_shot NPROC=8 bash scripts/evaluate.sh runs/x/checkpoint_best.pt
      the papers' zero-shot tasks from the Hugging Face hub, on eight GPUs
  DEVICE=cpu LIMIT=50 bash scripts/evaluate.sh runs/x/checkpoint_best.pt
      a trial

DATA is the prepared folder that the model was trained on (default: the one that the checkpoint names).

Environment variables                                                             default
  TASKS              names with commas between: mhmoe_demonstration,              mhmoe_demonstration
                     mhmoe_zero_shot, mhmoe_xnli, any of the harness
  LOCAL_DATA         folder with <task>/<split>.jsonl, used where it has a task;  data/zero-shot here
                     for the demonstration it is made; empty: none
  NUM_FEWSHOT        examples before each question                                what each task says
  LIMIT              first records of each task only
  SPLITS             of the perplexity                                            valid,test
  TOKENS_PER_SAMPLE  length of the blocks of the perplexity                       as trained
  BATCH              sequences a batch of the perplexity                          16
  OUTPUT             folder of the results                                        CHECKPOINT-evaluation
  NPROC              processes for the tasks                                      1
  DEVICE             auto, cuda or cpu                                            auto
  VENV               virtual environment with fairseq and lm-eval                 .venv here
  DRY_RUN            1 = print the commands and run nothing (name DATA)           0

Results: OUTPUT/evaluation.md and evaluation.json (both parts), scores.json, lm-eval/results.json, answers.jsonl (what
the model answered: a repeated or an interrupted run asks it nothing twice).
Exit code 2: a setting is wrong; each one gets a line with the remedy.
TEXT
}
