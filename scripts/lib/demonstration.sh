# shellcheck shell=bash
# Programs that make their environment first: `bash scripts/run.sh` without arguments, `bash scripts/reproduce.sh`.

environment_is_complete() {
  [[ -x $VENV/bin/fairseq-train ]] && "$VENV/bin/python" - <<'PYTHON'
import importlib.util
import sys

needed = ("torch", "fairseq", "torchscale", "sentencepiece", "tensorboard", "datatrove", "matplotlib", "lm_eval")
needed += ("torchvision", "pycocoevalcap")
sys.exit(any(importlib.util.find_spec(name) is None for name in needed))
PYTHON
}

prepare_environment() {
  if environment_is_complete; then
    return
  fi
  note "no complete environment in $VENV yet: scripts/setup.sh makes it"
  VENV=$VENV bash "$ROOT/scripts/setup.sh"
}

# run_from_root MODULE WORDS...: a program of ours, with an environment that is made if it is not there.
run_from_root() {
  [[ $DRY_RUN == [01] ]] || die "DRY_RUN is '$DRY_RUN'; give 0 or 1"
  if [[ $VENV != /* ]]; then
    VENV=$PWD/$VENV
  fi
  cd "$ROOT" || die "cannot enter $ROOT"
  local command=("$VENV/bin/python" -m "$@")
  if [[ $DRY_RUN == 1 ]]; then
    quote_words "${command[@]}"
    return
  fi
  prepare_environment
  # The notices of the libraries that it imports would hide what it says itself.
  export PYTHONWARNINGS=ignore LOGLEVEL=WARNING
  exec "${command[@]}"
}

demonstration() {
  run_from_root fairseq_mhmoe.cli.demo
}
