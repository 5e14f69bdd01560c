"""Mutations of files of lines: Kaldi's tables, CSV and JSON lines."""

import csv
import gzip
import io
import json
import pickle
import random
import re
from collections.abc import Callable

from tests.robustness.mutation import MUTATORS, Expect, Mutation, Place, Reduced, mutator

# wav.scp, feats.scp, segments, transcripts, other tables of words, of numbers
TABLES = ("scp", "feats", "segments", "text", "words", "numbers")
LINES = (*TABLES, "list")


def rows_of(data: bytes) -> list[list[str]]:
    """Return key and value of every line."""
    return [[*line.split(" ", 1), ""][:2] for line in data.decode().splitlines()]


def table(rows: list[list[str]], join: str = " ", end: str = "\n") -> bytes:
    return "".join(f"{key}{join}{value}".rstrip(" ") + end for key, value in rows).encode()


def draw(rng: random.Random, data: bytes) -> tuple[list[list[str]], int]:
    rows = rows_of(data)
    return rows, rng.randrange(len(rows))


def touching(
    rng: random.Random,
    data: bytes,
    expect: Expect,
    change: Callable[[list[list[str]], int], None],
    note: str = "",
) -> Mutation:
    """Change one line; its utterance is what may differ."""
    rows, number = draw(rng, data)
    key = rows[number][0]
    change(rows, number)
    touched = frozenset({key, *(row[0] for row in rows)} - {k for k, _ in rows_of(data)} | {key})
    return Mutation(table(rows), expect, f"{key}: {note}", touched)


def valued(rng: random.Random, data: bytes, expect: Expect, value: str) -> Mutation:
    """Give one line another value."""

    def change(rows: list[list[str]], number: int) -> None:
        rows[number][1] = value

    return touching(rng, data, expect, change, value[:80])


# What means the same


@mutator(*LINES)
def other_white_space(rng: random.Random, data: bytes, place: Place) -> Mutation:
    text = data.decode()
    kind = rng.choice(["crlf", "bom", "blank lines", "spaces at the end", "no last newline"])
    text = {
        "crlf": text.replace("\n", "\r\n"),
        "bom": "\ufeff" + text,
        "blank lines": "\n" + text.replace("\n", "\n\n", 1) + "  \n",
        "spaces at the end": text.replace("\n", "  \n"),
        "no last newline": text.removesuffix("\n"),
    }[kind]
    return Mutation(text.encode(), Expect.SAME, kind)


@mutator(*TABLES)
def tabs(rng: random.Random, data: bytes, place: Place) -> Mutation:
    return Mutation(table(rows_of(data), "\t"), Expect.SAME)


@mutator(*TABLES)
def another_order(rng: random.Random, data: bytes, place: Place) -> Mutation:
    rows = rows_of(data)
    rng.shuffle(rows)
    return Mutation(table(rows), Expect.PARTLY if place.ordered else Expect.SAME)


# What is wrong in any table


@mutator(*TABLES)
def a_line_twice(rng: random.Random, data: bytes, place: Place) -> Mutation:
    rows, number = draw(rng, data)
    rows.insert(rng.randrange(len(rows) + 1), rows[number])
    return Mutation(table(rows), Expect.REFUSED, rows[number][0])


@mutator(*LINES)
def not_utf8(rng: random.Random, data: bytes, place: Place) -> Mutation:
    at = rng.randrange(len(data))
    return Mutation(data[:at] + b"\xff\xfe" + data[at:], Expect.REFUSED, f"byte {at}")


@mutator(*TABLES)
def a_line_less(rng: random.Random, data: bytes, place: Place) -> Mutation:
    def change(rows: list[list[str]], number: int) -> None:
        del rows[number]

    return touching(rng, data, Expect.PARTLY, change)


@mutator(*TABLES)
def another_key(rng: random.Random, data: bytes, place: Place) -> Mutation:
    suffix = rng.choice(["x", "é", "/../../x", "|", "\u200b", "%s", "'", "*"])

    def change(rows: list[list[str]], number: int) -> None:
        rows[number][0] += suffix

    return touching(rng, data, Expect.PARTLY, change, suffix)


@mutator(*TABLES)
def white_space_in_a_key(rng: random.Random, data: bytes, place: Place) -> Mutation:
    space = rng.choice("\u3000\u00a0\u2028\x85\x0b\x1c")

    def change(rows: list[list[str]], number: int) -> None:
        key = rows[number][0]
        rows[number][0] = key[:1] + space + key[1:]

    return touching(rng, data, Expect.REFUSED, change, repr(space))


@mutator(*TABLES)
def a_key_alone(rng: random.Random, data: bytes, place: Place) -> Mutation:
    return valued(rng, data, Expect.PARTLY, "")


@mutator(*TABLES)
def two_lines_joined(rng: random.Random, data: bytes, place: Place) -> Mutation | None:
    lines = data.decode().splitlines()
    if len(lines) < 2:
        return None
    at = rng.randrange(len(lines) - 1)
    keys = frozenset(line.split(" ")[0] for line in lines[at : at + 2])
    lines[at : at + 2] = [lines[at] + lines[at + 1]]
    return Mutation("\n".join([*lines, ""]).encode(), Expect.PARTLY, touched=keys)


@mutator(*TABLES)
def cut_off(rng: random.Random, data: bytes, place: Place) -> Mutation:
    at = rng.randrange(len(data))
    lost = {line.split(" ")[0] for line in data.decode().splitlines()}
    lost -= {line.split(b" ")[0].decode() for line in data[:at].splitlines()[:-1]}
    partial = data[:at].decode().splitlines()[-1:]
    lost |= {line.split(" ")[0] for line in partial}
    return Mutation(data[:at], Expect.PARTLY, f"after {at} bytes", frozenset(lost))


@mutator(*LINES)
def nothing_in_it(rng: random.Random, data: bytes, place: Place) -> Mutation:
    expect = Expect.PARTLY if place.optional else Expect.REFUSED
    return Mutation(rng.choice([b"", b"\n", b"\xef\xbb\xbf"]), expect)


@mutator(*LINES)
def other_bytes(rng: random.Random, data: bytes, place: Place) -> Mutation:
    found = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        found[rng.randrange(len(found))] = rng.randrange(256)
    return Mutation(bytes(found), Expect.PARTLY)


@mutator("text", "words", "list")
def odd_characters(rng: random.Random, data: bytes, place: Place) -> Mutation:
    odd = rng.choice(
        [
            *("\0", "\x1b[2J", "\u202e", "\u0301", "\U0001f600", "<script>alert(1)</script>"),
            *("| a | b |", "`x`", "<blank>", "<unk>", "<sos/eos>", "<space>", "▁", "a" * 100_000),
            *(
                "' \" $(touch x)",
                "${HOME}",
                "\\n",
                "%(x)s",
                "{0}",
                "\ud800".encode("utf-8", "ignore").decode() or "x",
            ),
        ]
    )
    rows, number = draw(rng, data)
    key, value = rows[number]
    rows[number][1] = f"{value} {odd}" if rng.random() < 0.5 else odd
    return Mutation(table(rows), Expect.PARTLY, f"{key}: {odd[:30]!r}", frozenset({key}))


# Tables of files


@mutator("scp", "feats")
def a_command(rng: random.Random, data: bytes, place: Place) -> Mutation:
    run = place.command
    value = rng.choice(
        [
            *(f"{run} |", f"| {run}", f"{run}|", f" {run} | ", f"cat x | {run} |", f"{run} |:0"),
            *(f"x;{run};|:0", f"$({run}) |", f"sox `{run}` -t wav - |", f"flac -c -d -s x;{run} |"),
            *(f"sph2pipe -f wav 'x'$({run}) |", f"{run} |[0:1]", f"{run}|\u3000", f"|{run}:10"),
            f"sox -t wav x -t wav - remix 1 ; {run} |",
        ]
    )
    return valued(rng, data, Expect.REFUSED, value)


@mutator("scp", "feats")
def no_such_file(rng: random.Random, data: bytes, place: Place) -> Mutation:
    value = rng.choice(
        [
            *("none.x", "/none/x.ark:5", ".", "..", "/", "/dev/null", "/dev/zero", "/dev/stdin"),
            *("/proc/self/mem", "-", "x" * 5000, "file:///x", "http://127.0.0.1:1/x", "~", "text"),
            *("/proc/self/fd/0", "/dev/tty", ":", ":5", "[0:1]", "a\x00b"),
        ]
    )
    return valued(rng, data, Expect.REFUSED, value)


@mutator("feats")
def a_pickle(rng: random.Random, data: bytes, place: Place) -> Mutation:
    content = rng.choice([b"", b"\0B", b"key "]) + pickle.dumps(Reduced(place.command))
    value = rng.choice(["evil.ark", "evil.ark:0", "evil.ark:4", "evil.ark:2", "evil.ark:1_0"])
    found = valued(rng, data, Expect.REFUSED, value)
    return Mutation(found.content, Expect.REFUSED, value, beside={"evil.ark": content})


@mutator("feats")
def another_offset(rng: random.Random, data: bytes, place: Place) -> Mutation:
    rows, number = draw(rng, data)
    path = rows[number][1].rpartition(":")[0]
    offset = rng.choice(
        [
            "0",
            "1",
            "-1",
            "99999999",
            "9" * 18,
            "9" * 30,
            "1_0",
            " 5",
            "+5",
            "0x10",
            "5.0",
            "５",
            "",
            "abc",
        ]
    )
    rows[number][1] = f"{path}:{offset}"
    return Mutation(table(rows), Expect.REFUSED, rows[number][1])


@mutator("feats")
def a_range(rng: random.Random, data: bytes, place: Place) -> Mutation:
    kind, expect = rng.choice(
        [
            *[(kind, Expect.REFUSED) for kind in ("[5:2]", "[999999:]", "[a:b]", "[-1:2]", "[0:1")],
            *[(kind, Expect.PARTLY) for kind in ("[0:1]", "[1:9999999]", "[0:1,0:1]", "[3]")],
            *[(kind, Expect.REFUSED) for kind in ("[0:1,0:1,0:1]", "[0:9999999999999]", "[0:1]5")],
            ("[:]", Expect.PARTLY),
        ]
    )
    rows, number = draw(rng, data)
    rows[number][1] += kind
    touched = frozenset({rows[number][0]})
    return Mutation(table(rows), expect, rows[number][1], touched)


@mutator("scp", "feats")
def the_entry_of_another(rng: random.Random, data: bytes, place: Place) -> Mutation:
    rows = rows_of(data)
    a, b = rng.sample(range(len(rows)), 2)
    rows[a][1] = rows[b][1]
    return Mutation(table(rows), Expect.PARTLY, rows[a][0], frozenset({rows[a][0]}))


@mutator("segments")
def another_stretch(rng: random.Random, data: bytes, place: Place) -> Mutation:
    rows, number = draw(rng, data)
    recording, start, end = rows[number][1].split()
    value, expect = rng.choice(
        [
            *[
                (f"{recording} {times}", Expect.REFUSED)
                for times in (
                    *("nan 0.2", "0 nan", "-0.1 0.2", "0.2 0.1", "0.1 0.1", "0 inf", "0 1e9"),
                    *("-inf 0.2", "0 1e400", "a b", "0", "", "0 0.1 0.2", "1e9 -1", "0x1 0.2"),
                    *("0 -2", "5 -1"),
                )
            ],
            (f"none {start} {end}", Expect.PARTLY),
            (f"{recording} 0 -1", Expect.PARTLY),
            (f"{recording} 0.0 0.0000001", Expect.PARTLY),
            (f"{recording} {start} {float(end) + 0.005}", Expect.PARTLY),
        ]
    )
    rows[number][1] = value
    return Mutation(table(rows), expect, value, frozenset({rows[number][0]}))


@mutator("numbers")
def no_number(rng: random.Random, data: bytes, place: Place) -> Mutation:
    value = rng.choice(
        [
            "nan",
            "inf",
            "-inf",
            "-1",
            "abc",
            "",
            "1e400",
            "1_0",
            "0x1",
            "-1,-1",
            "0,0",
            "1,2,3",
            "nan,8",
        ]
    )
    return valued(rng, data, Expect.REFUSED, value)


@mutator("numbers")
def another_number(rng: random.Random, data: bytes, place: Place) -> Mutation:
    return valued(
        rng, data, Expect.PARTLY, rng.choice(["0", "1e9", "1", "0.5", "7,8", "1000000,8"])
    )


# Manifests


def csv_rows(data: bytes) -> list[list[str]]:
    """Return the fields of a table with commas, or, as its first line shows, tabs."""
    if is_tabbed(data):
        return [line.split("\t") for line in data.decode().splitlines()]
    return list(csv.reader(io.StringIO(data.decode())))


def is_tabbed(data: bytes) -> bool:
    return b"\t" in data.split(b"\n")[0]


def csv_bytes(rows: list[list[str]], tabbed: bool = False, **layout: object) -> bytes:
    out = io.StringIO()
    if tabbed:  # which has no quotes
        end = str(layout.get("lineterminator", "\n"))
        return "".join("\t".join(row) + end for row in rows).encode()
    csv.writer(out, **({"lineterminator": "\n"} | layout)).writerows(rows)  # type: ignore[arg-type]
    return out.getvalue().encode()


@mutator("csv", "tsv")
def another_layout(rng: random.Random, data: bytes, place: Place) -> Mutation:
    rows = csv_rows(data)
    tabbed = is_tabbed(data)
    kind = rng.choice(["quotes"] * (not tabbed) + ["crlf", "bom", "columns", "more"])
    if kind == "columns":
        order = rng.sample(range(len(rows[0])), len(rows[0]))
        rows = [[row[n] for n in order] for row in rows]
    if kind == "more":
        rows = [[*row, "x" if n else "remark"] for n, row in enumerate(rows)]
    layout: dict[str, object] = {"quotes": {"quoting": csv.QUOTE_ALL}}.get(kind, {})
    if kind == "crlf":
        layout = {"lineterminator": "\r\n"}
    bom = b"\xef\xbb\xbf" if kind == "bom" else b""
    return Mutation(bom + csv_bytes(rows, tabbed, **layout), Expect.SAME, kind)


@mutator("csv", "tsv")
def a_bad_row(rng: random.Random, data: bytes, place: Place) -> Mutation:
    rows = csv_rows(data)
    number = rng.randrange(1, len(rows))
    kind = rng.choice(["short", "long", "twice", "no audio", "not there", "no header", "header"])
    if kind == "short":
        del rows[number][-1]
    elif kind == "long":
        rows[number].append("more")
    elif kind == "twice":
        rows.append(rows[number])
    elif kind == "no audio":
        rows[number][0] = ""
    elif kind == "not there":
        rows[number][0] = rng.choice(["none.wav", "..", ".", "/dev/zero", "a\0b", "x" * 5000])
    elif kind == "no header":
        del rows[0]
    else:
        rows[0] = ["x"] * len(rows[0])
    return Mutation(
        csv_bytes(rows, is_tabbed(data)), Expect.REFUSED, f"{kind} in line {number + 1}"
    )


@mutator("csv", "tsv")
def broken_quotes(rng: random.Random, data: bytes, place: Place) -> Mutation:
    at = rng.randrange(len(data))
    return Mutation(data[:at] + b'"' + data[at:], Expect.PARTLY, f"at {at}")


@mutator("csv", "tsv", "jsonl")
def bytes_of_others(rng: random.Random, data: bytes, place: Place) -> Mutation:
    found = bytearray(data)
    for _ in range(rng.choice([1, 2, 8])):
        found[rng.randrange(len(found))] = rng.randrange(256)
    return Mutation(bytes(found), Expect.PARTLY)


@mutator("csv", "tsv", "jsonl")
def no_line(rng: random.Random, data: bytes, place: Place) -> Mutation:
    return Mutation(rng.choice([b"", b"\n", data[: rng.randrange(3)]]), Expect.REFUSED)


NO_TIME = [float("nan"), float("inf"), -1.5, -1e9, "abc", [1], {"a": 1}, True, "nan", "1e400"]


@mutator("csv", "tsv")
def a_bad_time(rng: random.Random, data: bytes, place: Place) -> Mutation | None:
    rows = csv_rows(data)
    if "start" not in rows[0]:
        return None
    number, value = rng.randrange(1, len(rows)), str(rng.choice(NO_TIME))
    rows[number][rows[0].index("start")] = value
    return Mutation(csv_bytes(rows, is_tabbed(data)), Expect.REFUSED, value)


def json_rows(data: bytes) -> list[dict]:
    return [json.loads(line) for line in data.decode().splitlines()]


def json_bytes(rows: list) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@mutator("jsonl")
def the_same_json(rng: random.Random, data: bytes, place: Place) -> Mutation:
    rows = json_rows(data)
    kind = rng.choice(["keys", "bom", "crlf", "ascii", "more"])
    if kind == "keys":
        rows = [dict(reversed(row.items())) for row in rows]
    if kind == "more":
        rows = [row | {"remark": [None, {"a": 1}]} for row in rows]
    text = "".join(json.dumps(row, ensure_ascii=kind == "ascii") + "\n" for row in rows)
    text = text.replace("\n", "\r\n") if kind == "crlf" else text
    return Mutation((b"\xef\xbb\xbf" if kind == "bom" else b"") + text.encode(), Expect.SAME, kind)


@mutator("jsonl")
def a_bad_line(rng: random.Random, data: bytes, place: Place) -> Mutation:
    lines = data.decode().splitlines()
    number = rng.randrange(len(lines))
    line = lines[number]
    lines[number] = rng.choice(
        [
            *("[]", "1", "null", '"a"', "{", line[:-1], line + "}", line + "," + line, "NaN", "{}"),
            *("[" * 100_000, '{"a":' * 100_000, line.replace(":", "", 1), "1" * 10_000),
        ]
    )
    return Mutation("\n".join([*lines, ""]).encode(), Expect.REFUSED, lines[number][:60])


@mutator("jsonl")
def a_bad_value(rng: random.Random, data: bytes, place: Place) -> Mutation:
    rows = json_rows(data)
    number = rng.randrange(len(rows))
    places: list[tuple[dict, str]] = []

    def walk(value: object) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                places.append((value, key))
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(rows[number])
    holder, key = rng.choice(places)
    old = holder[key]
    if isinstance(old, float):
        holder[key] = rng.choice(NO_TIME)
        expect = Expect.PARTLY
        if key in ("start", "offset", "begin") and holder[key] not in (True,):
            expect = Expect.REFUSED
    else:
        holder[key] = rng.choice([None, [], {}, 5, -1, [old], {"a": old}, "", "\0", "../x", True])
        expect = Expect.PARTLY
    return Mutation(json_bytes(rows), expect, f"{key}: {old!r} -> {holder[key]!r}"[:100])


@mutator("jsonl")
def a_key_less(rng: random.Random, data: bytes, place: Place) -> Mutation:
    rows = json_rows(data)
    row = rng.choice(rows)
    key = rng.choice(list(row))
    del row[key]
    return Mutation(json_bytes(rows), Expect.PARTLY, key)


@mutator("csv", "tsv", "jsonl")
def a_command_as_audio(rng: random.Random, data: bytes, place: Place) -> Mutation:
    """It may go to wav.scp, whose readers refuse it; it must not be run."""
    found = re.sub(rb"[\w/. ]+\.wav", f"{place.command} |".encode(), data, count=1)
    return Mutation(found, Expect.PARTLY)


@mutator("gz")
def damaged_gzip(rng: random.Random, data: bytes, place: Place) -> Mutation:
    kind = rng.choice(["bit", "cut", "tail", "zeros", "plain", "method"])
    found = bytearray(data)
    if kind == "bit":
        found[rng.randrange(10, len(found))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del found[rng.randrange(1, len(found)) :]
    elif kind == "tail":
        found += b"rubbish"
    elif kind == "zeros":
        at = rng.randrange(10, len(found))
        found[at : at + 40] = bytes(40)
    elif kind == "plain":
        found = bytearray(gzip.decompress(data))
    else:
        found[2] = 7
    expect = Expect.SAME_OR_REFUSED if kind in ("bit", "tail") else Expect.REFUSED
    return Mutation(bytes(found), expect, kind)


@mutator("gz")
def gzip_bomb(rng: random.Random, data: bytes, place: Place) -> Mutation:
    return Mutation(_BOMB, Expect.REFUSED)


# one line of 300 MB without an end: 300 kB packed
_BOMB = gzip.compress(b'{"id": "' + bytes(1 << 20), 9) + gzip.compress(bytes(1 << 20), 9) * 300


@mutator("gz")
def packed_anew(rng: random.Random, data: bytes, place: Place) -> Mutation:
    """Two members one after the other, as ``cat a.gz b.gz`` makes them, are one file."""
    content = gzip.decompress(data)
    at = rng.randrange(len(content))
    return Mutation(gzip.compress(content[:at]) + gzip.compress(content[at:], 1), Expect.SAME)


def _packed(function: Callable) -> Callable:
    def packed(rng: random.Random, data: bytes, place: Place) -> Mutation | None:
        found = function(rng, gzip.decompress(data), place)
        if found is None or found.content is None:
            return found
        return Mutation(gzip.compress(found.content), found.expect, found.note, found.touched)

    return packed


MUTATORS["gz"] |= {name: _packed(function) for name, function in MUTATORS["jsonl"].items()}


# Counts of words

MUTATORS["counts"] = {
    name: MUTATORS["list"][name] for name in ("nothing_in_it", "not_utf8", "other_bytes")
}


@mutator("counts")
def another_count(rng: random.Random, data: bytes, place: Place) -> Mutation:
    rows = csv_rows(data)
    row = rng.choice(rows[1:])
    column = rng.randrange(2, len(row))
    odd = ["nan", "-1", "1.5", "", "x", "1e3", "9" * 30, " ", "0x1", "7", "1_0", "\u0663"]
    row[column] = rng.choice([value for value in odd if value != row[column]])
    return Mutation(csv_bytes(rows, True), Expect.REFUSED, f"{row[0]}: {row[column]!r}")


@mutator("counts")
def another_table_of_counts(rng: random.Random, data: bytes, place: Place) -> Mutation:
    rows = csv_rows(data)
    number = rng.randrange(1, len(rows))
    kind = rng.choice(["less", "twice", "short", "long", "no header", "header", "cut", "name"])
    if kind == "less":
        del rows[number]
    elif kind == "twice":
        rows.append(rows[number])
    elif kind == "short":
        del rows[number][-1]
    elif kind == "long":
        rows[number].append("0")
    elif kind == "no header":
        del rows[0]
    elif kind == "header":
        rows[0] = rows[0][::-1]
    elif kind == "cut":
        return Mutation(data[: rng.randrange(len(data) - 1)], Expect.REFUSED, kind)
    else:  # of an utterance that the other system does not have
        rows[number][0] += "x"
    return Mutation(csv_bytes(rows, True), Expect.REFUSED, f"{kind} in line {number + 1}")
