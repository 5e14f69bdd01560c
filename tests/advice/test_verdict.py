"""What a training has come to, judged on small and synthetic ones."""

import json
import logging
import shutil

import numpy as np
import pytest
import yaml

from espnet_spike.advice import verdict as verdicts
from espnet_spike.advice.verdict import (
    LONGEST,
    best_constant,
    by_heart,
    causes,
    give_verdict,
    highest_rate,
    last_slope,
    require,
)
from espnet_spike.bin import asr_train
from espnet_spike.errors import UserError
from espnet_spike.experiment import read_config, read_verdict
from espnet_spike.inference.decode import bound_search, read_settings
from espnet_spike.results.markdown import unlearnt_lines
from tests.helpers.tiny_training import stats, train, train_words, write_config, write_data


def epoch(loss, **more):
    record = {"applied": 10, "steps": 10, "train": {"optim0_lr0": 0.001}, "valid": {"loss": loss}}
    return record | more


def test_the_best_constant_is_no_worse_than_any_simple_one():
    texts = ["ONE TWO", "ONE", "TWO TWO", "SIX"]
    text, rate = best_constant(texts, texts)
    # against "": all 20 characters; "ONE" and "TWO" share a word with most
    assert rate < 70.0 and set(text) <= set("ONETWOSIX ")
    assert best_constant(["ab"], ["ab"]) == ("ab", 0.0)
    assert best_constant(["zz"], ["q"]) == ("", 100.0)
    assert (
        len(best_constant(["ab" * 1500], ["a", "b"])[0]) == LONGEST
    )  # not letter by letter for ever


def test_slope_and_rate_come_from_the_last_epochs():
    falling = [epoch(100.0 - 10 * number) for number in range(5)]
    assert last_slope(falling) == pytest.approx(-10 / 70)
    assert last_slope([epoch(5.0)]) is None and last_slope([epoch(None), epoch(2.0)]) is None
    assert last_slope([epoch(0.0), epoch(0.0)]) is None
    assert highest_rate(falling) == 0.001
    assert highest_rate([epoch(1.0, highest_rate=0.003), epoch(1.0)]) == 0.003
    assert highest_rate([epoch(1.0, train={})]) is None


def test_a_training_set_learnt_by_heart_is_the_likeliest_cause(tmp_path):
    learnt = [epoch(20.0, train={"loss": 30.0}), epoch(16.0), epoch(23.3, train={"loss": 0.75})]
    text = by_heart(learnt)
    assert text and "is 0.75 there, on the validation set it rose from 16 to 23.3" in text
    first = causes({"max_epoch": 3}, learnt, tmp_path, None)[0]
    assert first.text == text and "more speech" in first.option
    assert by_heart([epoch(16.0), epoch(17.0, train={"loss": 0.75})]) is None  # hardly rises
    assert by_heart([epoch(16.0), epoch(23.0, train={"loss": 15.0})]) is None  # errs alike
    assert by_heart([epoch(16.0), epoch(None)]) is None and by_heart([]) is None


def test_causes_stand_in_order(tmp_path):
    (tmp_path / "feats_shape").write_text("a 1000,13\n")
    (tmp_path / "text").write_text("a one two\n")
    config = {
        "input_size": 13,
        "scheduler_conf": {"warmup_steps": 300},
        "specaug": "specaug",
        "specaug_conf": {"freq_mask_width_range": [0, 20]},
        "token_type": "bpe",
        "token_list": [str(number) for number in range(202)],
    }
    records = [epoch(10.0, applied=5), epoch(8.0, applied=5)]
    records[-1]["valid"]["firing_rate_encoders.0"] = 0.0
    found = [str(doubt) for doubt in causes(config, records, tmp_path, 0.5)]
    said = ["skipped for gradients", "warm-up of 300", "10 updates in all", "up to 20 dims"]
    said += ["200 pieces", "still falling", "learning rate, 0.5, is high", "encoders.0", "listen"]
    assert len(found) == len(said)
    assert all(part in line for part, line in zip(said, found, strict=True))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, one_thread):
    """A training of seven updates with the mistakes of the former defaults, and its messages."""
    folder = write_data(tmp_path_factory.mktemp("tiny"))
    write_config(
        folder,
        decoder=...,
        decoder_conf=...,
        model_conf={"ctc_weight": 1.0},
        specaug="specaug",
        specaug_conf={
            "apply_time_warp": False,
            "apply_freq_mask": True,
            "freq_mask_width_range": [0, 100],
            "apply_time_mask": False,
        },
        best_model_criterion=[["valid", "cer_ctc", "min"]],
        scheduler="warmuplr",
        scheduler_conf={"warmup_steps": 300},
    )
    stats(folder)
    return folder, train(folder)


def test_what_learnt_nothing_is_told_with_its_causes(tiny, caplog):
    """The former defaults on little data: a warm-up beyond the end, wide masks, few updates."""
    folder, exp = tiny
    caplog.set_level(logging.INFO)
    (exp / "verdict.json").unlink()
    verdict = give_verdict(exp, folder / "train", folder / "dev")
    assert not verdict.learnt and verdict.measure == "cer" and verdict.utterances == 2
    assert verdict.value >= verdict.constant and verdict.updates == 4
    assert verdict.rate is not None and 0 < verdict.rate < 0.001
    assert "warm-up of 300 updates is longer than the training of 4" in verdict.causes[0][0]
    assert verdict.causes[0][1].startswith("scheduler_conf warmup_steps")
    assert any("frequency masks" in text for text, _ in verdict.causes)
    assert "NOT LEARNT: CER" in caplog.text and "likely cause 1: the warm-up" in caplog.text
    with pytest.raises(UserError, match="no better than a constant") as caught:
        require(verdict)
    assert "warmup_steps" in caught.value.hint
    kept = read_verdict(exp)
    assert kept is not None and kept["line"] == verdict.line
    lines = unlearnt_lines([{"experiment": "asr_x", "verdict": kept}, {"experiment": "asr_y"}])
    assert "asr_x" in lines[0] and lines[2].startswith("1. the warm-up")
    assert "asr_y" not in "".join(lines)


def test_a_verdict_is_kept_until_the_model_changes(tiny, monkeypatch):
    folder, exp = tiny
    give_verdict(exp, folder / "train", folder / "dev")
    monkeypatch.setattr(verdicts, "_judge", lambda *_: pytest.fail("judged again"))
    give_verdict(exp, folder / "train", folder / "dev")


@pytest.mark.parametrize("content", ["", '{"learnt": true}', "[]"])
def test_a_damaged_verdict_is_given_anew(tiny, content):
    folder, exp = tiny
    whole = give_verdict(exp, folder / "train", folder / "dev")
    (exp / "verdict.json").write_text(content)
    assert give_verdict(exp, folder / "train", folder / "dev") == whole


def test_it_can_be_demanded_that_something_was_learnt(tiny):
    folder, exp = tiny
    asr_train.main([*train_words(folder, exp.name)])  # finished: only says the verdict
    with pytest.raises(UserError, match="--require_learnt true"):
        asr_train.main([*train_words(folder, exp.name), "--require_learnt", "true"])


def test_a_model_that_learnt_nothing_is_decoded_with_bounds(tiny, tmp_path, caplog):
    _, exp = tiny
    settings = bound_search(read_settings(None), exp)
    assert settings.words[:2] == ["--beam_size", "1"] and settings.words[2] == "--maxlenratio"
    assert 0 < float(settings.words[3]) <= 1 and "has learnt nothing" in caplog.text
    given = "--beam_size 5 --maxlenratio 0"
    assert bound_search(read_settings(None, given), exp, given).words == given.split()
    (tmp_path / "verdict.json").write_text(json.dumps({"learnt": True}))
    assert not bound_search(read_settings(None), tmp_path).words
    (tmp_path / "verdict.json").write_text("{}")
    with pytest.raises(UserError, match="says not whether"):
        bound_search(read_settings(None), tmp_path)


def test_the_bound_is_of_tokens_and_not_of_letters(tiny, tmp_path):
    folder, exp = tiny
    words = shutil.copytree(exp, tmp_path / "exp")
    config = yaml.safe_load((words / "config.yaml").read_text())
    (words / "config.yaml").write_text(yaml.safe_dump(config | {"token_type": "word"}))
    of_letters = list(verdicts._greedy(exp, folder / "dev"))
    of_words = list(verdicts._greedy(words, folder / "dev"))
    assert any(len(text) > 1 for text, *_ in of_letters)
    for (text, *_, one), (_, *_, other) in zip(of_letters, of_words, strict=True):
        assert one / other == len(text) / len(text.split())


def test_what_comes_out_decides(tiny, monkeypatch):
    """The words of the reference are learnt, one token alone is not."""
    folder, exp = tiny
    said = iter([("ba", [3, 2], "ba", 9), ("cb", [4, 3], "cb", 9)])
    monkeypatch.setattr(verdicts, "_greedy", lambda *_: said)
    good = verdicts._judge(exp, folder / "train", folder / "dev")
    assert good.learnt and good.value == 0.0 and good.tokens == 4 - 1 and not good.causes
    assert good.line.startswith("learnt: CER 0.0 %")
    same = iter([("ba", [2], "a", 9), ("cb", [2], "a", 9)])
    monkeypatch.setattr(verdicts, "_greedy", lambda *_: same)
    assert (
        "one token alone comes out" in verdicts._judge(exp, folder / "train", folder / "dev").line
    )
    blank = iter([("ba", [], "", 9), ("cb", [], "", 9)])
    monkeypatch.setattr(verdicts, "_greedy", lambda *_: blank)
    found = verdicts._judge(exp, folder / "train", folder / "dev")
    assert "only blanks come out" in found.line and found.value == 100.0


@pytest.mark.parametrize(
    ("constant", "beginning"),
    [(50.0, "NOT LEARNT: CER"), (99.0, "learnt little: CER"), (100.0, "learnt: CER")],
)
def test_what_is_hardly_better_is_little(tiny, monkeypatch, constant, beginning):
    """Half of the letters are wrong: more than half of 99 %, half of 100 %."""
    folder, exp = tiny
    said = iter([("ba", [3, 2], "ba", 9), ("cb", [], "", 9)])
    monkeypatch.setattr(verdicts, "_greedy", lambda *_: said)
    monkeypatch.setattr(verdicts, "best_constant", lambda *_: ("b", constant))
    verdict = verdicts._judge(exp, folder / "train", folder / "dev")
    assert verdict.value == 50.0 and verdict.line.startswith(beginning)
    assert bool(verdict.causes) == (beginning != "learnt: CER")
    result = {"experiment": "asr_x", "verdict": vars(verdict) | {"line": verdict.line}}
    lines = unlearnt_lines([result])
    assert ("has learnt little" in "".join(lines)) == (constant == 99.0)
    assert bool(lines) == bool(verdict.causes)


def test_accuracy_is_little_by_its_errors(tiny, monkeypatch):
    folder, exp = tiny
    found = {"measure": "acc", "constant": 20.0, "constant_text": "a", "utterances": 0}
    found |= {"empty": None, "tokens": None, "tokens_a_frame": None}
    config = read_config(exp) | {"model_conf": {"ctc_weight": 0.0}}
    monkeypatch.setattr(verdicts, "read_config", lambda _: config)
    for value, beginning in [(20.0, "NOT LEARNT"), (59.0, "learnt little"), (61.0, "learnt:")]:
        judged = found | {"value": value}
        monkeypatch.setattr(verdicts, "_judge_accuracy", lambda *_, judged=judged: judged)
        verdict = verdicts._judge(exp, folder / "train", folder / "dev")
        assert verdict.line.startswith(beginning)


def test_a_decoder_without_ctc_is_judged_by_its_accuracy():
    records = [epoch(1.0, valid={"acc": 0.2, "loss": 1.0}), epoch(1.0, valid={"acc": 0.4})]
    found = verdicts._judge_accuracy({}, records, ["aab", "a"])
    assert found["value"] == 40.0 and found["constant"] == 75.0 and found["constant_text"] == "a"
    assert np.isclose(found["value"], 40.0)
