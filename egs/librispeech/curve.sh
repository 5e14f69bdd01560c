#!/usr/bin/env bash
# WER against minutes of training speech out of train-clean-100; call again to go on.
#   egs/librispeech/curve.sh --corpus_dir DIR [--minutes "10 20 40"] [--seed 1] [--encoder NAME]
#     [--budget MINUTES] [OPTIONS of run.sh]
# The parts lie within one another. Each gets a recipe egs/librispeech_10min_NAME, sized by docs/sizing.md.
set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)

# shellcheck source=local/curve.sh
source "$here/../../local/curve.sh"
curve_options "$@"
learning_curve "$here" train_100 test_other --train_subset 100 --valid_from_train 0.05
