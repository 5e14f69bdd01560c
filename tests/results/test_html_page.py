"""The page on one experiment: its parts, that text stays text, and how a browser draws it."""

import json
import re
import shutil
from types import SimpleNamespace

import pytest

from espnet_spike.errors import UserError
from espnet_spike.results import scoring
from espnet_spike.results.html_page import layer_statistics, mean_rate, verdict_part
from tests.export.test_reparameterize import MODEL
from tests.helpers.pages import HOSTILE, Reader, decoded, write_page
from tests.helpers.simulations import result
from tests.helpers.tiny_model import CONFIG, LETTERS


def test_every_part_is_there(spiking):
    page = Reader(spiking)
    assert not page.open
    labels = [a["aria-label"] for tag, a in page.elements if tag == "svg"]
    assert labels[0] == "word error rates"
    for part in (
        "learning curve: loss",
        "curve: learning rate",
        "firing rate",
        "features and spikes of",
        "decay masks",
    ):
        assert any(part in label for label in labels), part
    tables = [a.get("aria-label", "") for _, a in page.elements if a.get("role") == "region"]
    for by in ("words of an utterance", "speaker"):
        assert f"error rate by {by}" in tables
    assert "The training text is no longer there: no rates by frequency." in spiking
    for text in ("Confused words", "Worst utterances", "0.attn.in", "embed.0", "not finite"):
        assert text in spiking
    assert "have not been counted" in spiking and "have not been simulated" in spiking


def test_text_stays_text(spiking):
    page = Reader(spiking)
    assert "script" not in [tag for tag, _ in page.elements]
    assert not any(key.startswith("on") for _, attrs in page.elements for key in attrs)
    for word in HOSTILE:
        assert word in page.texts, word
    assert "<b>x" in "".join(page.texts)


def test_nothing_is_loaded(spiking):
    for tag, attrs in Reader(spiking).elements:
        for key in ("src", "href", "action", "data", "poster", "srcset"):
            value = attrs.get(key)
            assert value is None or re.match("#|data:image/png;base64,", value), (tag, value)
    assert not re.search(r"url\((?!#)|@import|https?://", spiking)


def test_an_encoder_without_spikes(tmp_path):
    exp, data = decoded(tmp_path, "transformer")
    (exp / "epochs.jsonl").unlink()
    (exp / "results.json").write_text(json.dumps(result("x", "E", 1000.0, 300.0, 0.5)))
    page = write_page(exp, data)
    texts = Reader(page).texts
    at = texts.index("search options of test")
    assert "not recorded (no decode.json)" in texts[at + 1 : at + 3]
    assert "<h3>Where the cycles go</h3>" in page and "<b>scan</b>" in page
    assert "E-SpeechMamba, event-driven" in page and "**" not in page
    assert "transformer is an encoder of ESPnet: it has no spikes to show." in page
    assert "has no decay mask" in page and "There is no epochs.jsonl" in page
    assert "0.attn" not in page
    assert "features and spikes of" in page  # features and words all the same


def test_an_encoder_of_events(tmp_path, monkeypatch):
    small = {"output_size": 16, "attention_heads": 2, "num_blocks": 1}
    monkeypatch.setitem(CONFIG, "encoder_conf", small)
    exp, data = decoded(tmp_path, "event_speech_mamba")
    epoch = json.loads((exp / "epochs.jsonl").read_text().splitlines()[-1])
    epoch["valid"] = {"loss": 1.0, "sparsity": 0.5, "sparsity_macs": 0.6, "sparsity_embed.f1": 0.4}
    (exp / "epochs.jsonl").write_text(json.dumps(epoch) + "\n")
    page = write_page(exp, data)
    texts = " ".join(Reader(page).texts)
    assert "Sparsity of each layer, validation set after epoch 2." in texts
    assert "mean sparsity of the layers" in texts and "firing rate of the layers" not in texts
    assert "what FATReLU lets pass (values that are not zero) of" in texts
    assert "not zero, %" in texts and "macs" not in texts


def test_rates_of_several_checkpoints_are_told_apart(tmp_path):
    exp, data = decoded(tmp_path, encoder="transformer")
    shutil.copytree(exp / "decode", exp / "decode_asr_model_3epoch")
    assert "<th>checkpoint</th>" not in write_page(exp, data)
    record = {
        **{"parameters": 1, "rtf": 0.1, "audio_seconds": 1.0, "lm_exp": None, "config": None},
        **{"jobs": 1, "threads": 1, "device": "cpu", "options": {}, "checkpoint": "3epoch.pth"},
    }
    path = exp / "decode_asr_model_3epoch/test/decode.json"
    path.write_text(json.dumps(record))
    page = write_page(exp, data)
    assert ">checkpoint<" in page and ">3epoch.pth<" in page


def test_no_model_file(tmp_path):
    exp, data = decoded(tmp_path)
    (exp / MODEL).unlink()
    page = write_page(exp, data)
    assert "No utterance is shown: no trained model" in page


def test_no_error_to_show(tmp_path):
    exp, data = decoded(tmp_path, hdm=False)
    shutil.copy(data / "text", exp / "decode/test/text")
    scoring.score_set(
        "test", data, exp / "decode/test", scoring.character_units, frozenset(LETTERS)
    )
    page = write_page(exp, data)
    assert "No word of this set is wrong." in page and "No utterance of this set" in page
    assert "has no decay mask" in page


def test_what_is_not_scored_or_not_there(tmp_path):
    exp, data = decoded(tmp_path)
    with pytest.raises(UserError, match="no utterance nobody"):
        write_page(exp, data, "--utt", "nobody")
    shutil.rmtree(exp / "decode")
    with pytest.raises(UserError, match="not scored: test"):
        write_page(exp, data)
    assert not (exp / "report.html").exists()


def test_rates_are_those_of_a_counted_set_and_else_of_the_last_epoch():
    epochs = [
        {"epoch": 1, "valid": {"firing_rate": 0.9, "firing_rate_a": 0.9}},
        {"epoch": 2, "valid": {"firing_rate": 0.2, "firing_rate_a": 0.3, "firing_rate_b": None}},
    ]
    layers = [
        {"layer": "encoder.a", "kind": "neuron", "firing_rate": 0.25},
        {"layer": "encoder.a", "kind": "linear", "firing_rate": None},
    ]
    material = SimpleNamespace(counts={"test": {"layers": layers}}, epochs=epochs)
    assert layer_statistics(material) == ({"a": 0.25}, "firing rate", "test set test")
    material.counts = {}
    after = "validation set after epoch 2"
    assert layer_statistics(material) == ({"a": 0.3}, "firing rate", after)
    epochs[-1]["valid"] = {"sparsity": 0.5, "sparsity_macs": 0.6, "sparsity_c": 0.4}
    assert layer_statistics(material) == ({"c": 0.4}, "sparsity", after)
    material.epochs = []
    assert layer_statistics(material) == ({}, "", "")


def test_the_rate_of_the_page_is_that_of_the_tables():
    layers = [
        {"layer": "encoder.small", "kind": "neuron", "firing_rate": 0.5},
        {"layer": "encoder.large", "kind": "neuron", "firing_rate": 0.1},
    ]
    counted = {"layers": layers, "sparsity": {"firing_rate": 0.12}}  # over neurons, not over layers
    material = SimpleNamespace(counts={"test": counted}, epochs=[])
    assert mean_rate(material) == [("0.120", "firing rate of all neurons (test)")]
    material.counts = {"test": {"layers": [], "sparsity": {"firing_rate": None}}}
    assert mean_rate(material) == []
    material.epochs = [{"epoch": 2, "valid": {"firing_rate_a": 0.3, "firing_rate_b": 0.1}}]
    (rate,) = mean_rate(material)
    assert rate == ("0.200", "mean firing rate of the layers (validation set after epoch 2)")


def test_a_verdict_stands_under_the_title_with_its_causes():
    verdict = {"learnt": False, "line": "NOT LEARNT: CER 99 % <on> dev", "causes": [["why", "lr"]]}
    shown = str(verdict_part(SimpleNamespace(results={"verdict": verdict}, decodes={})))
    assert "NOT LEARNT: CER 99 % &lt;on&gt; dev" in shown and 'class="missing"' in shown
    assert "<li>why: change lr</li>" in shown
    good = verdict | {"learnt": True, "causes": []}
    decodes = {"test": {"decode": {"checkpoint": "valid.cer_ctc.ave.pth"}}, "dev": {"decode": None}}
    shown = str(verdict_part(SimpleNamespace(results={"verdict": good}, decodes=decodes)))
    assert 'class="lead"' in shown and "<ol>" not in shown and "Decoded" not in shown
    assert not str(verdict_part(SimpleNamespace(results={})))
    decodes["test"]["decode"]["checkpoint"] = "conversion/init.pth"  # of a verdict on what followed
    shown = str(verdict_part(SimpleNamespace(results={"verdict": good}, decodes=decodes)))
    assert "Decoded was conversion/init.pth, from which this training started" in shown
