"""Which mean spike count the published energy ratio of IML-Spikeformer asks for.

Song et al. (2025) print the ratio of their encoder's energy to a dense one's (4.64 on AiShell-1,
4.32 on LibriSpeech), but no firing rates. With every spike-driven product at c accumulates for each
dense multiply-accumulate, and everything real-valued at one,

    ratio = E_MAC dense / (E_MAC real + E_AC c spiking)

has one solution c for each form of attention. Products of front end and encoder only, as the
literature counts (``espnet_spike.counting.energy``); our configuration of the paper's sizes.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from espnet_spike.counting.costs import PRODUCTS, Costs
from espnet_spike.counting.counter import Counter
from espnet_spike.counting.energy import CostModel
from espnet_spike.errors import UserError
from espnet_spike.tasks.config import read_training_config

FRAMES_A_SECOND = 100


@dataclass(frozen=True)
class Need:
    """What one form of an encoder needs for a ratio.

    Attributes:
        config: name of the configuration.
        form: ``unfolded`` (Q and K real-valued) or ``folded`` (W_Q and W_K merged).
        parameters: of the encoder in this form.
        dense: MACs of the dense twin.
        real: MACs that have no spiking operand.
        spiking: products that are spike-driven, at one accumulate each.
        ratio: the published one.
        mean_count: spikes an activation that it takes; None if no count can do it.
        levels: T.
    """

    config: str
    form: str
    parameters: int
    dense: float
    real: float
    spiking: float
    ratio: float
    mean_count: float | None
    levels: int


def shares(costs: Costs) -> tuple[float, float, float]:
    """Return all products, those of real values and the spike-driven ones, at one each."""
    products = [cost for (_, kind), cost in costs.items() if kind in PRODUCTS]
    dense = sum(cost.dense_macs for cost in products)
    # where nothing of a row is spike-driven, zeros that were skipped count as well
    real = sum(cost.macs if cost.acs else cost.dense_macs for cost in products)
    return dense, real, dense - real


@torch.inference_mode()
def run(encoder: nn.Module, frames: int, input_size: int) -> Costs:
    """Count an encoder on noise of the given number of frames."""
    x = torch.randn(1, frames, input_size, generator=torch.Generator().manual_seed(0))
    with Counter(encoder, "encoder") as counter:
        encoder(x, torch.tensor([frames]))
    return dict(counter.costs)


def needs(
    path: Path, ratio: float, model: CostModel, seconds: float, input_size: int = 80
) -> Sequence[Need]:
    """Return what each form of a configuration's encoder needs.

    Args:
        path: YAML of the training.
        ratio: energy of the dense network over ours.
        model: prices.
        seconds: of audio.
        input_size: feature dimension.

    Raises:
        UserError: another encoder than IML-Spikeformer.
    """
    from espnet_spike.encoders.iml_spikeformer import IMLSpikeformerEncoder

    config, _ = read_training_config(path)
    if config.get("encoder") != "iml_spikeformer":
        raise UserError(f"{path}: the published ratio is of iml_spikeformer")
    conf = config.get("encoder_conf") or {}
    torch.manual_seed(0)
    encoder = IMLSpikeformerEncoder(input_size, **conf).eval()
    frames = round(seconds * FRAMES_A_SECOND)
    found = []
    dense = None
    for form in ("unfolded", "folded"):
        if form == "folded":
            encoder = copy.deepcopy(encoder)
            encoder.reparameterize()
        everything, real, spiking = shares(run(encoder, frames, input_size))
        dense = everything if dense is None else dense  # the twin has nothing merged
        budget = model.operations["mac"] * (dense / ratio - real)
        count = budget / (model.operations["ac"] * spiking)
        found.append(
            Need(
                path.stem,
                form,
                sum(p.numel() for p in encoder.parameters()),
                dense,
                real,
                spiking,
                ratio,
                count if count > 0 else None,
                conf.get("T", 6),
            )
        )
    return found


def lines(found: Sequence[Need]) -> list[str]:
    """Return a table."""
    head = ("config", "form", "ratio", "parameters", "dense", "real", "spike-driven")
    head += ("mean count", "firing rate")
    rows = [
        (
            *(need.config, need.form, f"{need.ratio:.2f}", f"{need.parameters / 1e6:.2f} M"),
            *(f"{value / 1e9:.2f} G" for value in (need.dense, need.real, need.spiking)),
            "none" if need.mean_count is None else f"{need.mean_count:.3f}",
            "–" if need.mean_count is None else f"{need.mean_count / need.levels:.3f}",
        )
        for need in found
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]
