#!/usr/bin/env bash
# AISHELL-1: read Mandarin, 150 hours of training speech; characters.
# shellcheck disable=SC2034  # the driver hands the options on to local/data.sh
set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
root=$(CDPATH='' cd "$here/../.." && pwd -P)
. "$root/local/parse_options.sh"

### options
valid_from_train=0.0       # share of the training speakers to validate with, without wav/dev
mirror=main                # where to download from: main, us, eu, cn or the address of a mirror
### end of options

recipe_options "$here/run.sh" "$@"
exec bash "$root/run.sh" --recipe_dir "$here" \
  --train_set train --valid_set dev --test_sets "dev test" \
  --token_type char --speed_perturb_factors "0.9 1.0 1.1" \
  --asr_config conf/train_iml_spikeformer_aishell.yaml \
  -- "$@"
