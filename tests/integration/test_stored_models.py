"""Models packed by an earlier version load, and say what they said then.

``tests/stored_models``: eight utterances of AN4 learnt by heart by three tiny encoders, packed at
commit 4ce500f, with features, encoder outputs, hypotheses and scores of that commit. They stay as
they are: what changes must go on reading them.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import espnet_spike.task  # noqa: F401  as the README of a pack says
from espnet_spike.tasks.loading import load_model, open_model

STORED = Path(__file__).parents[1] / "stored_models"


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["iml", "event", "spiking"])
def test_a_pack_of_an_earlier_version_says_the_same(name):
    from espnet2.bin.asr_inference import Speech2Text

    folder = STORED / name
    expected = json.loads((folder / "expected.json").read_text())["speech2text"]
    with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
        features = {utt: arrays[f"features/{utt}"] for utt in expected}
        encoded = {utt: arrays[f"encoder_out/{utt}"] for utt in expected}
    with open_model(folder / "pack.zip") as found:
        files = found.files()
        search = yaml.safe_load((found.path / "inference.yaml").read_text())
        speech2text = Speech2Text(**files, **search)
        model = load_model(found).model
    for utt, feats in features.items():
        text, tokens, token_int, hypothesis = speech2text(feats)[0]
        assert text == expected[utt]["text"] and tokens == expected[utt]["tokens"]
        assert token_int == expected[utt]["token_int"]
        assert float(hypothesis.score) == pytest.approx(expected[utt]["score"], abs=1e-4)
        with torch.no_grad():
            out, _ = model.encode(torch.from_numpy(feats)[None], torch.tensor([len(feats)]))
        np.testing.assert_allclose(out[0].numpy(), encoded[utt], rtol=1e-4, atol=1e-5)
