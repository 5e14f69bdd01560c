"""The page on one experiment: its parts, that text stays text, and how a browser draws it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_spike.bin import html_report
from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.encoders.monitor import spike_counts
from espnet_spike.errors import UserError
from espnet_spike.inference.ctc import Word
from espnet_spike.results import scoring
from espnet_spike.results.html import VOID, el
from espnet_spike.results.html_energy import layer_energy
from espnet_spike.results.utterance import Recording, choose_utterance, record
from espnet_spike.utils.files import read_table, write_table
from tests.export.test_reparameterize import MODEL, experiment
from tests.helpers.tiny_model import CONFIG, LETTERS, TOKENS, make_texts, write_features

HOSTILE = "<script>alert(1)</script>", "$x_{", "</svg>&amp;", '"quoted"', "#010101", "漢字"


def decoded(root, encoder="iml_spikeformer", words=None, **conf):
    """Write an experiment of made-up speech with a decoded and scored set; return both folders."""
    exp, _ = experiment(root, encoder, **conf)
    texts = make_texts(6, seed=2)
    data = write_features(root / "dump", texts, seed=2, seconds=2.0)
    if words:
        write_table(data / "text", dict.fromkeys(texts, " ".join(words)))
    set_dir = exp / "decode" / "test"
    set_dir.mkdir(parents=True)
    hyps = {utt: text.split()[0] + " bad" for utt, text in read_table(data / "text").items()}
    write_table(set_dir / "text", hyps)
    spelt = [TOKENS.index("a"), TOKENS.index("b"), TOKENS.index("<space>"), TOKENS.index("c")]
    write_table(set_dir / "token_int", dict.fromkeys(texts, " ".join(map(str, spelt))))
    scoring.score_set("test", data, set_dir, scoring.character_units, frozenset(LETTERS))
    epochs = [
        {
            **{"epoch": n, "max_epoch": 2, "steps": 9, "applied": 9, "seconds": 3.0},
            "train": {"loss": 4.0 / n, "firing_rate": 0.2},
            "valid": {"loss": 5.0 / n if n > 1 else None, "cer_ctc": 0.5, "firing_rate": 0.2}
            | {"firing_rate_encoders.0.attn.neuron_in": 0.21, "firing_rate_embed.neurons.0": 0.005},
        }
        for n in (1, 2)
    ]
    (exp / "epochs.jsonl").write_text("".join(json.dumps(e) + "\n" for e in epochs))
    return exp, data


def write_page(exp, data, *more):
    html_report.main(["--asr_exp", str(exp), "--inference_tag", "decode", *more, f"test={data}"])
    return (exp / "report.html").read_text()


@pytest.fixture(scope="module")
def spiking(tmp_path_factory):
    """A page on an experiment with spikes, whose transcripts are hostile."""
    exp, data = decoded(tmp_path_factory.mktemp("spiking"), words=HOSTILE)
    (exp / "commands.txt").write_text("./run.sh --asr_tag '<b>x'\n")
    return write_page(exp, data)


def test_energy_is_shown_with_its_source(tmp_path):
    from espnet_spike.bin import count

    exp, data = decoded(tmp_path)
    model = "horowitz45_fp32"
    words = ["--asr_exp", str(exp), "--energy_model", model, "--out", str(exp / "decode")]
    count.main([*words, f"test={data}"])
    path = exp / "decode/test/count.json"
    counted = json.loads(path.read_text())
    # what the layers need is what the whole needs
    products = counted["energy"][model]["compute"]["joules_per_second"]
    bars = layer_energy(counted, model)
    assert sum(ours for ours, _ in bars.values()) == pytest.approx(1e6 * products)
    assert all(0 < ours and 0 < dense for ours, dense in bars.values())
    counted["energy"][model]["model"]["source"] = "<i>nobody</i>"
    counted["uncovered"] = {"aten.cumsum": {"calls": 1, "numbers": 1}}
    path.write_text(json.dumps(counted))
    page = write_page(exp, data)
    texts = " ".join(Reader(page).texts)
    for text in (model, "<i>nobody</i>", "45 nm, fp32", f"{1e6 * products:.3g}"):
        assert text in texts
    assert "Not counted, for want of a rule: aten.cumsum." in texts
    assert "Run as trained, W_Q and W_K apart." in texts
    assert "test set test" in texts  # the firing rates are those of the count
    assert 'aria-label="energy by layer"' in page and "0.ffn.linear_in" in page


class Reader(HTMLParser):
    """Reads elements, their attributes and texts."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_every_part_is_there(spiking):
    page = Reader(spiking)
    assert not page.open
    labels = [a["aria-label"] for tag, a in page.elements if tag == "svg"]
    assert labels[0] == "word error rates"
    for part in ("learning curve: loss", "firing rate", "features and spikes of", "decay masks"):
        assert any(part in label for label in labels), part
    for text in ("Confused words", "Worst utterances", "0.attn.in", "embed.0", "not finite"):
        assert text in spiking
    assert "have not been counted" in spiking


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


@given(st.text())
def test_escaping(text):
    page = Reader(el("p", text, title=text))
    assert [tag for tag, _ in page.elements] == ["p"]
    shown = "".join(page.texts)
    assert len(shown) == len(text) or "\r" in text
    assert page.elements[0][1]["title"] == shown


def test_an_encoder_without_spikes(tmp_path):
    exp, data = decoded(tmp_path, "transformer")
    (exp / "epochs.jsonl").unlink()
    page = write_page(exp, data)
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


@pytest.mark.parametrize(
    "conf",
    [
        {},
        {"neuron": "ternary", "T": 3},
        {"neuron": "ilif"},
        {"neuron": "lif"},
        {"imls_stat": "utt"},
        {"imls_stat": "ema"},
    ],
)
def test_counts_of_the_picture_are_those_of_the_neurons(tmp_path, conf):
    from espnet_spike.encoders.monitor import layer_spikes
    from espnet_spike.nn.neurons.base import named_neurons
    from tests.export.test_reparameterize import load

    exp, data = experiment(tmp_path, **conf)
    utt, feats = next(iter(FeatureDir.read(data).feats.items()))
    encoder = load(exp).encoder
    from espnet_spike.data.ark import ArkReader

    with ArkReader() as reader, torch.no_grad(), layer_spikes(encoder) as layers:
        speech = torch.from_numpy(reader.read(utt, feats).copy())[None]
        encoder(speech, torch.tensor([speech.shape[1]]))
    neurons = named_neurons(encoder)
    assert set(layers) == set(neurons)
    for name, layer in layers.items():
        assert np.array_equal(layer.counts, layer.counts.round())
        assert 0 <= layer.counts.min() and layer.counts.max() <= layer.levels
        rate = layer.counts.sum() / (layer.counts.size * layer.levels)
        assert rate == pytest.approx(neurons[name].firing.rate.item(), rel=1e-5)


def test_binary_execution_draws_the_same(tmp_path):
    from espnet_spike.encoders.spike_options import SpikeOptions

    exp, folder = experiment(tmp_path)
    data = FeatureDir.read(folder)
    utt = choose_utterance(data.durations)
    one, two = (
        record(exp / MODEL, data, utt, [3, 4], SpikeOptions(spike_mode=mode))
        for mode in ("integer", "binary")
    )
    assert one.words is not None and one.frames == len(one.layers[-1].counts)
    assert set(one.log_gammas) == {"encoders.0.attn.decay", "encoders.1.attn.decay"}
    same = [np.mean(a.counts == b.counts) for a, b in zip(one.layers, two.layers, strict=True)]
    assert min(same) > 0.99


@pytest.mark.parametrize("name", ["SpikingSpeechMambaEncoder", "EventSpeechMambaEncoder"])
def test_the_layers_of_speech_mamba(name):
    from espnet_spike.encoders import speech_mamba
    from espnet_spike.encoders.monitor import layer_spikes
    from espnet_spike.nn.layers.fatrelu import sparsities
    from espnet_spike.nn.neurons.base import firing_rates

    torch.manual_seed(0)
    small = {"output_size": 16, "attention_heads": 2, "num_blocks": 1, "dropout_rate": 0.0}
    encoder = getattr(speech_mamba, name)(20, **small).eval()
    speech = torch.randn(1, 60, 20)
    with torch.no_grad(), layer_spikes(encoder) as layers:
        xs, _, _ = encoder(speech, torch.tensor([60]))
    expected = firing_rates(encoder) or {k: 1 - v for k, v in sparsities(encoder).items()}
    assert set(layers) == set(expected)
    for key, layer in layers.items():
        assert layer.counts.ndim == 2 and len(layer.counts) >= xs.shape[1]
        assert layer.counts.mean() == pytest.approx(expected[key].item(), abs=1e-6)


def test_values_behind_fatrelu_are_events():
    from espnet_spike.nn.layers.fatrelu import FATReLU

    layer = FATReLU(T=1.0)
    x = torch.randn(1, 5, 4)
    counts, levels = spike_counts(layer, (x,), layer(x))
    assert levels == 1 and torch.equal(counts, (x[0] > 1.0).float())


def test_crowded_words_do_not_stand_on_each_other():
    from espnet_spike.results.figures import spike_raster

    words = [Word("NINETEEN", 0.1 * i, 0.1 * i + 0.05) for i in range(20)]
    svg = spike_raster(Recording("utt", 2.0, np.zeros((200, 80)), words=words))
    assert svg.count("NINETEEN") == 20


PROBE = """<script>addEventListener("load", () => {
const found = [];
for (const svg of document.querySelectorAll("svg")) {
  const box = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll("text")];
  const boxes = texts.map(t => t.getBoundingClientRect());
  let overlaps = [];
  boxes.forEach((a, i) => boxes.forEach((b, j) => { if (i < j &&
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3)
    overlaps.push(texts[i].textContent + " / " + texts[j].textContent); }));
  const outside = texts.filter((t, i) => boxes[i].left < box.left - 2
    || boxes[i].right > box.right + 2).map(t => t.textContent);
  const images = [...svg.querySelectorAll("image")].filter(image => {
    const copy = document.querySelector(`img[src="${image.getAttribute("href")}"]`);
    return copy.naturalWidth && image.getBoundingClientRect().width; }).length;
  const shapes = [...svg.querySelectorAll("path,use,rect")].filter(
    s => { const r = s.getBoundingClientRect(); return r.width + r.height > 0; }).length;
  found.push({label: svg.getAttribute("aria-label"), width: box.width, height: box.height,
    shapes, images, wanted: svg.querySelectorAll("image").length, texts: texts.length,
    overlaps, outside}); }
const result = document.createElement("pre"); result.id = "probe";
result.textContent = JSON.stringify({figures: found, sideways:
  document.documentElement.scrollWidth - document.documentElement.clientWidth});
document.body.append(result); });</script>"""


def chromium(tmp_path, *options):
    """Run the browser headless; return what it writes, or skip where there is none."""
    found = [*filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))]
    if not found:
        pytest.skip("no Chromium: apt-get install chromium")
    command = [found[0], "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("width", [1100, 500])
def test_a_browser_draws_every_figure(spiking, tmp_path, width):
    (tmp_path / "page.html").write_text(spiking)
    size = f"--window-size={width},900"
    _, log = chromium(tmp_path, size, "--dump-dom", f"file://{tmp_path}/page.html")
    assert "CONSOLE" not in log, log
    # measured by a script, which the page's own policy would not let run
    copies = re.findall(r'<image [^>]*href="([^"]*)"', spiking)
    probe = "".join(f'<img hidden src="{source}">' for source in copies) + PROBE
    probed = re.sub(r"<meta http-equiv=[^>]*>", "", spiking).replace("</body>", probe + "</body>")
    (tmp_path / "probed.html").write_text(probed)
    dom, _ = chromium(tmp_path, size, "--dump-dom", f"file://{tmp_path}/probed.html")
    found = json.loads(re.search(r'<pre id="probe">(.*?)</pre>', dom, re.DOTALL)[1])
    assert found["sideways"] == 0  # the page itself does not scroll sideways
    assert len(found["figures"]) == spiking.count("<svg ") >= 7
    for figure in found["figures"]:
        assert figure["width"] > 200 and figure["height"] > 50, figure
        assert figure["shapes"] > 3 and figure["texts"] > 3, figure
        assert figure["images"] == figure["wanted"], figure
        assert not figure["outside"] and not figure["overlaps"], figure
