#!/usr/bin/env bash
# Stage 1: your own data -> data/<set>, checked by the driver afterwards
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec python -m espnet_spike.corpora.own "@sources@" "$@"
