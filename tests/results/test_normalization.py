"""The text normalization of the recipe is found where stage 11 has written it."""

import json

import pytest

from espnet_spike.errors import UserError
from espnet_spike.results.normalization import find_normalization


def scored(folder, normalization):
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"normalization": normalization}))
    return folder


def test_it_is_that_of_the_decodings(tmp_path):
    scored(tmp_path / "decode_a" / "dev", "upper")
    scored(tmp_path / "decode_b" / "test", "upper")
    assert find_normalization(tmp_path) == "upper"
    assert find_normalization(tmp_path / "decode_b", None, [tmp_path / "decode_a/dev"]) == "upper"


def test_it_is_that_of_a_packs_results(tmp_path):
    decodes = {"decode": {"test": {"normalization": "lower"}}}
    (tmp_path / "results.json").write_text(json.dumps({"decodes": decodes}))
    assert find_normalization(tmp_path) == "lower"
    scored(tmp_path / "decode" / "test", "upper")  # scored again since
    assert find_normalization(tmp_path) == "upper"


def test_what_is_given_goes_first_and_is_told_when_it_differs(tmp_path, caplog):
    assert find_normalization(tmp_path, "none") == "none"
    scored(tmp_path / "decode" / "test", "none")
    assert find_normalization(tmp_path, "none") == "none" and not caplog.records
    assert find_normalization(tmp_path, "upper") == "upper"
    assert "do not compare" in caplog.text and "decode/test/result.json" in caplog.text
    with pytest.raises(UserError, match="unknown text normalization 'uper'"):
        find_normalization(tmp_path, "uper")


def test_it_is_asked_for_where_it_is_not_known(tmp_path):
    with pytest.raises(UserError, match="nothing has been scored") as error:
        find_normalization(tmp_path)
    assert "--normalization" in error.value.hint
    scored(tmp_path / "decode" / "a", "none")
    scored(tmp_path / "decode" / "b", "lower")
    with pytest.raises(UserError, match=r"several text normalizations: none \(.*lower \("):
        find_normalization(tmp_path)
