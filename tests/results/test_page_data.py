import json
import shutil

import pytest

from espnet_spike.errors import UserError
from espnet_spike.results.page_data import gather, word_score
from tests.helpers.experiments import make_experiment


def test_everything_of_the_decoding_is_gathered(tmp_path):
    exp = make_experiment(tmp_path, "a", {"u01": "one two"}, encoder="conformer")
    data = tmp_path / "dump/test"
    count = {"sparsity": {"activations": 0.5}, "per_second": {}, "energy": {}, "uncovered": {}}
    count |= {"execution": {}, "fold_qk": False}
    (exp / "decode/test/count.json").write_text(json.dumps(count))
    found = gather(exp, "decode", {"test": data}, tmp_path)
    assert found.encoder == "conformer" and set(found.decodes) == {"test"}
    assert found.counts == {"test": count}
    assert [epoch["epoch"] for epoch in found.epochs] == [3]
    assert found.scores["test"].counts.errors.sum() == 1
    assert found.results["sets"]["test"]["del"] == pytest.approx(100 / 90, abs=1e-4)


def test_sets_stand_in_the_order_they_are_asked_for_everywhere(tmp_path):
    exp = make_experiment(tmp_path, "a", {})
    for name in ("dev", "zeta"):
        shutil.copytree(exp / "decode/test", exp / f"decode/{name}")
    data = tmp_path / "dump/test"
    found = gather(exp, "decode", {"zeta": data, "test": data})
    assert list(found.decodes) == ["zeta", "test", "dev"]
    assert list(found.scores) == ["zeta", "test"]


def test_a_set_that_is_not_scored_is_named(tmp_path):
    exp = make_experiment(tmp_path, "a", {})
    with pytest.raises(UserError, match="decode: not scored: dev"):
        gather(exp, "decode", {"test": tmp_path / "dump/test", "dev": tmp_path / "dump/dev"})
    with pytest.raises(UserError, match="other: not scored: test"):
        gather(exp, "other", {"test": tmp_path / "dump/test"})


def test_words_are_aligned_as_they_were_scored(tmp_path):
    exp = make_experiment(tmp_path, "a", {"u01": "ONE three"})
    places = tmp_path / "dump/test", exp / "decode/test"
    score = word_score(*places, {"normalization": "lower"})
    assert score.alignments[1] == [("one", "one"), ("two", None), ("three", "three")]
    assert word_score(*places, {"normalization": "none"}).counts.errors[1] == 2
