#!/usr/bin/env bash
# Make the Python environment of this checkout: .venv from a locked, hashed list of packages.
#
#   bash local/env.sh [--group run|test] [--python INTERPRETER] [--env DIR]
#
# Nothing has to be installed or activated before: uv fetches itself through pip when it is missing.
# The last line on standard output is the interpreter to use. A finished environment is recognised
# by its stamp, so a second call costs milliseconds. With --env, a virtual environment (or an
# interpreter) of your own is checked instead, and what it lacks is listed.
set -euo pipefail
root=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/local/parse_options.sh"

### options
group=run        # packages to install {run|test}
python=          # interpreter (3.12) to build .venv with; searched for when empty
env=             # a Python environment of your own, used as it is
### end of options

usage() {
  echo "Usage: bash local/env.sh [options]"
  print_options "$root/local/env.sh"
}

say() { printf '%s\n' "environment: $*" >&2; }

find_uv() {
  if command -v uv >/dev/null && uv --version >/dev/null 2>&1; then command -v uv; return; fi
  local uv=$root/.tools/bin/uv
  if [[ ! -x $uv ]]; then
    say "installing uv into .tools"
    if python3 -m pip --version >/dev/null 2>&1; then
      python3 -m pip install --quiet --disable-pip-version-check --no-warn-script-location \
        --root-user-action ignore --require-hashes --target "$root/.tools" --upgrade \
        -r "$root/local/uv.txt" >&2
    elif python3 -m venv "$root/.tools/venv" >&2; then
      "$root/.tools/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --require-hashes -r "$root/local/uv.txt" >&2
      mkdir -p "$root/.tools/bin" && ln -sf "$root/.tools/venv/bin/uv" "$uv"
    fi
  fi
  [[ -x $uv ]] || fail "uv could not be installed" \
    "python3 has neither pip nor venv; install uv (https://docs.astral.sh/uv) or python3-pip, or pass --env DIR"
  printf '%s\n' "$uv"
}

is_312() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' >/dev/null 2>&1; }

find_python() { # prints an interpreter, or "3.12" to let uv fetch one
  if [[ -n $python ]]; then
    is_312 "$python" || fail "--python $python is not a working Python 3.12" \
      "ESPnet 202611 and the lock file need Python 3.12"
    command -v "$python"
    return
  fi
  local candidate
  # a pyenv shim may stand on PATH and fail, while pyenv's own folder has the real interpreter
  for candidate in python3.12 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12*/bin/python3.12; do
    if is_312 "$candidate"; then
      # the interpreter itself, not a shim that works only in this folder
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  echo 3.12
}

make_env() {
  local lock=requirements.lock stamp=$root/.venv/espnet_spike.stamp key test_key
  [[ $group == test ]] && lock=requirements-test.lock
  # the folder is part of the key: an environment that was moved does not work
  key=$({ cat "$root/$lock"; printf '%s' "$root"; } | sha256sum | cut -d' ' -f1)
  test_key=$({ cat "$root/requirements-test.lock"; printf '%s' "$root"; } | sha256sum | cut -d' ' -f1)
  # the test group holds everything that the run group does
  if [[ -x $root/.venv/bin/python && -f $stamp ]] && grep -qxe "$key" -e "$test_key" "$stamp" &&
    { [[ -z $python ]] || is_312 "$python"; }; then
    return
  fi
  # .venv may be a link to a roomier disk, but not to what another checkout works with
  if [[ -L $root/.venv && -f $stamp ]] && ! grep -qxF -- "$root" "$stamp"; then
    fail ".venv is a link to the environment of another checkout: $(readlink -f "$root/.venv")" \
      "remove the link, or keep that environment as it is: --env $(printf '%q' "$(readlink -f "$root/.venv")")"
  fi
  local uv interpreter
  uv=$(find_uv)
  interpreter=$(find_python)
  say "building .venv ($group group) with Python $interpreter"
  rm -f "$stamp"
  if [[ ! -x $root/.venv/bin/python ]] || ! is_312 "$root/.venv/bin/python"; then
    "$uv" venv --quiet --clear --python "$interpreter" "$root/.venv" >&2 ||
      fail "no Python 3.12 was found, and uv could not fetch one" \
        "install Python 3.12 (pyenv, conda or your distribution) and pass --python PATH"
  fi
  # compiled now: else every command's first start compiles ESPnet and torch, and each start does
  # where PYTHONDONTWRITEBYTECODE is set
  "$uv" pip sync --quiet --compile-bytecode --python "$root/.venv/bin/python" --require-hashes "$root/$lock" >&2 ||
    fail "the packages of $lock could not be installed" "see the lines above; run the same command again"
  "$uv" pip install --quiet --python "$root/.venv/bin/python" --no-deps --no-build-isolation \
    --editable "$root" >&2
  printf '%s\n' "$key" "$root" >"$stamp"
}

_read_option_block "$root/local/env.sh"
parse_options "$root/local/env.sh" "$@"

if [[ -n $env ]]; then
  own=$env
  [[ -d $env ]] && own=$env/bin/python
  [[ -x $own ]] || fail "--env $env: no interpreter at $own" "give the folder of a virtual environment, or its python"
  PYTHONPATH=$root "$own" -m espnet_spike.bin.check_environment >&2 || exit 1
  printf '%s\n' "$own"
else
  isolate_python
  make_env
  printf '%s\n' "$root/.venv/bin/python"
fi
