# shellcheck shell=bash disable=SC2034,SC2154
# Kaldi's parse_options idea: the variables declared in the option block of a script are its options.
#
#   ### options
#   nbpe=30            # help text
#   token_type=bpe     # help text {bpe|char|word}     <- the only values allowed
#   ### end of options
#   parse_options "$0" "$@"
#
# `--nbpe 30`, `--nbpe=30`, `--stop-stage 3`: an unknown name or value stops with the nearest known
# one. An option whose default is true or false may stand alone (`--dry_run`), and one whose default
# is a number takes a number.

declare -A option_default option_help option_given
declare -A recipe_default # as option_default, with what a recipe's run.sh gives before the bare --
given_options=() # what followed a bare --, or everything

_read_option_block() {
  local line block=false
  while IFS= read -r line; do
    case $line in
      "### options"*) block=true ;;
      "### end of options"*) return 0 ;;
      *)
        if $block && [[ $line =~ ^([a-z][a-z0-9_]*)=([^#]*)\#\ (.*)$ ]]; then
          local name=${BASH_REMATCH[1]} default=${BASH_REMATCH[2]}
          option_help[$name]=${BASH_REMATCH[3]}
          default=${default%"${default##*[![:space:]]}"}
          default=${default#\"}
          option_default[$name]=${default%\"}
        fi ;;
    esac
  done <"$1"
}

print_options() { # print_options SCRIPT: name, default and help of each option, in the file's order
  local line name block=false
  while IFS= read -r line; do
    case $line in
      "### options"*) block=true ;;
      "### end of options"*) return 0 ;;
      "# "*) $block && printf '\n%s\n' "${line#\# }" ;;
      *)
        name=${line%%=*}
        $block && [[ -n ${option_help[$name]:-} ]] &&
          printf '  --%-24s %s [%s]\n' "$name" "${option_help[$name]}" "${option_default[$name]}" ;;
    esac
  done <"$1"
}

find_own_options() { # find_own_options ARGS...: add the options of the recipe that ARGS name
  # A recipe whose run.sh has an option block of its own: these are the options of its
  # local/data.sh, and may stand among all others. Sets own_script, own_names and the variables.
  local word previous='' named=${recipe:-} before known
  for word in "$@"; do
    case $previous in
      --recipe) named=$word ;;
      --recipe_dir) named=${word##*/} ;;
    esac
    [[ $word != --recipe=* ]] || named=${word#*=}
    previous=$word
  done
  own_script=$root/egs/$named/run.sh own_names=()
  [[ -f $own_script ]] || { own_script=/dev/null; return; }
  before=" ${!option_help[*]} "
  _read_option_block "$own_script"
  for known in $(_option_names "$own_script"); do
    [[ $before != *" $known "* ]] || fail "egs/$named/run.sh: --$known is an option of every recipe"
    own_names+=("$known")
    printf -v "$known" '%s' "${option_default[$known]}"
  done
}

recipe_options() { # recipe_options SCRIPT ARGS...: for a recipe's run.sh with an option block
  # Checks all options as the driver will, and sets the variables of the recipe's own block.
  local script=$1 folder
  shift
  folder=$(dirname "$script")
  usage() { exec bash "$root/run.sh" --recipe_dir "$folder" --help; }
  _read_option_block "$root/run.sh"
  find_own_options --recipe_dir "$folder"
  parse_options "$script" "$@"
}

_option_names() { # _option_names SCRIPT: the names of its option block, in the file's order
  sed -nE '/^### options/,/^### end of options/ s/^([a-z][a-z0-9_]*)=.*/\1/p' "$1"
}

_nearest() { # _nearest WORD KNOWN...: " (did you mean 'x'?)" or nothing
  python3 -c 'import sys, difflib
near = difflib.get_close_matches(sys.argv[1], sys.argv[2:], 1, 0.5)
print(" (did you mean %r?)" % near[0] if near else "", end="")' "$@" 2>/dev/null || true
}

isolate_python() { # before .venv is used: nothing of a user's Python settings may stand before its packages
  local entry name kept='' entries=()
  unset PYTHONHOME
  # -s and -P: neither the user's own site-packages nor the folder one stands in
  export PYTHONNOUSERSITE=1 PYTHONSAFEPATH=1
  [[ -n ${PYTHONPATH:-} ]] || return 0
  IFS=: read -ra entries <<<"$PYTHONPATH"
  for entry in "${entries[@]}"; do
    for name in espnet espnet2 espnet_spike torch numpy sentencepiece kaldiio yaml; do
      if [[ $entry/$name -ef $root/$name ]]; then continue; fi
      if [[ -n $entry && ( -e $entry/$name || -e $entry/$name.py ) ]]; then
        printf 'PYTHONPATH: %s is left out, which has another %s (--env DIR uses an environment of your own)\n' \
          "$entry" "$name" >&2
        entry=
      fi
    done
    [[ -z $entry ]] || kept+=:$entry
  done
  export PYTHONPATH=${kept#:}
}

fail() { # fail MESSAGE [HINT]
  printf 'error: %s\n' "$1" >&2
  [[ -n ${2:-} ]] && printf '  hint: %s\n' "$2" >&2
  exit 1
}

_check_value() { # _check_value NAME VALUE: against the default's kind and the {a|b} of the help
  local name=$1 value=$2
  local default=${option_default[$name]} choices
  if [[ $default == true || $default == false ]]; then
    [[ $value == true || $value == false ]] ||
      fail "--$name takes true or false, not '$value'"
  elif [[ $default =~ ^[0-9]+$ && ! ${option_help[$name]} =~ "or name" ]]; then
    [[ $value =~ ^(0|[1-9][0-9]{0,17})$ ]] || fail "--$name takes a whole number, not '$value'"
  fi
  if [[ ${option_help[$name]} =~ \{([^}]*)\} ]]; then
    IFS='|' read -ra choices <<<"${BASH_REMATCH[1]}"
    local choice
    for choice in "${choices[@]}"; do [[ $value == "$choice" ]] && return 0; done
    fail "--$name takes ${choices[*]}, not '$value'$(_nearest "$value" "${choices[@]}")"
  fi
}

_note_recipe_defaults() {
  local known
  for known in "${!option_help[@]}"; do recipe_default[$known]=${!known:-}; done
}

parse_options() { # parse_options SCRIPT ARGS...: sets the variables; --help prints and leaves
  local script=$1 name value
  shift
  given_options=("$@")
  _note_recipe_defaults
  while [[ $# -gt 0 ]]; do
    case $1 in
      --) # a recipe's own options before, the user's after
        given_options=("${@:2}") option_given=()
        _note_recipe_defaults ;;
      --help | -h) usage; exit 0 ;;
      --*)
        name=${1#--}
        value=
        local given=false
        if [[ $name == *=* ]]; then value=${name#*=} name=${name%%=*} given=true; fi
        name=${name//-/_}
        [[ -n ${option_help[$name]+known} ]] ||
          fail "unknown option --$name$(_nearest "$name" "${!option_help[@]}")" \
            "${script##*/} --help lists the options"
        if ! $given; then
          local default=${option_default[$name]}
          if [[ ($default == true || $default == false) && (-z ${2:-} || $2 == --*) ]]; then
            value=true
          else
            [[ $# -ge 2 ]] || fail "--$name needs a value"
            value=$2
            shift
          fi
        fi
        _check_value "$name" "$value"
        option_given[$name]=true
        printf -v "$name" '%s' "$value" ;;
      *) fail "unexpected argument '$1'" "options are written --name value; quote a value with spaces" ;;
    esac
    shift
  done
}
