"""Data-driven thresholds for event-driven SpeechMamba: the second training stage.

Source: Ahmed et al. (2026, arXiv 2606.01135): from a model trained with plain ReLUs at its FATReLU
points (stage one; FATReLU is that of Kurtz et al. 2020), raise the thresholds through percentiles
of the activations and accept a step while updated loss / base loss < K. How they go through points
and percentiles, and K, were not available to us. Two ways are offered:

``order: network`` with ``base: running`` is the default, and that of earlier code of the same group
(arXiv 2501.16337, for language models). From there:

* one point after the other, in the order in which the network runs, statistics collected anew with
  the thresholds of the earlier points active;
* of a point, all percentiles, 10 to 90, until the first that is refused; its threshold is that of
  the last one accepted, or stays 0, a plain ReLU;
* K = 1.001 for each point; the base is the loss that the points before it left (the last accepted
  one when the search of the point begins), so the whole is bounded by K to the number of points;
* a point of a kind seen before begins at the percentile accepted most often for that kind, the
  highest of several; if that is refused, it goes down to the first that is accepted;
* the threshold of a percentile is the mean over frames of the frame's own quantile
  (``thresholds.FrameQuantiles``). That code tries with the quantiles themselves, and takes the mean
  afterwards; we try with the threshold that the model will have (ours).

A point that keeps a plain ReLU starts stage three, where all thresholds are learnt, with the first
threshold of the paper, the mean of the lowest 10 % of its activations (``unraised``; ours).

What a kind is there, the name of a module inside its block, is here the name of the point (F5; in
a decoder a kind of its own).

``order: percentile`` with ``base: fixed`` is our earlier reading, with a_i the strictly positive
activations of point i over all valid frames:

    T_i = mean of the lowest 10 % of a_i
    for p in 20, 30, ... 90 %:  for every point i not frozen, most operations first:
        try T_i = percentile p of a_i;  keep it while loss / base loss < K, else freeze the point

There the base is the loss of the ReLU model, so the end point is bounded, and K is 1.05. Either
base goes with either order; a running one by percentile is the loss of the last step accepted. The
result starts stage three, fine-tuning with learnt thresholds (``espnet_spike.training.sparsify``).
"""

import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from espnet_spike.encoders.monitor import watching
from espnet_spike.errors import UserError
from espnet_spike.nn.layers.fatrelu import named_fatrelus
from espnet_spike.training.passes import Batch, Passes, each_forward
from espnet_spike.training.thresholds import (
    OVER,
    FrameQuantiles,
    collect_activations,
    mean_of_lowest,
    percentile,
)
from espnet_spike.utils.files import plural, present, read_text, write_json
from espnet_spike.utils.options import choose
from espnet_spike.utils.shapes import misfit

STATE = "calibration.json"
STEPS = "steps.jsonl"
ORDERS = ("network", "percentile")
# what a loss is compared with -> how much it may be over it
BASES = {"running": 1.001, "fixed": 1.05}
ALL = "all"  # stands for the point in a step that changes every point

Step = dict[str, Any]

TOLD = 10  # times that a search by points tells how far it is
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """How thresholds are chosen.

    Attributes:
        order: ``network`` (point by point, all percentiles of each) or ``percentile`` (percentile
            by percentile, all points at each).
        base: ``running`` (the loss accepted before) or ``fixed`` (the loss of the ReLU model).
        loss_factor: K, the largest loss over base loss; None for 1.001 with a running base, 1.05
            with a fixed one.
        utterances: size of the calibration set, drawn from the training set.
        first: the percentile before ``percentiles``; in order ``percentile``, percent of the
            smallest activations whose mean is the first threshold.
        percentiles: steps of the search, rising.
        quantile_over: in order ``network``, the values of a frame that have quantiles: the
            ``positive`` ones or ``all``.
        max_values: in order ``percentile``, activations kept of a point; more are thinned out
            evenly.
        seed: of the draw.

    Raises:
        ValueError: a value that makes no sense.
    """

    order: str = "network"
    base: str = "running"
    loss_factor: float | None = None
    utterances: int = 200
    first: float = 10.0
    percentiles: Sequence[float] = (20, 30, 40, 50, 60, 70, 80, 90)
    quantile_over: str = "positive"
    max_values: int = 1_000_000
    seed: int = 0

    def __post_init__(self) -> None:
        choose("order", self.order, ORDERS)
        choose("base", self.base, BASES)
        choose("quantile_over", self.quantile_over, OVER)
        if self.order == "percentile" and self.quantile_over != "positive":
            raise ValueError(f"quantile_over: {self.quantile_over} goes with order: network")
        if self.bound <= 1:
            raise ValueError(f"loss_factor: {self.loss_factor} must be above 1")
        if self.utterances < 1 or self.max_values < 1:
            raise ValueError("utterances and max_values must be at least 1")
        steps = [0, *self.steps, 100]
        if any(a >= b for a, b in itertools.pairwise(steps)):
            raise ValueError(f"first, percentiles: {steps[1:-1]} must rise between 0 and 100")

    @property
    def bound(self) -> float:
        """K."""
        return BASES[self.base] if self.loss_factor is None else self.loss_factor

    @property
    def steps(self) -> list[float]:
        """All percentiles, rising."""
        return [self.first, *self.percentiles]

    def identity(self) -> dict[str, Any]:
        """Return what a finished calibration is recognised by, in JSON types.

        By percentile over a fixed base it has the keys it had when there was no other search.
        """
        values = vars(self) | {"loss_factor": self.bound}
        if (self.order, self.base) == ("percentile", "fixed"):
            for name in ("order", "base", "quantile_over"):
                del values[name]
        return values


class Calibrator:
    """Chooses the thresholds of a model, resumable.

    Args:
        model: an ``ESPnetASRModel`` with FATReLU points with fixed thresholds, all 0 (the model of
            stage one). Its thresholds are changed in place.
        batches: gives the calibration batches, the same in every call.
        conf: how.
        folder: gets ``steps.jsonl``, a line after every trial, from which an interrupted search
            goes on, and in the end ``calibration.json``.
        key: names model, data and ``conf``; a search of another key is started anew.
        after_step: called with every new step once it is written.

    Attributes:
        state: what ``calibration.json`` holds: ``key``, ``base_loss``, ``thresholds`` by point,
            ``unraised`` (thresholds to start learning from of points that kept a ReLU), ``frozen``
            (points with a step refused), ``log`` (the steps), ``points`` (a row each) and, in the
            end, ``final_ratio`` and ``sparsity``.

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
        after_step: Callable[[Step], object] | None = None,
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
        self.steps = StepLog(folder / STEPS, key)
        self.after_step = after_step
        self.passes = Passes(model, batches())
        self.state: dict[str, Any] = {"key": key, "thresholds": {}}
        self.loss = 0.0  # with the accepted thresholds
        self.accepted: dict[str, Step] = {}  # the last accepted step of each point

    def run(self) -> dict[str, float]:
        """Search to the end and return the thresholds by point.

        Raises:
            UserError: no threshold at all is within the bound.
        """
        order = self._base()
        if self.conf.order == "network":
            self._by_point(order)
        else:
            self._by_percentile()
        if self.steps.left:
            raise self.steps.unlike("the end")
        if not any(self.state["thresholds"].values()):
            raise UserError(
                "every threshold raises the loss too much",
                f"raise loss_factor (it is {self.conf.bound})",
            )
        return self._finish(order)

    def _base(self) -> list[str]:
        """Measure the loss of the ReLU model; return the points in the order in which they run."""
        header = self.steps.header
        if header is None:
            order: dict[str, None] = {}
            with watching(self.layers, lambda name, *_: order.setdefault(name)):
                loss = self.passes.loss()
            header = self.steps.begin({"base_loss": loss, "order": list(order)})
        elif self.steps.left:
            _logger.info("going on after %s", plural(self.steps.left, "step"))
        self.state["base_loss"] = self.reference = self.loss = header["base_loss"]
        order_kept: list[str] = header["order"]
        points = plural(len(order_kept), "point")
        _logger.info(
            "base loss %.4f, %s, loss over %s base below %g",
            *(header["base_loss"], points, self.conf.base, self.conf.bound),
        )
        return order_kept

    def _by_point(self, order: Sequence[str]) -> None:
        """Search through percentiles of one point after the other."""
        chosen: dict[str, list[float]] = {}
        points = plural(len(order), "point")
        for number, name in enumerate(order, 1):
            start = most_often(chosen.get(self._kind(name), ()))
            p = self._search(name, f"point {number} of {len(order)}, ", start)
            chosen.setdefault(self._kind(name), []).append(p)
            if self.conf.base == "running":
                self.reference = self.loss
            if number * TOLD // len(order) > (number - 1) * TOLD // len(order):
                ratio = self.loss / self.state["base_loss"]
                _logger.info("%d of %s, loss ratio %.5f", number, points, ratio)

    def _search(self, name: str, progress: str, start: float) -> float:
        """Choose the threshold of a point; return its percentile, 0 for none."""
        thresholds: dict[float, float] | None = None
        trials = percentiles_to_try(self.conf.steps, start)
        p = next(trials)
        while True:
            known = self.steps.next
            if known is None and thresholds is None:
                thresholds = self._frame_quantiles(name)
            if known is not None and known["point"] == name:
                T = known["T"]
            elif thresholds:
                T = thresholds[p]
            else:  # nothing to try; nor was there in the log, which goes on with another point
                self._tell_dead(name)
                return 0.0
            step = self._try(p, name, {name: T}, progress)
            try:
                p = trials.send(step["accepted"])
            except StopIteration as end:
                return end.value

    def _frame_quantiles(self, name: str) -> dict[float, float]:
        """Return the thresholds to try at a point, by percentile."""
        self._set({name: 0.0})  # not what a search that goes on has accepted already
        quantiles = FrameQuantiles(self.conf.steps, self.conf.quantile_over)

        def see(args: tuple, y: Tensor) -> None:
            quantiles.add(y, args[1] if len(args) > 1 else None)

        self.passes.keep_before(name, see)
        return quantiles.thresholds()

    def _by_percentile(self) -> None:
        """Search through the points of one percentile after the other."""
        values, costs = collect_activations(
            self.model, self.layers, self.batches(), self.conf.max_values
        )
        for name in [name for name, a in values.items() if not len(a)]:
            self._tell_dead(name)
            del values[name]
        first = {name: mean_of_lowest(a, self.conf.first) for name, a in values.items()}
        step = self._try(self.conf.first, ALL, first)
        if not step["accepted"]:
            raise UserError(
                f"the smallest thresholds already raise the loss {step['ratio']:.3f} times",
                f"raise loss_factor above that (it is {self.conf.bound})",
            )
        points = sorted(values, key=lambda name: (-costs[name], name))
        frozen: set[str] = set()
        for p in self.conf.percentiles:
            for number, name in enumerate(points, 1):
                T = percentile(values[name], p)
                if name in frozen or T <= self.state["thresholds"][name]:
                    continue
                step = self._try(p, name, {name: T}, f"point {number} of {len(points)}, ")
                if not step["accepted"]:
                    frozen.add(name)
            ratio = self.loss / self.state["base_loss"]
            still = len(points) - len(frozen)
            _logger.info(
                "%g %%: %d of %s go on, loss ratio %.5f",
                *(p, still, plural(len(points), "point"), ratio),
            )

    def _tell_dead(self, name: str) -> None:
        # a dead point is as sparse as can be, and has nothing to choose a threshold from
        _logger.warning("point %s never passes anything; it keeps a plain ReLU", name)

    def _try(self, p: float, name: str, changes: Mapping[str, float], progress: str = "") -> Step:
        """Measure thresholds, or take the step from the log; keep them if the loss allows."""
        step = self.steps.take(name, p)
        if step is None:
            step = self._measure(p, name, changes)
            self.steps.write(step)
            verb = "accepted" if step["accepted"] else "refused"
            what = "the first thresholds" if step["T"] is None else f"T {step['T']:.4g}"
            _logger.debug(
                "%s%s: %g %%, %s, loss ratio %.5f, %s", progress, name, p, what, step["ratio"], verb
            )
            if self.after_step is not None:
                self.after_step(step)
        if step["accepted"]:
            self.state["thresholds"] = self.state["thresholds"] | dict(changes)
            self.accepted |= dict.fromkeys(changes, step)
            self.loss = step["loss"]
            if self.conf.base == "running" and self.conf.order == "percentile":
                self.reference = step["loss"]
        return step

    def _measure(self, p: float, name: str, changes: Mapping[str, float]) -> Step:
        bound = self.conf.bound
        before = self.state["thresholds"]
        if all(T == before.get(name, 0.0) for name, T in changes.items()):
            loss = self.loss
        else:
            self._set(changes)
            # that of a refused step need not be exact by percentile, where passes are whole ones
            by_percentile = self.conf.order == "percentile"
            loss = self.passes.loss(bound * self.reference if by_percentile else float("inf"))
        ratio = loss / self.reference
        T = None if name == ALL else changes[name]
        return {
            **{"point": name, "percentile": p, "T": T, "loss": loss, "ratio": ratio},
            "accepted": ratio < bound,
        }

    def _set(self, changes: Mapping[str, float] | None = None) -> None:
        """Give the points the accepted thresholds, but for ``changes``."""
        thresholds = self.state["thresholds"] | dict(changes or {})
        for name, layer in self.layers.items():
            layer.set_T(thresholds.get(name, 0.0))

    def _kind(self, name: str) -> str:
        """Return what a point is: its name among the points, and the part of the model it is in."""
        point = self.layers[name].point or name.rpartition(".")[2]
        part = name.partition(".")[0]
        return point if part == "encoder" else f"{part} {point}"

    def _finish(self, order: Sequence[str]) -> dict[str, float]:
        """Measure the model with its thresholds, check the search, and write the result."""
        state, conf = self.state, self.conf
        self._set()
        loss, shares = self._whole_passes()
        state["log"] = self.steps.steps
        state["frozen"] = sorted({x["point"] for x in state["log"] if not x["accepted"]})
        state["final_ratio"] = loss / state["base_loss"]
        state["sparsity"] = sum(shares.values()) / len(shares)
        wrong = violations(state["log"], state["thresholds"], conf.bound, conf.order)
        last = next(step["loss"] for step in reversed(state["log"]) if step["accepted"])
        if abs(loss - last) > 1e-6 * last:
            wrong.append(f"it ended at loss {loss}, the last step was accepted at {last}")
        if conf.base == "fixed" and not state["final_ratio"] < conf.bound:
            wrong.append(f"it ended at loss ratio {state['final_ratio']}, beyond {conf.bound}")
        if wrong:
            raise RuntimeError(f"calibration went wrong: {'; '.join(wrong)}")
        state["points"] = [self._row(name, shares[name]) for name in order]
        state["unraised"] = self._unraised(order)
        write_json(self.path, state, sort_keys=True)
        _logger.info("thresholds:\n%s", table(state["points"]))
        _logger.info("loss ratio %.4f, sparsity %.3f", state["final_ratio"], state["sparsity"])
        return state["thresholds"]

    def _whole_passes(self) -> tuple[float, dict[str, float]]:
        """Return the loss of whole passes, and the share of zeros at each point that runs."""
        loss = 0.0
        sums: dict[str, list[float]] = {}
        for mean, size in each_forward(self.model, self.batches()):
            loss += mean * size
            for name, layer in self.layers.items():
                if layer.sparsity is not None:
                    zeros, numel = float(layer.sparsity.zeros), float(layer.sparsity.numel)
                    before = sums.get(name, [0.0, 0.0])
                    sums[name] = [before[0] + zeros, before[1] + numel]
        shares = {name: zeros / max(numel, 1) for name, (zeros, numel) in sums.items()}
        return loss / self.passes.utterances, shares

    def _unraised(self, order: Sequence[str]) -> dict[str, float]:
        """Return the thresholds that points with a plain ReLU start learning from."""
        plain = {
            name: self.layers[name] for name in order if not self.state["thresholds"].get(name)
        }
        if not plain:
            return {}
        values, _ = collect_activations(self.model, plain, self.batches(), self.conf.max_values)
        return {name: mean_of_lowest(a, self.conf.first) for name, a in values.items() if len(a)}

    def _row(self, name: str, share: float) -> dict[str, Any]:
        step = self.accepted.get(name, {"percentile": 0, "ratio": None})
        T = self.state["thresholds"].get(name, 0.0)
        row = {"point": name, "kind": self._kind(name), "percentile": step["percentile"]}
        return row | {"T": T, "sparsity": share, "ratio": step["ratio"]}


def starting_thresholds(state: Mapping[str, Any]) -> dict[str, float]:
    """Return what each point starts learning from, given what ``calibration.json`` holds."""
    raised = {name: T for name, T in state["thresholds"].items() if T > 0}
    return state["unraised"] | raised


class StepLog:
    """The steps of a search, a JSON line each under a header, which a later search repeats.

    Args:
        path: the file; one of another key is replaced by ``begin``.
        key: of the search.

    Attributes:
        header: what the search began with; None for a new one.
        steps: those of the file and those written since.
        left: how many are not yet repeated.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.key = key
        lines = self._read()
        known = bool(lines) and lines[0].get("key") == key
        self.header: dict[str, Any] | None = lines[0] if known else None
        self.steps: list[Step] = lines[1:] if known else []
        self.left = len(self.steps)

    def begin(self, header: Mapping[str, Any]) -> dict[str, Any]:
        """Start the file anew; return the header with the key."""
        self.header = {"key": self.key, **header}
        self.path.write_text(json.dumps(self.header) + "\n", encoding="utf-8")
        return self.header

    @property
    def next(self) -> Step | None:
        """The next step to repeat; None if all have been."""
        return self.steps[-self.left] if self.left else None

    def take(self, point: str, p: float) -> Step | None:
        """Return ``next``, which is repeated then.

        Raises:
            UserError: it is one of another trial.
        """
        step = self.next
        if step is None:
            return None
        if (step["point"], step["percentile"]) != (point, p):
            raise self.unlike(f"{point} at {p:g} %")
        self.left -= 1
        return step

    def unlike(self, expected: str) -> UserError:
        """Return the error that the next step is not what the search does next."""
        number = len(self.steps) - self.left + 1
        return UserError(
            f"{self.path}: step {number} is not {expected}", "remove the file to calibrate anew"
        )

    def write(self, step: Step) -> None:
        """Append a step."""
        self.steps.append(step)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(step) + "\n")

    def _read(self) -> list[dict[str, Any]]:
        """Return the lines; what a killed search left of its last one is cut off."""
        if not present(self.path):
            return []
        text = read_text(self.path, "remove it to calibrate anew")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            self.path.write_text(whole, encoding="utf-8")
        try:
            steps = [json.loads(line) for line in whole.splitlines()]
            if problem := misfit(steps, list[dict[str, Any]]):
                raise ValueError(problem)
            return steps
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{self.path} is damaged: {error}", "remove it to calibrate anew"
            ) from None


def percentiles_to_try(percentiles: Sequence[float], start: float) -> Generator[float, bool, float]:
    """Yield the percentiles of one point to try; each is answered by whether it was accepted.

    Args:
        percentiles: rising.
        start: the one to begin at; one that is not among them stands for the first.

    Returns:
        the last accepted, 0 for none.
    """
    first = percentiles.index(start) if start in percentiles else 0
    accepted = 0.0
    for p in percentiles[first:]:
        if not (yield p):
            break
        accepted = p
    if accepted:
        return accepted
    for p in reversed(percentiles[:first]):
        if (yield p):
            return p
    return 0.0


def most_often(percentiles: Sequence[float]) -> float:
    """Return the most frequent percentile, the highest of several; 0 for none at all."""
    counts = Counter(percentiles)
    return max(counts, key=lambda p: (counts[p], p), default=0.0)


def violations(
    log: Iterable[Mapping[str, Any]], thresholds: Mapping[str, float], bound: float, order: str
) -> list[str]:
    """Check the log of a search against its result.

    Args:
        log: the steps as they are kept in ``calibration.json``.
        thresholds: the result, by point.
        bound: K.
        order: of the search.

    Returns:
        what is wrong: a step taken beyond the bound or not taken within it, a threshold that fell,
        a point that was tried again after it was frozen or left, a result that is not that of the
        log. Empty if fine.
    """
    wrong: list[str] = []
    current: dict[str, float] = {}
    closed: set[str] = set()
    before = None
    for step in log:
        name, T = step["point"], step["T"]
        if step["accepted"] != (step["ratio"] < bound):
            wrong.append(f"{name} at {step['percentile']:g} %: ratio {step['ratio']}")
        if T is None:  # the first thresholds, all at once
            continue
        if order == "network" and before not in (None, name):
            closed.add(before)
        before = name
        if name in closed:
            verb = "left" if order == "network" else "frozen"
            wrong.append(f"{name} was {verb} and tried again")
        if T < current.get(name, 0.0):
            wrong.append(f"the threshold of {name} fell to {T}")
        if step["accepted"]:
            current[name] = T
        elif order == "percentile":
            closed.add(name)
    wrong += [f"{n} has not the T of the log" for n, T in current.items() if thresholds[n] != T]
    return wrong


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows of ``calibration.json`` as lines of text."""
    width = max(len(row["point"]) for row in rows)
    kinds = max(len(row["kind"]) for row in rows)
    lines = [f"{'point':{width}}  {'kind':{kinds}}  percentile  threshold  sparsity    ratio"]
    for row in rows:
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.5f}"
        lines.append(
            f"{row['point']:{width}}  {row['kind']:{kinds}}  {row['percentile']:10g}  "
            f"{row['T']:9.4g}  {row['sparsity']:8.3f}  {ratio:>7}"
        )
    return "\n".join(lines)
