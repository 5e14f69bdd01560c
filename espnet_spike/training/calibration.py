"""Data-driven thresholds for event-driven SpeechMamba: the second training stage.

Source: Ahmed et al. (2026, arXiv 2606.01135).

From a model trained with plain ReLUs at its FATReLU points (stage one), with a_i the strictly
positive activations of point i over valid frames of some training utterances:

    T_i = mean of the lowest 10 % of a_i
    for p in 20, 30, ... 90 %:  for every point i not frozen, most operations first:
        try T_i = percentile p of a_i;  keep it while loss / base loss < K, else freeze the point

The base loss is that of the ReLU model, so the end point is bounded. K, the calibration set and
the percentiles were not available to us; ours are the defaults of ``Calibration``. The result
starts stage three, fine-tuning with learnt thresholds (``espnet_spike.training.sparsify``).
"""

import itertools
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from espnet_spike.encoders.monitor import watching
from espnet_spike.errors import UserError
from espnet_spike.nn.layers.fatrelu import FATReLU, inverse_softplus, mean_sparsity, named_fatrelus
from espnet_spike.utils.files import write_json

STATE = "calibration.json"
Batch = dict[str, Tensor]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """How thresholds are chosen.

    Attributes:
        loss_factor: K, the largest loss over base loss.
        utterances: size of the calibration set, drawn from the training set.
        first: percent of the smallest activations whose mean is the first threshold.
        percentiles: steps of the search, rising.
        max_values: activations kept of a point; more are thinned out evenly.
        seed: of the draw.

    Raises:
        ValueError: a value that makes no sense.
    """

    loss_factor: float = 1.05
    utterances: int = 200
    first: float = 10.0
    percentiles: Sequence[float] = (20, 30, 40, 50, 60, 70, 80, 90)
    max_values: int = 1_000_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss_factor <= 1:
            raise ValueError(f"loss_factor: {self.loss_factor} must be above 1")
        if self.utterances < 1 or self.max_values < 1:
            raise ValueError("utterances and max_values must be at least 1")
        steps = [0, self.first, *self.percentiles, 100]
        if any(a >= b for a, b in itertools.pairwise(steps)):
            raise ValueError(f"first, percentiles: {steps[1:-1]} must rise between 0 and 100")


class Calibrator:
    """Chooses the thresholds of a model, resumable.

    Args:
        model: an ``ESPnetASRModel`` whose encoder has FATReLU points with fixed thresholds, all 0
            (the model of stage one). Its thresholds are changed in place.
        batches: gives the calibration batches, the same in every call.
        conf: how.
        folder: gets ``calibration.json``, written after every trial; an interrupted search goes
            on from it.
        key: names model, data and ``conf``; a search of another key is started anew.

    Raises:
        UserError: the model has no points, or a point with a threshold already.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        batches: Callable[[], Iterable[Batch]],
        conf: Calibration,
        folder: Path,
        key: str,
    ) -> None:
        self.model = model.eval()
        self.batches = batches
        self.conf = conf
        self.path = folder / STATE
        self.layers = named_fatrelus(model)
        if not self.layers:
            raise UserError("the model has no FATReLU point", "see encoder_conf fat_points")
        if any(layer.learnt or float(layer.T) != 0 for layer in self.layers.values()):
            raise UserError(
                "the model was trained with thresholds already",
                "calibrate a model of encoder_conf fat_threshold: 0",
            )
        self.state = self._read(key) or {
            "key": key,
            "base_loss": None,
            "thresholds": {},
            "frozen": [],
            "done": 0,
            "log": [],
        }

    def run(self) -> dict[str, float]:
        """Search to the end and return the thresholds by point.

        Raises:
            UserError: the first thresholds alone raise the loss above the bound.
        """
        state, bound = self.state, self.conf.loss_factor
        values, costs = self._activations()
        if state["base_loss"] is None:
            state["base_loss"] = task_loss(self.model, self.batches())
            _logger.info("base loss %.4f, %d points", state["base_loss"], len(values))
        points = sorted(values, key=lambda name: (-costs[name], name))
        trials = [(p, name) for p in self.conf.percentiles for name in points]
        if not state["thresholds"]:
            first = {name: _mean_of_lowest(a, self.conf.first) for name, a in values.items()}
            ratio = self._ratio(first)
            if ratio >= bound:
                raise UserError(
                    f"the smallest thresholds already raise the loss {ratio:.3f} times",
                    f"raise loss_factor above that (it is {bound})",
                )
            state["thresholds"] = first
            self._note(self.conf.first, "all", None, ratio, True)
        for number, (p, name) in enumerate(trials):
            if number < state["done"]:
                continue
            self._try(p, name, _percentile(values[name], p))
            state["done"] = number + 1
            write_json(self.path, state, sort_keys=True)
        return self._finish()

    def _try(self, p: float, name: str, T: float) -> None:
        state = self.state
        if name in state["frozen"] or T <= state["thresholds"][name]:
            return
        trial = state["thresholds"] | {name: T}
        ratio = self._ratio(trial)
        accepted = ratio < self.conf.loss_factor
        if accepted:
            state["thresholds"] = trial
        else:
            state["frozen"].append(name)
        self._note(p, name, T, ratio, accepted)

    def _finish(self) -> dict[str, float]:
        thresholds, bound = self.state["thresholds"], self.conf.loss_factor
        self._set(thresholds)
        ratio = task_loss(self.model, self.batches()) / self.state["base_loss"]
        wrong = violations(self.state["log"], thresholds, bound)
        if not ratio < bound:
            wrong.append(f"it ended at loss ratio {ratio}, the bound is {bound}")
        if wrong:
            raise RuntimeError(f"calibration went wrong: {'; '.join(wrong)}")
        self.state["final_ratio"] = ratio
        self.state["sparsity"] = self._sparsity()
        write_json(self.path, self.state, sort_keys=True)
        _logger.info("loss ratio %.4f, sparsity %.3f", ratio, self.state["sparsity"])
        return thresholds

    def _ratio(self, thresholds: Mapping[str, float]) -> float:
        self._set(thresholds)
        base = self.state["base_loss"]
        return task_loss(self.model, self.batches(), self.conf.loss_factor * base) / base

    def _set(self, thresholds: Mapping[str, float]) -> None:
        for name, T in thresholds.items():
            self.layers[name].set_T(T)

    def _note(self, p: float, name: str, T: float | None, ratio: float, accepted: bool) -> None:
        step = {"percentile": p, "point": name, "T": T, "ratio": ratio, "accepted": accepted}
        self.state["log"].append(step)
        write_json(self.path, self.state, sort_keys=True)
        verb = "raised" if accepted else "frozen, would be"
        _logger.info("%g %%: %s %s %s, loss ratio %.4f", p, name, verb, _show(T), ratio)

    def _activations(self) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return what passes each point, sorted, and the operations it feeds."""
        values, costs = collect_activations(
            self.model, self.layers, self.batches(), self.conf.max_values
        )
        for name in [name for name, a in values.items() if not len(a)]:
            # a dead point is as sparse as can be, and has nothing to choose a threshold from
            _logger.warning("point %s never passes anything; it keeps a plain ReLU", name)
            del values[name]
        return values, costs

    def _sparsity(self) -> float:
        shares = []
        for _ in each_forward(self.model, self.batches()):
            shares.append(_share(self.model))
        return sum(shares) / len(shares)

    def _read(self, key: str) -> dict[str, Any] | None:
        try:
            state = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return None
        if state.get("key") != key:
            return None
        _logger.info("going on after %d trials", state["done"])
        return state


def violations(
    log: Iterable[Mapping[str, Any]], thresholds: Mapping[str, float], bound: float
) -> list[str]:
    """Check the log of a search against its result.

    Args:
        log: the steps as they are kept in ``calibration.json``.
        thresholds: the result, by point.
        bound: K.

    Returns:
        what is wrong: a step taken beyond the bound or not taken within it, a threshold that fell,
        a frozen point that was tried again, a result that is not that of the log. Empty if fine.
    """
    wrong: list[str] = []
    current: dict[str, float] = {}
    frozen: set[str] = set()
    for step in log:
        name, T = step["point"], step["T"]
        if step["accepted"] != (step["ratio"] < bound):
            wrong.append(f"{name} at {step['percentile']:g} %: ratio {step['ratio']}")
        if T is None:  # the first thresholds, all at once
            continue
        if name in frozen:
            wrong.append(f"{name} was frozen and tried again")
        if T <= current.get(name, 0.0):
            wrong.append(f"the threshold of {name} fell to {T}")
        if step["accepted"]:
            current[name] = T
        else:
            frozen.add(name)
    wrong += [f"{n} has not the T of the log" for n, T in current.items() if thresholds[n] != T]
    return wrong


def _share(model: torch.nn.Module) -> float:
    """Return the mean sparsity of the last forward pass of a model that has points."""
    mean = mean_sparsity(model)
    assert mean is not None
    return float(mean)


def each_forward(model: Any, batches: Iterable[Batch]) -> Iterator[tuple[float, int]]:
    """Run the batches; give the task loss of each, without auxiliary losses, and its size."""
    device = next(model.parameters()).device
    for batch in batches:
        with torch.no_grad():
            loss, _, weight = model(**{name: x.to(device) for name, x in batch.items()})
            loss = float(loss) - sum(map(float, model.encoder.auxiliary_losses().values()))
        yield loss, int(weight)


def task_loss(
    model: torch.nn.Module, batches: Iterable[Batch], enough: float = float("inf")
) -> float:
    """Return the mean task loss an utterance; a lower bound of it once that exceeds ``enough``."""
    losses = []
    batches = list(batches)
    total = sum(len(batch["speech"]) for batch in batches)
    for loss, size in each_forward(model, batches):
        losses.append(loss * size)
        # every loss is at least 0, so the mean can only grow
        if sum(losses) > enough * total:
            break
    return sum(losses) / total


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
        thresholds = {name: _percentile(a, p) for name, a in values.items()}
        for name, T in thresholds.items():
            layers[name].set_T(T)
        shares = [_share(model) for _ in each_forward(model, batches())]
        reached = sum(shares) / len(shares)
        _logger.info("percentile %.2f: mean sparsity %.4f", p, reached)
        if abs(reached - share) <= tolerance:
            return thresholds, reached
        low, high = (p, high) if reached < share else (low, p)
    raise UserError(f"mean sparsity {share} cannot be reached, the nearest is {reached:.4f}")


def _thin(ordered: Tensor, most: int) -> Tensor:
    """Return at most ``most`` values of a sorted tensor, evenly spaced, both ends among them."""
    if len(ordered) <= most:
        return ordered
    return ordered[torch.linspace(0, len(ordered) - 1, most).round().long()]


def _mean_of_lowest(ordered: Tensor, percent: float) -> float:
    return float(ordered[: max(1, round(len(ordered) * percent / 100))].double().mean())


def _percentile(ordered: Tensor, percent: float) -> float:
    return float(ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))])


def _show(T: float | None) -> str:
    return "to the first thresholds" if T is None else f"to {T:.4g}"
