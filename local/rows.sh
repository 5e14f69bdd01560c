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
  [[ $seeds == *[0-9]* && $rows == *[a-z]* ]] || { echo "error: --seeds or --rows names none" >&2; exit 1; }
}

augmented_row() { # augmented_row RECIPE_DIR ENDING ROW: the options of run.sh for one row, one a line
  local model=iml_spikeformer kind=augmented
  case $3 in
    iml | twin) ;;
    dense) model=speech_mamba ;;
    e) model=event_speech_mamba ;;
    spiking) model=spiking_speech_mamba ;;
    transformer | conformer) model=$3 ;;
    from_twin) kind=from_twin ;;
    from_dense | from_dense_ilif) model=spiking_speech_mamba kind=$3 ;;
    ctc | hybrid | attention) kind=hybrid ;;
    *) false ;;
  esac && [[ -f $1/conf/train_${model}_$kind$2.yaml ]] || { echo "error: no row '$3'" >&2; return 1; }
  printf '%s\n' --asr_config "conf/train_${model}_$kind$2.yaml"
  case $3 in
    twin) printf '%s\n' --asr_args "--encoder_conf neuron=relu" ;;
    ctc) printf '%s\n' --inference_config conf/decode_asr.yaml ;;
    hybrid | attention) printf '%s\n' --inference_config "conf/decode_$3.yaml" ;;
  esac
}

flag_given() { # flag_given NAMES OPTIONS...: whether one of these flags is true among options of run.sh
  local names=$1 word name previous=''
  local -A value=()
  shift
  for word in "$@"; do
    name=${word#--} && name=${name%%=*} && name=${name//-/_}
    if [[ $word == --* && " $names " == *" $name "* ]]; then
      value[$name]=true previous=$name
      [[ $word != *=false ]] || value[$name]=false
    else
      [[ -z $previous || $word != false ]] || value[$previous]=false
      previous=''
    fi
  done
  [[ " ${value[*]-} " == *" true "* ]]
}

augmented_rows() { # augmented_rows RECIPE_DIR ENDING: every row and seed, of conf/train_MODEL_KINDENDING.yaml
  local seed row call word first=true known=""
  for row in $rows; do # before anything runs
    augmented_row "$1" "$2" "$row" >/dev/null || exit 1
  done
  for seed in $seeds; do
    for row in $rows; do
      call=()
      while IFS= read -r word; do call+=("$word"); done < <(augmented_row "$1" "$2" "$row")
      call+=(--seed "$seed" --stop_stage report ${options[@]+"${options[@]}"})
      if ! flag_given dry_run ${options[@]+"${options[@]}"}; then
        "$1/run.sh" "${call[@]}"
        continue
      fi
      # every row is checked, once for all seeds, and printed; the first with its whole plan
      printf '%s\n' "row $row, seed $seed: $(printf '%q ' "$1/run.sh" "${call[@]}")"
      if $first; then "$1/run.sh" "${call[@]}"; elif [[ " $known " != *" $row "* ]]; then
        "$1/run.sh" "${call[@]}" >/dev/null
      fi
      first=false known+=" $row"
    done
  done
}
