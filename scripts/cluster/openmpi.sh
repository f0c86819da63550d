#!/usr/bin/env bash
# Open MPI: mpirun starts every rank, on the hosts of a file with lines such as "node0 slots=8".
#     HOSTFILE=hosts.txt bash scripts/cluster/openmpi.sh [MORE OPTIONS OF fairseq-train]
# Exit status: 0 finished, 75 stopped early by SIGTERM or SIGUSR1 (start it again), others failed.
set -euo pipefail

# --- settings ---------------------------------------------------------------------------------------------------------
ROOT=${ROOT:-$PWD}                            # the repository, on storage that all hosts see
VENV=${VENV:-$ROOT/.venv}                     # its environment, in CONTAINER if there is one
DATA_DIR=${DATA_DIR:-$ROOT/data/english}      # prepared data
SAVE_DIR=${SAVE_DIR:-$ROOT/runs/mhmoe}        # checkpoints, on storage that all hosts see
HOSTFILE=${HOSTFILE:-hosts.txt}               # first line: the host of rank 0
MASTER_PORT=${MASTER_PORT:-29500}             # a free port of it
CONTAINER=${CONTAINER:-}                      # an Apptainer image; empty: none
DRY_RUN=${DRY_RUN:-0}                         # 1 = print the command and run nothing
MPIRUN=(mpirun --bind-to none --tag-output)   # on InfiniBand perhaps: --mca btl_tcp_if_include ib0
TRAIN=(--task gpt --arch mhmoe_lm_v2 --criterion moe_cross_entropy --ddp-backend legacy_ddp --bf16
  --optimizer adam --adam-betas '(0.9, 0.95)' --lr 6e-4 --lr-scheduler polynomial_decay --warmup-updates 375
  --clip-norm 2.0 --batch-size 8 --update-freq 4 --tokens-per-sample 2048 --max-update 100000
  --total-num-update 100000 --save-interval-updates 1000 --keep-interval-updates 2 --no-epoch-checkpoints)
# ----------------------------------------------------------------------------------------------------------------------
MARKER=$SAVE_DIR/stopped_early.json # written by a training that was stopped by a signal

usage() { sed -n '2,4s/^# //p' "$0"; }

die() {
  printf 'openmpi: error: %s\n' "$*" >&2
  exit 2
}

check() {
  command -v mpirun >/dev/null || die "there is no mpirun; load the module of Open MPI"
  [[ -n $CONTAINER || -x $VENV/bin/fairseq-train ]] || die "no fairseq-train in $VENV/bin; set VENV, or run scripts/setup.sh"
  [[ -z $CONTAINER || -f $CONTAINER ]] || die "CONTAINER $CONTAINER does not exist"
  [[ -f $DATA_DIR/dict.txt ]] || die "DATA_DIR $DATA_DIR has no dict.txt; name a folder that data_prep has written"
  mkdir -p "$SAVE_DIR" || die "SAVE_DIR $SAVE_DIR cannot be made"
}

# Host of rank 0 and number of slots, from HOSTFILE.
read_hosts() {
  [[ -f $HOSTFILE ]] || die "HOSTFILE $HOSTFILE does not exist; write lines such as: node0 slots=8"
  master=$(awk '!/^#/ && NF { print $1; exit }' "$HOSTFILE")
  slots=$(awk '!/^#/ && NF { n = 1; for (i = 2; i <= NF; i++) if (sub(/^slots=/, "", $i)) n = $i; sum += n }
    END { print sum + 0 }' "$HOSTFILE")
  ((slots > 0)) || die "HOSTFILE $HOSTFILE has no host; write lines such as: node0 slots=8"
}

signals=0
# mpirun passes SIGUSR1 on to all ranks. SIGTERM would kill them after a second.
pass_on() {
  signals=$((signals + 1))
  printf 'openmpi: %s: the training saves and ends\n' "$1" >&2
  kill -USR1 "$job" || true
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
  if [[ -e $MARKER ]]; then
    printf 'openmpi: stopped early: the same command goes on\n' >&2
    exit 75
  fi
  printf 'openmpi: %s with status %s\n' "$( ((status == 0)) && printf finished || printf failed)" "$status" >&2
  exit "$status"
}

main() {
  local container=()
  [[ -z $CONTAINER ]] || container=(apptainer exec --nv --bind "$ROOT" "$CONTAINER")
  read_hosts
  local command=("${MPIRUN[@]}" -np "$slots" --hostfile "$HOSTFILE" -x "MASTER_ADDR=$master"
    -x "MASTER_PORT=$MASTER_PORT" "${container[@]}" "$VENV/bin/fairseq-train" "$DATA_DIR"
    --user-dir "$ROOT/fairseq_mhmoe" --save-dir "$SAVE_DIR" "${TRAIN[@]}" "$@")
  printf '%q ' "${command[@]}"
  printf '\n'
  ((DRY_RUN == 0)) || exit 0
  check
  rm -f -- "$MARKER"
  run "${command[@]}"
  finish
}

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  usage
else
  main "$@"
fi
