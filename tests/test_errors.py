import pytest

from espnet_spike.errors import UserError, did_you_mean


def test_a_message_stands_alone_or_with_its_hint():
    assert str(UserError("c.yaml: no encoder")) == "c.yaml: no encoder"
    error = UserError("c.yaml: no encoder", "name one")
    assert (error.message, error.hint) == ("c.yaml: no encoder", "name one")
    assert str(error) == "c.yaml: no encoder\n  hint: name one"


@pytest.mark.parametrize(
    ("name", "guess"),
    [("encodr", " (did you mean 'encoder'?)"), ("encoder_conf", " (did you mean 'encoder'?)")],
)
def test_the_nearest_name_is_guessed(name, guess):
    assert did_you_mean(name, iter(["decode", "encoder", "specaug"])) == guess


def test_nothing_near_is_no_guess():
    assert did_you_mean("optim", ["encoder", "decoder"]) == ""
    assert did_you_mean("encoder", []) == ""
