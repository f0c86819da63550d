#!/usr/bin/env bash
# Table 1 of the papers in miniature: models of equal cost, several seeds, a verdict on the order. --help explains.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${VENV:-$ROOT/.venv}
DRY_RUN=${DRY_RUN:-0}

# shellcheck source=lib/common.sh
source "$ROOT/scripts/lib/common.sh"
# shellcheck source=lib/demonstration.sh
source "$ROOT/scripts/lib/demonstration.sh"

usage() {
  cat <<'TEXT'
Train the models that the papers compare, in miniature, with several seeds, and say whether the papers' order appears.

  bash scripts/reproduce.sh [english|multilingual|multimodal] [OPTIONS]

  bash scripts/reproduce.sh english                        v1, table 1: dense, X-MoE, MH-MoE of equal parameters
  bash scripts/reproduce.sh multilingual --parity flops    the same in 27 languages, at equal FLOPs, too
  bash scripts/reproduce.sh multimodal                    masked images, texts and image-text pairs; an hour
  bash scripts/reproduce.sh english --paper v2             v2, table 1: SMoE, fine-grained SMoE, MH-MoE 2 and 3 heads
  bash scripts/reproduce.sh english --ablation heads       v1, table 5: numbers of heads
  bash scripts/reproduce.sh english --ablation components  v1, table 6: with and without split, linear layers
  bash scripts/reproduce.sh english --experts 8 16 32      with a scaling plot
  bash scripts/reproduce.sh english --full                 larger, 8 and 32 experts: for a GPU
  bash scripts/reproduce.sh english --plan                 models, cost and commands; nothing is trained

What is compared
  --paper v1|v2          whose table 1                                               v1
  --ablation NAME        heads, components, or depth (linear layers n = 0 to 3)      table 1
  --parity NAME          params: MH-MoE has X-MoE's parameters; flops: and FLOPs     params
  --models M ...         only these, by name or family: xmoe mhmoe-8                 all
  --seeds S ...                                                                   11 12 13
At which size (fairseq_mhmoe/cli/reproduce_settings.py holds the table)
  --full                 larger models, more tokens, 8 and 32 experts
  --experts N ...        of X-MoE or SMoE
  --tokens N             that each model sees
  --learning-rate X ...  of all models, or by family: 2e-3 mhmoe=3e-3
  --set NAME=VALUE ...   any setting of the table: width=256 heads=4
Where
  --data FOLDER          prepared folder                                             made from packages that pip fetches
  --name NAME            of the results                                              corpus, size and comparison
  --output FOLDER        of the results                                              runs/reproduce/NAME
  --device NAME          auto, cpu or cuda                                           auto
  --jobs N               runs at a time; numbers do not depend on it                 one per core; one on a GPU
  --fresh                train anew what was begun with other settings or code
  --plan                 print models, cost and commands, and end

Environment variables
  VENV                   virtual environment with fairseq, made if it is not there   .venv here
  DRY_RUN                1 = print the command and run nothing                       0

Paths are seen from the repository's root. Results: results.json, table.md and pictures; docs/evidence.md explains them.
Called again it goes on where it stopped. Exit code 2: an option is wrong; 1: a step failed.
TEXT
}

main() {
  if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    usage
    return
  fi
  run_from_root fairseq_mhmoe.cli.reproduce "$@"
}

main "$@"
