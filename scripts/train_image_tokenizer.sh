#!/usr/bin/env bash
# Train a small visual tokenizer, the targets of masked image modelling, on the images of a folder. --help explains.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${VENV:-$ROOT/.venv}

# shellcheck source=lib/common.sh
source "$ROOT/scripts/lib/common.sh"

usage() {
  cat <<'TEXT'
bash scripts/train_image_tokenizer.sh DATA OUTPUT [options]

  DATA    a folder that `python -m data_prep.images` has written, one with images/ or pairs/ in it,
          or any folder of image files
  OUTPUT  the file of the tokenizer, DATA/image_tokenizer.pt for training; beside it come a report (.json)
          and a picture of images above their reconstructions (.png)

About two minutes on one CPU core with the default options. The same command again says what it found the first time.
VENV=FOLDER names the virtual environment (default: .venv). Options:

TEXT
  exec "$VENV/bin/python" -m fairseq_mhmoe.cli.train_image_tokenizer --help
}

[[ -x $VENV/bin/python ]] || die "no python in $VENV/bin; run bash scripts/setup.sh first, or set VENV"
# the modules are found from any folder; what the libraries say about themselves would hide the rest
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH} PYTHONWARNINGS=${PYTHONWARNINGS:-ignore}
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  usage
fi
if (($# < 2)) || [[ $1 == -* || $2 == -* ]]; then
  die "expected DATA and OUTPUT: bash scripts/$PROGRAM DATA DATA/image_tokenizer.pt; --help explains"
fi
exec "$VENV/bin/python" -m fairseq_mhmoe.cli.train_image_tokenizer "$@"
