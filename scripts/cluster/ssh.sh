#!/usr/bin/env bash
# No batch system: ssh to each host of a list, torchrun there. Keys without passwords are needed.
#     HOSTS="node0 node1" bash scripts/cluster/ssh.sh [MORE OPTIONS OF fairseq-train]
# Exit status: 0 finished, 75 stopped early by SIGTERM or SIGUSR1 (start it again), others failed.
set -euo pipefail

# --- settings ---------------------------------------------------------------------------------------------------------
HOSTS=${HOSTS:-}                              # names that ssh knows, the one of rank 0 first
NGPUS=${NGPUS:-8}                             # ranks of a host
ROOT=${ROOT:-$PWD}                            # the repository, on storage that all hosts see
VENV=${VENV:-$ROOT/.venv}                     # its environment
DATA_DIR=${DATA_DIR:-$ROOT/data/english}      # prepared data
SAVE_DIR=${SAVE_DIR:-$ROOT/runs/mhmoe}        # checkpoints, on storage that all hosts see
MASTER_PORT=${MASTER_PORT:-29500}             # a free port of the first host
DRY_RUN=${DRY_RUN:-0}                         # 1 = print the commands and run nothing
REMOTE_ENV=(TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600) # more: NCCL_DEBUG=INFO NCCL_SOCKET_IFNAME=ib0
TRAIN=(--task gpt --arch mhmoe_lm_v2 --criterion moe_cross_entropy --ddp-backend legacy_ddp --bf16
  --optimizer adam --adam-betas '(0.9, 0.95)' --lr 6e-4 --lr-scheduler polynomial_decay --warmup-updates 375
  --clip-norm 2.0 --batch-size 8 --update-freq 4 --tokens-per-sample 2048 --max-update 100000
  --total-num-update 100000 --save-interval-updates 1000 --keep-interval-updates 2 --no-epoch-checkpoints)
# ----------------------------------------------------------------------------------------------------------------------
MARKER=$SAVE_DIR/stopped_early.json # written by a training that was stopped by a signal

usage() { sed -n '2,4s/^# //p' "$0"; }

die() {
  printf 'ssh: error: %s\n' "$*" >&2
  exit 2
}

check() {
  [[ $NGPUS =~ ^[1-9][0-9]*$ ]] || die "NGPUS is '$NGPUS'; give the number of GPUs of a host"
  [[ -f $DATA_DIR/dict.txt ]] || die "DATA_DIR $DATA_DIR has no dict.txt; name a folder that data_prep has written"
  mkdir -p "$SAVE_DIR" || die "SAVE_DIR $SAVE_DIR cannot be made"
}

pid_file() { printf '%s/.torchrun-%s.pid' "$SAVE_DIR" "$1"; }

# The line for host number $1; the remote shell notes its number and becomes torchrun.
remote_line() {
  local command=(env "${REMOTE_ENV[@]}" "$VENV/bin/torchrun" --nnodes "${#hosts[@]}" --node-rank "$1"
    --nproc-per-node "$NGPUS" --master-addr "${hosts[0]}" --master-port "$MASTER_PORT" "$VENV/bin/fairseq-train"
    "$DATA_DIR" --user-dir "$ROOT/fairseq_mhmoe" --save-dir "$SAVE_DIR" "${TRAIN[@]}" "${@:2}")
  # shellcheck disable=SC2016  # the remote shell's own number
  printf 'cd %q && echo $$ >%q && exec' "$ROOT" "$(pid_file "$1")"
  printf ' %q' "${command[@]}"
}

signals=0
# ssh passes no signals on: torchrun is told on every host, by the number that it left.
pass_on() {
  signals=$((signals + 1))
  printf 'ssh: %s: the training saves and ends\n' "$1" >&2
  local i
  for i in "${!hosts[@]}"; do
    ssh -n -o BatchMode=yes "${hosts[i]}" "kill -TERM \$(cat $(printf '%q' "$(pid_file "$i")"))" || true
  done
}

# Starts all hosts, waits for all; status is the first that is not 0. Traps end bash's wait early.
run() {
  trap 'pass_on SIGUSR1' USR1
  trap 'pass_on SIGTERM' TERM
  local i one before jobs=()
  for i in "${!hosts[@]}"; do
    ssh -n -o BatchMode=yes -o ServerAliveInterval=30 "${hosts[i]}" "$(remote_line "$i" "$@")" &
    jobs+=($!)
  done
  status=0
  for i in "${!jobs[@]}"; do
    before=-1
    while ((before != signals)); do
      before=$signals one=0
      wait "${jobs[i]}" || one=$?
    done
    ((status != 0)) || status=$one
    rm -f -- "$(pid_file "$i")"
  done
}

finish() {
  if [[ -e $MARKER ]]; then
    printf 'ssh: stopped early: the same command goes on\n' >&2
    exit 75
  fi
  printf 'ssh: %s with status %s\n' "$( ((status == 0)) && printf finished || printf failed)" "$status" >&2
  exit "$status"
}

main() {
  read -r -a hosts <<<"$HOSTS"
  [[ -n ${HOSTS// /} ]] || die "HOSTS is empty; give names that ssh knows, for example HOSTS='node0 node1'"
  local i
  for i in "${!hosts[@]}"; do
    printf 'ssh %s %q\n' "${hosts[i]}" "$(remote_line "$i" "$@")"
  done
  ((DRY_RUN == 0)) || exit 0
  check
  rm -f -- "$MARKER"
  run "$@"
  finish
}

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  usage
else
  main "$@"
fi
