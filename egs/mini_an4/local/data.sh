#!/usr/bin/env bash
# Stage 1: the eight real AN4 utterances inside the espnet package -> data/{train,dev,test}
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec python -m espnet_spike.corpora.mini_an4 "$@"
