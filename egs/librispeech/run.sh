#!/usr/bin/env bash
# LibriSpeech: read English, 960 or 100 hours of training speech.
# shellcheck disable=SC2034  # the driver hands the options on to local/data.sh
set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
root=$(CDPATH='' cd "$here/../.." && pwd -P)
. "$root/local/parse_options.sh"

### options
train_subset=960           # hours of training speech {100|960}
valid_from_train=0.0       # share of the training speakers to validate with, without dev-clean and dev-other
lm_text=false              # also the corpus's text for language models (1.5 GB, 40 million lines)
mirror=main                # where to download from: main, us, eu, cn or the address of a mirror
### end of options

recipe_options "$here/run.sh" "$@"
further=()
! $lm_text || further=(--lm_train_text data/lm_text/text)
exec bash "$root/run.sh" --recipe_dir "$here" \
  --train_set "train_$train_subset" --valid_set dev \
  --test_sets "dev_clean dev_other test_clean test_other" \
  --token_type bpe --nbpe 5000 --speed_perturb_factors "0.9 1.0 1.1" \
  --asr_config "conf/train_iml_spikeformer_librispeech$train_subset.yaml" \
  ${further[@]+"${further[@]}"} -- "$@"
