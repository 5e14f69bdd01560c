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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\u0d9a\u0dca\u200d\u0dbb\u0dd3", "\u0d9a\u0dca\u200d\u0dbb\u0dd3"),  # Sinhala, ZWJ
        (
            "\u0d05\u0d35\u0d28\u0d4d\u200d \u0d05",
            "\u0d05\u0d35\u0d28\u0d4d\u200d \u0d05",
        ),  # chillu
        ("\u09b0\u200d\u09cd\u09af\u09be", "\u09b0\u200d\u09cd\u09af\u09be"),  # Bengali
        ("\u0645\u06cc\u200c\u062e\u0648\u0627", "\u0645\u06cc\u200c\u062e\u0648\u0627"),  # Persian
        ("\u0647\u0627\u200c .", "\u0647\u0627"),  # a joiner that joins nothing
        ("auf\u00adlage auf\u200clage", "auflage auflage"),
        ("\ufeff\u200ea\u2060b", "ab"),
        ("i \u2764\ufe0f u 1\ufe0f\u20e3", "i u 1"),
        ("\U0001f468\u200d\U0001f469 a \u25cc\u0301", "a"),
        ("\u0e2a\u200b\u0e04", "\u0e2a \u0e04"),  # a zero width space is one
        ("\u0939\u093f\u0928\u0940's", "\u0939\u093f\u0928\u0940's"),  # after a mark
    ],
)
def test_what_is_written_inside_a_word_does_not_split_it(text, expected):
    assert profile("lower")(text) == expected
    assert profile("upper")(text) == expected.upper()
    assert profile("characters")(text) == expected.upper().replace(" ", "")


def test_forms_of_unicode():
    assert profile("nfc")("e\u0301  \uff21!") == "\u00e9 \uff21!"
    assert profile("nmt_nfkc")("\u0e17\u0e33 \uff21! a\u200cb") == "\u0e17\u0e4d\u0e32 A! a b"


def test_wide_letters_and_quotes_are_plain():
    assert profile("upper")("'ＡＢＣ' 'tis rock 'n' roll。") == "ABC TIS ROCK N ROLL"
    with pytest.raises(UserError, match="did you mean 'lower'"):
        profile("lowr")
