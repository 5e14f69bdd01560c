"""A training of a few synthetic utterances, through the commands."""

import numpy as np
import torch
import yaml

from espnet_spike.bin import asr_train, collect_stats
from espnet_spike.data.ark import ArkReader, ArkWriter
from espnet_spike.utils.files import read_table
from tests.helpers.features import write_features, write_tokens

CONFIG = {
    "spike_meta": {"vocab_size": 7},
    "encoder": "transformer",
    "encoder_conf": {"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 1},
    "decoder": "transformer",
    "decoder_conf": {"num_blocks": 1, "attention_heads": 2, "linear_units": 32},
    "model_conf": {"ctc_weight": 0.3},
    "normalize": "utterance_mvn",
    "optim": "adam",
    "optim_conf": {"lr": 0.002},
    "batch_type": "unsorted",
    "batch_size": 2,
    "num_workers": 0,
    "max_epoch": 2,
    "num_att_plot": 0,
    "use_matplotlib": False,
    "use_tensorboard": False,
    "best_model_criterion": [["valid", "cer_ctc", "min"], ["valid", "acc", "max"]],
    "keep_nbest_models": 2,
}
TRAIN = {"u1": "ab", "u2": "bc a", "u3": "cab", "u4": "abc b", "u5": "c"}
DEV = {"v1": "ba", "v2": "cb"}


def write_data(folder):
    """Write features of `TRAIN` and `DEV`, and tokens."""
    write_features(folder / "train", TRAIN)
    write_features(folder / "dev", DEV, seed=1)
    write_tokens(folder / "tokens.txt")
    return folder


def write_config(folder, **change):
    """Write `CONFIG` with changes; ``...`` takes a key away."""
    config = {key: value for key, value in (CONFIG | change).items() if value is not ...}
    (folder / "c.yaml").write_text(yaml.safe_dump(config))


def stats(folder):
    """Collect statistics."""
    collect_stats.main(
        f"--asr_config {folder}/c.yaml --train_dir {folder}/train --valid_dir {folder}/dev "
        f"--token_list {folder}/tokens.txt --token_type char --output_dir {folder}/stats".split()
    )


def train_words(folder, exp):
    """Return the command line of a training in ``folder / exp``."""
    words = (
        f"--config {folder}/c.yaml --train_dir {folder}/train --valid_dir {folder}/dev "
        f"--stats_dir {folder}/stats --token_list {folder}/tokens.txt --token_type char "
        f"--output_dir {folder}/{exp}"
    )
    return words.split()


def train(folder, extra="", exp="exp", more=()):
    """Train with ESPnet's options ``extra`` and our options ``more``; return the experiment."""
    asr_train.main([*train_words(folder, exp), "--asr_args", extra, *more])
    return folder / exp


def weights(path):
    """Load a model file."""
    return torch.load(path, map_location="cpu", weights_only=True)


def same(a, b):
    """Return whether two states are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def poison(folder, utt, value=np.nan):
    """Rewrite the features of a data directory with one bad frame."""
    entries = read_table(folder / "feats.scp")
    with ArkReader() as reader:
        feats = {u: reader.read(u, entry).copy() for u, entry in entries.items()}
    feats[utt][3] = value
    ark = folder / "data" / "feats.2.ark"
    with ArkWriter(ark) as writer:
        lines = [f"{u} {ark}:{writer.write(u, f)}\n" for u, f in feats.items()]
    (folder / "feats.scp").write_text("".join(lines))
