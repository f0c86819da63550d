#!/usr/bin/env bash
# Measures everything that docs/performance.md tells, on the CPU, and fills its tables.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=benchmarks/programs.sh
source "$ROOT/benchmarks/programs.sh"
FIGURES=benchmarks/figures # relative: the figures tell the command, and nobody wants this machine's folders there

usage() {
  cat <<'TEXT'
usage: bash benchmarks/performance.sh [--quick | --full] [--report-only] [--dry-run]

Runs the benchmarks on the CPU with one thread, keeps what they write in benchmarks/figures/ and fills the tables of
docs/performance.md: about 45 minutes on one calm core. Do nothing else on the machine meanwhile.

  --quick        the most telling cases: about 20 minutes
  --full         all layers, types, sizes, variants, and many rounds: hours, and more than 24 GB of memory
  --report-only  measure nothing, fill the tables from the figures that are there
  --dry-run      print the commands
TEXT
}

# layer PART ARGUMENTS: one part of the layer's figures.
layer() {
  local part=$1
  shift
  python benchmarks/moe_layer.py "$@" --device cpu --json "$FIGURES/moe_layer$part.json"
}

# What the tables show, in parts so that each has the time that it needs and memory is given back between them.
layer_parts() {
  local all=(--variants ours ours_grouped_mm ours_bmm ours_recompute bare dense_floor)
  local peers=(torchscale hf_eager hf_grouped_mm lucidrains index_add_loop)
  local limits=(--variants ours bare dense_floor --experts --routing balanced)
  layer "" "${all[@]}" "${peers[@]}" --configs a b c --tokens 256 2048 --dtypes fp32 --experts --rounds 8
  layer -small "${all[@]}" "${peers[@]}" --configs e e1 --tokens 256 2048 --dtypes fp32 --rounds 10
  layer -large "${limits[@]}" --configs a b c e --tokens 8192 --dtypes fp32 --rounds 5
  layer -v1 "${limits[@]}" --configs d8 --tokens 256 2048 --dtypes fp32 --rounds 3 --case-seconds 120
  layer -bf16 "${limits[@]}" --configs a b c --tokens 256 --dtypes bf16 --rounds 3
}

measure() {
  local extent=("$@")
  ((DRY_RUN)) || rm -f "$FIGURES"/moe_layer-*.json # parts of another extent
  case ${extent[*]} in
    "") layer_parts ;;
    --quick) layer "" --quick ;;
    --full) layer "" ;;
  esac
  local steps=() loss=()
  case ${extent[*]} in
    "") steps=(--rounds 2 --updates 8) loss=(--quick) ;;
    --quick) steps=(--quick) loss=(--quick) ;;
  esac
  python benchmarks/train_step.py "${steps[@]}" --device cpu --json "$FIGURES/train_step.json"
  python benchmarks/cross_entropy.py "${loss[@]}" --device cpu --json "$FIGURES/cross_entropy.json"
  python benchmarks/profile_step.py --device cpu --models dense xmoe mhmoe_v2 torchscale_xmoe \
    --png "$FIGURES/profile_step.png" --json "$FIGURES/profile_step.json"
  python benchmarks/expected.py --json "$FIGURES/expected.json"
}

main() {
  local extent=() report_only=0 word
  for word in "$@"; do
    case $word in
      --quick | --full) extent=("$word") ;;
      --report-only) report_only=1 ;;
      --dry-run) DRY_RUN=1 ;;
      -h | --help)
        usage
        return
        ;;
      *)
        usage >&2
        fail "unknown option $word"
        ;;
    esac
  done
  need_python
  cd "$ROOT"
  ((report_only)) || measure "${extent[@]}"
  python benchmarks/performance_report.py
}

main "$@"
