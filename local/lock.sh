#!/usr/bin/env bash
# Renew the locked package lists: requirements.lock (to run) and requirements-test.lock (to test).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
uv=$(command -v uv || echo .tools/bin/uv)
# the torch of the lock is the one that torchaudio was built with; the range stays open to users
constraint=$(mktemp)
trap 'rm -f "$constraint"' EXIT
echo "torch==2.11.0" >"$constraint"
compile() { # compile OUTPUT [OPTIONS]
  local output=$1
  shift
  "$uv" pip compile --quiet --python-version 3.12 --generate-hashes --no-header --no-annotate \
    --no-emit-index-url --constraint "$constraint" "$@" pyproject.toml --output-file "$output"
  sed -i "1i # Made by 'make lock'. Names no registry: every package is known by its hash." "$output"
}
compile requirements.lock
compile requirements-test.lock --extra test
