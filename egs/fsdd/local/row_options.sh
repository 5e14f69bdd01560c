# shellcheck shell=bash disable=SC2034
# For scripts that run rows of experiments: --seeds and --rows are theirs, all others run.sh's.

row_options() { # row_options ROWS ARGS...: sets seeds, rows (ROWS when not given) and options
  seeds="1 2 3" rows=$1 options=()
  shift
  while [[ $# -gt 0 ]]; do
    [[ $1 != --seeds && $1 != --rows ]] || [[ $# -gt 1 ]] ||
      { echo "error: $1: no value given" >&2; exit 1; }
    case $1 in
      --seeds) seeds=$2 && shift ;;
      --rows) rows=$2 && shift ;;
      *) options+=("$1") ;;
    esac
    shift
  done
}
