# shellcheck shell=bash
# For scripts that run rows of experiments: --seeds and --rows are theirs, all others run.sh's.

usage() { # the comment at the head of the script that was called
  awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"
  exit 0
}

row_options() { # row_options ROWS ARGS...: sets seeds, rows (ROWS when not given) and options
  seeds="1 2 3" rows=$1 options=()
  shift
  while [[ $# -gt 0 ]]; do
    [[ $1 != --seeds && $1 != --rows ]] || [[ $# -gt 1 ]] ||
      { echo "error: $1: no value given" >&2; exit 1; }
    case $1 in
      -h | --help) usage ;;
      --seeds) seeds=$2 && shift ;;
      --rows) rows=$2 && shift ;;
      *) options+=("$1") ;;
    esac
    shift
  done
}

augmented_rows() { # augmented_rows RECIPE_DIR ENDING: conf/train_MODEL_augmentedENDING.yaml of every row and seed
  local seed row model call
  for row in $rows; do # before anything runs
    [[ " iml twin transformer conformer dense e spiking " == *" $row "* ]] ||
      { echo "error: no row '$row'" >&2; exit 1; }
  done
  for seed in $seeds; do
    for row in $rows; do
      call=(--seed "$seed" --stop_stage report)
      case $row in
        dense) model=speech_mamba ;;
        e) model=event_speech_mamba ;;
        spiking) model=spiking_speech_mamba ;;
        transformer | conformer) model=$row ;;
        *) model=iml_spikeformer ;;
      esac
      [[ $row != twin ]] || call+=(--asr_args "--encoder_conf neuron=relu")
      "$1/run.sh" --asr_config "conf/train_${model}_augmented$2.yaml" "${call[@]}" ${options[@]+"${options[@]}"}
    done
  done
}
