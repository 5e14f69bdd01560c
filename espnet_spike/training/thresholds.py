"""Thresholds from activations: statistics of what FATReLU points let through, and their use."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from espnet_spike.encoders.monitor import watching
from espnet_spike.errors import UserError
from espnet_spike.nn.layers.fatrelu import FATReLU, inverse_softplus, mean_sparsity, named_fatrelus
from espnet_spike.training.passes import Batch, each_forward

OVER = ("positive", "all")

_logger = logging.getLogger(__name__)


class FrameQuantiles:
    """The mean over valid frames of each frame's own quantiles of what a point lets through.

    Source: the code of arXiv 2501.16337. It keeps the largest magnitudes of every frame, a given
    share of all channels, and takes as threshold the mean over frames of the smallest one kept.
    There the points are two-sided and no channel is zero. Behind a ReLU many are: a quantile over
    ``positive`` ones (ours) or over ``all``, whose lower percentiles are 0 then.

    Args:
        percentiles: in percent.
        over: ``positive`` or ``all``. A frame without positive values has no say.
    """

    def __init__(self, percentiles: Sequence[float], over: str = "positive") -> None:
        self.percentiles = list(percentiles)
        self.over = over
        self._sums = torch.zeros(len(self.percentiles), dtype=torch.float64)
        self._frames = 0

    def add(self, y: Tensor, mask: Tensor | None) -> None:
        """Take in the outputs of a batch.

        Args:
            y: ``(B, N, ..., C)``.
            mask: ``(B, N)``, true on valid frames; None when all are.
        """
        frames = y.flatten(0, 1) if mask is None else y[mask]
        ordered = frames.abs().flatten(1).sort(1).values
        ordered = ordered[ordered[:, -1] > 0]
        channels = ordered.shape[1]
        counts = (ordered > 0).sum(1) if self.over == "positive" else channels
        for index, percent in enumerate(self.percentiles):
            kept = (
                torch.as_tensor(counts * (100 - percent) / 100 + 1e-6).floor().long().clamp(min=1)
            )
            ranks = (channels - kept).to(ordered.device).expand(len(ordered))
            smallest = ordered.gather(1, ranks[:, None])
            self._sums[index] += smallest.double().sum().cpu()
        self._frames += len(ordered)

    def thresholds(self) -> dict[float, float]:
        """Return the threshold of each percentile; empty for a point that let nothing through."""
        if self._frames == 0:
            return {}
        means = (self._sums / self._frames).tolist()
        return dict(zip(self.percentiles, means, strict=True))


@torch.no_grad()
def collect_activations(
    model: torch.nn.Module,
    layers: Mapping[str, FATReLU],
    batches: Iterable[Batch],
    max_values: int,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Record what the points let through on valid frames.

    Returns:
        by point: the magnitudes of all non-zero outputs, sorted and thinned to ``max_values``; and
        the multiply-accumulates they feed.
    """
    batches = list(batches)
    values: dict[str, list[Tensor]] = {name: [] for name in layers}
    costs = dict.fromkeys(layers, 0.0)

    def see(name: str, layer: Any, inputs: tuple, y: Tensor) -> None:
        mask = inputs[1] if len(inputs) > 1 else None
        y = y if mask is None else y[mask]
        passed = y[y != 0].abs().flatten().sort().values.cpu()
        values[name].append(_thin(passed, max(1, max_values // len(batches))))
        assert layer.sparsity is not None  # set in the forward pass
        costs[name] += float(layer.sparsity.numel) * layer.macs

    with watching(layers, see):
        for _ in each_forward(model, batches):
            pass
    return {name: torch.cat(a).sort().values for name, a in values.items()}, costs


def finetuning_state(
    state: Mapping[str, Tensor], thresholds: Mapping[str, float], smallest: float = 1e-3
) -> dict[str, Tensor]:
    """Turn the state of the calibrated model into that of one with learnt thresholds.

    Args:
        state: of the model of stage one.
        thresholds: by point; a point without one gets ``smallest``.
        smallest: the least threshold to start from: 1/T^2 is in the loss.
    """
    new = {}
    for key, value in state.items():
        if not key.endswith(".fixed_T"):
            new[key] = value
            continue
        name = key.removesuffix(".fixed_T")
        T = max(thresholds.get(name, 0.0), smallest)
        new[f"{name}.tau"] = torch.tensor(inverse_softplus(T))
        new[f"{name}.T_init"] = torch.tensor(T)
    return new


def naive_thresholds(
    model: torch.nn.Module,
    batches: Callable[[], Iterable[Batch]],
    share: float,
    tolerance: float = 0.005,
    max_values: int = 1_000_000,
) -> tuple[dict[str, float], float]:
    """Choose magnitude thresholds of a dense model for a given mean sparsity, without training.

    One percentile of the magnitudes is taken at every point; which one, is found by bisection,
    since the zeros of one point make zeros at others.

    Args:
        model: its points are two-sided, with fixed thresholds.
        batches: gives the calibration batches.
        share: mean sparsity wanted, in (0, 1).
        tolerance: of the mean sparsity.
        max_values: activations kept of a point.

    Returns:
        the thresholds by point, which the model has, and the mean sparsity reached.

    Raises:
        UserError: the sparsity cannot be reached.
    """
    model.eval()
    layers = named_fatrelus(model)
    values, _ = collect_activations(model, layers, batches(), max_values)
    low, high = 0.0, 100.0
    for _ in range(20):
        p = (low + high) / 2
        thresholds = {name: percentile(a, p) for name, a in values.items()}
        for name, T in thresholds.items():
            layers[name].set_T(T)
        shares = [_share(model) for _ in each_forward(model, batches())]
        reached = sum(shares) / len(shares)
        _logger.info("percentile %.2f: mean sparsity %.4f", p, reached)
        if abs(reached - share) <= tolerance:
            return thresholds, reached
        low, high = (p, high) if reached < share else (low, p)
    raise UserError(f"mean sparsity {share} cannot be reached, the nearest is {reached:.4f}")


def _share(model: torch.nn.Module) -> float:
    """Return the mean sparsity of the last forward pass of a model that has points."""
    mean = mean_sparsity(model)
    assert mean is not None
    return float(mean)


def _thin(ordered: Tensor, most: int) -> Tensor:
    """Return at most ``most`` values of a sorted tensor, evenly spaced, both ends among them."""
    if len(ordered) <= most:
        return ordered
    return ordered[torch.linspace(0, len(ordered) - 1, most).round().long()]


def mean_of_lowest(ordered: Tensor, percent: float) -> float:
    """Return the mean of the lowest ``percent`` of sorted values, of one at least."""
    return float(ordered[: max(1, round(len(ordered) * percent / 100))].double().mean())


def percentile(ordered: Tensor, percent: float) -> float:
    """Return the value of sorted ones that ``percent`` of them lie before."""
    return float(ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))])
