#!/usr/bin/env bash
# Stage 1: LibriSpeech -> data/{train_960 or train_100,dev,dev_clean,...}
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec python -m espnet_spike.corpora.librispeech "$@"
