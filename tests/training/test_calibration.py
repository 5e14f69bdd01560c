"""Calibration of thresholds and the sparsify stage."""

import json

import pytest
import torch
from torch import nn

from espnet_spike.errors import UserError
from espnet_spike.nn.layers.fatrelu import FATReLU, named_fatrelus
from espnet_spike.training.calibration import (
    STATE,
    Calibration,
    Calibrator,
    collect_activations,
    finetuning_state,
    naive_thresholds,
    task_loss,
    violations,
)

STEPS = {"percentiles": (20, 50, 80)}


class Encoder(nn.Module):
    """Two points; ``wide`` matters to the loss only by its large values."""

    def __init__(self, **conf):
        super().__init__()
        self.narrow = FATReLU(T=0.0, learn=False, macs=1, **conf)
        self.wide = FATReLU(T=0.0, learn=False, macs=10, **conf)

    def auxiliary_losses(self):
        return {"extra": torch.tensor(5.0)}


class Model(nn.Module):
    """The loss an utterance is the mean of all it gets, less what the points take away."""

    def __init__(self, **conf):
        super().__init__()
        self.encoder = Encoder(**conf)
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, speech, speech_lengths):
        mask = torch.arange(speech.shape[1]) < speech_lengths[:, None]
        lost = 0.0
        for layer, weight in ((self.encoder.narrow, 1.0), (self.encoder.wide, 0.005)):
            y = layer(speech, mask)
            want = speech if layer.two_sided else speech.clamp(min=0)
            lost = lost + weight * ((want - y).abs() * mask[..., None]).sum() / mask.sum()
        loss = 1.0 + self.weight * lost + 5.0
        return loss, {}, torch.tensor(len(speech))


def batches():
    g = torch.Generator().manual_seed(0)
    return [
        {
            "speech": torch.randn(size, 40, 3, generator=g),
            "speech_lengths": torch.tensor([40] + [25] * (size - 1)),
        }
        for size in (3, 2, 4)
    ]


def calibrator(folder, key="k", **conf):
    return Calibrator(Model(), batches, Calibration(**STEPS | conf), folder, key)


def test_thresholds_rise_until_the_loss_does(tmp_path):
    search = calibrator(tmp_path)
    thresholds = search.run()
    state = search.state
    assert state["base_loss"] == pytest.approx(1.0)
    assert 1 < state["final_ratio"] < 1.05
    # what costs little goes further; the point with more operations is tried first
    assert thresholds["encoder.wide"] > thresholds["encoder.narrow"]
    order = [step["point"] for step in state["log"] if step["percentile"] == 20]
    assert order == ["encoder.wide", "encoder.narrow"]
    assert state["frozen"]
    # each point's thresholds rise, a frozen one never changes again
    assert violations(state["log"], thresholds, 1.05) == []
    assert {step["point"] for step in state["log"] if not step["accepted"]} == set(state["frozen"])
    assert state == json.loads((tmp_path / STATE).read_text())


def step(point, T, ratio=1.01, accepted=True):
    return {"percentile": 20, "point": point, "T": T, "ratio": ratio, "accepted": accepted}


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ([step("a", 0.1, ratio=1.2)], "a at 20 %: ratio 1.2"),
        ([step("a", 0.1, accepted=False)], "a at 20 %: ratio 1.01"),
        ([step("a", 0.2), step("a", 0.1)], "the threshold of a fell to 0.1"),
        ([step("a", 0.1, 1.2, False), step("a", 0.2)], "a was frozen and tried again"),
        ([step("a", 0.1)], "a has not the T of the log"),
    ],
)
def test_what_a_search_must_not_do(log, said):
    assert said in violations(log, {"a": 0.3}, 1.05)
    fine = [step("all", None), step("a", 0.2), step("a", 0.3), step("a", 0.4, 1.2, False)]
    assert violations(fine, {"a": 0.3}, 1.05) == []


def test_first_thresholds_and_percentiles(tmp_path):
    model = Model()
    layers = named_fatrelus(model)
    values, costs = collect_activations(model, layers, batches(), 10**6)
    positive = torch.cat(
        [b["speech"][torch.arange(40) < b["speech_lengths"][:, None]].flatten() for b in batches()]
    )
    positive = positive[positive > 0].sort().values
    assert torch.equal(values["encoder.wide"], positive)
    assert costs["encoder.wide"] == 10 * costs["encoder.narrow"]
    search = calibrator(tmp_path, loss_factor=1e9)
    thresholds = search.run()
    expected = float(positive[int(0.8 * len(positive))])
    assert thresholds == {"encoder.narrow": expected, "encoder.wide": expected}
    assert not search.state["frozen"]
    # thinning keeps both ends and the shape
    thin, _ = collect_activations(model, layers, batches(), 60)
    assert len(thin["encoder.wide"]) <= 60
    assert thin["encoder.wide"].median() == pytest.approx(float(positive.median()), rel=0.2)


def test_interrupted_search_goes_on(tmp_path, monkeypatch):
    whole = calibrator(tmp_path / "whole")
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    thresholds = whole.run()
    for trials in range(1, 6):
        search, left = calibrator(tmp_path / "cut"), trials
        original = search._try

        def stop_after(*args, original=original):
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            original(*args)

        monkeypatch.setattr(search, "_try", stop_after)
        try:
            assert search.run() == thresholds
        except KeyboardInterrupt:
            continue
        break
    assert search.state == whole.state
    other = calibrator(tmp_path / "cut", key="another model")
    assert other.state["done"] == 0


def test_calibration_refuses(tmp_path):
    with pytest.raises(UserError, match="no FATReLU point"):
        Calibrator(nn.Linear(1, 1), batches, Calibration(), tmp_path, "k")
    model = Model()
    model.encoder.wide.set_T(0.5)
    with pytest.raises(UserError, match="thresholds already"):
        Calibrator(model, batches, Calibration(), tmp_path, "k")
    with pytest.raises(UserError, match="already raise the loss"):
        calibrator(tmp_path, loss_factor=1.0000001).run()
    for wrong in ({"loss_factor": 1.0}, {"percentiles": (5, 20)}, {"utterances": 0}):
        with pytest.raises(ValueError):
            Calibration(**wrong)


def test_task_loss_stops_early_and_leaves_auxiliary_losses_out():
    model = Model()
    assert task_loss(model, batches()) == pytest.approx(1.0)
    model.encoder.narrow.set_T(10.0)
    full = task_loss(model, batches())
    bound = task_loss(model, batches(), enough=0.1)
    assert 0.1 < bound < full


def test_finetuning_state():
    state = {"encoder.f.fixed_T": torch.tensor(0.0), "encoder.g.fixed_T": torch.tensor(0.0),
             "w": torch.ones(2)}  # fmt: skip
    new = finetuning_state(state, {"encoder.f": 0.4})
    layer = FATReLU(T=0.1)
    layer.load_state_dict({"tau": new["encoder.f.tau"], "T_init": new["encoder.f.T_init"]})
    torch.testing.assert_close(layer.T, torch.tensor(0.4))
    assert set(new) == {"w", *(f"encoder.{p}.{k}" for p in "fg" for k in ("tau", "T_init"))}
    assert new["encoder.g.T_init"] == torch.tensor(1e-3)


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_naive_thresholds_reach_the_share(share):
    model = Model(two_sided=True)
    thresholds, reached = naive_thresholds(model, batches, share)
    assert reached == pytest.approx(share, abs=0.005)
    zeros = 0.0
    for batch in batches():
        mask = torch.arange(40) < batch["speech_lengths"][:, None]
        zeros += float((batch["speech"][mask].abs() < thresholds["encoder.wide"]).double().mean())
    assert zeros / 3 == pytest.approx(share, abs=0.006)
