#!/usr/bin/env bash
# Stage 1: speechocean762 -> data/{train,dev,test}
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec python -m espnet_spike.corpora.speechocean762 "$@"
