import pytest

from espnet_spike.errors import UserError
from espnet_spike.utils.yaml import read_yaml


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [2\n", "line 3, column 1"),
        ("a: 1\na: 2\n", "line 2, column 1: key 'a' is given twice"),
        ("x:\n  a: 1\n  a: 2\n", "line 3, column 3: key 'a' is given twice"),
        ("- 1\n", "holds no key: value pairs"),
    ],
)
def test_bad_yaml(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_yaml(path)


def test_yaml_with_anchors_and_nothing(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a: &x {k: 1}\nb:\n  <<: *x\n  j: 2\n")
    assert read_yaml(path)["b"] == {"k": 1, "j": 2}
    path.write_text("# nothing\n")
    assert read_yaml(path) == {}
    with pytest.raises(UserError, match="no such configuration file"):
        read_yaml(tmp_path / "absent.yaml")
