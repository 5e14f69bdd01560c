#!/usr/bin/env bash
# speechocean762: English read by Mandarin speakers, half of them children; three hours to train.
# shellcheck disable=SC2034  # the driver hands the options on to local/data.sh
set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
root=$(CDPATH='' cd "$here/../.." && pwd -P)
. "$root/local/parse_options.sh"

### options
valid_from_train=0.1       # share of the training speakers to validate with; the corpus has no dev set
mirror=main                # where to download from: main, us, eu, cn or the address of a mirror
sha256=                    # of the archive; needed when it does not come by https
### end of options

recipe_options "$here/run.sh" "$@"
exec bash "$root/run.sh" --recipe_dir "$here" \
  --train_set train --valid_set dev --test_sets "dev test" \
  --token_type bpe --nbpe 100 \
  --asr_config conf/train_iml_spikeformer_small.yaml --inference_config conf/decode_ctc.yaml \
  -- "$@"
