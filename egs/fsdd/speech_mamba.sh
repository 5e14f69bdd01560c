#!/usr/bin/env bash
# The SpeechMamba rows of the results, one seed of every row first; call again to go on.
#   egs/fsdd/speech_mamba.sh [--seeds "1 2 3"] [--rows "dense naive relu e optimized spiking"] [OPTIONS of run.sh]
# Rows ctc, hybrid and attention decode one model with the decoder of Speech-Mamba in three ways.
# ROW_mhsa_mamba is the same in our layout of before the published one was known.
set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)

# shellcheck source=local/rows.sh
source "$here/../../local/rows.sh"
row_options "dense naive relu e optimized spiking" "$@"

row() { # row NAME: options of run.sh; any of the commands can be given by hand
  local model=${1%_mhsa_mamba}
  local layout=${1#"$model"} # empty or _mhsa_mamba
  case $model in
    dense) echo --asr_config "conf/train_speech_mamba$layout.yaml" ;;
    naive) echo --asr_config "conf/train_speech_mamba$layout.yaml" --naive_sparsity 0.2 ;;
    relu) echo --asr_config "conf/train_event_speech_mamba$layout.yaml" --sparsify false ;;
    e) echo --asr_config "conf/train_event_speech_mamba$layout.yaml" ;;
    optimized) echo --asr_config "conf/train_event_speech_mamba_optimized$layout.yaml" ;;
    spiking) echo --asr_config "conf/train_spiking_speech_mamba$layout.yaml" ;;
    ctc | hybrid | attention)
      local search=$model
      [[ $search == ctc ]] && search=asr
      echo --asr_config conf/train_speech_mamba_hybrid.yaml --inference_config "conf/decode_$search.yaml"
      ;;
    *) echo "error: no row '$1'" >&2 && return 1 ;;
  esac
}

for seed in $seeds; do
  for name in $rows; do
    words=$(row "$name")
    read -ra words <<<"$words"
    "$here/run.sh" "${words[@]}" --seed "$seed" --stop_stage report ${options[@]+"${options[@]}"}
  done
done
