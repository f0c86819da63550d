#!/usr/bin/env bash
# Measures everything that docs/performance.md tells, on the CPU, and fills its tables.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=benchmarks/programs.sh
source "$ROOT/benchmarks/programs.sh"
FIGURES=benchmarks/figures # relative: the figures tell the command, and nobody wants this machine's folders there

usage() {
  cat <<'TEXT'
usage: bash benchmarks/performance.sh [--quick] [--report-only] [--dry-run]

Runs the benchmarks on the CPU with one thread, keeps what they write in benchmarks/figures/ and fills the tables of
docs/performance.md. Do nothing else on the machine meanwhile.

  --quick        the most telling cases: about 20 minutes instead of hours
  --report-only  measure nothing, fill the tables from the figures that are there
  --dry-run      print the commands
TEXT
}

measure() {
  local quick=("$@")
  python benchmarks/moe_layer.py "${quick[@]}" --device cpu --json "$FIGURES/moe_layer.json"
  python benchmarks/train_step.py "${quick[@]}" --device cpu --json "$FIGURES/train_step.json"
  python benchmarks/cross_entropy.py "${quick[@]}" --device cpu --json "$FIGURES/cross_entropy.json"
  python benchmarks/profile_step.py --device cpu --models dense xmoe mhmoe_v2 torchscale_xmoe \
    --png "$FIGURES/profile_step.png" --json "$FIGURES/profile_step.json"
  python benchmarks/expected.py --json "$FIGURES/expected.json"
}

main() {
  local quick=() report_only=0 word
  for word in "$@"; do
    case $word in
      --quick) quick=(--quick) ;;
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
  ((report_only)) || measure "${quick[@]}"
  python benchmarks/performance_report.py
}

main "$@"
