import pytest

from espnet_spike.results.bootstrap import Interval
from espnet_spike.results.formatting import (
    ends,
    number,
    probability,
    table,
    thousands,
    without_blanks,
)


def test_a_table_has_text_on_the_left_and_numbers_on_the_right():
    rows = [["dev", "one", 3], ["test", "two", 1.5]]
    assert table(["set", "model", "WER"], rows, left=2) == [
        "|set|model|WER|",
        "|---|---|---:|",
        "|dev|one|3|",
        "|test|two|1.5|",
    ]


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (number(3.14159), "3.14"),
        (number(2.5, 0), "2"),
        (number(0.0), "0.00"),
        (number(None), "–"),
        (probability(0.99949), "0.999"),
        (probability(0.9996), "> 0.999"),
        (probability(1.0), "> 0.999"),
        (probability(0.0004), "< 0.001"),
        (probability(0.0006), "0.001"),
        (probability(None), "–"),
        (thousands(1234567), "1 234 567"),
        (thousands(999), "999"),
        (thousands(None), "–"),
    ],
)
def test_numbers(shown, text):
    assert shown == text


def test_an_interval_of_little_is_marked():
    assert ends(Interval(-1.0, 2.345, "speakers", 30, True), "+") == [
        "-1.00 .. +2.35",
        "speakers, one training",
    ]
    assert ends(Interval(1.0, 2.0, "utterances", 3, False, 2)) == [
        "1.00 .. 2.00 *",
        "utterances, two trainings",
    ]


def test_columns_that_say_nothing_are_left_out():
    head = ["set", "firing rate", "sparsity %", "MAC"]
    rows = [["dev", "–", "–", 3], ["test", "–", "51.8", 0]]
    assert without_blanks(head, rows) == (
        ["set", "sparsity %", "MAC"],
        [["dev", "–", 3], ["test", "51.8", 0]],
    )
    assert without_blanks(head, []) == (head, [])
