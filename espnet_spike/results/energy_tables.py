"""What the counts say, as tables. Light: no torch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from espnet_spike.utils.files import plural

COLUMNS = ("compute", "total")
ABSENT = "–"
AGAIN = "count again"
"""In place of energies that were counted by earlier rules, beside which no others may stand."""
COUNT_AGAIN = (
    f"{AGAIN}: counted by earlier rules, whose energies are no match for these: --stage count "
    "--stop_stage count --force true, then --stage report."
)
NO_COUNTS = "no counts"
"""In place of the network as integers: nothing spikes, or slots of 0 and 1 alone were counted."""
FEW = "*: fewer than 20 utterances, the interval says little"


def count_lines(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the lines that the count command prints.

    Args:
        results: set -> what its ``count.json`` holds.
    """
    lines = []
    for name, result in results.items():
        rate, zeros = result["per_second"], percent(result, "activations")
        lines.append(
            f"{name}: {plural(result['utterances'], 'utterance')}, "
            f"{result['audio_seconds']:.1f} s; encoder "
            f"{big(rate['synops'])} SynOps/s, {big(rate['macs'])} MAC/s "
            f"(dense {big(rate['dense_macs'])})"
            + ("" if zeros == ABSENT else f", sparsity {zeros} %")
        )
        share = next(iter(result["energy"].values())).get("real_mac_share")
        if share is not None:
            lines.append(
                f"  {_zeros(result)}real MACs are {100 * share:.1f} % of the compute energy"
            )
        lines.append(f"  trained twin: {twin_name(result)}")
        lines += _energy_lines(result["energy"], "")
        lines += _form_lines(result)
        if decoder := result.get("decoder"):
            each = decoder["per_token"]
            energy = next(iter(decoder["energy"].values()))
            lines.append(
                f"  decoder, {plural(decoder['tokens'], 'token')}: {big(each['synops'])} SynOps, "
                f"{big(each['macs'])} MAC per token (dense {big(each['dense_macs'])}), "
                f"{_sparsity(decoder)}{1e6 * energy['compute']:.4g} uJ, with "
                f"memory {1e6 * energy['total']:.4g} uJ"
            )
        if result["uncovered"]:
            lines.append(f"  NOT COUNTED, no rule: {', '.join(sorted(result['uncovered']))}")
        if result["spikes_made_real"]:
            names = ", ".join(sorted(result["spikes_made_real"]))
            lines.append(f"  spikes taken for real values after: {names}")
        if result["skipped"]:
            lines.append(f"  too short for the encoder, not counted: {len(result['skipped'])}")
    return [*lines, f"  {FEW}"] if any(" *)" in line for line in lines) else lines


def _form_lines(result: Mapping[str, Any]) -> list[str]:
    """Return a block for each form; those whose energies are the same share one."""
    blocks: dict[tuple[str, ...], list[str]] = {}
    for form in result.get("forms") or []:
        blocks.setdefault(tuple(_energy_lines(form["energy"], "  ")), []).append(form_name(form))
    first = tuple(_energy_lines(result["energy"], "  "))
    lines = []
    for block, names in blocks.items():
        known = block == first
        lines.append(f"  as {'; '.join(names)}: {'the same as above' if known else ''}".rstrip())
        lines += [] if known else block
    return lines


def _sparsity(result: Mapping[str, Any]) -> str:
    zeros = percent(result, "activations")
    return "" if zeros == ABSENT else f"sparsity {zeros} %, "


def _zeros(result: Mapping[str, Any]) -> str:
    names = {
        "activations": "neuron outputs",
        "product_inputs": "operands",
        "multiplications": "multiplications",
    }
    shares = {name: percent(result, key) for key, name in names.items()}
    shown = [f"{name} {share} %" for name, share in shares.items() if share != ABSENT]
    return f"zeros: {', '.join(shown)}; " if shown else ""


def _energy_lines(energies: Mapping[str, Any], indent: str) -> Iterator[str]:
    for model, energy in energies.items():
        for label, found in columns_of(energy):
            ours = f"{1e3 * found['joules_per_second']:10.4g} mJ/s"
            if found.get("dense"):
                full = baselines(found)[1][0]
                yield f"  {indent}{model:16s} {label:38s}{ours}; nothing skipped {full} mJ/s"
                continue
            others = (
                f"{name}: {mj}" if ratio == ABSENT else f"{name} {mj} mJ/s: {ratio}x ({ci})"
                for name, (mj, ratio, ci) in zip(BASELINES.values(), baselines(found), strict=True)
            )
            yield f"  {indent}{model:16s} {label:38s}{ours}; {'; '.join(others)}"


def form_name(form: Mapping[str, Any]) -> str:
    """Return how an encoder ran, in words.

    Args:
        form: an entry of ``forms`` in a ``count.json``.
    """
    spikes = {"integer": "integer counts", "binary": "0/1 spikes in slots"}[form["spike_mode"]]
    return f"{spikes}, W_Q and W_K {'merged' if form['fold_qk'] else 'apart'}"


BASELINES = {
    "trained_twin": "trained twin, zeros skipped",
    "twin": "dense twin, nothing skipped",
    "quantised": "T + 1 levels",
}
"""What the energy is compared with: the fair comparison first, the literature's second."""


def is_dense(energy: Mapping[str, Any]) -> bool:
    """Tell whether a model is its own twin: nothing is saved, and no ratio means anything."""
    return str(energy.get("twin", "")).startswith("itself")


def by_earlier_rules(column: Mapping[str, Any]) -> bool:
    """Tell whether a column was counted before cost models had rules.

    Baselines other than the dense twin came with the rules.
    """
    return "against" not in column


def joules_per_second(column: Mapping[str, Any]) -> float | None:
    """Return our energy; None if it was counted by earlier rules."""
    return None if by_earlier_rules(column) else column["joules_per_second"]


def columns_of(energy: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return what a cost model has figures of, by what to call it: memory under each dataflow."""
    dense = is_dense(energy)  # what it would save over itself is what any zero saves
    return [(name, {**figures, "dense": dense}) for name, figures in _columns_of(energy)]


def _columns_of(energy: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    found = [("products", energy["compute"])]
    flows = energy.get("dataflows") or {}
    found += [(f"with memory, {name.replace('_', ' ')}", flows[name]) for name in flows]
    return found if flows else [*found, ("with memory", energy["total"])]


def baselines(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return mJ/s, ratio to ours and its interval for each of ``BASELINES``, in words if not there.

    Args:
        found: of `columns_of`.
    """
    if by_earlier_rules(found):
        return [(AGAIN, "–", "")] * len(BASELINES)
    absent = {"trained_twin": ("none given", "–", ""), "quantised": (NO_COUNTS, "–", "")}
    if found.get("dense"):
        dense = _baseline(found["against"]["twin"])[0]
        return [("itself", "–", ""), (dense, "–", ""), absent["quantised"]]
    return [
        absent[name] if (other := found["against"][name]) is None else _baseline(other)
        for name in BASELINES
    ]


def _baseline(other: Mapping[str, Any]) -> tuple[str, str, str]:
    mj = other.get("twin_joules_per_second", other["joules_per_second"])
    ratio, interval = ratio_cells(other)
    return f"{1e3 * mj:.4g}", ratio, interval


def twin_name(count: Mapping[str, Any]) -> str:
    """Return which trained twin a set was compared with."""
    if "trained_twin" not in count:
        return "counted before there was one; count again (--stage count)"
    twin = count["trained_twin"]
    if twin is None:
        return "none given (--twin_exp)"
    return "itself, its zeros are skipped" if twin.get("itself") else twin["asr_exp"]


def big(value: float) -> str:
    """Return a large number in three digits.

    >>> big(1234567), big(0)
    ('1.23 M', '0')
    """
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.3g}"


def percent(result: Mapping[str, Any], name: str) -> str:
    """Return a share of ``sparsity`` in %, a dash where there is none."""
    value = result["sparsity"].get(name)
    return ABSENT if value is None else f"{100 * value:.1f}"


def set_counts(count: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``results.json`` keeps of a ``count.json``."""
    return {
        "sparsity": count["sparsity"],
        "per_second": count["per_second"],
        "energy": {
            name: {
                "source": energy["model"]["source"],
                "technology": energy["model"]["technology"],
                "precision": energy["model"]["precision"],
                "warnings": energy["model"]["warnings"],
                "twin": energy["twin"],
                **{column: energy[column] for column in COLUMNS},
                "dataflows": energy.get("dataflows", {}),
                "real_mac_share": energy.get("real_mac_share"),
            }
            for name, energy in count["energy"].items()
        },
        "decoder": count.get("decoder"),
        "uncovered": sorted(count["uncovered"]),
        "execution": count["execution"],
        "fold_qk": count["fold_qk"],
        **({"trained_twin": count["trained_twin"]} if "trained_twin" in count else {}),
        "forms": [
            {key: form[key] for key in ("spike_mode", "fold_qk", "per_second", "energy")}
            for form in count.get("forms") or []
        ],
    }


HEAD = ["experiment", "decoding", "set", "parameters", "firing rate", "zeros: neuron outputs %"]
HEAD += ["operands %", "multiplications %", "of points %", "by MACs %"]
HEAD += ["SynOps/s", "MAC/s", "dense MAC/s", "real MACs, % of compute energy"]
ENERGY_HEAD = ["experiment", "decoding", "set", "prices", "ours mJ/s"]
for _name in BASELINES.values():
    ENERGY_HEAD += [_name, "ratio", "95 %"]
PRECISIONS = ("fp32", "int8")
"""Of the cost models that have all columns; others have a short table."""


def energy_tables(
    results: Sequence[Mapping[str, Any]],
) -> list[tuple[str, list[str], list[list[object]]]]:
    """Return the tables on operations and energy: what stands above, head, rows.

    Every experiment, decoding and set has a row of operations, and of energy one for the main cost
    model, the first that was given to the count command, and for each of fp32 and int8: of products
    alone, and with memory under each dataflow. The other cost models follow in a short table.

    Args:
        results: the ``results.json`` of the experiments.
    """
    operations: list[list[object]] = []
    products: list[list[object]] = []
    memory: list[list[object]] = []
    forms: list[list[object]] = []
    others: list[tuple[list[object], dict[str, Mapping[str, Any]]]] = []
    for result in results:
        for tag, sets in result["decodes"].items():
            counted = {name: figures for name, figures in sets.items() if figures.get("energy")}
            for name, figures in counted.items():
                first: list[object] = [result["experiment"], tag, name]
                operations.append(first + _operations(result, figures))
                rest = dict(figures["energy"])
                main = next(iter(rest))
                shown = [m for m in rest if m == main or rest[m].get("precision") in PRECISIONS]
                for model in shown:
                    (_, compute), *moved = columns_of(rest.pop(model))
                    products.append([*first, f"`{model}`", *_energy(compute)])
                    for label, found in moved:
                        prices = f"`{model}`{label.removeprefix('with memory')}"
                        memory.append([*first, prices, *_energy(found)])
                others.append((first, rest))
                for form in figures.get("forms") or []:
                    forms += _form_rows([*first, form_name(form)], form["energy"], shown)
    if not operations:
        return []
    tables = [
        ("Operations.", HEAD, operations),
        ("Energy of products alone, as papers print it.", ENERGY_HEAD, products),
        ("Energy with everything element by element, and memory.", ENERGY_HEAD, memory),
    ]
    if forms:
        title = "Energy of each form in which the encoder can run, beside the same baselines."
        tables.append((title, [*ENERGY_HEAD[:3], "form", *ENERGY_HEAD[3:]], forms))
    if models := list(dict.fromkeys(model for _, rest in others for model in rest)):
        head = ["experiment", "decoding", "set"]
        head += [f"{model}{memory}" for model in models for memory in ("", ", with memory")]
        rows = [
            first + [_short(rest.get(model), column) for model in models for column in COLUMNS]
            for first, rest in others
            if rest
        ]
        title = (
            "Other prices: mJ/s, and how many times less that is than of the trained twin, zeros "
            "skipped, and of the dense twin, nothing skipped."
        )
        tables.append((title, head, rows))
    return tables


DECODER_NOTE = (
    "Decoders, for each token of the hypothesis that was kept: run over the whole of it once, "
    "<sos> among the tokens, with keys and values of the utterance. What further hypotheses of the "
    "beam, CTC and a language model cost is not in it."
)
DECODER_HEAD = ["experiment", "decoding", "set", "tokens", "firing rate", "sparsity %"]
DECODER_HEAD += ["of points %", "by MACs %", "SynOps", "MAC", "dense MAC", "compute µJ"]
DECODER_HEAD += ["with memory µJ"]


def decoder_rows(results: Sequence[Mapping[str, Any]]) -> list[list[object]]:
    """Return a row under ``DECODER_HEAD`` for every counted decoder, by the main cost model.

    Args:
        results: the ``results.json`` of the experiments.
    """
    return [
        [result["experiment"], tag, name, *decoder_cells(figures["decoder"], figures["energy"])]
        for result in results
        for tag, sets in result["decodes"].items()
        for name, figures in sets.items()
        if figures.get("decoder")
    ]


def decoder_cells(decoder: Mapping[str, Any], energies: Mapping[str, Any]) -> list[str]:
    """Return the cells of a decoder from ``tokens`` on, under ``DECODER_HEAD``.

    Args:
        decoder: its figures.
        energies: of the encoder, by cost model, which tell by what rules both were counted.
    """
    rate, each = decoder["sparsity"]["firing_rate"], decoder["per_token"]
    energy = next(iter(decoder["energy"].values()))
    earlier = any(by_earlier_rules(found["compute"]) for found in energies.values())
    return [
        f"{decoder['tokens']:,}",
        "–" if rate is None else f"{rate:.3f}",
        *(percent(decoder, key) for key in ("activations", "points", "points_by_macs")),
        *(big(each[key]) for key in ("synops", "macs", "dense_macs")),
        *(AGAIN if earlier else f"{1e6 * energy[column]:.4g}" for column in COLUMNS),
    ]


def _short(energy: Mapping[str, Any] | None, column: str) -> str:
    if energy is None:
        return "–"
    found = {**energy[column], "dense": is_dense(energy)}
    if by_earlier_rules(found):
        return AGAIN
    (_, trained, _), (_, dense, _), _ = baselines(found)
    ours = f"{1e3 * found['joules_per_second']:.3g}"
    return ours if found["dense"] else f"{ours} ({trained}, {dense})"


def _energy(found: Mapping[str, Any]) -> list[object]:
    ours = joules_per_second(found)
    cells: list[object] = [AGAIN if ours is None else f"{1e3 * ours:.4g}"]
    for baseline in baselines(found):
        cells += baseline
    return cells


def _form_rows(
    first: Sequence[object], energies: Mapping[str, Any], models: Sequence[str]
) -> list[list[object]]:
    return [
        [*first, f"`{model}`, {label}", *_energy(found)]
        for model in models
        for label, found in columns_of(energies[model])
    ]


def _operations(result: Mapping[str, Any], figures: Mapping[str, Any]) -> list[object]:
    rate, each = figures["sparsity"]["firing_rate"], figures["per_second"]
    row: list[object] = [f"{result['parameters'] or 0:,}"]
    row.append("–" if rate is None else f"{rate:.3f}")
    shares = ("activations", "product_inputs", "multiplications", "points", "points_by_macs")
    row += [percent(figures, key) for key in shares]
    row += [big(each[key]) for key in ("synops", "macs", "dense_macs")]
    share = next(iter(figures["energy"].values())).get("real_mac_share")
    return [*row, "–" if share is None else f"{100 * share:.1f}"]


def ratio_cells(found: Mapping[str, Any]) -> list[str]:
    """Return the ratio of the twin's energy to ours, and its interval; a star: few utterances."""
    low, high = found["ratio_ci"]
    star = "" if found["ratio_ci_meaningful"] else " *"
    return [f"{found['ratio']:.2f}", f"{low:.2f} .. {high:.2f}{star}"]


def _computes(figures: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [energy["compute"] for energy in figures.get("energy", {}).values()]


def energy_notes(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what a reader of the energy table has to know: sources and warnings."""
    models: dict[str, Mapping[str, Any]] = {}
    uncovered: set[str] = set()
    twins: dict[str, list[str]] = {}
    earlier = False
    for result in results:
        for sets in result["decodes"].values():
            for figures in sets.values():
                twin = figures.get("trained_twin") or {}
                if figures.get("energy") and "itself" not in twin:
                    file = f", {twin['checkpoint']}" if "checkpoint" in twin else ""
                    users = twins.setdefault(twin_name(figures) + file, [])
                    users += {result["experiment"]} - {*users}
                models |= figures.get("energy", {})
                earlier |= any(map(by_earlier_rules, _computes(figures)))
                uncovered |= set(figures.get("uncovered", ()))
    lines = [
        "Of front end and encoder, without CTC and decoder, for a second of audio. Zeros: among "
        "all that neurons and activations put out, as the literature has sparsity; among all "
        "operands of products; multiplications that are left out, of all; at the FATReLU points, "
        "all alike, and weighted by the MACs that each feeds. real MACs: share of the compute "
        "energy that is multiply-accumulates of real values, by the first cost model.",
        "",
        "ratio: the energy of a baseline over ours, 95 % by bootstrap over utterances or speakers "
        "of one training; \\* marks fewer than 20 utterances. Trained twin, zeros skipped: the "
        "same network with ReLUs, trained alike, on a machine that skips zeros as ours does: the "
        "fair comparison. Dense twin, nothing skipped: what the literature compares with. T + 1 "
        "levels: ours, not as spikes but as integers, each that is not zero multiplied once with "
        "its weights.",
        "",
    ]
    if earlier:
        lines += [COUNT_AGAIN, ""]
    for name, users in sorted(twins.items()):
        lines.append(f"- trained twin of {', '.join(f'`{user}`' for user in users)}: {name}")
    for name, energy in sorted(models.items()):
        lines.append(
            f"- `{name}` ({energy['technology']}, {energy['precision']}): {energy['source']}. "
            + "; ".join(energy["warnings"])
        )
    if uncovered:
        lines.append(f"- operations without a rule, not counted: {', '.join(sorted(uncovered))}")
    return [*lines, ""]
