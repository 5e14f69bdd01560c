"""The ratio of energies under each assumption in turn, from what has been counted.

How many times less energy a spiking network takes than its twin depends on what is counted as what
as much as on the network. `table` recomputes the energy of a ``count.json`` under a cost model, and
then with one of its rules, widths or memories changed, the same for the network and all it is
compared with. Nothing is run again.

Energies are added up over utterances of like length: with memory by ``levels`` those of a sum over
the set would not be the sum of the utterances' energies, since a short utterance reads every weight
once, where a long one shares fetches.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from espnet_spike.counting.costs import ENCODER, Costs, add_costs, from_table
from espnet_spike.counting.energy import CostModel, Rules, energy, quantised
from espnet_spike.errors import UserError
from espnet_spike.nn.accounting import Cost
from espnet_spike.results.energy_tables import BASELINES, NO_COUNTS, form_name, twin_name
from espnet_spike.results.formatting import table as markdown_table
from espnet_spike.utils.files import present, read_json, write_json, write_lines
from espnet_spike.utils.shapes import read_shaped

COUNT = "count.json"
BIT = 3.12  # pJ, the price that spikingjelly 2.0 takes from STEP
COLUMNS = {"compute": "products", "total": "with memory"}
LATER = {"twin_layers", "trained_twin_layers", "trained_twin"}
"""What a ``count.json`` of an earlier version does not have."""
FOOT = (
    "{} counted by an earlier version, which had sums over the set alone: the first row may be "
    "off from the `count` command in the third digit, where a short utterance reads every weight "
    "once and the sum shares fetches. Count the set again for equal figures."
)

# rule and value -> what it says
SAID: dict[tuple[str, object], str] = {
    ("event", "mac"): "an event is one multiply-accumulate, whatever its count",
    ("event", "additions"): "an event of count m is m additions",
    ("event_coding", "dense"): "spikes in memory as a count for every value",
    ("event_coding", "list"): "spikes in memory as a list of events with addresses",
    ("address_add", 0.0): "the address of an event needs no addition",
    ("address_add", 0.1): "the address of an event is an addition of 0.1 pJ",
    ("channel_scale", False): "V's unit per channel is free",
    ("channel_scale", True): "V's unit per channel is a multiplication behind A V",
    ("threshold_factors", 1): "x / V is one multiplication",
    ("threshold_factors", 2): "x / V is two multiplications, by frame and channel",
    ("statistic_read", False): "mean |x| needs no read of its own",
    ("statistic_read", True): "mean |x| reads the frame once more",
    (
        "scan",
        "macs",
    ): "the scan's Delta A, exp(Delta A) h are no products, Delta B of spikes is free",
    ("scan", "recurrence"): "the scan's Delta A, exp(Delta A) h, Delta B are products",
    ("neuron", "mac"): "an update of a neuron is one multiply-accumulate (NEAT)",
    ("neuron", "operations"): "an update of a neuron is its operations",
    ("partial_sums", "stored"): "sums over slots of binary spikes are stored after each slot",
    ("partial_sums", "kept"): "sums over slots of binary spikes stay in accumulators",
    ("compute", "arithmetic"): "all arithmetic among the products",
    ("compute", "products"): "products are products alone",
}


@dataclass(frozen=True)
class Counted:
    """What is wanted of a ``count.json``."""

    experiment: str
    set: str
    audio_seconds: float
    execution: dict[str, Any]
    fold_qk: bool
    layers: list[dict[str, Any]]
    twin_layers: list[dict[str, Any]]
    trained_twin_layers: list[dict[str, Any]]
    trained_twin: dict[str, Any] | None
    forms: list[dict[str, Any]] = field(default_factory=list)
    by_length: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Networks:
    """The costs of a counted network and of what it is compared with, front end and encoder.

    Attributes:
        path: of the ``count.json``.
        told: what it says.
        ours: of the network.
        twin: of the dense twin; None where the network is its own.
        trained: of a trained twin; None without.
        integers: of the network with whole counts, which can be read as integers; None where only
            slots of 0 and 1 were counted, or nothing spikes.
        forms: the network in each form that was counted, by its name.

    Costs are of groups of utterances of like length, whose energies are added up.
    """

    path: Path
    told: dict[str, Any]
    ours: Sequence[Costs]
    twin: Sequence[Costs] | None
    trained: Sequence[Costs] | None
    integers: Sequence[Costs] | None
    forms: Mapping[str, Sequence[Costs]]

    def joules(self, model: CostModel) -> dict[str, dict[str, float] | None]:
        """Return the energy of ours and of each baseline, J; None for one that is not there."""
        return {
            "ours": _energies(model, self.ours),
            "trained_twin": _energies(model, self.trained),
            "twin": _energies(model, self.ours if self.twin is None else self.twin, dense=True),
            "quantised": _energies(quantised(model), self.integers),
        }


def _energies(
    model: CostModel, groups: Sequence[Costs] | None, dense: bool = False
) -> dict[str, float] | None:
    """Return the sum of the energies of groups of utterances."""
    if groups is None:
        return None
    each = [energy(model, costs, dense) for costs in groups]
    return {name: sum(found[name] for found in each) for name in each[0]}


def _check_sums(groups: Sequence[Costs], whole: Costs) -> None:
    """See that groups of utterances add up to the whole set.

    Raises:
        ValueError: they do not.
    """
    sums: Costs = {}
    for group in groups:
        add_costs(sums, group)
    for key in whole.keys() | sums.keys():
        ours, theirs = sums.get(key, Cost()), whole.get(key, Cost())
        for name in (f.name for f in fields(Cost)):
            one, other = getattr(ours, name), getattr(theirs, name)
            if not math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-6):
                raise ValueError(
                    f"{' '.join(key)}: {name} add up to {one:g}, and the set has {other:g}"
                )


def read_networks(set_dir: Path) -> Networks:
    """Read what has been counted on a set.

    Args:
        set_dir: ``exp/asr_<tag>/<inference_tag>/<set>``.

    Raises:
        UserError: it has not been counted, or before there were all the figures that this needs.
    """
    path = set_dir / COUNT
    exp, tag, name = set_dir.parents[1], set_dir.parent, set_dir.name
    again = (
        "count the set again: ./run.sh with --stage count --stop_stage count --force true, or "
        f"python -m espnet_spike.bin.count --asr_exp {exp} --output_dir {tag} {name}=FEATURES"
    )
    if not present(path):
        raise UserError(f"{path} does not exist", "count the set first (--stage count)")
    there = read_json(path, again)
    if isinstance(there, dict) and "layers" in there and (new := sorted(LATER - there.keys())):
        raise UserError(
            f"{path} was counted by an earlier version, which had no {', '.join(new)}", again
        )
    told = read_shaped(path, Counted, again)

    def costs(told: Mapping[str, Any], name: str) -> list[Costs]:
        found = {}
        for row in told[name]:
            if lacking := [f.name for f in fields(Cost) if f.name not in row]:
                raise UserError(
                    f"{path} was counted before there were {', '.join(lacking[:3])} ...", again
                )
            if row["part"] in ENCODER:
                numbers = {f.name: row[f.name] for f in fields(Cost)}
                found[row["layer"], row["kind"]] = Cost(**numbers)
        if name not in told.get("by_length", {}):
            return [found] if found else []
        try:
            groups = from_table(told["by_length"][name])
            _check_sums(groups, found)
            return groups
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged: by_length: {name}: {error}", again) from None

    ours, twin = costs(told, "layers"), costs(told, "twin_layers")
    itself = (told["trained_twin"] or {}).get("itself", False)
    trained = ours if itself else costs(told, "trained_twin_layers")
    forms = {form_name(form): costs(form, "layers") for form in told.get("forms", ())}
    whole = told["execution"].get("spike_mode") in (None, "integer")
    spikes = whole and any(cost.slots > 0 for group in ours for cost in group.values())
    return Networks(
        path, told, ours, twin or None, trained or None, ours if spikes else None, forms
    )


def assumptions(model: CostModel) -> Iterator[tuple[str, CostModel]]:
    """Yield what is assumed, and the cost model that assumes it; the model itself first."""
    yield "**as the cost model has it**", model
    yield "all as papers have it: no rules, sums as narrow as operands", literature(model)
    for rule in fields(Rules):
        now = getattr(model.rules, rule.name)
        for (name, value), said in SAID.items():
            # of an addition's price there is but one other: none
            other = value != now and not (name == "address_add" and value and now)
            if name == rule.name and other:
                yield said, model.with_rules(**{name: value})
    if model.accumulator is not None:
        yield "sums of products are as narrow as their operands", replace(model, accumulator=None)
    yield f"memory: every operand once, {BIT} pJ a bit", operands_once(model)
    for flow in model.dataflows:
        if flow != model.memory["dataflow"]:
            said = f"memory: {flow.replace('_', ' ')}"
            yield said, model.with_memory(dataflow=flow)
            if model.memory["reuse"] > 1:
                yield f"{said}, no shared fetches", model.with_memory(dataflow=flow, reuse=1)
    if model.dataflows and model.memory["reuse"] > 1:
        yield "memory: no shared fetches (reuse 1)", model.with_memory(reuse=1)
    if model.dataflows:
        yield "memory: DRAM at 2600 pJ", model.with_memory(dram=2600)


def literature(model: CostModel) -> CostModel:
    """Return the model without rules, with sums as narrow as operands.

    Memory that has levels has every operand once in their place.
    """
    priced = operands_once(model) if model.dataflows else model
    return replace(priced, rules=Rules(), accumulator=None)


def operands_once(model: CostModel) -> CostModel:
    """Return the model with memory at one price a byte, every operand fetched once."""
    width = model.memory["bytes_per_value"]
    memory = {"access": "operands", "bytes_per_value": width, "pj_per_byte": 8 * BIT}
    return replace(model, memory=memory)


def form_rows(networks: Networks, model: CostModel) -> Iterator[dict[str, Any]]:
    """Yield rows as of `ratios` for each form that was counted, by what matters to forms."""
    changes = {
        "as the cost model has it": model,
        **{
            flow.replace("_", " "): model.with_memory(dataflow=flow)
            for flow in model.dataflows
            if flow != model.memory["dataflow"]
        },
        "sums over slots stored": model.with_rules(partial_sums="stored"),
        "sums over slots stored, every operand once": operands_once(
            model.with_rules(partial_sums="stored")
        ),
    }
    for name, costs in networks.forms.items():
        said = {f"{name}: {change}": changed for change, changed in changes.items()}
        yield from ratios(replace(networks, ours=costs), said.items())


def ratios(
    networks: Networks, assumed: Iterable[tuple[str, CostModel]]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each assumption: ratios of each baseline's energy to ours, and joules."""
    seconds = networks.told["audio_seconds"]
    for said, changed in assumed:
        joules = networks.joules(changed)
        ours = joules["ours"]
        assert ours is not None
        row: dict[str, Any] = {"assumption": said}
        for column in COLUMNS:
            row[column] = {"joules_per_second": ours[column] / seconds}
            for name in BASELINES:
                other = joules[name]
                row[column][name] = None if other is None else other[column] / ours[column]
        yield row


def write(out: Path, set_dirs: Sequence[Path], models: Sequence[CostModel]) -> list[str]:
    """Write ``assumptions.md`` and ``assumptions.json``; return the lines of Markdown.

    Args:
        out: folder for them.
        set_dirs: of counted sets.
        models: cost models, a table of each set for each.

    Raises:
        UserError: see `read_networks`.
    """
    head = ["assumption"]
    for column in COLUMNS.values():
        head += [f"{column}: ours mJ/s", *(f"{name}" for name in BASELINES.values())]
    lines = [
        "# Energy under each assumption",
        "",
        "How many times the energy of the network a baseline takes, with one assumption changed at "
        "a time, for both alike. Front end and encoder, summed over the set. Trained twin, zeros "
        "skipped: the fair comparison; dense twin, nothing skipped: the literature's; T + 1 "
        "levels: the same network as integers, each that is not zero multiplied once.",
        "",
    ]
    content, earlier = [], []
    for folder in set_dirs:
        networks = read_networks(folder)
        told = networks.told
        if not told.get("by_length"):
            earlier.append(f"{told['experiment']}, {told['set']}")
        run = ", ".join(f"{key} {value}" for key, value in told["execution"].items())
        form = f"run {run or 'as trained'}, W_Q and W_K {'merged' if told['fold_qk'] else 'apart'}"
        for model in models:
            rows = list(ratios(networks, assumptions(model)))
            forms = list(form_rows(networks, model))
            content.append(
                {
                    **{key: told[key] for key in ("experiment", "set", "execution", "fold_qk")},
                    **{"trained_twin": told["trained_twin"], "cost_model": asdict(model)},
                    **{"rows": rows, "forms": forms},
                }
            )
            lines += [
                f"## {told['experiment']}, {told['set']}, `{model.name}`",
                "",
                f"{form}; trained twin: {twin_name(told)}; {model.title} ({model.source}).",
                "",
                *markdown_table(head, [_cells(row) for row in rows]),
                "",
            ]
            if forms:
                lines += ["Each form in which the encoder can run:", ""]
                lines += [*markdown_table(head, [_cells(row) for row in forms]), ""]
    if earlier:
        lines += [FOOT.format("; ".join(earlier)), ""]
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "assumptions.json", content, ensure_ascii=False)
    write_lines(out / "assumptions.md", lines)
    return lines


def _cells(row: Mapping[str, Any]) -> list[str]:
    cells = [row["assumption"]]
    absent = {"trained_twin": "none given", "quantised": NO_COUNTS}
    for column in COLUMNS:
        found = row[column]
        cells.append(f"{1e3 * found['joules_per_second']:.4g}")
        cells += [
            absent[name] if found[name] is None else f"{found[name]:.2f}" for name in BASELINES
        ]
    return cells
