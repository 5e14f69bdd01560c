#!/usr/bin/env bash
# The rows on the cepstra trained with augmentation, one seed of every row first; call again to go on.
#   egs/an4/augmented.sh --corpus_dir DIR [--seeds "1 2 3"]
#     [--rows "iml twin transformer conformer dense e spiking"] [OPTIONS of run.sh]
# Rows from_twin, from_dense and from_dense_ilif start spiking models from their trained dense ones.
# While anything is still chosen: --test_sets dev.
set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)

# shellcheck source=local/rows.sh
source "$here/../../local/rows.sh"
row_options "iml twin transformer conformer dense e spiking" "$@"
options=(--feats_type extracted ${options[@]+"${options[@]}"})
augmented_rows "$here" _cepstra
