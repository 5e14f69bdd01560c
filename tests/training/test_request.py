"""Requests: what is read of a command line, and the digest by which finished ones are known."""

import argparse
import dataclasses
import json
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest

import espnet_spike
from espnet_spike.bin import asr_train, collect_stats, lm_train, sparsify
from espnet_spike.data.feature_extractor import FEATURES
from espnet_spike.errors import UserError
from espnet_spike.tasks.config import read_training_config
from espnet_spike.training import request as request_module
from espnet_spike.training.asr import Features
from espnet_spike.training.lm import Texts
from espnet_spike.training.request import (
    Tokens,
    asr_request,
    lm_request,
    statistics_request,
    with_config,
)
from espnet_spike.utils.files import digest, file_digest, flatten

# Trainings that version 0.1.0 finished before there were requests: command lines, the files that
# they read, and the digests in the spike_finished.json that they left.
FINISHED = Path(__file__).parent / "finished"
RECORD = json.loads((FINISHED / "requests.json").read_text())
COMMANDS = {"asr_train": (asr_train, asr_request), "lm_train": (lm_train, lm_request)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    shutil.copytree(FINISHED, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    return Path()


def read(command, words):
    module, make = COMMANDS[command]
    return make(vars(module.get_parser().parse_args(words)))


@pytest.mark.parametrize("row", RECORD["requests"], ids=lambda row: row["words"][-1])
def test_what_was_finished_before_is_known_again(folder, monkeypatch, row):
    monkeypatch.setattr(espnet_spike, "__version__", RECORD["versions"]["espnet_spike"])
    monkeypatch.setattr(request_module, "version", RECORD["versions"].get)
    assert read(row["command"], row["words"]).digest == row["request"]


def old_digest(options: argparse.Namespace) -> str:
    """The digest as the trainings of version 0.1.0 made it of their command line."""
    if "lm_config" in options:
        config, _ = read_training_config(options.lm_config)
        texts = [*options.train_text, options.valid_text]
        data = {f"text {number}": text for number, text in enumerate(texts, 1)}
    else:
        config, _ = read_training_config(options.config)
        data = {"features": options.train_dir / FEATURES}
        for part, path in (("train", options.train_dir), ("valid", options.valid_dir)):
            data[f"{part} text"] = path / "text"
            data[f"{part} frames"] = options.stats_dir / part / "speech_shape"
        data = {name: path for name, path in data.items() if path.is_file()}
    words = {k: str(v) for k, v in vars(options).items()}
    files = [
        file_digest(path)
        for path in (options.token_list, options.bpemodel, *data.values())
        if path is not None
    ]
    content = [flatten(config), words, files, espnet_spike.__version__, version("espnet")]
    return digest(json.dumps(content, sort_keys=True, default=str))


@pytest.mark.parametrize("row", RECORD["requests"], ids=lambda row: row["words"][-1])
def test_the_digest_of_today_is_made_as_ever(folder, row):
    module, make = COMMANDS[row["command"]]
    options = module.get_parser().parse_args(row["words"])
    assert make(vars(options)).digest == old_digest(options)


ASR = RECORD["requests"][0]["words"]


@pytest.mark.parametrize(
    "more", [["--seed", "4"], ["--deterministic"], ["--num_splits", "1"], ["--dist_rank", "0"]]
)
def test_another_option_is_another_request(folder, more):
    assert read("asr_train", [*ASR, *more]).digest != read("asr_train", ASR).digest


@pytest.mark.parametrize("name", ["tokens.txt", "dev/text", "stats/train/speech_shape", "c.yaml"])
def test_another_content_is_another_request(folder, name):
    before = read("asr_train", ASR).digest
    assert read("asr_train", ASR).digest == before
    path = folder / name
    text = path.read_text()
    path.write_text(
        text.replace("max_epoch: 2", "max_epoch: 3") if name == "c.yaml" else text + "\n"
    )
    assert read("asr_train", ASR).digest != before


def test_what_a_request_says(folder):
    request = read("asr_train", [*ASR, "--num_splits", "3", "--dist_backend", "gloo"])
    assert request.config["encoder"] == "transformer" and request.meta == {}
    assert request.data == Features(Path("train"), Path("dev"), Path("stats"), 3)
    assert request.tokens == Tokens(Path("tokens.txt"), "char")
    assert request.tokens.vocabulary_size() == 7
    assert request.processes.distributed == {"dist_backend": "gloo"}
    assert (request.exp_dir, request.overrides) == (Path("asr"), "--max_epoch 4")
    words = " ".join(request.words())
    for word in ("--output_dir asr", "--token_type char", "--seed 0", "--resume true", "--ngpu 0"):
        assert word in words
    assert "--bpemodel" not in words
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.seed = 1


def test_requests_of_the_other_commands(folder):
    request = read("lm_train", RECORD["requests"][4]["words"])
    train = (Path("lmtrain"), Path("lmtrain2"))
    assert request.data == Texts(train, Path("lmvalid"), Path("lmstats"), "char")
    words = "--asr_config c.yaml --train_dir train --valid_dir dev --token_list tokens.txt"
    options = collect_stats.get_parser().parse_args([*words.split(), "--output_dir", "s"])
    request = statistics_request(vars(options))
    assert request.data == Features(Path("train"), Path("dev"), Path("s"))
    assert request.path == Path("c.yaml")


def test_the_fine_tuning_is_the_training_of_its_own_yaml(folder):
    """What the sparsify stage asks for is what asr_train would be asked for."""
    words = [word for word in ASR if word != "asr"]
    words[words.index("--output_dir")] = "--output_dir=sparse"
    options = vars(sparsify.get_parser().parse_args([*words, "--asr_exp", "asr"]))
    del options["asr_exp"], options["steps"], options["verbose"]
    request = with_config(asr_request(options), Path("sparse/finetune.yaml"))
    words[words.index("c.yaml")] = "sparse/finetune.yaml"
    assert request == read("asr_train", words)
    assert request.digest == read("asr_train", words).digest


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (Tokens(Path("none.txt"), "char"), "no such token list: none.txt"),
        (Tokens(Path("tokens.txt"), "bpe"), "needs --bpemodel"),
        (Tokens(Path("tokens.txt"), "bpe", Path("none.model")), "no such BPE model: none.model"),
    ],
)
def test_missing_tokens_are_named(folder, tokens, message):
    with pytest.raises(UserError, match=message):
        tokens.vocabulary_size()


def test_a_missing_file_is_told_by_the_check_not_by_the_digest(folder):
    before = read("asr_train", ASR).digest
    (folder / "tokens.txt").unlink()
    (folder / "dev" / "text").unlink()
    assert read("asr_train", ASR).digest != before
    with pytest.raises(UserError, match="no such configuration file"):
        read("asr_train", [word if word != "c.yaml" else "none.yaml" for word in ASR])
