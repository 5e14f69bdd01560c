"""Pages on experiments with a decoded and scored set, for tests of what a page shows."""

import json
from html.parser import HTMLParser

from espnet_spike.bin import html_report
from espnet_spike.results import scoring
from espnet_spike.results.html import VOID
from espnet_spike.utils.files import read_table, write_table
from tests.export.test_reparameterize import experiment
from tests.helpers.tiny_model import LETTERS, TOKENS, make_texts, write_features

HOSTILE = "<script>alert(1)</script>", "$x_{", "</svg>&amp;", '"quoted"', "#010101", "漢字"


def decoded(root, encoder="iml_spikeformer", words=None, **conf):
    """Write an experiment with a decoded and scored set of synthetic speech; return both."""
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
            "train": {"loss": 4.0 / n, "firing_rate": 0.2, "optim0_lr0": 0.001 / n},
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
