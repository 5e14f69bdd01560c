import time

import pytest

from espnet_spike.errors import UserError
from espnet_spike.utils.yaml import read_named, read_yaml


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [2\n", "line 3, column 1"),
        ("a: 1\na: 2\n", "line 2, column 1: key 'a' is given twice"),
        ("x:\n  a: 1\n  a: 2\n", "line 3, column 3: key 'a' is given twice"),
        ("- 1\n", "holds no key: value pairs"),
        ("a: 1\n[b]: 2\n", "line 2, column 1: a key is a list or a mapping"),
        ("a: " + "[" * 100000, "more than 64 levels"),
        ("a: " + "[" * 5000 + "]" * 5000, "more than 64 levels"),
        ("a:\n" + "- " * 100000, "more than 64 levels"),
        ("a: &x [*x]\n", "an alias stands for what it is in"),
        ("a: !!python/object/apply:os.mkdir [harm]\n", "could not determine a constructor"),
        ("a: !!timestamp x\n", "NoneType"),
        ("a: 2020-99-99\n", "month"),
        ("a: !!bool x\n", "'x'"),
        ("a: !!int ''\n", "index out of range"),
    ],
)
def test_bad_yaml(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_yaml(path)


def test_aliases_of_aliases_are_no_bomb(tmp_path):
    path = tmp_path / "c.yaml"
    lines = ["a0: &a0 [" + "x," * 10 + "]"]
    lines += [f"a{n}: &a{n} [" + f"*a{n - 1}," * 10 + "]" for n in range(1, 30)]
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match="its aliases make more of it"):
        read_yaml(path)
    path.write_text("\n".join(lines[:4]))
    assert len(read_yaml(path)["a3"]) == 10


def test_merges_of_merges_are_no_bomb(tmp_path):
    path = tmp_path / "c.yaml"
    lines = ["a0: &a0 {x: 1}"]
    for n in range(1, 30):
        merged = ",".join([f"*a{n - 1}"] * 9)
        lines.append(f"a{n}: &a{n} {{<<: [{merged}], k{n}: 1}}")
    path.write_text("\n".join(lines))
    start = time.process_time()
    with pytest.raises(UserError, match="merges more keys than any configuration has"):
        read_yaml(path)
    assert time.process_time() - start < 1
    path.write_text("\n".join(lines[:4]))
    assert read_yaml(path)["a3"] == {"x": 1, "k1": 1, "k2": 1, "k3": 1}


@pytest.mark.parametrize("number", [":".join(["59"] * 200_000), "9" * 4000, "1" * 101 + ".5"])
def test_numbers_are_short(tmp_path, number):
    """To the base of sixty each further part takes longer than the one before."""
    path = tmp_path / "c.yaml"
    path.write_text(f"a: {number}\n")
    start = time.process_time()
    with pytest.raises(UserError, match="line 1, column 4: a number of over 100 digits"):
        read_yaml(path)
    assert time.process_time() - start < 1


def test_a_file_beyond_any_configuration_is_not_read(tmp_path):
    with (tmp_path / "c.yaml").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(UserError, match="longer than any"):
        read_yaml(tmp_path / "c.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        read_yaml(tmp_path)


def test_yaml_with_anchors_and_nothing(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a: &x {k: 1}\nb:\n  <<: *x\n  j: 2\n")
    assert read_yaml(path)["b"] == {"k": 1, "j": 2}
    path.write_text("# nothing\n")
    assert read_yaml(path) == {}
    with pytest.raises(UserError, match="no such configuration file"):
        read_yaml(tmp_path / "absent.yaml")


def test_a_file_is_found_by_its_name_or_path(tmp_path):
    (tmp_path / "known.yaml").write_text("a: 1\nb: 2\n")
    for name in ("known", str(tmp_path / "known.yaml")):
        path, content = read_named(name, tmp_path, {"a", "b"}, "example")
        assert path.stem == "known" and content == {"a": 1, "b": 2}
    with pytest.raises(UserError, match=r"no example knwon \(did you mean 'known'") as error:
        read_named("knwon", tmp_path, {"a", "b"}, "example")
    assert error.value.hint == "there are: known"
    with pytest.raises(UserError, match=r"known\.yaml: missing or unknown keys: b, c"):
        read_named("known", tmp_path, {"a", "c"}, "example")
