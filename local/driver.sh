# shellcheck shell=bash disable=SC2034,SC2154
# What run.sh needs around its stages: the environment, names of folders, checks, and `step`.

find_file() { # find_file OPTION NAME [default]: sets found to the file NAME, as seen from the recipe
  # A default is the recipe's. What the user gives is meant as seen from where they stand, but in
  # the root the recipe's own file goes before the root's; ./NAME and ../NAME are theirs alone.
  local name=$2 place places=("$recipe_dir" "$root")
  if [[ ${3:-} != default && -n ${option_given[$1]:-} ]]; then
    if [[ $name == ./* || $name == ../* ]]; then
      places=("$caller_dir")
    elif [[ $caller_dir != "$root" ]]; then
      places=("$caller_dir" "${places[@]}")
    fi
  fi
  found=
  for place in "${places[@]}"; do
    place=$place/$name
    [[ $name != /* ]] || place=$name
    [[ -f $place ]] || continue
    found=$(realpath "$place")
    [[ $found != "$root"/* ]] || found=$(realpath --relative-to="$recipe_dir" "$found")
    return
  done
  fail "--$1 $name: no such file" "looked in ${places[*]}"
}

find_config() { # find_config OPTION: set it to the file it names, as seen from the recipe
  local -n file=$1
  local found
  find_file "$1" "$file"
  file=$found
  echo "$1: $file"
}

find_named() { # find_named OPTION NAME FOLDER: as find_file, for a file whose name names results
  find_file "$1" "$2"
  local other=$root/$3/${2##*/}
  [[ ! -f $other || $found -ef $other ]] ||
    fail "--$1 $2: $3/${2##*/} has the same name" "results are named by it; rename yours"
  [[ -z ${option_given[$1]:-} ]] || echo "$1: $found"
}

find_cores() { # sets cores, the files of --hardware
  local name found
  cores=()
  for name in $hardware; do
    find_named hardware "$name" conf/hardware
    cores+=("$found")
  done
}

find_cost_models() { # sets cost_models, the files of --energy_model; its YAMLs as seen from the recipe
  local name found names=()
  cost_models=()
  for name in $energy_model; do
    if [[ $name == *.yaml ]]; then
      find_named energy_model "$name" conf/energy
      names+=("$found") cost_models+=("$found")
    else
      found=$root/conf/energy/$name.yaml
      [[ -f $found ]] ||
        fail "--energy_model $name: no such file in conf/energy" "there are: $(basename -as .yaml "$root"/conf/energy/*.yaml | paste -sd ' ')"
      names+=("$name") cost_models+=("$found")
    fi
  done
  energy_model=${names[*]}
}

is_name() { # is_name OPTION VALUE: of a folder, right in the one that it belongs in
  [[ $2 != */* && $2 != . && $2 != .. && $2 != -* && $2 != *[[:cntrl:]]* ]] ||
    fail "--$1 $2" "it names a folder: no /, no line end, not . or .., no - in front"
}

check_values() { # of options that are neither a file nor one of a few words
  local name value number='^([0-9]+\.?[0-9]*|\.[0-9]+)$'
  for name in asr_tag lm_tag inference_tag train_set valid_set; do is_name "$name" "${!name}"; done
  for value in "${tests[@]}"; do is_name test_sets "$value"; done
  [[ -z $fs || $fs =~ ^[1-9][0-9]{3,6}$ ]] ||
    fail "--fs $fs" "give a sampling rate in Hz, for example 16000"
  for value in $speed_perturb_factors; do
    { [[ $value =~ $number ]] && awk -v x="$value" 'BEGIN { exit !(x >= 0.1 && x <= 10) }'; } ||
      fail "--speed_perturb_factors $speed_perturb_factors" "give numbers near 1, for example \"0.9 1.0 1.1\""
  done
  [[ -z $naive_sparsity ]] || { [[ $naive_sparsity =~ $number ]] &&
    awk -v x="$naive_sparsity" 'BEGIN { exit !(x > 0 && x < 1) }'; } ||
    fail "--naive_sparsity $naive_sparsity" "give a number between 0 and 1"
  [[ $allow_dropped =~ ^[0-9]{1,9}$ ]] || fail "--allow_dropped $allow_dropped" "give a number from 0 up"
  [[ -z $speed_perturb_factors || $feats_type != extracted ]] ||
    fail "--speed_perturb_factors with --feats_type extracted" "features without audio cannot be played faster: leave one of the two out"
  for name in nbpe num_splits_asr simulate_utterances min_frames max_frames; do
    [[ ${!name} =~ ^[1-9][0-9]{0,8}$ ]] || fail "--$name ${!name}" "give a whole number from 1 up"
  done
  for name in nj inference_nj; do
    [[ ${!name} =~ ^(auto|[1-9][0-9]{0,5})$ ]] || fail "--$name ${!name}" "give a whole number from 1 up, or auto"
  done
  [[ $seed -lt $((2 ** 32)) ]] || fail "--seed $seed" "give a whole number up to 4294967295"
  [[ $min_free_gb -le 1000000 ]] || fail "--min_free_gb $min_free_gb" "give a whole number of GB up to 1000000"
  [[ $master_port -ge 1 && $master_port -lt 65536 ]] || fail "--master_port $master_port" "give 1 to 65535"
  [[ $min_frames -le $max_frames ]] ||
    fail "--min_frames $min_frames is above --max_frames $max_frames" "no utterance can be as long"
  check_checkpoints
  [[ $ngram_order =~ ^[2-6]$ ]] || fail "--ngram_order $ngram_order" "KenLM takes 2 to 6"
}

needs() { # needs CONDITION OPTION...: stop if the user gave one of these, which nothing would read
  local name
  for name in "${@:2}"; do
    [[ -z ${option_given[$name]:-} ]] || fail "--$name ${!name} without $1" "give both, or leave it out: nothing reads it"
  done
}

check_idle() { # of options that count with another one alone
  $use_lm || needs "--use_lm true" lm_tag lm_config
  $use_ngram || needs "--use_ngram true" ngram_order
  $use_lm || $use_ngram || needs "--use_lm true or --use_ngram true" lm_train_text
  [[ $token_type == bpe ]] || needs "--token_type bpe" nbpe bpemode
  [[ $dist_launcher == torchrun ]] || needs "--dist_launcher torchrun" master_addr master_port
  [[ $dist_launcher == slurm ]] || needs "--dist_launcher slurm" slurm_args
}

tag_of() { # tag_of CONFIG WORDS...: the part of a folder's name that stands for a config
  "$py" -m espnet_spike.bin.experiment_tag --config "$1" --conf_dirs conf "$root/conf" \
    --expdir "$expdir" "${@:2}"
}

# in whatever of its styles YAML says it
asks_for_twin() { # asks_for_twin CONFIG: whether it starts from its dense twin, or learns from it
  grep -qE "^[^#]*(init_from|distill|from)[\"']?:[[:space:]]*[\"']?twin[\"']?([[:space:],}]|\$)" "$1"
}

asks_to_sparsify() { # asks_to_sparsify CONFIG: whether it has a part 'sparsify'
  grep -qE "^[^#]*[[:space:]{,\"']sparsify[\"']?[[:space:]]*:" "$1"
}

stage_number() { # stage_number OPTION: set it to the number of the stage it names
  local -n value=$1
  local number name names=()
  while read -r number name _; do
    names+=("$name")
    if [[ $value == "$number" || $value == "$name" ]]; then value=$number; return; fi
  done <<<"${stages#?}"
  fail "--$1 $value: no such stage$(_nearest "$value" "${names[@]}")" "run.sh --list_stages shows them"
}

count_gpus() {
  if command -v nvidia-smi >/dev/null; then nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true; else echo 0; fi
}

number_or_auto() { # number_or_auto OPTION AUTO
  local -n value=$1
  [[ $value == auto ]] && value=$2
  [[ $value =~ ^(0|[1-9][0-9]{0,5})$ ]] || fail "--$1 takes a whole number or auto, not '$value'"
}

auto_gpus=false # whether --ngpu auto was given

fit_gpus() { # fit_gpus TEXT...: before a training on these sets, where --ngpu auto takes more than they allow
  # a batch is shared out among the processes, and has at least one utterance for each (ours: four)
  local text lines most=$ngpu
  if ! $auto_gpus || [[ $ngpu -le 1 ]]; then return; fi
  for text in "$@"; do
    [[ -f $text ]] || continue # --dry_run before there are data
    lines=$(($(wc -l <"$text") / 4 / num_nodes))
    [[ $lines -ge $most ]] || most=$((lines > 0 ? lines : 1))
  done
  [[ $most -lt $ngpu ]] || return 0
  echo "stage $current_stage: $most of $ngpu GPUs, since each needs four utterances of every set"
  ngpu=$most
  prepare_launcher
}

prepare_launcher() { # sets launcher, the words before a training command, and training_options
  local gpus
  launcher=() training_options=()
  [[ $ngpu != auto ]] || auto_gpus=true
  if [[ $dist_launcher == slurm ]]; then # the GPUs are those of other machines
    [[ $ngpu != auto ]] || fail "--ngpu auto with --dist_launcher slurm" "say --ngpu N, GPUs a machine"
    gpus=$ngpu
  else
    gpus=$(count_gpus)
  fi
  number_or_auto ngpu "$gpus"
  [[ $ngpu -le $gpus ]] || fail "--ngpu $ngpu, but $gpus seen" "use --ngpu $gpus, or look at nvidia-smi"
  [[ $num_nodes -ge 1 ]] || fail "--num_nodes $num_nodes" "give a number from 1 up"
  case $dist_launcher in
    none)
      [[ $num_nodes == 1 ]] ||
        fail "--num_nodes $num_nodes, but nothing starts them" "give --dist_launcher torchrun or slurm"
      training_options=(--ngpu "$ngpu") ;;
    torchrun)
      launcher=(torchrun --no-python --nproc-per-node $((ngpu > 0 ? ngpu : 1)))
      if [[ $num_nodes == 1 ]]; then launcher+=(--standalone); else
        [[ -n $master_addr ]] || fail "--num_nodes $num_nodes needs --master_addr" "the name of machine 0"
        launcher+=(--nnodes "$num_nodes" --node-rank "$node_rank" --master-addr "$master_addr"
          --master-port "$master_port")
      fi
      # a process for each GPU
      training_options=(--ngpu $((ngpu > 0)) --multiprocessing_distributed false) ;;
    slurm)
      local words
      read -ra words <<<"$slurm_args"
      launcher=(srun --nodes "$num_nodes" --ntasks-per-node 1 --kill-on-bad-exit=1)
      [[ $ngpu == 0 ]] || launcher+=(--gpus-per-node "$ngpu")
      launcher+=(${words[@]+"${words[@]}"})
      # a process for each machine, which starts those of its GPUs
      training_options=(--ngpu "$ngpu" --dist_launcher slurm --multiprocessing_distributed true) ;;
  esac
  [[ $node_rank -lt $num_nodes ]] || fail "--node_rank $node_rank, but --num_nodes $num_nodes" "they count from 0"
  [[ $node_rank == 0 || $dist_launcher == torchrun ]] || fail "--node_rank is for --dist_launcher torchrun"
  [[ $ngpu -gt 0 || $dist_launcher == none ]] || training_options+=(--dist_backend gloo)
  training_options+=(--seed "$seed")
  ! $deterministic || training_options+=(--deterministic)
}

prepare() {
  called_as="./run.sh --recipe ${recipe_dir##*/}"
  [[ ${#given_options[@]} -eq 0 ]] || called_as+=" $(printf '%q ' "${given_options[@]}")"
  recipe=${recipe_dir##*/}
  cd "$recipe_dir" || exit
  if [[ -n $corpus_dir ]]; then
    [[ $corpus_dir == /* ]] || corpus_dir=$caller_dir/$corpus_dir
    [[ -d $corpus_dir ]] || fail "--corpus_dir $corpus_dir: no such folder"
  fi
  if [[ -n $twin_exp ]]; then # of the recipe, or as seen from where it was called
    [[ -f $twin_exp/config.yaml || $twin_exp == /* ]] || twin_exp=$caller_dir/$twin_exp
    [[ -f $twin_exp/config.yaml ]] ||
      fail "--twin_exp $twin_exp: no trained experiment" "give the folder of a dense twin, exp/asr_Y, that has been trained"
  fi
  own_options=()
  local name
  for name in ${own_names[@]+"${own_names[@]}"}; do
    [[ -z ${!name} ]] || own_options+=("--$name" "${!name}")
  done
  read -ra tests <<<"$test_sets"
  [[ ${#tests[@]} -gt 0 ]] || fail "--test_sets is empty"
  check_values
  check_idle
  stage_number stage
  stage_number stop_stage
  prepare_launcher
  ! $gpu_inference || [[ $(count_gpus) -gt 0 ]] || fail "--gpu_inference true, but no GPU is seen"
  number_or_auto nj "$(nproc)"
  number_or_auto inference_nj "$(nproc)"
  find_config asr_config
  find_config inference_config
  [[ $feats_type != fbank ]] || find_config fbank_config
  ! $use_lm || find_config lm_config
  learnt_options=()
  ! $require_learnt || learnt_options=(--require_learnt true)
  split_options=()
  [[ $num_splits_asr == 1 ]] || split_options=(--num_splits "$num_splits_asr")
  find_cost_models
  find_cores
  cluster_options=()
  if [[ -n $cluster ]]; then
    find_config cluster
    cluster_options=(--cluster "$cluster")
  fi

  [[ -n $env ]] || isolate_python
  py=$(bash "$root/local/env.sh" ${python:+--python "$python"} ${env:+--env "$env"})
  [[ -z $env ]] || export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
  PATH=$(dirname "$py"):$PATH # local/data.sh calls python
  # ESPnet and sentencepiece read and write UTF-8 whatever the locale says
  export LC_ALL=C.UTF-8 PYTHONIOENCODING=UTF-8
  if $list_encoders; then "$py" -m espnet_spike.bin.list_encoders; exit; fi
  if $list_decoders; then "$py" -m espnet_spike.bin.list_decoders; exit; fi

  source_set=$train_set
  [[ -z $speed_perturb_factors ]] || source_set=${train_set}_sp
  # features of another configuration than the recipe's are other features, and so is all after them
  feats_tag=$feats_type filter_marker=filter
  if [[ $feats_type == fbank ]]; then
    local found
    find_file fbank_config "${recipe_default[fbank_config]}" default
    if [[ $found != "$fbank_config" ]]; then
      feats_tag=$(tag_of "$fbank_config")
      [[ $feats_tag == fbank[_-]* ]] || feats_tag=fbank_$feats_tag
      filter_marker=filter_$feats_tag
    fi
  fi
  [[ $feats_type != raw ]] || filter_marker=filter_raw
  feats=$dumpdir/$feats_tag
  token_tag=$token_type
  [[ $token_type != bpe ]] || token_tag=bpe_$bpemode$nbpe
  token_dir=data/token_list/$token_tag
  token_options=(--token_list "$token_dir/tokens.txt" --token_type "$token_type")
  [[ $token_type != bpe ]] || token_options+=(--bpemodel "$token_dir/bpe.model")
  data_tag=${feats_tag}_${token_tag}${speed_perturb_factors:+_sp}
  stats_dir=$expdir/asr_stats_$data_tag
  [[ $feats_type != raw ]] || # what the front end of the config makes
    stats_dir=$expdir/asr_stats_$(tag_of "$asr_config" --args="$asr_args" "$data_tag")
  local seed_tag=
  [[ $seed == 0 ]] || seed_tag=seed$seed
  [[ -n $asr_tag ]] ||
    asr_tag=$(tag_of "$asr_config" --args="$asr_args" "$data_tag")${seed_tag:+_$seed_tag}
  asr_exp=$expdir/asr_$asr_tag
  twin_inputs=() from_twin=false
  if asks_for_twin "$asr_config"; then
    from_twin=true twin_inputs=(--input "$expdir/.done/train_${asr_tag}_twin.json")
  fi
  lm_options=() lm_inputs=()
  if $use_lm; then
    [[ -n $lm_tag ]] || lm_tag=$(tag_of "$lm_config" "$token_tag")
    lm_exp=$expdir/lm_$lm_tag
    lm_options=(--lm_exp "$lm_exp")
    lm_inputs=(--input "$expdir/.done/lm_$lm_tag.json")
  fi
  ngram_tag=
  ngram_options=() ngram_inputs=()
  if $use_ngram; then
    ngram_tag=ngram${ngram_order}_$token_tag
    ngram_file=$expdir/$ngram_tag/ngram.arpa
    ngram_options=(--ngram_file "$ngram_file")
    ngram_inputs=(--input "$ngram_file")
  fi
  [[ -n $inference_tag ]] ||
    inference_tag=$(tag_of "$inference_config" --args="$inference_args")${lm_tag:+_lm_$lm_tag}${ngram_tag:+_ngram$ngram_order}
  # what is decoded: the trained model, or what the sparsify stage makes of it
  final_tag=$asr_tag final_marker=train_$asr_tag
  if [[ -n $naive_sparsity ]]; then
    final_tag=${asr_tag}_naive$naive_sparsity final_marker=naive_sparse_$final_tag
  elif $sparsify && asks_to_sparsify "$asr_config"; then
    final_tag=${asr_tag}_sparsified final_marker=sparsify_$asr_tag
  fi
  final_exp=$expdir/asr_$final_tag
  first_tag=$(decoding_of "${checkpoints[0]}")

  check_names

  # what is scored loses nothing unseen
  whole=("${tests[@]/#/--test_dir=data/}" --allow_dropped "$allow_dropped")

  # the validation set may be a test set too; it is scored whole, not as filtered for training
  raw_sets=("$train_set" "$valid_set")
  eval_dirs=() named_eval_dirs=() fbank_inputs=() fbank_outputs=() fbank_pairs=()
  local set
  for set in "$source_set" "$valid_set"; do
    fbank_inputs+=("data/$set") fbank_outputs+=("$feats/org/$set")
    fbank_pairs+=("data/$set" "$feats/org/$set")
  done
  for set in "${tests[@]}"; do
    if [[ $set == "$valid_set" ]]; then
      eval_dirs+=("$feats/org/$set")
    else
      raw_sets+=("$set")
      eval_dirs+=("$feats/$set")
      fbank_inputs+=("data/$set") fbank_outputs+=("$feats/$set")
      fbank_pairs+=("data/$set" "$feats/$set")
    fi
    named_eval_dirs+=("$set=${eval_dirs[-1]}")
  done

  local checks=(--asr_config "$asr_config" --asr_args "$asr_args"
    --inference_config "$inference_config" --inference_args "$inference_args")
  checks+=(--feats_type "$feats_type" ${fs:+--fs "$fs"})
  [[ $feats_type != fbank ]] || checks+=(--fbank_config "$fbank_config")
  [[ -z $naive_sparsity ]] || checks+=(--naive_sparsity "$naive_sparsity")
  ! $use_lm || checks+=(--lm_config "$lm_config")
  ! $use_ngram || checks+=(--use_ngram)
  checks+=("${cluster_options[@]}" --energy_model "${cost_models[@]}")
  [[ ${#cores[@]} -eq 0 ]] || checks+=(--hardware "${cores[@]}")
  [[ ! -d $feats/$source_set ]] || checks+=(--train_dir "$feats/$source_set")
  [[ $token_type != bpe ]] || checks+=(--nbpe "$nbpe")
  local train=train
  stage_number train
  $skip_train || [[ $stage -gt $train || $stop_stage -lt $train || -f $asr_exp/spike_finished.json ]] ||
    checks+=(--trains) # what it starts from has to be there
  # a dry run makes nothing, no folder either
  ! $dry_run || [[ -d $expdir/.cache ]] || checks+=(--keep_cache)
  "$py" -m espnet_spike.bin.check_config "${checks[@]}" --cache "$expdir/.cache/check_config.json"
}

# what a training makes, and may make; checkpoint.previous.pth is a spare of an interrupted one alone
trained=(config.yaml "*.ave.pth")
also_trained=("[!c]*.pth" checkpoint.pth epochs.jsonl spike_config.json spike_finished.json features.yaml
  shapes dropped.txt verdict.json train_config.yaml bpe.model feats_stats.npz)

note_command() { # note_command FOLDER: keep how run.sh was called, if something can be written
  $dry_run || { mkdir -p "$1" && printf '%s\n' "$called_as" >>"$1/commands.txt"; } 2>/dev/null ||
    return 0 # a stage that has to write there says what is wrong
}

check_checkpoints() { # sets checkpoints; one empty word stands for the best
  local model seen=" "
  read -ra checkpoints <<<"$inference_asr_model"
  for model in ${checkpoints[@]+"${checkpoints[@]}"}; do
    [[ $model =~ ^([^/]+/)*[^/]+\.pth$ && ! /$model/ =~ /\.\.?/ ]] ||
      fail "--inference_asr_model $model" "give model files (*.pth) by name, or by path within the experiment"
    [[ $seen != *" ${model//\//_} "* ]] || fail "--inference_asr_model: $model is given twice"
    seen+="${model//\//_} " # the name of its decoding
  done
  [[ ${#checkpoints[@]} -eq 0 || " $inference_args" != *" --inference_asr_model"* ]] ||
    fail "--inference_asr_model is in --inference_args too" "give it once"
  [[ ${#checkpoints[@]} -gt 0 ]] || checkpoints=("")
}

find_checkpoints() { # those that are named are there, before the first of them is decoded with
  local model there
  ! $dry_run || return 0
  for model in "${checkpoints[@]}"; do
    [[ -n $model && ! -f $final_exp/$model ]] || continue
    there=$(CDPATH='' cd "$final_exp" 2>/dev/null && find . -maxdepth 2 -name '*.pth' | sed 's,^\./,,' | LC_ALL=C sort) || there=""
    [[ -n $there ]] || there="no model files"
    fail "--inference_asr_model: $final_exp has no $model" "there are: ${there//$'\n'/, }"
  done
}

decoding_of() { # decoding_of CHECKPOINT: its folder in the experiment
  local name=${1%.pth}
  printf '%s\n' "$inference_tag${name:+_asr_model_${name//\//_}}"
}

check_names() { # of folders, logs and markers: before the work, not behind it
  local checkpoint name size names=("calibrate_$asr_tag" "html_report_$final_tag" "$final_marker" "stats_$data_tag")
  names+=("train_${asr_tag}_twin" ${lm_tag:+"lm_$lm_tag"})
  for checkpoint in "${checkpoints[@]}"; do
    names+=("decode_${final_tag}_$(decoding_of "$checkpoint")")
  done
  for name in "${names[@]}"; do # .json comes behind it
    size=$(printf '%s' "$name" | wc -c)
    [[ $size -le 250 ]] ||
      fail "${name:0:60}...: a name of $size bytes, which is made of the options, is too long for a file" \
        "give --asr_tag, --inference_tag or --lm_tag a short name of yours"
  done
}

each_checkpoint() { # each_checkpoint FUNCTION: call it with what is of each decoding
  local checkpoint decode_tag decode_dir counts file weights
  for checkpoint in "${checkpoints[@]}"; do
    weights=() # may change under the same name
    if [[ -z $checkpoint ]]; then
      for file in "$final_exp"/*.pth; do
        case $file in *.ave.pth | *.best.pth) [[ ! -e $file ]] || weights+=("$file") ;; esac
      done
    elif [[ -e $final_exp/$checkpoint ]]; then
      weights=("$final_exp/$checkpoint")
    fi
    decode_tag=$(decoding_of "$checkpoint")
    decode_dir=$final_exp/$decode_tag
    counts=("${tests[@]/%//count.json}")
    counts=("${counts[@]/#/$decode_dir/}")
    "$1"
  done
}

skip() { printf 'stage %s: skipped, %s\n' "$current_stage" "${1#error: }"; } # a hint may follow on its own line

train_step() { # as step; on every machine that trains, started by the launcher
  if [[ $node_rank == 0 ]]; then
    step "$1" ${launcher[@]+"${launcher[@]/#/--launcher=}"} "${@:2}"
    return
  fi
  while [[ $1 != -- ]]; do shift; done
  shift
  echo "stage $current_stage: joins machine 0"
  if $dry_run; then printf '  %s\n' "${launcher[*]} $*"; else "${launcher[@]}" "$@"; fi
}

step() { # step NAME [--input PATH ...] [--output PATH ...] -- COMMAND ...
  local name=$1 flags=()
  shift
  [[ $node_rank == 0 ]] || { skip "machine 0 does it"; return; }
  ! $force || flags+=(--force)
  ! $dry_run || flags+=(--dry_run)
  "$py" -m espnet_spike.bin.run_stage --stage "$current_stage" --name "$name" --expdir "$expdir" \
    --shared data --shared "$dumpdir" --min_free_gb "$min_free_gb" "${flags[@]}" "$@"
}

run_stages() {
  local number name part skip_part
  while read -r number name part _ <&3; do
    [[ $number -ge $stage && $number -le $stop_stage ]] || continue
    skip_part=skip_$part
    [[ ${!skip_part:-false} == false ]] || continue
    current_stage="$number $name"
    "stage_$name"
  done 3<<<"${stages#?}"
  if [[ -f $expdir/RESULTS.md ]] && ! $dry_run; then
    # the first table: a line for each experiment and set
    awk '/^\|/ { print; table = 1; next } table { exit }' "$expdir/RESULTS.md"
    echo "results: $recipe_dir/$expdir/RESULTS.md"
  fi
}
