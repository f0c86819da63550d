# shellcheck shell=bash
# `bash scripts/run.sh` without arguments: environment, data, then the three models.

prepare_environment() {
  if [[ -x $VENV/bin/fairseq-train ]]; then
    return
  fi
  note "no environment in $VENV yet: scripts/setup.sh makes it"
  VENV=$VENV bash "$ROOT/scripts/setup.sh"
}

demonstration() {
  if [[ $VENV != /* ]]; then
    VENV=$PWD/$VENV
  fi
  cd "$ROOT" || die "cannot enter $ROOT"
  local command=("$VENV/bin/python" -m fairseq_mhmoe.cli.demo)
  if [[ $DRY_RUN == 1 ]]; then
    quote_words "${command[@]}"
    return
  fi
  prepare_environment
  # The notices of the libraries that it imports would hide what it says itself.
  export PYTHONWARNINGS=ignore LOGLEVEL=WARNING
  exec "${command[@]}"
}
