#!/usr/bin/env bash
# Stage 1: AN4 -> data/{train,dev,test}
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec python -m espnet_spike.corpora.an4 "$@"
