#!/usr/bin/env bash
# Elastic: torchrun on MIN to MAX nodes; when a rank or a node fails, the others go on from the last checkpoint.
#     NNODES=2:4 HEAD=node0:29400 bash scripts/cluster/elastic.sh [MORE OPTIONS OF fairseq-train]   # on every node
# Exit status: 0 finished, 75 stopped early by SIGTERM or SIGUSR1 (start it again), others failed.
set -euo pipefail

# --- settings ---------------------------------------------------------------------------------------------------------
export ROOT=${ROOT:-$PWD}                     # the repository, on storage that all nodes see
export VENV=${VENV:-$ROOT/.venv}              # its environment
export DATA_DIR=${DATA_DIR:-$ROOT/data/english} # prepared data
export SAVE_DIR=${SAVE_DIR:-$ROOT/runs/mhmoe} # checkpoints, on storage that all nodes see
NNODES=${NNODES:-1:2}                         # fewest and most nodes
NGPUS=${NGPUS:-8}                             # ranks of a node
HEAD=${HEAD:-127.0.0.1:29400}                 # one node's address and a free port; it must not be the one to fail
MAX_RESTARTS=${MAX_RESTARTS:-10}              # restarts after failures, of each node
export BATCHES=${BATCHES:-64}                 # batches of one update, of all ranks together: a multiple of their number
DRY_RUN=${DRY_RUN:-0}                         # 1 = print the command and run nothing
TRAIN=(--task gpt --arch mhmoe_lm_v2 --criterion moe_cross_entropy --ddp-backend legacy_ddp --bf16
  --optimizer adam --adam-betas '(0.9, 0.95)' --lr 6e-4 --lr-scheduler polynomial_decay --warmup-updates 375
  --clip-norm 2.0 --batch-size 8 --tokens-per-sample 2048 --max-update 100000
  --total-num-update 100000 --save-interval-updates 1000 --keep-interval-updates 2 --no-epoch-checkpoints)
# ----------------------------------------------------------------------------------------------------------------------
MARKER=$SAVE_DIR/stopped_early.json # written by a training that was stopped by a signal

usage() { sed -n '2,4s/^# //p' "$0"; }

die() {
  printf 'elastic: error: %s\n' "$*" >&2
  exit 2
}

check() {
  [[ $NNODES =~ ^[1-9][0-9]*(:[1-9][0-9]*)?$ ]] || die "NNODES is '$NNODES'; give MIN:MAX, for example 2:4"
  [[ $HEAD =~ ^[^:]+:[0-9]+$ ]] || die "HEAD is '$HEAD'; give ADDRESS:PORT, for example node0:29400"
  [[ -x $VENV/bin/fairseq-train ]] || die "no fairseq-train in $VENV/bin; set VENV, or run scripts/setup.sh"
  [[ -f $DATA_DIR/dict.txt ]] || die "DATA_DIR $DATA_DIR has no dict.txt; name a folder that data_prep has written"
  mkdir -p "$SAVE_DIR" || die "SAVE_DIR $SAVE_DIR cannot be made"
}

# What torchrun starts in every rank: the fewer ranks there are, the more batches each takes for an update.
rank() {
  ((BATCHES % WORLD_SIZE == 0)) || die "BATCHES $BATCHES is not a multiple of the $WORLD_SIZE ranks; an update would differ"
  exec "$VENV/bin/fairseq-train" "$@" --update-freq "$((BATCHES / WORLD_SIZE))"
}

signals=0
pass_on() {
  signals=$((signals + 1))
  printf 'elastic: %s: the training saves and ends\n' "$1" >&2
  kill -TERM "$job" || true # torchrun passes it on to its ranks, and those tell the other nodes'
}

# Runs the command; sets status. Traps end bash's wait early.
run() {
  trap 'pass_on SIGUSR1' USR1
  trap 'pass_on SIGTERM' TERM
  "$@" &
  job=$!
  local before=-1
  while ((before != signals)); do
    before=$signals status=0
    wait "$job" || status=$?
  done
}

finish() {
  # one from before this start: the training failed before it could remove it
  if [[ -e $MARKER && $(<"$MARKER") != "$old_marker" ]]; then
    printf 'elastic: stopped early: the same command goes on\n' >&2
    exit 75
  fi
  printf 'elastic: %s with status %s\n' "$( ((status == 0)) && printf finished || printf failed)" "$status" >&2
  exit "$status"
}

main() {
  # a new store at every restart: ranks that failed leave their addresses in the old one; 10 minutes to save
  export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600
  local command=("$VENV/bin/torchrun" --nnodes "$NNODES" --nproc-per-node "$NGPUS" --max-restarts "$MAX_RESTARTS"
    --rdzv-backend c10d --rdzv-endpoint "$HEAD" --rdzv-id "${SAVE_DIR##*/}" --no-python
    bash "${BASH_SOURCE[0]}" --rank "$DATA_DIR" --user-dir "$ROOT/fairseq_mhmoe" --save-dir "$SAVE_DIR"
    "${TRAIN[@]}" "$@")
  printf '%q ' "${command[@]}"
  printf '\n'
  ((DRY_RUN == 0)) || exit 0
  check
  old_marker=none
  # other nodes may train already, so it is not removed here
  [[ ! -e $MARKER ]] || old_marker=$(<"$MARKER")
  run "${command[@]}"
  finish
}

case ${1:-} in
  --help | -h) usage ;;
  --rank) rank "${@:2}" ;;
  *) main "$@" ;;
esac
