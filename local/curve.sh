# shellcheck shell=bash
# For scripts that train one encoder on more and more of a corpus, sized by the rule of docs/sizing.md.

usage() { # the comment at the head of the script that was called
  awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"
  exit 0
}

curve_options() { # curve_options ARGS...: sets minutes, seed, encoder, sizing, source and options
  minutes="10 20 40" seed=1 encoder=iml_spikeformer py='' sizing=() source=() options=()
  while [[ $# -gt 0 ]]; do
    case $1 in
      -h | --help) usage ;;
      --minutes | --seed | --encoder | --budget | --corpus_dir | --mirror | --env)
        [[ $# -gt 1 ]] || { echo "error: $1: no value given" >&2; exit 1; }
        case $1 in
          --minutes) minutes=$2 ;;
          --seed) seed=$2 ;;
          --encoder) encoder=$2 ;;
          --budget) sizing+=("$1" "$2") ;;
          --env) py=$2/bin/python options+=("$1" "$2") source+=("$1" "$2") ;;
          *) source+=("$1" "$2") ;;
        esac
        shift
        ;;
      *) options+=("$1") ;;
    esac
    shift
  done
}

learning_curve() { # learning_curve RECIPE_DIR TRAIN_SET TEST_SETS OPTIONS...: of stage 1
  local recipe=$1 train=$2 tests=$3 root corpus part name set tag found given=() experiments=()
  corpus=$(basename "$recipe")
  root=$(CDPATH='' cd "$recipe/../.." && pwd -P)
  shift 3
  [[ -n $py ]] || py=$root/.venv/bin/python
  "$recipe/run.sh" "$@" --test_sets "$tests" --stop_stage data ${source[@]+"${source[@]}"}
  for set in $tests; do given+=(--test "$set=$recipe/data/$set"); done
  for part in $minutes; do # all of them before anything is trained: one may be more than there is
    [[ -d $root/egs/${corpus}_${part}min_$encoder ]] ||
      "$py" -m espnet_spike.corpora.subset "$recipe/data/$train" "$recipe/data/${train}_${part}min" --minutes "$part"
  done
  for part in $minutes; do
    name=${corpus}_${part}min_$encoder
    if [[ ! -d $root/egs/$name ]]; then # made at once, or not at all
      "$py" -m espnet_spike.bin.new_recipe "$name" --train "$recipe/data/${train}_${part}min" \
        --valid "$recipe/data/dev" "${given[@]}" --encoder "$encoder" --egs "$root/egs" ${sizing[@]+"${sizing[@]}"}
    fi
    tag=${encoder}_${part}min_seed$seed # tells the rows apart when they are compared
    "$root/egs/$name/run.sh" --seed "$seed" --asr_tag "$tag" --stop_stage report ${options[@]+"${options[@]}"}
    for found in "$root/egs/$name/exp/asr_$tag"{,_sparsified}/results.json; do
      [[ ! -f $found ]] || experiments+=("$(dirname "$found")")
    done
  done
  if [[ ${#experiments[@]} -gt 0 ]]; then
    "$py" -m espnet_spike.bin.compare "${experiments[@]}"
  else
    echo "nothing to compare: no stage 14 has run"
  fi
}
