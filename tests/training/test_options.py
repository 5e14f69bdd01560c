import argparse
from pathlib import Path

import pytest

from espnet_spike.tasks.arguments import DISTRIBUTED
from espnet_spike.training.options import add_training_options

NEEDED = ["--output_dir", "exp", "--token_list", "tokens.txt"]


def parse(what, *words):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_training_options(parser, what)
    return vars(parser.parse_args([*NEEDED, *words]))


def test_a_training_is_named_by_its_folder_and_tokens():
    options = parse("asr")
    assert (options["output_dir"], options["token_list"]) == (Path("exp"), Path("tokens.txt"))
    assert (options["token_type"], options["ngpu"], options["seed"]) == ("bpe", 0, 0)
    # a finished training is known by its options: what was not given is not there
    assert not {"deterministic", "num_splits"} & set(options)
    assert parse("asr", "--deterministic")["deterministic"] is True


def test_each_kind_has_its_own_options(capsys):
    assert parse("asr", "--num_splits", "3", "--asr_args", "x")["num_splits"] == 3
    assert parse("lm", "--lm_args=--max_epoch 3")["lm_args"] == "--max_epoch 3"
    for words in (["--num_splits", "3"], ["--asr_args", "x"], ["--token_type", "phone"]):
        with pytest.raises(SystemExit):
            parse("lm", *words)
        assert words[0] in capsys.readouterr().err


def test_several_processes_are_asked_for_as_espnet_does():
    options = parse("asr", "--dist_launcher", "slurm", "--dist_world_size", "4")
    assert (options["dist_launcher"], options["dist_world_size"]) == ("slurm", "4")
    assert options["dist_rank"] is None


def test_no_default_has_been_added():
    """Finished trainings are known by all options, so a later one is absent unless given."""
    kept = {"output_dir", "token_list", "token_type", "bpemodel", "ngpu", "seed", *DISTRIBUTED}
    assert parse("asr").keys() == kept | {"asr_args"}
    assert parse("lm").keys() == kept | {"lm_args"}
