#!/usr/bin/env bash
# @name@: your own data. Made by espnet_spike.bin.new_recipe; change what you like.
set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
exec bash "$here/../../run.sh" --recipe_dir "$here" \
  --train_set train --valid_set dev --test_sets "@test_sets@" \
  --feats_type "@feats_type@" --fs "@fs@" --token_type "@token_type@" --nbpe "@nbpe@" \
  --normalization "@normalization@" \
  --asr_config conf/train_@encoder@_sized.yaml --inference_config conf/@decode@.yaml \
  -- "$@"
