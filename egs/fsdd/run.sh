#!/usr/bin/env bash
# Connected digits from the Free Spoken Digit Dataset: the quick real benchmark.
set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
exec bash "$here/../../run.sh" --recipe_dir "$here" \
  --train_set train --valid_set dev --test_sets "test_seen dev test" \
  --token_type bpe --nbpe 30 \
  -- "$@"
