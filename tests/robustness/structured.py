"""Mutations of YAML and JSON files."""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import yaml

from tests.robustness.mutation import Expect, Mutation, Place, mutator

Holder = dict | list


def places_in(value: Any) -> list[tuple[Holder, Any]]:
    """Return what holds each value, however deep, and under which key or number."""
    found: list[tuple[Holder, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        found.append((value, key))
        if isinstance(item, dict | list):
            found += places_in(item)
    return found


def dump(value: Any, **layout: Any) -> bytes:
    return yaml.safe_dump(value, allow_unicode=True, **({"sort_keys": False} | layout)).encode()


def changed(
    rng: random.Random,
    data: bytes,
    write: Callable[[Any], bytes],
    fits: Callable[[Any], bool],
    values: Callable[[Any], list],
    expect: Expect,
) -> Mutation | None:
    """Put one of ``values(old)`` for a value that ``fits``."""
    content = yaml.safe_load(data)
    places = [(holder, key) for holder, key in places_in(content) if fits(holder[key])]
    if not places:
        return None
    holder, key = rng.choice(places)
    old, holder[key] = holder[key], rng.choice(values(holder[key]))
    return Mutation(write(content), expect, f"{key}: {old!r} -> {holder[key]!r}"[:120])


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def json_dump(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


@mutator("yaml")
def another_style(rng: random.Random, data: bytes, place: Place) -> Mutation:
    content = yaml.safe_load(data)
    kind = rng.choice(["flow", "sorted", "comments", "bom", "crlf", "end", "quoted", "anchor"])
    found = {
        "flow": lambda: dump(content, default_flow_style=True),
        "sorted": lambda: dump(content, sort_keys=True),
        "comments": lambda: b"# a comment\n---\n" + data.replace(b"\n", b"  # more\n", 1),
        "bom": lambda: b"\xef\xbb\xbf" + data,
        "crlf": lambda: dump(content).replace(b"\n", b"\r\n"),
        "end": lambda: dump(content) + b"...\n",
        "quoted": lambda: json_dump(content),
        "anchor": lambda: dump(content).rstrip() + b"\n",
    }[kind]()
    return Mutation(found, Expect.SAME, kind)


BAD_YAML = {
    "a tag": "{key}: !!python/object/apply:os.system ['{run}']\n",
    "a new tag": "{key}: !!python/object/new:os.system ['{run}']\n",
    "a module": "{key}: !!python/module:antigravity\n",
    "a name": "{key}: !!python/name:os.system\n",
    "unclosed": "{key}: [1, 2\n",
    "tab": "\t{key}: 1\n",
    "unknown key": "{key}z: 1\n",
    "unknown keys": "'': 1\n",
    "a number as key": "1: 1\n",
    "a list as key": "[a, b]: 1\n",
    "a date as key": "2020-01-01: 1\n",
    "null as key": "null: 1\n",
    "bomb": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n"
        for a, b in zip("abcdefghi", "bcdefghij", strict=True)
    ),
    "itself": "{key}: &x [*x]\n",
    "deep": "{key}: " + "[" * 20_000 + "]" * 20_000 + "\n",
    "unknown anchor": "{key}: *none\n",
    "second document": "---\na: 1\n",
    "bell": "{key}: '\x07'\n",
    "int": "{key}: " + "9" * 5000 + "\n",
    "sexagesimal": "{key}: 0x_\n",
    "bad date": "{key}: 2020-99-99\n",
}


@mutator("yaml")
def bad_yaml(rng: random.Random, data: bytes, place: Place) -> Mutation | None:
    content = yaml.safe_load(data)
    kind = rng.choice(list(BAD_YAML))
    text = BAD_YAML[kind]
    if kind not in ("unknown keys", "a number as key", "a list as key", "a date as key"):
        key = rng.choice(list(content))
        text = text.replace("{key}", str(key)).replace("{run}", place.command)
        if kind != "unknown key":
            content.pop(key)
    head = dump(content) if content else b""
    found = head + text.encode() if rng.random() < 0.5 else text.encode() + head
    if kind == "second document":
        found = head + text.encode()
    sparse = place.sparse and kind in ("unknown key", "unknown keys")
    return Mutation(found, Expect.SAME if sparse else Expect.REFUSED, kind)


@mutator("yaml")
def a_key_twice(rng: random.Random, data: bytes, place: Place) -> Mutation:
    content = yaml.safe_load(data)
    key = rng.choice(list(content))
    return Mutation(dump(content) + dump({key: content[key]}), Expect.REFUSED, str(key))


@mutator("yaml")
def no_mapping(rng: random.Random, data: bytes, place: Place) -> Mutation:
    text = rng.choice(
        ["[1, 2]", "word", "5", "- a: 1", "<html></html>", "{", "\0", "\xff", "%YAML 9"]
    )
    return Mutation(text.encode("latin1"), Expect.REFUSED, text)


@mutator("yaml")
def no_number(rng: random.Random, data: bytes, place: Place) -> Mutation | None:
    odd: list = [float("nan"), float("inf"), "abc", {"a": 1}, -(10**30), "1;2", ""]
    odd += [] if place.path == "grid.yaml" else [[1]]  # where a list is values to try
    return changed(rng, data, dump, is_number, lambda old: odd, Expect.REFUSED)


@mutator("yaml")
def no_switch(rng: random.Random, data: bytes, place: Place) -> Mutation | None:
    odd = ["maybe", 7, [True], {"a": True}, -0.5]

    def fits(value: Any) -> bool:
        return isinstance(value, bool)

    return changed(rng, data, dump, fits, lambda old: odd, Expect.REFUSED)


@mutator("yaml")
def no_word(rng: random.Random, data: bytes, place: Place) -> Mutation | None:
    odd = [5, [1], {"a": 1}, True, "no such word", "../../x", ""]

    def fits(value: Any) -> bool:
        return isinstance(value, str)

    return changed(rng, data, dump, fits, lambda old: odd, Expect.PARTLY)


@mutator("yaml")
def no_nest(rng: random.Random, data: bytes, place: Place) -> Mutation | None:
    odd = [5, "word", True, [[1]], {"a": {"b": 1}}]

    def fits(value: Any) -> bool:
        return isinstance(value, dict | list) and bool(value)

    return changed(rng, data, dump, fits, lambda old: odd, Expect.PARTLY)


@mutator("yaml")
def other_values(rng: random.Random, data: bytes, place: Place) -> Mutation | None:
    def near(old: Any) -> list:
        return [None, 0, 1, -1, -old, old * 2, old + 1, str(old), float(old), 1e-30, True]

    return changed(rng, data, dump, is_number, near, Expect.PARTLY)


@mutator("yaml")
def null(rng: random.Random, data: bytes, place: Place) -> Mutation | None:
    return changed(rng, data, dump, lambda value: True, lambda old: [None], Expect.PARTLY)


@mutator("yaml", "json")
def a_key_less(rng: random.Random, data: bytes, place: Place) -> Mutation | None:
    content = yaml.safe_load(data)
    places = [(h, key) for h, key in places_in(content) if isinstance(h, dict)]
    if not places:
        return None
    holder, key = rng.choice(places)
    del holder[key]
    return Mutation(json_dump(content), Expect.PARTLY, str(key))


@mutator("yaml", "json")
def other_bytes(rng: random.Random, data: bytes, place: Place) -> Mutation:
    found = bytearray(data)
    for _ in range(rng.choice([1, 2, 8])):
        found[rng.randrange(len(found))] = rng.randrange(256)
    return Mutation(bytes(found), Expect.PARTLY)


@mutator("yaml", "json")
def cut_off(rng: random.Random, data: bytes, place: Place) -> Mutation:
    # its last character may be white space
    at = rng.randrange(len(data.rstrip()) - 1)
    return Mutation(data[:at], Expect.PARTLY, f"after {at} bytes")


@mutator("json", "jsonlines")
def no_json(rng: random.Random, data: bytes, place: Place) -> Mutation:
    text = rng.choice(
        ["", "{", "[]", "5", "null", '"a"', "[" * 100_000, '{"a":' * 100_000, "\xff", "NaN", "{}"]
    )
    return Mutation(text.encode("latin1"), Expect.PARTLY, text[:20])


@mutator("json")
def odd_values(rng: random.Random, data: bytes, place: Place) -> Mutation | None:
    odd = [
        None,
        0,
        -1,
        float("nan"),
        1e308,
        "x",
        "<b>|`x`\n",
        [],
        {},
        [[1]],
        {"a": 1},
        True,
        10**40,
    ]
    return changed(rng, data, json_dump, lambda value: True, lambda old: odd, Expect.PARTLY)


@mutator("json")
def written_otherwise(rng: random.Random, data: bytes, place: Place) -> Mutation:
    content = json.loads(data)
    found = rng.choice([json.dumps(content), json.dumps(content, indent=7) + "\n\n"])
    return Mutation(found.encode(), Expect.SAME)


@mutator("jsonlines")
def odd_lines(rng: random.Random, data: bytes, place: Place) -> Mutation:
    lines = data.decode().splitlines()
    number = rng.randrange(len(lines))
    row = json.loads(lines[number])
    places = places_in(copy.deepcopy(row))
    holder, key = rng.choice(places_in(row)) if places else (row, "x")
    holder[key] = rng.choice([None, -1, float("nan"), "x", [], {}, {"a": 1}, True])
    lines[number] = rng.choice(
        [json.dumps(row), lines[number][: len(lines[number]) // 2], "[]", "5"]
    )
    return Mutation("\n".join([*lines, ""]).encode(), Expect.PARTLY, lines[number][:80])


@mutator("jsonlines")
def half_a_last_line(rng: random.Random, data: bytes, place: Place) -> Mutation:
    """What a killed process leaves: it must not stop anything."""
    return Mutation(data[: len(data) - 7], Expect.PARTLY)
