import argparse

from espnet_spike.tasks.arguments import DISTRIBUTED
from espnet_spike.training.options import add_training_options

NEEDED = ["--output_dir", "exp", "--token_list", "tokens.txt"]


def parse(what, *words):
    parser = argparse.ArgumentParser()
    add_training_options(parser, what)
    return vars(parser.parse_args([*NEEDED, *words]))


def test_options_that_came_later_are_absent_unless_given():
    """Finished experiments are known by all options, so no default may be added."""
    kept = {"output_dir", "token_list", "token_type", "bpemodel", "ngpu", "seed", *DISTRIBUTED}
    assert parse("asr").keys() == kept | {"asr_args"}
    assert parse("lm").keys() == kept | {"lm_args"}
    given = parse("asr", "--deterministic", "--num_splits", "3")
    assert given["deterministic"] is True and given["num_splits"] == 3
