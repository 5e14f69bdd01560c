"""Numbers that no beam search can do with are refused before anything is decoded."""

import pytest

from espnet_spike.errors import UserError
from espnet_spike.inference.search_values import (
    check_idle,
    check_search_values,
    largest_beam,
    search_values,
)


def test_the_options_go_over_the_configuration_and_that_over_espnets_defaults():
    words = ["--beam_size", "7", "--penalty=-0.5", "--maxlenratio", "-1e1", "--seed", "3"]
    values = search_values({"beam_size": 3, "ctc_weight": 0.3}, words)
    assert (values["beam_size"], values["ctc_weight"], values["penalty"]) == (7, 0.3, -0.5)
    assert values["maxlenratio"] == -10
    # what is no number is for ESPnet's parser to refuse
    assert search_values({"beam_size": "ten"}, ["--nbest"])["beam_size"] == 20
    assert "nbest" not in search_values({}, ["--nbest"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--beam_size 0", "beam_size: 0(.0)? is out of range(.|\n)*whole number from 1 to"),
        ("--nbest 0", "nbest: 0(.0)? is out of range"),
        ("--beam_size -3", "beam_size: -3(.0)? is out of range"),
        ("--minlenratio 3", "minlenratio: 3(.0)? is out of range"),
        ("--maxlenratio -0.5", r"maxlenratio: -0\.5 is out of range(.|\n)*a share"),
        ("--ctc_weight 1.5", r"ctc_weight: 1\.5 is out of range(.|\n)*a number from 0 to 1"),
        ("--ctc_weight=-0.1", r"ctc_weight: -0\.1 is"),
        ("--ctc_weight nan", "ctc_weight: nan"),
        ("--penalty nan", "penalty: nan is out of range"),
        ("--lm_weight inf", "lm_weight: inf"),
        ("--maxlenratio nan", "maxlenratio: nan"),
        ("--ctc_window_margin -1", "ctc_window_margin: -1"),
        ("--minlenratio 0.5 --maxlenratio 0.2", "minlenratio 0.5 is beyond maxlenratio 0.2"),
        ("--nbest 0 --beam_size 0", "beam_size: 0 .*; nbest: 0"),
    ],
)
def test_what_no_search_can_do_with_is_refused(words, said):
    with pytest.raises(UserError, match=said):
        check_search_values({}, words.split())
    key, value = words.replace("=", " ").removeprefix("--").split(" ")[:2]
    if "--" not in words[2:]:
        with pytest.raises(UserError, match=said):
            check_search_values({key: float(value)}, [])


@pytest.mark.parametrize(("key", "what"), [("lm", "language model"), ("ngram", "n-gram")])
def test_a_weight_of_what_is_not_there_is_refused(key, what):
    both = {"lm": True, "ngram": True}
    words = [f"--{key}_weight", "0.5", "--beam_size", "3"]
    check_idle(words, **both)
    check_idle([f"--{key}_weight=0"], lm=False, ngram=False)
    check_idle(["--penalty", "1.0"], lm=False, ngram=False)
    for typed in (words, [f"--{key}_weight=0.5"]):
        with pytest.raises(UserError, match=f"{key}_weight 0.5, and there is no {what}: --use_"):
            check_idle(typed, **(both | {key: False}))


def test_what_espnet_documents_is_taken():
    check_search_values(
        {}, "--maxlenratio -3 --minlenratio 0.1 --penalty -1 --ctc_weight 1".split()
    )
    check_search_values({"maxlenratio": 0.0, "minlenratio": -2.0}, [])
    assert (largest_beam(9), largest_beam(1)) == (8, 1)
