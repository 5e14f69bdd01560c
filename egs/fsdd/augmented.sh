#!/usr/bin/env bash
# The rows trained with augmentation, one seed of every row first; call again to go on.
#   egs/fsdd/augmented.sh [--seeds "1 2 3"] [--rows "iml twin transformer conformer dense e spiking"] [OPTIONS of run.sh]
# Rows from_twin, from_dense and from_dense_ilif start spiking models from their trained dense ones; ctc, hybrid and
# attention decode one IML-Spikeformer with an attention decoder in three ways.
set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)

# shellcheck source=local/rows.sh
source "$here/../../local/rows.sh"
row_options "iml twin transformer conformer dense e spiking" "$@"
augmented_rows "$here" ""
