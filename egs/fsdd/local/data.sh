#!/usr/bin/env bash
# Stage 1: connected digits from the Free Spoken Digit Dataset -> data/{train,dev,test,test_seen}
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec python -m espnet_spike.corpora.fsdd "$@"
