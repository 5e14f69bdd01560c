"""The word error rate of an encoder in integers beside that of the float one."""

import dataclasses
import itertools
import json

import pytest

from espnet_spike.bin import simulate as command
from espnet_spike.errors import UserError
from espnet_spike.simulator.integer import decode, network
from tests.export.test_reparameterize import experiment


def words(exp, data, *more):
    return ["--integer_wer", "--asr_exp", str(exp), "--data_dir", str(data), *more]


@pytest.fixture
def order(monkeypatch):
    """Which form of the encoder runs, one after the other."""
    found, right = [], decode._encode

    def encode(model, speech, lengths):
        replaced = "forward" in vars(model.encoder.after_norm)
        found.append("integer" if replaced else "float")
        return right(model, speech, lengths)

    monkeypatch.setattr(decode, "_encode", encode)
    return found


def with_texts(tmp_path, monkeypatch, ref, hypotheses):
    """Return a model that finds these hypotheses, a set with one reference throughout, its keys."""
    exp, data = experiment(tmp_path)
    keys = [line.split()[0] for line in (data / "feats.scp").read_text().splitlines()]
    (data / "text").write_text("".join(f"{key} {ref}\n" for key in keys))
    load, texts = decode.load_model, iter(hypotheses)

    def trained(*args):
        return dataclasses.replace(load(*args), to_text=lambda _: next(texts))

    monkeypatch.setattr(decode, "load_model", trained)
    return exp, data, keys


def test_both_hypotheses_are_scored(tmp_path, capsys, order, monkeypatch):
    hypotheses = ["A B C", "A C"] * 4 + ["A B B", "A B B"]
    exp, data, keys = with_texts(tmp_path, monkeypatch, "A B C", hypotheses)
    command.main(words(exp, data, "--json", str(tmp_path / "w.json")))
    assert order == ["float", "integer"] * 5
    printed = capsys.readouterr().out
    # 15 words; the float encoder has 1 wrong, the one in integers 4 + 1
    # of 25 characters 1 and 4 * 2 + 1
    assert "| feats | 5 | 15 | 6.7 | 33.3 | 4.0 | 36.0 | 4 | " in printed
    assert f"{keys[0]}\n  ref      A B C\n  float    A B C\n  integer  A C" in printed
    assert keys[4] not in printed
    figures = json.loads((tmp_path / "w.json").read_text())
    assert (figures["float_errors"], figures["integer_errors"]) == (1, 5)
    assert figures["integer_wer"] == pytest.approx(100 / 3)
    assert (figures["float_cer"], figures["integer_cer"]) == (4.0, 36.0)
    assert (figures["normalization"], figures["saturated"]) == ("none", {})
    assert figures["calibration"] == figures["data"] == str(data)
    assert "ranges of the first 20 utterances of the decoded set itself; " in printed
    assert 0.9 < figures["same_counts"] < 1 and 0.001 < figures["output_error"] < 0.3


def test_equal_encoders_give_equal_figures(tmp_path, monkeypatch):
    """With nothing put in the place of any layer, all is the same."""
    exp, data = experiment(tmp_path)
    monkeypatch.setattr(network._Network, "replacements", lambda self: iter(()))
    found = decode.decode_in_integers(exp, data, data, 2)
    assert (found.same_counts, found.output_error, found.differing) == (1.0, 0.0, {})
    assert (found.float_errors, found.float_characters) == (
        found.integer_errors,
        found.integer_characters,
    )
    # the texts' words, none of which an untrained network finds
    texts = [line.split()[1:] for line in (data / "text").read_text().splitlines()]
    assert found.words == sum(map(len, texts))
    assert found.characters == sum(len(" ".join(words)) for words in texts)


def scored(tmp_path, monkeypatch, ref, hyp, **options):
    """Decode where the references and all hypotheses are given."""
    exp, data, _ = with_texts(tmp_path, monkeypatch, ref, itertools.repeat(hyp))
    return decode.decode_in_integers(exp, data, data, 2, **options)


def test_texts_are_compared_as_the_score_stage_compares_them(tmp_path, monkeypatch):
    """Characters without spaces, and another case: no errors under the profile, all without."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    found = scored(tmp_path / "a", monkeypatch, "ab cd", "AB CD", normalization="upper")
    assert (found.words, found.float_errors, found.integer_errors) == (10, 0, 0)
    assert (found.characters, found.float_characters) == (25, 0)
    found = scored(tmp_path / "b", monkeypatch, "ab cd", "AB CD")
    assert (found.float_errors, found.integer_errors) == (10, 10)
    assert (found.float_cer, found.integer_cer) == (80.0, 80.0)


def test_what_saturates_is_told_by_layer(tmp_path, capsys, monkeypatch):
    exp, data = experiment(tmp_path)
    measure = network.measure

    def narrow(*args):
        ranges = measure(*args)
        name = "encoders.0.ffn.linear_out"
        return network.replace(ranges, sums={**ranges.sums, name: ranges.sums[name] // 16})

    monkeypatch.setattr(decode, "measure", narrow)
    command.main(words(exp, data, "--json", str(tmp_path / "w.json")))
    printed = capsys.readouterr()
    figures = json.loads((tmp_path / "w.json").read_text())
    activations, sums = figures["saturated"]["encoders.0.ffn.linear_out"]
    assert activations == 0 and 0.01 < sums < 1 and 0 < figures["saturated_sums"] < sums
    assert f"| encoders.0.ffn.linear_out | 0.0000% | {sums:.4%} |" in printed.out
    assert f"warning: encoders.0.ffn.linear_out: {sums:.2%} of its values" in printed.err


def test_no_utterance_is_left_out(tmp_path, monkeypatch):
    exp, data = experiment(tmp_path)
    inputs = decode.encoder_inputs
    monkeypatch.setattr(
        decode, "encoder_inputs", lambda model, data, most=None: list(inputs(model, data, 4))
    )
    with pytest.raises(UserError, match="feats: 1 utterance too short"):
        decode.decode_in_integers(exp, data, data, 2)


def test_what_cannot_be_decoded_is_told(tmp_path):
    exp, data = experiment(tmp_path)
    text = (data / "text").read_text().splitlines()
    (data / "text").write_text("\n".join(text[1:]) + "\n")
    with pytest.raises(UserError, match=f"feats.scp and text differ.*{text[0].split()[0]}"):
        command.main(words(exp, data))
    (data / "text").write_text("\n".join([text[0].split()[0], *text[1:]]) + "\n")
    with pytest.raises(UserError, match=f"text: no words of {text[0].split()[0]}"):
        command.main(words(exp, data))
    with pytest.raises(UserError, match="there is no folder"):
        command.main(words(exp, data, "--json", str(tmp_path / "none" / "w.json")))
    with pytest.raises(UserError, match="of --integer_wer"):
        command.main(["--calibration_dir", str(data)])
    with pytest.raises(UserError, match="of --integer_wer"):
        command.main(["--normalization", "upper"])
    with pytest.raises(UserError, match="needed"):
        command.main(["--integer_wer"])
