"""Mutations of what a training leaves: checkpoints, n-grams, token lists."""

import io
import random
from typing import Any

from tests.robustness import tables  # noqa: F401  registers those of lists
from tests.robustness.binary import BINARY, a_pickle_of_a_command, saved
from tests.robustness.mutation import MUTATORS, Expect, Mutation, Place, mutator

# of any format, and of files of tensors
MUTATORS["checkpoint"] = {
    name: function
    for name, function in MUTATORS["pth"].items()
    if name in {*MUTATORS[BINARY[0]], a_pickle_of_a_command.__name__}
}
MUTATORS["arpa"] = {name: MUTATORS["list"][name] for name in ("nothing_in_it", "other_bytes")}
MUTATORS["tokens"] = MUTATORS["arpa"] | {"not_utf8": MUTATORS["list"]["not_utf8"]}


@mutator("checkpoint")
def another_state(rng: random.Random, data: bytes, place: Place) -> Mutation:
    """A whole file whose content is that of no training."""
    import torch

    content = torch.load(io.BytesIO(data), weights_only=True)
    kind, change = rng.choice(list(STATES.items()))
    content = change(content, rng)
    return Mutation(saved(content), Expect.PARTLY, kind)


def _without(content: dict, rng: random.Random) -> dict:
    del content[rng.choice(list(content))]
    return content


def _odd_model(content: dict, rng: random.Random) -> dict:
    import torch

    model = content["model"]
    key = rng.choice([k for k, v in model.items() if v.is_floating_point()])
    kind = rng.choice(["nan", "shape", "less", "more", "text"])
    if kind == "nan":
        model[key] = torch.full_like(model[key], float("nan"))
    elif kind == "shape":
        model[key] = torch.zeros(*model[key].shape, 2)
    elif kind == "less":
        del model[key]
    elif kind == "more":
        model[f"{key}.more"] = model[key]
    else:
        model[key] = "text"
    return content


def _odd_report(content: dict, rng: random.Random) -> dict:
    odd: list[Any] = [None, -1, 0, 99, "x", [], {}, float("nan"), True, 10**30]
    report = content["reporter"]
    stats = report["stats"]
    epoch = rng.choice(list(stats))
    holder, key = rng.choice(
        [(report, "epoch"), (report, "stats"), (stats, epoch), (stats[epoch], "valid")]
        + [(stats[epoch]["valid"], name) for name in stats[epoch]["valid"]]
    )
    holder[key] = rng.choice(odd)
    return content


def _odd_part(content: dict, rng: random.Random) -> dict:
    key = rng.choice([key for key in content if key not in ("model", "reporter")])
    content[key] = rng.choice([None, [], {}, 5, "x", [{}], [None], {"a": 1}])
    return content


STATES = {
    "a part less": _without,
    "another model": _odd_model,
    "another report": _odd_report,
    "another part": _odd_part,
    "a list": lambda content, rng: [content],
    "a number": lambda content, rng: 5,
    "a model alone": lambda content, rng: content["model"],
}


# N-grams


def _replaced(rng: random.Random, text: str, old: str, values: list[str]) -> str:
    """Put a value in the place of one occurrence."""
    at = rng.choice([n for n in range(len(text)) if text.startswith(old, n)])
    return text[:at] + rng.choice(values) + text[at + len(old) :]


@mutator("arpa")
def no_ngram(rng: random.Random, data: bytes, place: Place) -> Mutation:
    text = data.decode()
    kind = rng.choice(["cut", "data", "end", "begin", "counts", "orders", "binary", "zeros"])
    found = {
        "cut": lambda: text[: rng.randrange(len(text) - 10)].encode(),
        "data": lambda: text.replace("\\data\\", "\\date\\").encode(),
        "end": lambda: text.replace("\\end\\", "").encode(),
        "begin": lambda: _replaced(rng, text, "<s>", ["", "<x>", "x"]).encode(),
        "counts": lambda: _replaced(
            rng, text, "ngram 2=", ["ngram 2=9", "ngram 2=-", "ngram 2=999999999999", "ngram 7="]
        ).encode(),
        "orders": lambda: _replaced(rng, text, "\\2-grams:", ["", "\\3-grams:", "2"]).encode(),
        # the format that KenLM maps into memory
        "binary": lambda: b"mmap lm http://kheafield.com/code format version 5\n\0" + data,
        "zeros": lambda: bytes(len(data)),
    }[kind]()
    expect = Expect.PARTLY if kind == "begin" else Expect.REFUSED
    return Mutation(found, expect, kind)


@mutator("arpa")
def another_number_in_it(rng: random.Random, data: bytes, place: Place) -> Mutation:
    lines = data.decode().splitlines()
    rows = [number for number, line in enumerate(lines) if "\t" in line]
    number = rng.choice(rows)
    fields = lines[number].split("\t")
    which = rng.choice([0, -1] if len(fields) > 2 else [0])
    value = rng.choice(["nan", "inf", "-inf", "1e400", "abc", "", "0.5", "-1e30"])
    fields[which] = value
    lines[number] = "\t".join(fields)
    # a probability above 1 and none at all: whether a strange figure is meant nobody knows
    expect = Expect.PARTLY if value in ("-inf", "-1e30", "0.5") else Expect.REFUSED
    return Mutation("\n".join([*lines, ""]).encode(), expect, f"{value} in line {number + 1}")


@mutator("arpa")
def another_word(rng: random.Random, data: bytes, place: Place) -> Mutation:
    lines = data.decode().splitlines()
    number = rng.choice([n for n, line in enumerate(lines) if "\t" in line])
    fields = lines[number].split("\t")
    fields[1] = rng.choice(["", "x", "a b c d e f g", "<s> <s>", "\0", "a" * 5000])
    lines[number] = "\t".join(fields)
    return Mutation("\n".join([*lines, ""]).encode(), Expect.PARTLY, f"line {number + 1}")


# Token lists


@mutator("tokens")
def other_white_space_in_it(rng: random.Random, data: bytes, place: Place) -> Mutation:
    """The list is ours: what ESPnet would take for another token may be refused."""
    mutation = MUTATORS["list"]["other_white_space"](rng, data, place)
    assert mutation is not None
    return Mutation(mutation.content, Expect.SAME_OR_REFUSED, mutation.note)


@mutator("tokens")
def other_tokens(rng: random.Random, data: bytes, place: Place) -> Mutation:
    tokens = data.decode().splitlines()
    number = rng.randrange(len(tokens))
    kind = rng.choice(["less", "twice", "empty", "swapped", "spaces", "odd", "more"])
    if kind == "less":
        del tokens[number]
    elif kind == "twice":
        tokens.insert(number, tokens[(number + 1) % len(tokens)])
    elif kind == "empty":
        tokens[number] = ""
    elif kind == "swapped":
        other = (number + 1) % len(tokens)
        tokens[number], tokens[other] = tokens[other], tokens[number]
    elif kind == "spaces":
        tokens[number] += " x"
    elif kind == "odd":
        tokens[number] = rng.choice(["\0", "<s>", "</s>", "\u200b", "a" * 10_000, "%s", "\x1b"])
    else:
        tokens.append(rng.choice(["x", "<sos/eos>", "<blank>"]))
    twice = len(set(tokens)) < len(tokens)
    special = tokens[0] != "<blank>" or tokens[-1] != "<sos/eos>" or "<unk>" not in tokens
    expect = Expect.REFUSED if twice or special else Expect.PARTLY
    return Mutation("\n".join([*tokens, ""]).encode(), expect, f"{kind}, {number}")
