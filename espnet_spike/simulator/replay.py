"""Replay a sample of an encoder's operations on the core, fit their cost, extrapolate.

For every kernel and shape, some calls with few, middling and many events run on the core; every
output has to be what the numpy model says. Cycles, instructions, loads and stores are affine in
the events; the fit is tried on calls that it has not seen, and then summed over all frames.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from espnet_spike.errors import UserError
from espnet_spike.simulator.kernels import expected
from espnet_spike.simulator.machine import Call, Counters, Machine, processes
from espnet_spike.simulator.operations import Array, Form, Sample, Site
from espnet_spike.utils.files import plural, present, text_digest
from espnet_spike.utils.shapes import check_shape

METRICS = ("cycles", "instructions", "loads", "stores", "weights", "state", "fetches")
FIT, HELD_OUT = 8, 4
BATCH_BYTES = 24 << 20
BATCH_CALLS = 24
ENTERED = 1e-3
COMPARED = 16  # frames of a layer that are compared with the float layer
Key = tuple[str, tuple[int, ...]]
PRODUCT, TRUNCATED, ROUNDED, DECIDED = 0.02, 0.03, 0.01, 0.15
LIMITS = {
    **dict.fromkeys(("linear", "conv", "depthwise"), PRODUCT),  # 8-bit weights
    **dict.fromkeys(("affine", "softmax", "decay"), PRODUCT),
    # bits are cut off, not rounded
    **dict.fromkeys(("scan", "gate", "layernorm", "rmsnorm"), TRUNCATED),
    **dict.fromkeys(("requantize", "lookup", "add", "scores", "context", "relu", "scale"), ROUNDED),
    **dict.fromkeys(("outer", "read"), 0.0),  # integers
    # an input at the threshold may fall on its other side, which changes a whole spike or value
    **dict.fromkeys(("imls", "lif", "fatrelu"), DECIDED),
}
"""Kind of kernel, the first word of its name -> largest error that a replay may have; ours.

The error is the root mean square difference from the float layer over some frames, relative to the
root mean square of the layer's values there.
"""


@dataclass(frozen=True)
class Cost:
    """What a kernel of one shape costs.

    Attributes:
        coefficients: ``(2 + k, 7)``: fixed, once if there is any event, then for each kind of
            event; columns as ``METRICS``.
        calls: simulated.
        held_out: relative errors in cycles of the calls that were left out of the fit.
        float_error: difference from the float layer as in ``LIMITS``, of the layer that is
            farthest; None if not comparable.
    """

    coefficients: Array
    calls: int
    held_out: tuple[float, ...]
    float_error: float | None

    @property
    def units(self) -> Array:
        """What one of the terms weighs in ``design``."""
        return np.array([1.0, ENTERED, *[1.0] * (len(self.coefficients) - 2)])

    def of(self, events: Array) -> Array:
        """Return the cost of frames with ``events`` ``(frames, k)``: ``(frames, 7)``."""
        return design(events) @ self.coefficients


def design(events: Array) -> Array:
    """Return what the cost is linear in, for frames with ``events`` ``(frames, k)``."""
    fixed = np.ones((len(events), 1))
    # the first event enters the loop, which costs some cycles once; weighing that column less
    # leaves the cost with the fixed part where the two cannot be told apart
    entered = (events.sum(1, keepdims=True) > 0) * ENTERED
    return np.concatenate([fixed, entered, events], 1)


@dataclass(frozen=True)
class Planned:
    """A call to simulate, for a cost function."""

    key: Key
    events: Array
    sample: Sample
    for_fit: bool


@dataclass(frozen=True)
class Entry:
    """What a line of the log of simulated calls holds."""

    machine: str
    call: str
    counters: list[int]
    check: str = ""  # of the others; earlier versions wrote none

    @classmethod
    def of(cls, machine: str, call: str, counters: list[int]) -> "Entry":
        """Return an entry with its check."""
        check = text_digest(json.dumps([machine, call, counters]))[:16]
        return cls(machine, call, counters, check)


class Log:
    """Calls that have been simulated: a line of JSON each, so that a run can go on.

    Args:
        path: of the file.
        key: of everything that cycles depend on; lines of another key are left out.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self.counters: dict[str, Counters] = {}
        if present(path):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    content = json.loads(line)
                    check_shape(path, content, Entry)
                    entry = Entry(**content)
                    made = Entry.of(entry.machine, entry.call, entry.counters)
                    if entry.machine == key and entry.check in ("", made.check):
                        self.counters[entry.call] = Counters(*entry.counters)
                except (ValueError, TypeError, RecursionError, UserError):
                    continue  # the run ended while it wrote, or it is damaged: simulated again

    def add(self, entries: Iterable[tuple[str, Counters]]) -> None:
        """Keep results, on disk at once."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            for call, counters in entries:
                self.counters[call] = counters
                entry = Entry.of(self.key, call, list(astuple(counters)))
                file.write(json.dumps(asdict(entry)) + "\n")


def call_key(call: Call) -> str:
    """Hash a call with all its operands."""
    found = hashlib.sha256(call.kernel.encode())
    for arg in call.args:
        if isinstance(arg, np.ndarray):
            found.update(f"{arg.dtype}{arg.shape}".encode() + np.ascontiguousarray(arg).tobytes())
        else:
            found.update(f",{arg}".encode())
    return found.hexdigest()[:24]


def plan(
    sites: Sequence[Site],
    codings: Sequence[str],
    fit: int = FIT,
    held_out: int = HELD_OUT,
    fixed: int = 3,
) -> list[Planned]:
    """Choose the calls to simulate: for each cost function, spread evenly over its events.

    Sites that share a function share its sample, so that layers and utterances mix.
    """
    forms: dict[Key, list[Form]] = {}
    for site in sites:
        for coding in codings:
            form = site.forms.get(coding)
            if form is not None and form not in forms.setdefault(form.key, []):
                forms[form.key].append(form)
    planned = []
    for key, members in forms.items():
        where = [(m, n) for m, form in enumerate(members) for n in range(len(form.events))]
        events = np.concatenate([form.events for form in members]).astype(np.float64)
        if events.shape[1] == 0:
            # the cost is fixed: one call, and others to see that it is
            chosen, held = spread(len(where), fixed), {1, 2}
        else:
            order = np.lexsort(events.T[::-1])
            chosen = [int(order[i]) for i in spread(len(order), fit + held_out)]
            step = max((fit + held_out) // max(held_out, 1), 2)
            held = set(range(step // 2, len(chosen) - 1, step))
        for place, index in enumerate(chosen):
            form, frame = members[where[index][0]], where[index][1]
            planned.append(Planned(key, events[index], form.make(frame), place not in held))
    return planned


def float_errors(sites: Sequence[Site], codings: Sequence[str]) -> dict[tuple[str, Key], float]:
    """Return how far the kernels of each layer are from its float values, see ``LIMITS``.

    Silent frames are the first and the last ones; what they are off would say little.

    Returns:
        (name of the layer, kernel and shape) -> error on ``COMPARED`` frames, infinite where the
        float layer gives zeros alone and the kernel does not. Kernels without a float counterpart
        are left out.
    """
    sums: dict[tuple[str, Key], Array] = {}
    for site in sites:
        for form in {site.forms[coding]: None for coding in codings if coding in site.forms}:
            for frame in spread(len(form.events), COMPARED):
                sample = form.make(frame)
                if sample.reference is not None:
                    place = site.name, form.key
                    found = sample.squares(expected(sample.call))
                    sums[place] = sums.get(place, np.zeros(2)) + found
    return {
        place: float(np.sqrt(off / size)) if size else float("inf" if off else 0)
        for place, (off, size) in sums.items()
    }


def check_float_errors(errors: Mapping[tuple[str, Key], float]) -> None:
    """Look whether the integer kernels stand for their layers, before hours are simulated.

    Raises:
        UserError: a kernel is farther from the float layer than its kind may be.
    """
    wrong = []
    for (site, (kernel, _)), error in errors.items():
        limit = LIMITS[kernel.split("_")[0]]
        if not error <= limit:
            wrong.append((error / max(limit, 1e-9), site, kernel, error, limit))
    if wrong:
        _, site, kernel, error, limit = max(wrong)
        more = len({place for _, place, *_ in wrong} - {site})
        others = f"; {plural(more, 'other layer')} beyond theirs" if more else ""
        raise UserError(
            f"{site}: the int8/int16 kernel {kernel} is {error:.1%} off the float layer, "
            f"{limit:.1%} is the limit{others}",
            "cycles of another network would be printed; train with weight decay or a norm before "
            "the layer: few values far above the rest leave few of the bits to the others",
        )


def spread(count: int, wanted: int) -> list[int]:
    """Return ``wanted`` different indices, evenly from the first to the last of ``count``."""
    return sorted(set(np.linspace(0, count - 1, min(count, wanted)).round().astype(int).tolist()))


def simulate(
    machine: Machine, planned: Sequence[Planned], log: Log, jobs: int | None = None
) -> list[Counters]:
    """Simulate the calls that the log does not have yet; check every output.

    Raises:
        UserError: an output is not what the numpy model says.
    """
    keys = [call_key(item.sample.call) for item in planned]
    left = {key: item for key, item in zip(keys, planned, strict=True) if key not in log.counters}
    batches = list(_batches(list(left.items())))

    def run(batch: list[tuple[str, Planned]]) -> list[tuple[str, Counters]]:
        results = machine.run([item.sample.call for _, item in batch])
        for (_, item), result in zip(batch, results, strict=True):
            for got, want in zip(result.arrays, expected(item.sample.call), strict=True):
                if not np.array_equal(got, want):
                    raise UserError(
                        f"{item.key[0]} {item.key[1]}: the core's output is not the model's",
                        "nothing was kept of it; please report this",
                    )
        return [(key, result.counters) for (key, _), result in zip(batch, results, strict=True)]

    with ThreadPoolExecutor(jobs or processes()) as pool, _bar(len(left)) as bar:
        try:
            for done in pool.map(run, batches):
                log.add(done)
                bar.update(len(done))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [log.counters[key] for key in keys]


def _bar(total: int) -> tqdm:
    return tqdm(total=total, unit="call", desc="simulate", file=sys.stderr, leave=False)


def _batches(items: Sequence[tuple[str, Planned]]) -> Iterable[list[tuple[str, Planned]]]:
    """Split calls into runs of the simulator, small enough to show progress and fit its memory."""
    batch: list[tuple[str, Planned]] = []
    size = 0
    for item in items:
        more = sum(array.nbytes for array in item[1].sample.call.arrays)
        if batch and (len(batch) == BATCH_CALLS or size + more > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += more
    if batch:
        yield batch


def fit_costs(
    planned: Sequence[Planned],
    counters: Sequence[Counters],
    errors: Mapping[tuple[str, Key], float],
) -> dict[Key, Cost]:
    """Return the cost function of every kernel and shape; ``errors`` are of ``float_errors``."""
    groups: dict[Key, list[int]] = {}
    for index, item in enumerate(planned):
        groups.setdefault(item.key, []).append(index)
    worst: dict[Key, float] = {}
    for (_, key), error in errors.items():
        worst[key] = max(worst.get(key, 0.0), error)
    return {
        key: _fit([planned[i] for i in g], [counters[i] for i in g], worst.get(key))
        for key, g in groups.items()
    }


def _fit(
    planned: Sequence[Planned], counters: Sequence[Counters], float_error: float | None
) -> Cost:
    rows = design(np.stack([item.events for item in planned]))
    cost = np.array([[getattr(c, metric) for metric in METRICS] for c in counters], float)
    used = np.array([item.for_fit for item in planned])
    # columns of one size keep the least squares well conditioned
    size = np.maximum(np.abs(rows).max(0), 1.0)
    solved, *_ = np.linalg.lstsq(rows[used] / size, cost[used], rcond=1e-7)
    coefficients = solved / size[:, None]
    predicted = rows[~used] @ coefficients
    errors = np.abs(predicted[:, 0] - cost[~used, 0]) / np.maximum(cost[~used, 0], 1)
    return Cost(coefficients, len(planned), tuple(errors.tolist()), float_error)


@dataclass(frozen=True)
class Total:
    """Extrapolated counts of one site in one coding, over all recorded frames."""

    site: Site
    coding: str
    counts: Array  # as METRICS


def extrapolate(
    sites: Sequence[Site], codings: Sequence[str], costs: dict[Key, Cost]
) -> list[Total]:
    """Sum the cost functions over all frames of all sites."""
    totals = []
    for site in sites:
        for coding in codings:
            if (form := site.forms.get(coding)) is not None:
                totals.append(Total(site, coding, costs[form.key].of(form.events).sum(0)))
    return totals


def sum_totals(
    totals: Iterable[Total], by: Callable[[Total], tuple]
) -> dict[tuple, dict[str, float]]:
    """Add up totals that ``by`` maps to the same key."""
    sums: dict[tuple, Array] = {}
    for total in totals:
        key = by(total)
        sums[key] = sums.get(key, np.zeros(len(METRICS))) + total.counts
    return {key: dict(zip(METRICS, row.tolist(), strict=True)) for key, row in sums.items()}
