import errno
import os

import pytest

from espnet_spike.errors import CURES, UserError, cure_of, did_you_mean, system_error


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


@pytest.mark.parametrize("number", CURES)
def test_what_the_system_refuses_is_an_error_with_a_cure(number, tmp_path):
    found = system_error(OSError(number, os.strerror(number), str(tmp_path / "x")))
    assert found is not None and found.hint == CURES[number]
    assert found.message.startswith(f"{tmp_path}/x cannot be ")
    assert found.message.endswith(os.strerror(number))
    assert cure_of(f"OSError: [Errno {number}] {os.strerror(number)}: 'x'") in CURES.values()


def test_other_errors_of_files_are_none_of_the_system():
    assert system_error(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None
    assert system_error(OSError("of a library")) is None
    assert cure_of("RuntimeError: boom") == ""
    assert system_error(ImportError("libx.so: no such file")) is None


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "count cannot open one more file: Too many"),
        (OSError(errno.EMFILE, "Too many open files", "a.wav"), "a.wav cannot be opened: Too many"),
        (ImportError("x.so: Too many open files"), "count: x.so: Too many open files"),
        (OSError("x.wav: System error: Too many open files"), "count: x.wav: System error"),
    ],
)
def test_too_many_open_files_name_the_file_or_the_command(error, said):
    found = system_error(error, "count")
    assert found is not None and found.message.startswith(said) and "ulimit -n" in found.hint


def test_real_ones(tmp_path):
    (tmp_path / "file").touch()
    for path, said in {
        tmp_path / "file/x": "Not a directory",
        tmp_path: "Is a directory",
        tmp_path / ("x" * 300): "File name too long",
    }.items():
        with pytest.raises(OSError) as caught:
            path.open("w")
        found = system_error(caught.value)
        assert found is not None and str(path) in found.message and said in found.message


def test_a_link_to_itself_is_one(tmp_path):
    (tmp_path / "x").symlink_to("x")
    with pytest.raises(OSError) as caught:
        (tmp_path / "x").stat()
    found = system_error(caught.value)
    assert found is not None and str(tmp_path / "x") in found.message
