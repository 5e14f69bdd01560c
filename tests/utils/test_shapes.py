import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from espnet_spike.errors import UserError
from espnet_spike.utils.shapes import misfit, read_shaped, read_state


@dataclass(frozen=True)
class Rate:
    err: float
    ci: list[float]


@dataclass(frozen=True)
class State:
    name: str
    rate: Rate
    more: dict[str, list[int]] = field(default_factory=dict)
    note: str | None = None
    anything: Any = None


GOOD = {"name": "x", "rate": {"err": 1, "ci": [0.5, 2]}, "unknown": 3}


@pytest.mark.parametrize(
    "content",
    [GOOD, GOOD | {"more": {"a": [1]}, "note": None, "anything": [{}]}, GOOD | {"note": "n"}],
)
def test_what_fits(tmp_path, content):
    (tmp_path / "s.json").write_text(json.dumps(content))
    assert read_shaped(tmp_path / "s.json", State) == content
    assert read_state(tmp_path / "s.json", State).name == "x"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": 3}, "name: 3 is no str"),
        ({"name": None}, "name: None is no str"),
        ({"rate": []}, "rate: [] is no mapping"),
        ({"rate": {"err": True, "ci": []}}, "rate.err: True is no float"),
        ({"rate": {"err": 1.0}}, "rate: ci is missing"),
        ({"rate": {"err": 1.0, "ci": [1.0, "2"]}}, "rate.ci[1]: '2' is no float"),
        ({"more": {"a": [1, 2.5]}}, "more.a[1]: 2.5 is no int"),
        ({"more": [1]}, "more: [1] is no dict"),
        ({"note": {}}, "note: {} is no str"),
    ],
)
def test_a_value_that_does_not_fit_is_named_by_its_key(change, said):
    assert misfit(GOOD | change, State) == said
    assert misfit(GOOD, State) == ""


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "3", '"x"', "{}", "\xff", "[" * 100_000]
)
def test_a_damaged_file_is_named_with_what_to_do(tmp_path, content):
    path = tmp_path / "s.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"s\.json is damaged") as caught:
        read_state(path, State, "make it again")
    assert caught.value.hint == "make it again"
    path.unlink()
    with pytest.raises(UserError, match=r"s\.json is missing"):
        read_state(path, State)
