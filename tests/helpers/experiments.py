"""Made-up experiment folders, as training, decoding and scoring leave them."""

import json

import yaml

from espnet_spike.results import scoring
from espnet_spike.utils import provenance


def write_table(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{key} {value}\n" for key, value in table.items()))


def make_experiment(recipe, name, hyps, *, encoder="transformer", seed=0, tag="decode", rtf=0.05):
    """Write what a trained, decoded and scored experiment leaves in a recipe folder."""
    refs = {f"u{i:02d}": "one two three" for i in range(30)}
    data = recipe / "dump" / "test"
    write_table(data / "text", refs)
    write_table(data / "utt2spk", dict.fromkeys(refs, "s"))
    exp = recipe / "exp" / f"asr_{name}"
    set_dir = exp / tag / "test"
    write_table(set_dir / "text", refs | hyps)
    scoring.score_set("test", data, set_dir, scoring.character_units, frozenset("onetwhr"))
    config = {"encoder": encoder, "seed": seed, "max_epoch": 5, "token_list": ["a"]}
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    epoch = {"epoch": 3, "seconds": 30.0}
    (exp / "epochs.jsonl").write_text(json.dumps(epoch) + "\n")
    decode = {
        **{"parameters": 12345, "rtf": rtf, "audio_seconds": 60.0, "checkpoint": "valid.x.ave.pth"},
        **{"jobs": 2, "threads": 1, "device": "cpu", "lm_exp": None, "config": "conf/decode.yaml"},
        **{"finished": "2026-01-01T00:00:00+0000", "environment": provenance.environment()},
        "options": {"beam_size": 5, "ctc_weight": 0.5},
    }
    (set_dir / "decode.json").write_text(json.dumps(decode))
    return exp
