"""What an ASR training is told of its data."""

from argparse import Namespace
from pathlib import Path

import pytest

from espnet_spike.errors import UserError
from espnet_spike.training.asr import Features, feature_options

FEATURES = Features(Path("train"), Path("dev"), Path("stats"))


def test_shapes_of_both_parts_are_read_from_the_experiment():
    words = FEATURES.words(Path("exp"))
    found = list(zip(words[::2], words[1::2], strict=True))
    assert found == [
        ("--train_data_path_and_name_and_type", "train/feats.scp,speech,kaldi_ark"),
        ("--train_data_path_and_name_and_type", "train/text,text,text"),
        ("--train_shape_file", "exp/shapes/train/speech_shape"),
        ("--train_shape_file", "exp/shapes/train/text_shape"),
        ("--valid_data_path_and_name_and_type", "dev/feats.scp,speech,kaldi_ark"),
        ("--valid_data_path_and_name_and_type", "dev/text,text,text"),
        ("--valid_shape_file", "exp/shapes/valid/speech_shape"),
        ("--valid_shape_file", "exp/shapes/valid/text_shape"),
    ]


def test_only_the_training_part_is_cut():
    words = Features(Path("train"), Path("dev"), Path("stats"), 2).words(Path("exp"))
    assert "exp/splits/feats.scp,speech,kaldi_ark" in words and "exp/splits/text_shape" in words
    assert words[words.index("--multiple_iterator") + 1] == "true"
    assert "dev/feats.scp,speech,kaldi_ark" in words
    with pytest.raises(UserError, match="--num_splits 0"):
        Features(Path("train"), Path("dev"), Path("stats"), 0).check()


def test_a_comma_in_a_path_is_refused():
    with pytest.raises(UserError, match="the path a,b holds a comma"):
        feature_options("train", Path("a,b"))


def test_what_is_not_there_is_told_by_the_check(work):
    features = Features(work / "train", work / "dev", work / "stats")
    assert features.check() == 80
    names = ["train text", "train frames", "valid text", "valid frames"]
    assert list(features.files()) == names
    (work / "train" / "features.yaml").write_text("fs: 16000\n")
    assert list(features.files()) == ["features", *names]
    (work / "dev" / "text").unlink()
    assert "valid text" not in features.files()
    with pytest.raises(UserError, match="missing: work/dev/text"):
        features.check()


def arguments(**change):
    values = {"batch_type": "folded", "fold_length": [], "normalize": "global_mvn"}
    return Namespace(**values | {"normalize_conf": {}} | change)


def test_what_nobody_says_is_set():
    args = arguments()
    FEATURES.complete(args)
    assert args.fold_length == [800, 150]
    assert args.normalize_conf == {"stats_file": "stats/train/feats_stats.npz"}
    args = arguments(fold_length=[1, 2], normalize_conf={"stats_file": "x", "norm_vars": False})
    FEATURES.complete(args)
    assert (args.fold_length, args.normalize_conf["stats_file"]) == ([1, 2], "x")
    args = arguments(batch_type="numel", normalize="utterance_mvn")
    FEATURES.complete(args)
    assert (args.fold_length, args.normalize_conf) == ([], {})


def test_only_an_error_in_reading_features_is_explained(work):
    features = Features(work / "train", work / "dev", work / "stats")
    code = compile("raise OSError('cannot read')", "x/espnet2/train/dataset.py", "exec")
    ark = work / "dev" / "data" / "feats.1.ark"
    ark.write_bytes(ark.read_bytes()[:-100])
    assert features.explain(None) is None
    assert features.explain(ValueError("of the model")) is None
    with pytest.raises(OSError) as caught:
        exec(code)
    found = features.explain(caught.value)
    assert found is not None and "v2" in found.message
