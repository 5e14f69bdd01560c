"""What simulated cycles say to three published findings on event-driven SpeechMamba.

Ahmed et al. (2026, arXiv 2606.01135) report of their simulator:

(a) the gain in cycles is less than proportional to the sparsity, since layers differ and the scan
    stays dense;
(b) spiking neurons are sparser and yet gain less, since every membrane potential is loaded and
    stored in every step;
(c) more FATReLU points inside Mamba add more than 10 % to the gain.

Each is judged here by figures alone, in the best loops that a simulation has, over the encoder's
blocks (without its front end), apart for every core and every number of scan states.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Figures = Mapping[str, Any]
Simulations = dict[tuple[str, str], Figures]
METRICS = ("cycles", "instructions", "memory", "latency_ms")
LOOPS = ("_blocked", "_unrolled", "")  # the best first
ADDED = 10.0  # per cent of the baseline's cycles, finding (c)


def saved(figures: Mapping[str, float], base: Mapping[str, float], metric: str = "cycles") -> float:
    """Return 100 (1 - metric / metric of the baseline)."""
    return 100 * (1 - figures[metric] / base[metric])


def simulations(results: Sequence[Mapping[str, Any]]) -> Simulations:
    """Return (experiment, core) -> its simulation."""
    return {
        (result["experiment"], core): figures
        for result in results
        for core, figures in result.get("simulate", {}).items()
    }


def best(figures: Figures, kind: str) -> str:
    """Return the coding of a kind, ``dense`` or ``event``, with the fewest cycles measured.

    Of a dense model always dense. Loops of the same cycles: the first of ``LOOPS``.
    """
    codings = figures["codings"]
    for name in (kind, "dense"):
        if found := [name + loop for loop in LOOPS if name + loop in codings]:
            return min(found, key=lambda coding: codings[coding]["cycles"])
    raise KeyError(kind)


def states_of(figures: Figures) -> int | None:
    """Return the states of the scan; None where there is none or it was not written down."""
    return figures.get("d_state")


def parts_of(figures: Figures, coding: str) -> dict[str, Mapping[str, float]]:
    """Return sub-module -> figures in one coding, of the blocks alone where they are told apart."""
    parts = figures.get("blocks") or figures["parts"]
    return {name: forms[coding] for name, forms in parts.items() if coding in forms}


def whole(figures: Figures, coding: str) -> dict[str, float]:
    """Return the sum over the sub-modules of ``parts_of``."""
    parts = parts_of(figures, coding).values()
    return {metric: sum(part[metric] for part in parts) for metric in METRICS}


def sparsity_of(figures: Figures) -> float:
    """Return the mean share of zeros, in [0, 1], of what the blocks' weight layers read."""
    return figures.get("blocks_sparsity", figures["sparsity"])


@dataclass(frozen=True)
class Group:
    """Simulations that may be compared: one core, one number of scan states.

    Attributes:
        core: its name.
        states: of the scan; None where that is not known.
        members: experiment -> figures.
    """

    core: str
    states: int | None
    members: dict[str, Figures]

    def model(self, name: str) -> Figures | None:
        """Return the first simulation of a model, by its name in ``results.json``."""
        return next((f for f in self.members.values() if f["model"] == name), None)

    def dense(self, figures: Figures) -> Figures:
        """Return the dense baseline of a simulation: the dense model, else its own dense coding."""
        return self.model("dense") or figures

    @property
    def place(self) -> str:
        """Where it holds."""
        return f"{self.core}, {'unknown' if self.states is None else self.states} scan states"


def groups(found: Simulations) -> list[Group]:
    """Return simulations by core and number of scan states."""
    made: dict[tuple[str, int | None], Group] = {}
    for (experiment, core), figures in found.items():
        key = core, states_of(figures)
        made.setdefault(key, Group(*key, {})).members[experiment] = figures
    return sorted(made.values(), key=lambda group: (group.core, group.states or 0))


@dataclass(frozen=True)
class Gain:
    """What a model saves against a baseline, both in the best loops, over the blocks.

    Attributes:
        figures: its simulation.
        against: ``dense``, ``naive`` or ``own dense coding``.
        saved: metric -> per cent.
    """

    figures: Figures
    against: str
    saved: dict[str, float]


def gain(group: Group, figures: Figures) -> Gain:
    """Return the gain of a simulation over the dense baseline."""
    base = group.dense(figures)
    against = "own dense coding" if base is figures else "dense"
    return Gain(figures, against, _saved(figures, whole(base, best(base, "dense"))))


def naive_gain(group: Group, figures: Figures) -> Gain | None:
    """Return the gain over the naively sparsified model; None where there is none."""
    base = group.model("naive")
    if base is None:
        return None
    return Gain(figures, "naive", _saved(figures, whole(base, best(base, "event"))))


def _saved(figures: Figures, base: Mapping[str, float]) -> dict[str, float]:
    ours = whole(figures, best(figures, "event"))
    return {metric: saved(ours, base, metric) for metric in METRICS}


@dataclass(frozen=True)
class Finding:
    """A published finding and what the figures say to it.

    Attributes:
        claim: the finding.
        verdict: ``confirmed`` or ``refuted``, or ``open`` where the figures do not decide it.
        where: core and scan states.
        why: the figures.
    """

    claim: str
    verdict: str
    where: str
    why: str

    def __str__(self) -> str:
        """Return a line of Markdown."""
        return f"- {self.claim}: **{self.verdict}** ({self.where}). {self.why}"


def findings(found: Simulations) -> list[Finding]:
    """Return the verdicts on all three findings that the simulations allow."""
    judges: tuple[Callable[[Group], Iterator[Finding]], ...] = (
        less_than_sparsity,
        membranes,
        more_points,
    )
    return [finding for judge in judges for group in groups(found) for finding in judge(group)]


def less_than_sparsity(group: Group) -> Iterator[Finding]:
    """Judge (a) for every model that is sparse: confirmed if it saves less than its sparsity."""
    for experiment, figures in group.members.items():
        sparsity = 100 * sparsity_of(figures)
        if best(figures, "event").startswith("dense") or not sparsity:
            continue
        ours = gain(group, figures)
        cycles = ours.saved["cycles"]
        coding = best(figures, "event")
        scan, total = parts_of(figures, coding).get("scan"), whole(figures, coding)
        share = ""
        if scan is not None:
            part = 100 * scan["cycles"] / total["cycles"]
            share = f"; the scan takes {part:.1f} % of what remains"
        yield Finding(
            "(a) the gain in cycles is less than the sparsity",
            "confirmed" if cycles < sparsity else "refuted",
            group.place,
            f"{experiment} ({figures['model']}) saves {cycles:.1f} % of the cycles of "
            f"{ours.against} at {sparsity:.1f} % sparsity{share}.",
        )


def membranes(group: Group) -> Iterator[Finding]:
    """Judge (b): confirmed if S is sparser than E and yet saves less of cycles and of accesses.

    Open if S is not sparser, or saves less of the one and more of the other.
    """
    spiking, event = group.model("S"), group.model("E")
    if spiking is None or event is None:
        return
    ours, theirs = (gain(group, figures) for figures in (spiking, event))
    sparser = sparsity_of(spiking) > sparsity_of(event)
    less = {m: ours.saved[m] < theirs.saved[m] for m in ("cycles", "memory")}
    verdict = "open"
    if sparser and len(set(less.values())) == 1:
        verdict = "confirmed" if less["cycles"] else "refuted"
    coding = best(spiking, "event")
    parts, total = parts_of(spiking, coding), whole(spiking, coding)
    neurons = parts.get("neuron", dict.fromkeys(METRICS, 0.0))
    shares = {m: 100 * neurons[m] / total[m] for m in ("cycles", "memory")}
    yield Finding(
        "(b) membrane potentials eat the gain of spikes",
        verdict,
        group.place,
        f"S saves {ours.saved['cycles']:.1f} % of the cycles and {ours.saved['memory']:.1f} % of "
        f"the memory accesses at {100 * sparsity_of(spiking):.1f} % sparsity, E "
        f"{theirs.saved['cycles']:.1f} % and {theirs.saved['memory']:.1f} % at "
        f"{100 * sparsity_of(event):.1f} %; the neurons of S make {shares['cycles']:.1f} % of "
        f"its cycles and {shares['memory']:.1f} % of its accesses.",
    )


def more_points(group: Group) -> Iterator[Finding]:
    """Judge (c): confirmed if the optimized model saves over 10 % of the baseline's cycles more."""
    plain, more = group.model("E"), group.model("E, optimized")
    if plain is None or more is None:
        return
    less, much = (gain(group, figures).saved["cycles"] for figures in (plain, more))
    yield Finding(
        "(c) more points inside Mamba add over 10 %",
        "confirmed" if much - less > ADDED else "refuted",
        group.place,
        f"E saves {less:.1f} % of the cycles at {100 * sparsity_of(plain):.1f} % sparsity, with "
        f"more points {much:.1f} % at {100 * sparsity_of(more):.1f} %.",
    )
