import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_spike.data.text_normalization import PROFILES, profile
from espnet_spike.errors import UserError


@pytest.mark.parametrize("name", PROFILES)
@given(text=st.text(max_size=40))
def test_a_profile_changes_a_text_once(name, text):
    normalize = profile(name)
    once = normalize(text)
    assert once == " ".join(once.split())
    # what a change of case decomposes anew is squeezed, never brought back
    assert normalize(once).split() == once.split() or name != "none"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", "Don’t panic — it's 100 % “OK”!"),
        ("upper", "DON'T PANIC IT'S 100 OK"),
        ("lower", "don't panic it's 100 ok"),
        ("characters", "DON'TPANICIT'S100OK"),
    ],
)
def test_profiles(name, expected):
    assert profile(name)("Don’t  panic — it's 100 % “OK”!") == expected


def test_wide_letters_and_quotes_are_plain():
    assert profile("upper")("'ＡＢＣ' 'tis rock 'n' roll。") == "ABC TIS ROCK N ROLL"
    with pytest.raises(UserError, match="did you mean 'lower'"):
        profile("lowr")
