"""Passes that begin at a point: the loss is the very number of a whole pass, with less work."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from espnet_spike.encoders.monitor import captured
from espnet_spike.nn.layers.fatrelu import named_fatrelus
from espnet_spike.tasks.model import auxiliary_losses
from espnet_spike.training.passes import Passes, each_forward, task_loss
from tests.helpers.untrained import untrained_experiment

SMALL = {"output_size": 16, "attention_heads": 2, "num_blocks": 2, "d_state": 2}
DECODER = {
    "decoder": "speech_mamba",
    "decoder_conf": {"num_blocks": 1, "attention_heads": 2, "d_state": 2, "fat_points": "e"},
    "model_conf": {"ctc_weight": 0.3},
}
INTERCTC = {
    "encoder_conf": {"interctc_layer_idx": [1], "interctc_use_conditioning": True},
    "model_conf": {"ctc_weight": 1.0, "interctc_weight": 0.4},
}
FORMS = {
    "ctc": ({}, {}),
    "hybrid": ({"fat_points": "optimized", "num_blocks": 1}, DECODER),
    "conmamba": ({"block": "conmamba", "linear_units": 16, "conv_kernel": 3}, {}),
    "interctc": (INTERCTC["encoder_conf"], {"model_conf": INTERCTC["model_conf"]}),
}


def make(folder, form):
    conf, changes = FORMS[form]
    changes = {"normalize": "utterance_mvn"} | changes
    return untrained_experiment(folder, "event_speech_mamba", SMALL | conf, **changes)


def batches():
    g = torch.Generator().manual_seed(0)
    lengths = [[40, 28], [33]]
    return [
        {
            "speech": 12 + 2 * torch.randn(len(frames), max(frames), 80, generator=g),
            "speech_lengths": torch.tensor(frames),
            "text": torch.randint(3, 11, (len(frames), 3), generator=g),
            "text_lengths": torch.tensor([3, 2][: len(frames)]),
        }
        for frames in lengths
    ]


class Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += any(word in str(func) for word in ("mm", "convolution"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("form", FORMS)
def test_loss_from_any_point_is_that_of_whole_passes(tmp_path, form):
    model = make(tmp_path, form)
    points = named_fatrelus(model)
    passes = Passes(model, batches())
    with captured(points, lambda *_: None) as order:
        losses, products = [passes.loss()], []
    seen = {}
    for name in order:
        seen[name] = []
        passes.keep_before(name, lambda args, y, name=name: seen[name].append((args, y)))
        assert len(seen[name]) == 2
        if not points[name].two_sided:
            assert all(torch.equal(y, args[0].relu()) for args, y in seen[name])
        points[name].set_T(0.3)
        with Products() as counted:
            losses.append(passes.loss())
        products.append(counted.count)
        assert losses[-1] == task_loss(model, batches())
    assert len(set(losses)) > len(points) / 2  # thresholds matter
    # the work falls from point to point (a decoder's keys are made outside of its attention)
    within = products[: sum(name.startswith("encoder.") for name in order)]
    assert within == sorted(within, reverse=True)
    assert products[-1] < products[0] / 4


def test_auxiliary_losses_are_left_out_and_batches_stay(tmp_path):
    model = make(tmp_path, "hybrid")
    data = batches()
    passes = Passes(model, data)
    for name in named_fatrelus(model):
        passes.keep_before(name, lambda args, y: None)
        passes.loss()
    for batch, same in zip(data, batches(), strict=True):
        torch.testing.assert_close(batch, same, rtol=0, atol=0)
    sizes = []
    for (loss, size), batch in zip(each_forward(model, batches()), batches(), strict=True):
        with torch.no_grad():
            whole, _, weight = model(**batch)
        extra = sum(float(x) for x in auxiliary_losses(model).values())
        assert loss == pytest.approx(float(whole) - extra, rel=1e-6) and extra > 0
        assert size == int(weight)
        sizes.append(loss * size)
    assert task_loss(model, batches()) == pytest.approx(sum(sizes) / 3)
    # it stops where the mean must exceed the bound: after the first batch
    assert task_loss(model, batches(), enough=1e-3) == pytest.approx(sizes[0] / 3)
    # modules run again as they are
    assert not any("forward" in vars(module) for module in model.modules())


class Toy(nn.Module):
    """One layer runs before and after the point, another is in between."""

    def __init__(self):
        super().__init__()
        self.twice, self.between = nn.Linear(4, 4), nn.Linear(4, 4)
        self.point, self.unused = nn.ReLU(), nn.ReLU()
        self.shift, self.in_place = 0.0, False

    def forward(self, speech):
        x = self.twice(speech)
        if self.in_place:
            x += 1
        x = self.point(self.between(self.twice(x)))
        return self.twice(x + self.shift).square().mean(), {}, torch.tensor(len(speech))


def test_a_module_that_runs_again_behind_the_point():
    torch.manual_seed(0)
    model, data = Toy().eval(), [{"speech": torch.randn(2, 4)}, {"speech": torch.randn(3, 4)}]
    passes = Passes(model, data)
    passes.keep_before("point", lambda args, y: None)
    before = passes.loss()
    model.shift = 1.0
    assert passes.loss() == task_loss(model, data) != before
    # what is kept is returned indeed
    with torch.no_grad():
        model.between.weight.zero_()
    assert passes.loss() != task_loss(model, data)


def test_what_cannot_be_kept_is_told():
    model, data = Toy().eval(), [{"speech": torch.randn(2, 4)}]
    with pytest.raises(RuntimeError, match="unused does not run"):
        Passes(model, data).keep_before("unused", lambda args, y: None)
    model.in_place = True
    passes = Passes(model, data)
    passes.keep_before("point", lambda args, y: None)
    with pytest.raises(RuntimeError, match="output of twice is written into"):
        passes.loss()
    assert not any("forward" in vars(module) for module in model.modules())
