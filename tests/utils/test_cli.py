import argparse
import ast
import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from espnet_spike.errors import UserError
from espnet_spike.utils.cli import (
    COUNT,
    NATURAL,
    POSITIVE,
    RATE,
    SEED,
    SHARE,
    Parser,
    named_dirs,
    quiet,
    run,
    str2bool,
)
from espnet_spike.utils.files import write_lines


def parser():
    made = Parser(prog="x")
    made.add_argument("--asr_args", default="")
    made.add_argument("--beam_size", type=int, default=5)
    return made


@pytest.mark.parametrize(
    "words",
    [["--asr_args", "--max_epoch=3"], ["--asr_args=--max_epoch=3"]],
)
def test_options_for_espnet_may_look_like_options(words):
    assert parser().parse_args([*words, "--beam_size", "2"]) == argparse.Namespace(
        asr_args="--max_epoch=3", beam_size=2
    )


def test_an_option_for_espnet_without_its_word_is_refused(capsys):
    with pytest.raises(SystemExit) as left:
        parser().parse_args(["--asr_args"])
    assert left.value.code == 2 and "expected one argument" in capsys.readouterr().err


def test_a_list_that_is_given_twice_is_refused(capsys):
    made = parser()
    made.add_argument("--train_text", "--text", nargs="+", old=["--corpus"])
    made.add_argument("--input", action="append")
    made.add_argument("--pair", nargs=2)
    made.add_argument("command", nargs="*")
    words = "--input a --input b --beam_size 2 --beam_size 3 --text c d -- --text e".split()
    found = made.parse_args(words)
    assert (found.input, found.beam_size, found.train_text) == (["a", "b"], 3, ["c", "d"])
    for words in (["--text", "a", "--text=b"], ["--train_text", "a", "--corpus", "b"]):
        with pytest.raises(SystemExit) as left:
            made.parse_args(words)
        said = "--train_text is given twice; name all behind one: --train_text A B"
        assert left.value.code == 2 and said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        made.parse_args("--pair a b --pair c d".split())
    assert "--pair is given twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "said"),
    [("--beam_sise=3", "(did you mean '--beam_size'?)"), ("--beam", "unrecognized")],
)
def test_unknown_and_shortened_options_are_refused(word, said, capsys):
    with pytest.raises(SystemExit) as left:
        parser().parse_args([word])
    assert left.value.code == 2 and said in capsys.readouterr().err


def test_truth_values():
    assert [str2bool(word) for word in ("true", "No", "1", "0")] == [True, False, True, False]
    with pytest.raises(argparse.ArgumentTypeError, match="'maybe'"):
        str2bool("maybe")


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (COUNT, {"1": 1, "12": 12}, ["0", "-3", "2147483648", 400 * "9"]),
        (NATURAL, {"0": 0}, ["-1"]),
        (POSITIVE, {"1e-3": 0.001}, ["0", "nan", "inf", "-inf"]),
        (SHARE, {"0": 0.0, "1": 1.0}, ["1.01", "-0.1"]),
        (SEED, {"0": 0, str(2**32 - 1): 2**32 - 1}, ["-1", str(2**32)]),
        (RATE, {"8000": 8000}, ["16", "99999999999"]),
    ],
)
def test_numbers_are_parsed_within_their_ranges(kind, good, bad):
    for word, number in good.items():
        assert kind(word) == number and isinstance(kind(word), type(number))
    for word in bad:
        with pytest.raises(argparse.ArgumentTypeError, match="is out of range: give a "):
            kind(word)
    with pytest.raises(ValueError):
        kind("many")


def bare_numbers(source):
    """Return the options of a module that take any number at all, by their names."""
    return [
        call.args[0].value
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "add_argument"
        for keyword in call.keywords
        if keyword.arg == "type"
        and isinstance(keyword.value, ast.Name)
        and keyword.value.id in ("int", "float")
    ]


def test_no_command_takes_any_number_at_all():
    root = Path(__file__).parents[2]
    sources = [
        p for top in ("espnet_spike", "benchmarks", "local") for p in (root / top).rglob("*.py")
    ]
    assert len(sources) > 100
    found = {
        str(p.relative_to(root)): names for p in sources if (names := bare_numbers(p.read_text()))
    }
    assert not found, "give a range, see Ranged"
    assert bare_numbers('parser.add_argument("--n", type=int)') == ["--n"]


def test_sets_are_named_with_their_folders(tmp_path):
    other = tmp_path / "a=b"
    other.mkdir()
    assert named_dirs([f"dev={tmp_path}", f"test={other}"]) == {"dev": tmp_path, "test": other}
    for items, said in (
        (["test"], "not NAME=DIR"),
        (["a/b=c"], "not NAME=DIR"),
        ([f"dev={tmp_path}", f"dev={other}"], "dev is given twice"),
        ([f"dev={tmp_path / 'no'}"], "no such folder"),
    ):
        with pytest.raises(UserError, match=said):
            named_dirs(items)


def test_only_messages_up_to_a_level_are_held_back(caplog):
    before = logging.root.manager.disable
    with quiet(logging.INFO):
        logging.getLogger("x").info("a note")
        logging.getLogger("x").warning("a warning")
    assert logging.root.manager.disable == before
    assert caplog.messages == ["a warning"]


def test_a_full_disk_is_no_bug_of_ours(tmp_path, capsys, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SystemExit) as exit_:
        run(lambda argv: write_lines(tmp_path / "table", ["x"]), [])
    said = capsys.readouterr().err
    assert exit_.value.code == 1 and "Traceback" not in said
    assert f"error: {tmp_path}/table cannot be written: No space left on device" in said
    assert "hint: free disk space" in said
    assert not list(tmp_path.iterdir())


def test_the_exit_status_tells_what_happened(capsys):
    def main(argv):
        raise argv[0]

    for error, status, said in (
        (UserError("no model", "train one"), 1, "error: no model\n  hint: train one\n"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to resume\n"),
    ):
        with pytest.raises(SystemExit) as left:
            run(main, [error])
        assert left.value.code == status and capsys.readouterr().err == said
    with pytest.raises(SystemExit) as left:
        run(lambda argv: None, [])
    assert left.value.code == 0
    with pytest.raises(ZeroDivisionError):  # a bug of ours keeps its traceback
        run(main, [ZeroDivisionError()])


@pytest.mark.parametrize("kind", [RuntimeError, ImportError])
def test_who_has_too_many_files_open_is_told(capsys, kind):
    def full(argv):
        raise kind("x.so: Too many open files")

    full.__module__ = "espnet_spike.bin.count"
    with pytest.raises(SystemExit) as left:
        run(full)
    said = capsys.readouterr().err
    assert left.value.code == 1 and "error: count: x.so: Too many open files" in said
    assert "ulimit -n" in said


def test_a_reader_that_leaves_is_no_fault():
    """As ``| head -1``: no traceback, and the status that shells give to a broken pipe."""
    code = (
        "from espnet_spike.utils.cli import run\n"
        "run(lambda argv: [print('x' * 99, flush=True) for _ in range(10000)])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "x" * 99 + "\n"
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (141, "")
