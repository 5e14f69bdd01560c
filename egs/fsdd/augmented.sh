#!/usr/bin/env bash
# The rows trained with augmentation, one seed of every row first; call again to go on.
#   egs/fsdd/augmented.sh [--seeds "1 2 3"] [--rows "iml twin transformer conformer dense e spiking"] [OPTIONS of run.sh]
set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)

# shellcheck source=egs/fsdd/local/row_options.sh
source "$here/local/row_options.sh"
row_options "iml twin transformer conformer dense e spiking" "$@"

for seed in $seeds; do
  for row in $rows; do
    words=(--seed "$seed" --stop_stage report)
    case $row in
      iml | twin) model=iml_spikeformer ;;
      transformer | conformer) model=$row ;;
      dense) model=speech_mamba ;;
      e) model=event_speech_mamba ;;
      spiking) model=spiking_speech_mamba ;;
      *) echo "error: no row '$row'" >&2 && exit 1 ;;
    esac
    [[ $row != twin ]] || words+=(--asr_args "--encoder_conf neuron=relu")
    "$here/run.sh" --asr_config "conf/train_${model}_augmented.yaml" "${words[@]}" ${options[@]+"${options[@]}"}
  done
done
