#!/usr/bin/env bash
# From speech to a table of word error rates, in stages. Options: ./run.sh --help
# shellcheck disable=SC2034  # local/driver.sh reads the options
set -euo pipefail
root=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
caller_dir=$PWD
. "$root/local/parse_options.sh"

### options
# Which recipe, which stages
recipe=mini_an4            # folder under egs/
recipe_dir=                # set by a recipe's own run.sh
stage=1                    # first stage, number or name
stop_stage=15              # last stage, number or name
skip_data_prep=false       # leave out stages 1-5
skip_train=false           # leave out stages 6-9
skip_eval=false            # leave out stages 10-14
list_stages=false          # print the stages and exit
list_encoders=false        # print the encoders that a config can name and exit
list_decoders=false        # print the decoders that a config can name and exit
dry_run=false              # check everything, print the commands, run nothing
force=false                # run stages again although they are done
# Machine
python=                    # interpreter (3.12) to build .venv with; searched for when empty
env=                       # a Python environment of your own instead of .venv
ngpu=auto                  # GPUs a machine for training: auto (as many as the data allow) or a number
num_nodes=1                # machines that train together
dist_launcher=none         # what starts the processes of a training {none|torchrun|slurm}
node_rank=0                # torchrun: which machine this is; the others only join in training
master_addr=               # torchrun: the name of machine 0, as the others know it
master_port=29500          # torchrun: a free port there
slurm_args=                # slurm: options of srun, e.g. "--partition gpu --time 2-00:00"
gpu_inference=false        # decode on a GPU
nj=auto                    # processes for features: auto (all cores) or a number
inference_nj=auto          # processes for decoding: auto (all cores) or a number
cluster=                   # features and decoding on a cluster, e.g. conf/cluster/slurm.yaml
min_free_gb=1              # stop before a stage when less disk space is free
dumpdir=dump               # features
expdir=exp                 # experiments
# Data
corpus_dir=                # a local copy of the corpus; downloaded when empty, where it can be
train_set=train            # name of the training set
valid_set=dev              # name of the validation set
test_sets="test"           # names of the sets to decode and score
allow_dropped=0            # utterances that a test set may lose, being in one of its tables only
allow_pipes=false          # run arbitrary commands found in wav.scp
speed_perturb_factors=     # e.g. "0.9 1.0 1.1"
feats_type=fbank           # features, or audio for a config with a front end {fbank|extracted|raw}
fbank_config=conf/fbank.yaml  # options of the features
fs=                        # sampling rate in Hz; the corpus's when empty
min_frames=10              # shortest training utterance, in frames
max_frames=3000            # longest training utterance, in frames
# Tokens and language model
token_type=bpe             # modelling unit {bpe|char|word}
bpemode=unigram            # kind of sentencepiece model {unigram|bpe}
nbpe=30                    # size of the sentencepiece vocabulary
use_lm=false               # train a language model and decode with it
lm_config=conf/lm.yaml     # its config
lm_train_text=             # further files of "key words" lines that it learns from
lm_tag=                    # its folder; made from the config's name when empty
use_ngram=false            # estimate a token n-gram and decode with it (needs KenLM)
ngram_order=3              # its order, 2 to 6
# Training
asr_config=conf/train_iml_spikeformer.yaml  # model and training
asr_args=                  # any key of it, e.g. "--max_epoch 3 --encoder_conf T=4"
asr_tag=                   # folder of the experiment; made from the options when empty
num_splits_asr=1           # read the lists of a large corpus in that many parts, to save memory
sparsify=true              # thresholds and fine-tuning if the config has a 'sparsify' part
naive_sparsity=            # e.g. 0.2: thresholds for that mean sparsity, untrained (speech_mamba)
seed=0                     # of weights, data order and dropout
require_learnt=false       # fail stage 8 if the model is no better than a constant output
deterministic=false        # the same weights to the bit whenever trained with as many threads
# Decoding and results
inference_config=conf/decode_asr.yaml  # beam search
inference_args=            # any key of it, e.g. "--beam_size 20"
inference_asr_model=       # model files to decode with, e.g. "valid.cer_ctc.best.pth conversion/init.pth"; the mean of the best when empty
inference_tag=             # folder of the decoding; made from the options when empty
normalization=none         # of reference and hypothesis before scoring, nfc and nmt_nfkc of transcripts too {none|nfc|nmt_nfkc|upper|lower|characters}
energy_model="horowitz45_fp32 horowitz45_fp16 horowitz45_int8 lemaire45_int32"  # conf/energy
twin_exp=                  # experiment of a trained dense twin to compare energy with, e.g. exp/asr_Y; that which the training started from when empty
count_forms=false          # count integer counts and 0/1 spikes, W_Q and W_K apart and merged, besides
# Hardware
simulate=false             # count hardware cycles in a whole run, too; --stage simulate always does
hardware="conf/hardware/small.yaml"  # cores to count them on, YAML files
simulate_utterances=20     # utterances of the first test set to record
### end of options

usage() {
  echo "Usage: ./run.sh [--recipe NAME] [--stage N] [--stop_stage N] [--OPTION VALUE ...]"
  print_options "$root/run.sh"
  if [[ ${#own_names[@]} -gt 0 ]]; then
    printf '\nOf the recipe %s\n' "${own_script#"$root"/}"
    print_options "$own_script"
  fi
  printf '\nStages\n'
  print_stages
}

# number  name  part (for --skip_PART)  what it does
stages="
 1 data     data_prep  Kaldi data directories from the corpus, checked and fixed
 2 perturb  data_prep  speed perturbation of the training set
 3 fbank    data_prep  log-mel features, a copy of existing features, or checked audio
 4 filter   data_prep  drop utterances that are too short or too long
 5 token    data_prep  sentencepiece model and token list
 6 lm       train      language model, token n-gram
 7 stats    train      shapes and statistics of the features
 8 train    train      the model
 9 sparsify train      threshold calibration and fine-tuning
10 decode   eval       beam search
11 score    eval       word, character and token error rates with intervals
12 count    eval       operations and energy
13 simulate eval       hardware cycles
14 report   eval       tables of all experiments, a page on this one
15 pack     pack       one zip file with all that decoding needs"

print_stages() { printf '%s\n' "${stages#?}" | sed -E 's/^( ?[0-9]+ [a-z]+ +)[a-z_]+ +/  \1/'; }

_read_option_block "$root/run.sh"
find_own_options "$@" # of the recipe: sets own_script and own_names
parse_options "$root/run.sh" "$@"
$list_stages && { print_stages; exit 0; }

if [[ -z $recipe_dir ]]; then # called from the root: hand over to the recipe, which hands back
  [[ -f $root/egs/$recipe/run.sh ]] ||
    fail "no recipe '$recipe'" "recipes: $(ls -m "$root/egs")"
  arguments=()
  while [[ $# -gt 0 ]]; do
    case $1 in
      --recipe) shift ;;
      --recipe=*) ;;
      *) arguments+=("$1") ;;
    esac
    shift
  done
  exec bash "$root/egs/$recipe/run.sh" ${arguments[@]+"${arguments[@]}"}
fi
. "$root/local/driver.sh"
prepare # environment, folders, tags, checks: sets py, source_set, feats, token_dir, asr_exp, ...

# One function a stage; each `step` is one command that can also be given by hand (see --dry_run).

stage_data() {
  local texts=("${raw_sets[@]/%//text}")
  step data --input local/data.sh "${raw_sets[@]/#/--output=data/}" "${texts[@]/#/--output=data/}" \
    -- bash local/data.sh ${corpus_dir:+--corpus_dir "$corpus_dir"} ${own_options[@]+"${own_options[@]}"}
  local form=() # of Unicode: what is learnt is what is compared
  [[ $normalization != nfc && $normalization != nmt_nfkc ]] || form=(--normalization "$normalization")
  step data_check "${raw_sets[@]/#/--input=data/}" "${raw_sets[@]/#/--output=data/}" \
    -- "$py" -m espnet_spike.bin.prepare_data_dir --allow_pipes "$allow_pipes" ${form[@]+"${form[@]}"} "${whole[@]}" "${raw_sets[@]/#/data/}"
}

stage_perturb() {
  [[ -n $speed_perturb_factors ]] || { skip "no --speed_perturb_factors"; return; }
  step perturb --input "data/$train_set" --output "data/$source_set" \
    -- "$py" -m espnet_spike.bin.perturb_data_dir --factors "$speed_perturb_factors" "data/$train_set" "data/$source_set"
}

stage_fbank() {
  local options=(${fs:+--fs "$fs"} --allow_pipes "$allow_pipes") command=fbank
  case $feats_type in
    extracted) options=() command=copy_feats ;;
    raw) command=format_audio ;;
    *) options=(--config "$fbank_config" "${options[@]}")
      set -- --input "$fbank_config" ;;
  esac
  local lists=("${fbank_outputs[@]/%//feats.scp}")
  step "$feats_tag" "$@" "${fbank_inputs[@]/#/--input=}" "${fbank_outputs[@]/#/--output=}" "${lists[@]/#/--output=}" \
    -- "$py" -m "espnet_spike.bin.$command" "${options[@]}" "${whole[@]}" --nj "$nj" "${cluster_options[@]}" "${fbank_pairs[@]}"
}

stage_filter() {
  step "$filter_marker" --input "$feats/org/$source_set" --input "$feats/org/$valid_set" \
    --output "$feats/$source_set" --output "$feats/$valid_set" \
    --output "$feats/$source_set/feats.scp" --output "$feats/$valid_set/feats.scp" \
    -- "$py" -m espnet_spike.bin.filter_utts --min_frames "$min_frames" --max_frames "$max_frames" \
    "$feats/org/$source_set" "$feats/$source_set" "$feats/org/$valid_set" "$feats/$valid_set"
}

stage_token() {
  local bpe=()
  [[ $token_type != bpe ]] || bpe=(--output "$token_dir/bpe.model" --optional_output "$token_dir/*")
  step "token_$token_tag" --input "$feats/$source_set/text" --output "$token_dir/tokens.txt" ${bpe[@]+"${bpe[@]}"} \
    -- "$py" -m espnet_spike.bin.tokenize --token_type "$token_type" --bpemode "$bpemode" --nbpe "$nbpe" \
    --text "$feats/$source_set/text" --oov_texts "${eval_dirs[@]/%//text}" --out "$token_dir"
}

stage_lm() {
  $use_lm || $use_ngram || { skip "no --use_lm true, no --use_ngram true"; return; }
  local text texts=("$feats/$source_set/text")
  for text in $lm_train_text; do texts+=("$text"); done
  if $use_ngram; then
    step "$ngram_tag" "${texts[@]/#/--input=}" --input "$token_dir/tokens.txt" --output "$ngram_file" \
      -- "$py" -m espnet_spike.bin.ngram_train --train_text "${texts[@]}" "${token_options[@]}" \
      --ngram_order "$ngram_order" --out "$ngram_file"
  fi
  $use_lm || return 0
  fit_gpus "$feats/$source_set/text" "$feats/$valid_set/text"
  train_step "lm_$lm_tag" --input "$lm_config" "${texts[@]/#/--input=}" --input "$token_dir/tokens.txt" \
    "${trained[@]/#/--output=$lm_exp/}" "${also_trained[@]/#/--optional_output=$lm_exp/}" \
    -- "$py" -m espnet_spike.bin.lm_train --lm_config "$lm_config" --train_text "${texts[@]}" \
    --valid_text "$feats/$valid_set/text" "${token_options[@]}" --stats_dir "$lm_exp/stats" \
    --output_dir "$lm_exp" "${training_options[@]}"
}

stage_stats() { # the statistics are of the features: encoders share them, but not front ends
  local config=(--unhashed=--asr_config) front_end=()
  [[ $feats_type != raw ]] || config=(--input "$asr_config") front_end=(--asr_args "$asr_args")
  step "stats_${stats_dir#"$expdir/asr_stats_"}" "${config[@]}" --input "$feats/$source_set" --input "$feats/$valid_set" \
    --input "$token_dir/tokens.txt" --output "$stats_dir/train" --output "$stats_dir/valid" \
    --output "$stats_dir/train/feats_stats.npz" --output "$stats_dir/valid/feats_stats.npz" \
    -- "$py" -m espnet_spike.bin.collect_stats --asr_config "$asr_config" --train_dir "$feats/$source_set" \
    --valid_dir "$feats/$valid_set" "${token_options[@]}" --output_dir "$stats_dir" ${front_end[@]+"${front_end[@]}"}
}

stage_train() { # the dense twin first, where the config says from: twin
  fit_gpus "$feats/$source_set/text" "$feats/$valid_set/text"
  ! $from_twin || train_model "$asr_exp"_twin --twin
  train_model "$asr_exp"
}

train_model() { # train_model EXP [--twin]
  local inputs=()
  [[ $# -gt 1 ]] || inputs=(${twin_inputs[@]+"${twin_inputs[@]}"})
  note_command "$1"
  train_step "train_${1#"$expdir/asr_"}" --input "$asr_config" --input "$stats_dir/train" --input "$stats_dir/valid" \
    --input "$feats/$source_set" --input "$token_dir/tokens.txt" ${inputs[@]+"${inputs[@]}"} \
    "${trained[@]/#/--output=$1/}" "${also_trained[@]/#/--optional_output=$1/}" \
    -- "$py" -m espnet_spike.bin.asr_train --config "$asr_config" --output_dir "$1" \
    --train_dir "$feats/$source_set" --valid_dir "$feats/$valid_set" --stats_dir "$stats_dir" \
    "${token_options[@]}" "${training_options[@]}" "${split_options[@]}" "${learnt_options[@]}" "${@:2}" --asr_args "$asr_args"
}

stage_sparsify() {
  [[ $final_exp != "$asr_exp" ]] || { skip "not asked for"; return; }
  fit_gpus "$feats/$source_set/text" "$feats/$valid_set/text"
  note_command "$final_exp"
  if [[ -n $naive_sparsity ]]; then
    step "$final_marker" --input "$expdir/.done/train_$asr_tag.json" --output "$final_exp/config.yaml" \
      --output "$final_exp/*.pth" --optional_output "$final_exp/naive.json" --optional_output "$final_exp/features.yaml" \
      -- "$py" -m espnet_spike.bin.naive_sparse --asr_exp "$asr_exp" --train_dir "$feats/$source_set" \
      --output_dir "$final_exp" --sparsity "$naive_sparsity" --seed "$seed"
    return
  fi
  local finetune=("$py" -m espnet_spike.bin.sparsify --config "$asr_config" --asr_exp "$asr_exp"
    --output_dir "$final_exp" --train_dir "$feats/$source_set" --valid_dir "$feats/$valid_set"
    --stats_dir "$stats_dir" "${token_options[@]}")
  local inputs=(--input "$asr_config" --input "$expdir/.done/train_$asr_tag.json")
  step "calibrate_$asr_tag" "${inputs[@]}" --output "$final_exp/calibration/init.pth" \
    --optional_output "$final_exp/calibration/init.json" \
    -- "${finetune[@]}" --steps calibrate
  train_step "$final_marker" "${inputs[@]}" --input "$final_exp/calibration/init.pth" \
    "${trained[@]/#/--output=$final_exp/}" "${also_trained[@]/#/--optional_output=$final_exp/}" \
    -- "${finetune[@]}" --steps finetune "${training_options[@]}" "${split_options[@]}" \
    --asr_args "$asr_args"
}

stage_decode() {
  find_checkpoints
  each_checkpoint decode_by_one
}

decode_by_one() {
  local set made=()
  for set in "${tests[@]}"; do
    made+=("$decode_dir/$set/"{text,token,token_int,score,decode.json})
  done
  step "decode_${final_tag}_$decode_tag" --input "$inference_config" --input "$expdir/.done/$final_marker.json" \
    ${weights[@]+"${weights[@]/#/--input=}"} \
    "${lm_inputs[@]}" "${ngram_inputs[@]}" "${eval_dirs[@]/#/--input=}" "${made[@]/#/--output=}" \
    -- "$py" -m espnet_spike.bin.decode --asr_exp "$final_exp" --inference_config "$inference_config" \
    --inference_args "$inference_args" ${checkpoint:+--inference_asr_model "$checkpoint"} "${lm_options[@]}" \
    "${ngram_options[@]}" --inference_nj "$inference_nj" --gpu_inference "$gpu_inference" \
    "${cluster_options[@]}" --out "$decode_dir" "${named_eval_dirs[@]}"
}

stage_score() { each_checkpoint score_of_one; }

score_of_one() {
  local results=("${tests[@]/%//result.json}")
  step "score_${final_tag}_$decode_tag" "${tests[@]/#/--input=$decode_dir/}" \
    "${tests[@]/#/--output=$decode_dir/}" "${results[@]/#/--output=$decode_dir/}" \
    -- "$py" -m espnet_spike.bin.score "${token_options[@]}" --normalization "$normalization" \
    --out "$decode_dir" "${named_eval_dirs[@]}"
}

stage_count() { each_checkpoint count_of_one; }

count_of_one() {
  local set hypotheses=() # of it and further figures
  for set in "${tests[@]}"; do
    hypotheses+=(--input "$decode_dir/$set/token_int" --optional_output "$decode_dir/$set/neurobench.json")
  done
  local more=()
  if [[ -n $twin_exp ]]; then # trained anew, it has other epochs
    more+=(--twin_exp "$twin_exp") hypotheses+=(--input "$twin_exp/config.yaml")
    [[ ! -f $twin_exp/epochs.jsonl ]] || hypotheses+=(--input "$twin_exp/epochs.jsonl")
  fi
  ! $count_forms || more+=(--forms true)
  step "count_${final_tag}_$decode_tag" "${cost_models[@]/#/--input=}" --input "$expdir/.done/$final_marker.json" \
    ${weights[@]+"${weights[@]/#/--input=}"} "${eval_dirs[@]/#/--input=}" "${hypotheses[@]}" \
    "${counts[@]/#/--output=}" \
    -- "$py" -m espnet_spike.bin.count --asr_exp "$final_exp" --energy_model "$energy_model" \
    ${more[@]+"${more[@]}"} --out "$decode_dir" "${named_eval_dirs[@]}"
}

stage_simulate() {
  local lack core outputs=()
  if [[ $stage != 13 ]]; then
    lack=$("$py" -m espnet_spike.bin.simulate --check 2>&1) ||
      { skip "$lack"; return; }
    $simulate || { skip "no --simulate true"; return; }
  fi
  [[ -z ${checkpoints[0]} ]] || echo "stage $current_stage: of the best checkpoint, not of --inference_asr_model"
  for core in "${cores[@]}"; do
    outputs+=("$final_exp/simulate/$(basename "$core" .yaml).json")
  done
  step "simulate_$final_tag" --input "$expdir/.done/$final_marker.json" --input "${eval_dirs[0]}" \
    "${cores[@]/#/--input=}" "${outputs[@]/#/--output=}" \
    -- "$py" -m espnet_spike.bin.simulate --asr_exp "$final_exp" --data_dir "${eval_dirs[0]}" \
    --hardware "${cores[@]}" --utterances "$simulate_utterances" --nj "$nj"
}

stage_report() {
  local simulated=$expdir/.done/simulate_$final_tag.json more=()
  [[ ! -f $simulated ]] || more=(--input "$simulated")
  each_checkpoint note_results # in more
  step report --input "$expdir/.done/$final_marker.json" "${more[@]}" --output "$expdir/RESULTS.md" \
    --optional_output "$final_exp/results.json" \
    -- "$py" -m espnet_spike.bin.report --expdir "$expdir" --corpus "$recipe" --out "$expdir/RESULTS.md" \
    ${corpus_dir:+--corpus_dir "$corpus_dir"}
  step "html_report_$final_tag" --input "$expdir/.done/$final_marker.json" "${more[@]}" \
    "${eval_dirs[@]/#/--input=}" --output "$final_exp/report.html" \
    -- "$py" -m espnet_spike.bin.html_report --asr_exp "$final_exp" --inference_tag "$first_tag" \
    ${corpus_dir:+--corpus_dir "$corpus_dir"} "${named_eval_dirs[@]}"
}

note_results() {
  local count
  for count in "${counts[@]}"; do
    [[ ! -f $count ]] || more+=(--input "$count")
  done
  more+=("${tests[@]/#/--input=$decode_dir/}")
}

stage_pack() {
  local audio_options=() search=$inference_args
  if [[ -n ${checkpoints[0]} ]]; then
    [[ ${#checkpoints[@]} == 1 ]] || echo "stage $current_stage: the pack is of ${checkpoints[0]}"
    search+=" --inference_asr_model ${checkpoints[0]}"
  fi
  ! $use_ngram || echo "stage $current_stage: the n-gram is no part of the pack: $ngram_file"
  [[ $feats_type != fbank ]] || audio_options=(--fbank_config "$fbank_config" ${fs:+--fs "$fs"})
  step "pack_${final_tag}_$first_tag" --input "$expdir/.done/$final_marker.json" \
    --input "$inference_config" "${lm_inputs[@]}" --output "$final_exp/pack.zip" \
    -- "$py" -m espnet_spike.bin.pack --asr_exp "$final_exp" "${lm_options[@]}" \
    --inference_config "$inference_config" --inference_args "$search" \
    --token_list "$token_dir/tokens.txt" "${audio_options[@]}" --out "$final_exp/pack.zip"
}

run_stages
