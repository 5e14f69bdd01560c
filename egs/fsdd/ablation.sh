#!/usr/bin/env bash
# What each part of IML-Spikeformer does: all rows of conf/ablation/, one seed of every row first;
# call again to go on. The table: exp/ablation/RESULTS.md, differences from the ANN twin.
#   egs/fsdd/ablation.sh [--seeds "1 2 3"] [--rows "imls relu ..."] [OPTIONS of run.sh]
set -euo pipefail
here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
expdir=exp/ablation

# shellcheck source=local/rows.sh
source "$here/../../local/rows.sh"
row_options \
  "imls relu no_decay one_decay fixed_ln fixed_bn imls_t1 asym ssa ternary lif warm transformer" "$@"
for row in $rows; do
  [[ -f $here/conf/ablation/train_$row.yaml ]] || {
    echo "error: no row '$row'; rows: $(CDPATH='' cd "$here/conf/ablation" && echo train_*.yaml)" >&2
    exit 1
  }
done

for seed in $seeds; do
  for row in $rows; do
    tag=()
    # of the files called train_transformer.yaml the one right in conf/ gives its name alone
    [[ $row != transformer ]] || tag=(--asr_tag "${row}_fbank_bpe_unigram30_seed$seed")
    "$here/run.sh" --asr_config "$here/conf/ablation/train_$row.yaml" --expdir "$expdir" \
      --seed "$seed" ${tag[@]+"${tag[@]}"} --stop_stage report ${options[@]+"${options[@]}"}
  done
done
if flag_given "dry_run list_stages list_encoders list_decoders" ${options[@]+"${options[@]}"}; then
  exit 0 # nothing has run that could be reported
fi
cd "$here"
py=$(bash ../../local/env.sh)
"$py" -m espnet_spike.bin.report --expdir "$expdir" --corpus "fsdd, ablation" \
  --baseline relu_fbank_bpe_unigram30 --out "$expdir/RESULTS.md"
