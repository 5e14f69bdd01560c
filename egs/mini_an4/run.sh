#!/usr/bin/env bash
# Eight real AN4 utterances out of the espnet wheel: a smoke test of every stage, without network.
set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
exec bash "$here/../../run.sh" --recipe_dir "$here" \
  --train_set train --valid_set dev --test_sets "test" \
  --token_type bpe --nbpe 30 \
  -- "$@"
