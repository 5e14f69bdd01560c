"""Statistics of activations, and what thresholds are made of and put into."""

import pytest
import torch

from espnet_spike.nn.layers.fatrelu import FATReLU, named_fatrelus
from espnet_spike.training.thresholds import (
    FrameQuantiles,
    collect_activations,
    finetuning_state,
    mean_of_lowest,
    naive_thresholds,
    percentile,
)
from tests.helpers.thresholds import Model, batches

# two frames of five channels; the third is padding, the fourth lets nothing through
FRAMES = torch.tensor([[0.0, 1.0, 0.0, 3.0, 2.0], [5.0, 0.0, 0.0, 0.0, 9.0], [99.0] * 5, [0.0] * 5])
MASK = torch.tensor([[True, True, False, True]])


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        # 3 and 2 positive ones: of 40 % the largest 1.8 and 1.2 stay, of 70 % 0.9 and 0.6, but one
        ("positive", {40: (3 + 9) / 2, 20: (2 + 9) / 2, 70: (3 + 9) / 2}),
        # of five channels 3, 4 and 1 stay
        ("all", {40: (1 + 0) / 2, 20: (0 + 0) / 2, 70: (3 + 9) / 2}),
    ],
)
def test_frame_quantiles_by_hand(over, expected):
    quantiles = FrameQuantiles(list(expected), over)
    quantiles.add(FRAMES[None], MASK)
    assert quantiles.thresholds() == expected
    # convolution maps, in two batches, of either sign: the same frames
    quantiles = FrameQuantiles(list(expected), over)
    signed = FRAMES * torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    quantiles.add(signed[None, :1, :, None], None)
    quantiles.add(signed[None, 1:, None], MASK[:, 1:])
    assert quantiles.thresholds() == expected


def test_a_quantile_keeps_its_share_of_every_frame():
    torch.manual_seed(0)
    y = torch.rand(1, 1, 64)
    quantiles = FrameQuantiles([12.5, 50, 75])
    quantiles.add(y, None)
    kept = [int((y >= T).sum()) for T in quantiles.thresholds().values()]
    assert kept == [56, 32, 16]


def test_a_dead_point_has_no_quantiles():
    quantiles = FrameQuantiles([50])
    quantiles.add(torch.zeros(1, 3, 4), None)
    quantiles.add(torch.ones(1, 3, 4), torch.zeros(1, 3, dtype=torch.bool))
    assert quantiles.thresholds() == {}


def test_activations_are_collected_sorted():
    model = Model()
    layers = named_fatrelus(model)
    values, costs = collect_activations(model, layers, batches(), 10**6)
    positive = torch.cat(
        [b["speech"][torch.arange(40) < b["speech_lengths"][:, None]].flatten() for b in batches()]
    )
    positive = positive[positive > 0].sort().values
    assert torch.equal(values["encoder.wide"], positive)
    assert costs["encoder.wide"] == 10 * costs["encoder.narrow"]
    assert percentile(positive, 80) == float(positive[int(0.8 * len(positive))])
    assert mean_of_lowest(torch.arange(1.0, 31), 10) == 2.0
    # thinning keeps both ends and the shape
    thin, _ = collect_activations(model, layers, batches(), 60)
    assert len(thin["encoder.wide"]) <= 60
    assert thin["encoder.wide"].median() == pytest.approx(float(positive.median()), rel=0.2)


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
