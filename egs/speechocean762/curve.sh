#!/usr/bin/env bash
# WER against minutes of training speech; call again to go on.
#   egs/speechocean762/curve.sh --corpus_dir DIR [--minutes "10 20 40"] [--seed 1] [--encoder NAME]
#     [--budget MINUTES] [OPTIONS of run.sh]
# The parts lie within one another. Each gets a recipe egs/speechocean762_10min_NAME, sized by docs/sizing.md.
set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)

# shellcheck source=local/curve.sh
source "$here/../../local/curve.sh"
curve_options "$@"
learning_curve "$here" train test
