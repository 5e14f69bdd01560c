import argparse

import pytest

from espnet_spike.errors import UserError
from espnet_spike.tasks import arguments
from espnet_spike.tasks.asr import SpikeASRTask


class Task:
    """A task with two options, as ESPnet's have many."""

    @staticmethod
    def get_parser():
        parser = argparse.ArgumentParser()
        parser.add_argument("--max_epoch", type=int, default=40)
        parser.add_argument("--optim", default="adam", choices=["adam", "sgd"])
        parser.add_argument("--conf", default=None)
        parser.add_argument("--output_dir")
        return parser


def test_the_user_is_stronger_than_the_command_and_that_than_the_yaml():
    config = {"max_epoch": 3, "optim": "sgd", "conf": {"lr": 1}}
    args = arguments.parse_espnet(Task, config, ["--max_epoch", "4"], "--max_epoch=5")
    assert (args.max_epoch, args.optim, args.conf) == (5, "sgd", {"lr": 1})
    args.conf["lr"] = 2
    assert config["conf"] == {"lr": 1}  # what is parsed is a copy
    assert arguments.parse_espnet(Task, config, ["--max_epoch", "4"]).max_epoch == 4
    assert arguments.parse_espnet(Task, {}, []).max_epoch == 40


@pytest.mark.parametrize(
    ("config", "extra", "said"),
    [
        ({"max_epochs": 3}, "", "unknown key .* max_epochs .did you mean 'max_epoch'"),
        ({}, "--max_epochs 3", "unrecognized arguments: --max_epochs.*did you mean 'max_epoch'"),
        ({}, "--max_ep 3", "unrecognized arguments"),
        ({}, "--max_epoch three", "invalid int value"),
        ({}, "--optim=adamw", "invalid choice"),
        ({}, "--output_dir x", "--output_dir cannot be given"),
        ({}, "--optim 'sgd", "cannot split"),
        ({}, "--help", "unrecognized arguments: --help"),
        ({}, "-h", "unrecognized arguments: -h"),
    ],
)
def test_what_cannot_be_parsed_is_said(config, extra, said):
    with pytest.raises(UserError, match=said):
        arguments.parse_espnet(Task, config, ["--output_dir", "exp"], extra)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("--encoder_conf T=[1", r"a value is not YAML: '\[1': expected ',' or '\]'"),
        ("--model_conf augment={noise: {}}", r"not YAML: '{noise:': expected the node content"),
        ("--optim_conf {lr:", "not YAML: '{lr:'"),
        ("--encoder_conf T='\"6'", "not YAML: '\"6': found unexpected end of stream"),
        ("--encoder_conf T='\a'", "not YAML: .*special characters are not allowed"),
        ("--encoder_conf T=2001-13-45", "not YAML: month must be in 1..12"),
    ],
)
def test_a_value_that_is_not_yaml_is_said(extra, said):
    with pytest.raises(UserError, match=said):
        arguments.parse_espnet(SpikeASRTask, {}, [], extra)


def test_a_list_that_is_given_twice_is_refused_as_the_first_would_be_lost():
    twice = "--freeze_param encoder.embed --freeze_param=ctc"
    with pytest.raises(UserError, match="--freeze_param is given twice") as error:
        arguments.parse_espnet(SpikeASRTask, {}, [], twice)
    assert error.value.hint == "name all behind one: --freeze_param A B"
    words = "--freeze_param encoder.embed ctc --encoder_conf T=1 --encoder_conf norm=bn"
    args = arguments.parse_espnet(SpikeASRTask, {}, [], words)
    assert args.freeze_param == ["encoder.embed", "ctc"]
    assert args.encoder_conf == {"T": 1, "norm": "bn"}


def test_options_are_split_as_by_a_shell():
    assert arguments.split_args("--a 'b c' --d=\"e f\"") == ["--a", "b c", "--d=e f"]
    assert arguments.split_args("") == []


def test_a_device_that_is_not_there_is_named(monkeypatch):
    arguments.check_device("cpu")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    for name in ("cuda", "gpu", "cuda:0"):
        with pytest.raises(UserError, match=f"--device {name}: not on this machine"):
            arguments.check_device(name)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    arguments.check_device("cuda"), arguments.check_device("cuda:1")
    with pytest.raises(UserError, match="cuda:2"):
        arguments.check_device("cuda:2")


def test_options_over_a_yaml_become_its_content_but_for_those_it_cannot_hold():
    config = {"max_epoch": 3, "optim_conf": {"lr": 0.1, "weight_decay": 0.5}}
    typed = "--max_epoch=7 --dist_rank 1 --optim_conf lr=0.2 --ngpu=2 --dist_launcher 'a b'"
    whole, rest = arguments.with_options(SpikeASRTask, config, typed)
    assert whole == {"max_epoch": 7, "optim_conf": {"lr": 0.2, "weight_decay": 0.5}}
    assert arguments.split_args(rest) == ["--dist_rank", "1", "--ngpu=2", "--dist_launcher", "a b"]
    assert arguments.with_options(SpikeASRTask, config, "--ngpu 1") == (config, "--ngpu 1")
    assert arguments.with_options(SpikeASRTask, config, "") == (config, "")
    with pytest.raises(UserError, match="did you mean 'max_epoch'"):
        arguments.with_options(SpikeASRTask, config, "--max_epohc 7")
