# shellcheck shell=bash
# Small helpers of the scripts in this folder: messages, checks of words, quoting.

ERRORS=0
# Whose messages these are.
PROGRAM=${0##*/}

note() { printf '%s: %s\n' "$PROGRAM" "$*" >&2; }

# Reports one wrong argument; the caller goes on, so that all of them are seen in one go.
complain() {
  printf '%s: error: %s\n' "$PROGRAM" "$*" >&2
  ERRORS=$((ERRORS + 1))
}

stop_on_errors() {
  if ((ERRORS > 0)); then
    printf '%s: nothing was started; bash scripts/%s --help explains every argument\n' "$PROGRAM" "$PROGRAM" >&2
    exit 2
  fi
}

die() {
  printf '%s: error: %s\n' "$PROGRAM" "$*" >&2
  exit 2
}

# At most 9 digits: bash arithmetic stays far from its limit.
is_whole_number() { [[ $1 =~ ^(0|[1-9][0-9]{0,8})$ ]]; }

is_positive_integer() { [[ $1 =~ ^[1-9][0-9]{0,8}$ ]]; }

is_positive_real() {
  [[ $1 =~ ^([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$ ]] && awk -v x="$1" 'BEGIN { exit !(x + 0 > 0) }'
}

# Prints its arguments as one line that a shell reads back as the same words.
quote_words() {
  local word line=""
  for word in "$@"; do
    if [[ ! $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
      word="'${word//\'/\'\\\'\'}'"
    fi
    line+="$word "
  done
  printf '%s\n' "${line% }"
}
