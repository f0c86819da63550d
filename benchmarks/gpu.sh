#!/usr/bin/env bash
# What somebody with a GPU runs: tests, all benchmarks, and measured times beside those expected on paper.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=benchmarks/programs.sh
source "$ROOT/benchmarks/programs.sh"
FAILED=()

usage() {
  cat <<'TEXT'
usage: bash benchmarks/gpu.sh [--output FOLDER] [--quick] [--dry-run]

Needs one NVIDIA GPU, which nothing else should use meanwhile. Runs the tests marked gpu, then the benchmarks on the GPU
in every number type that it has, and writes logs, figures (JSON), a profile and report.md into FOLDER (default: runs/gpu).
report.md holds measured times beside those that expected.py reckons. Exit status 0: all ran; 1: something failed, named
at the end, and the report has the rest; 2: there is no GPU, or an option is wrong.

  --quick    fewer sizes: about 10 minutes instead of an hour
  --dry-run  print the commands for a GPU of capability 9.0, or CAPABILITY; needs no GPU
TEXT
}

# Prints the compute capability of the first GPU, such as 9.0, or "none" and the version of torch.
capability() {
  if ((DRY_RUN)); then
    printf '%s\n' "${CAPABILITY:-9.0}"
    return
  fi
  "$PYTHON" - <<'PYTHON'
import torch

if torch.cuda.is_available():
    print(*torch.cuda.get_device_capability(), sep=".")
else:
    print("none", torch.__version__)
PYTHON
}

# step NAME ARGUMENTS: python with these arguments, its output in NAME.log too; goes on after a failure.
step() {
  local name=$1
  shift
  if ((DRY_RUN)); then
    python "$@"
  elif ! python "$@" 2>&1 | tee "$OUT/$name.log"; then
    FAILED+=("$name")
  fi
}

measure() {
  local half=$1 dtype=$2 sizes=(2048 8192 32768) rounds=20 quick=()
  if ((QUICK)); then
    sizes=(2048 8192) rounds=5 quick=(--quick)
  fi
  step tests -m pytest -q -m gpu -p no:cacheprovider tests
  step moe_layer benchmarks/moe_layer.py --device cuda --dtypes fp32 "$half" --tokens "${sizes[@]}" --rounds "$rounds" \
    --json "$OUT/moe_layer.json"
  step gather_sum benchmarks/gather_sum.py --device cuda --dtype "$dtype" --tokens "${sizes[@]}" \
    --json "$OUT/gather_sum.json"
  local precision=(fp32)
  [[ $half == fp16 ]] || precision+=(bf16)
  local type
  for type in "${precision[@]}"; do
    step "train_step_$type" benchmarks/train_step.py "${quick[@]}" --device cuda --precision "$type" \
      --json "$OUT/train_step_$type.json"
    step "profile_step_$type" benchmarks/profile_step.py --device cuda --precision "$type" --models dense mhmoe_v2 \
      --json "$OUT/profile_step_$type.json" --png "$OUT/profile_step_$type.png" --trace "$OUT/trace_$type.json.gz"
  done
  step cross_entropy benchmarks/cross_entropy.py "${quick[@]}" --device cuda --dtypes fp32 "$half" \
    --json "$OUT/cross_entropy.json"
  step expected benchmarks/expected.py --tokens "${sizes[@]}" --json "$OUT/expected.json"
  step report benchmarks/gpu_report.py "$OUT"
}

main() {
  OUT=runs/gpu QUICK=0
  while (($# > 0)); do
    case $1 in
      --output)
        (($# > 1)) || fail "--output: expected a folder"
        OUT=$2
        shift
        ;;
      --quick) QUICK=1 ;;
      --dry-run) DRY_RUN=1 ;;
      -h | --help)
        usage
        return
        ;;
      *)
        usage >&2
        fail "unknown option $1"
        ;;
    esac
    shift
  done
  need_python
  cd "$ROOT"
  local found half=bf16 dtype=bfloat16
  found=$(capability)
  [[ $found != none* ]] || fail "torch ${found#none } finds no CUDA device; expected an NVIDIA GPU with its driver" \
    "(nvidia-smi shows it), and a torch built for it"
  # bfloat16 has instructions from capability 8 on
  ((${found%%.*} >= 8)) || half=fp16 dtype=float16
  ((DRY_RUN)) || mkdir -p "$OUT"
  measure "$half" "$dtype"
  if ((${#FAILED[@]} > 0)); then
    printf 'gpu.sh: failed: %s; see the logs in %s\n' "${FAILED[*]}" "$OUT" >&2
    exit 1
  fi
}

main "$@"
