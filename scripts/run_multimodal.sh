#!/usr/bin/env bash
# Masked image-text pre-training: without arguments the demonstration, SIZE=paper the real settings. --help explains.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${VENV:-$ROOT/.venv}
DRY_RUN=${DRY_RUN:-0}
SIZE=${SIZE:-demo}

# shellcheck source=lib/common.sh
source "$ROOT/scripts/lib/common.sh"
# shellcheck source=lib/demonstration.sh
source "$ROOT/scripts/lib/demonstration.sh"
# shellcheck source=lib/launch.sh
source "$ROOT/scripts/lib/launch.sh"
# shellcheck source=lib/multimodal.sh
source "$ROOT/scripts/lib/multimodal.sh"

case ${1:-} in
--help | -h)
  usage
  exit
  ;;
esac
case $SIZE in
demo) run_from_root fairseq_mhmoe.cli.multimodal_demo "$@" ;;
paper) paper_training "$@" ;;
*) die "SIZE is '$SIZE'; give demo (CPU, under 25 minutes) or paper" ;;
esac
