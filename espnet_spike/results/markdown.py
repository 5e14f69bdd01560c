"""Write the tables of all experiments of a recipe as Markdown."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from espnet_spike.errors import UserError, did_you_mean
from espnet_spike.results.bootstrap import (
    MIN_SPEAKERS,
    MIN_TRAININGS,
    MIN_UTTERANCES,
    Trainings,
    over_trainings,
)
from espnet_spike.results.comparison import compare, pool
from espnet_spike.results.energy_tables import (
    AGAIN,
    BASELINES,
    DECODER_HEAD,
    DECODER_NOTE,
    PRECISIONS,
    by_earlier_rules,
    decoder_rows,
    energy_notes,
    energy_tables,
    is_dense,
)
from espnet_spike.results.energy_tables import (
    COLUMNS as ENERGY_COLUMNS,
)
from espnet_spike.results.experiments import Experiment, execution_of, groups, not_recorded
from espnet_spike.results.formatting import (
    as_text,
    code_block,
    ends,
    low_high,
    number,
    probability,
    scored_of,
    table,
    thousands,
    without_blanks,
)
from espnet_spike.results.hardware_tables import simulation_lines
from espnet_spike.results.scoring import METRICS, read_counts, table_head, table_row
from espnet_spike.tasks.registry import ENCODERS
from espnet_spike.utils.files import name_some, plural, present, read_text, write_lines
from espnet_spike.utils.provenance import environment

BEGIN = "<!-- results: begin; written by espnet_spike.bin.report, changes are lost -->"
END = "<!-- results: end -->"

SEARCH_OPTIONS = (
    *("beam_size", "maxlenratio", "ctc_weight", "lm_weight", "penalty", "nbest", "batch_size"),
    *("spike_mode", "T", "T_rule"),
)


def search_line(decode: Mapping[str, Any]) -> str:
    """Return the options of a search that say something: no weight of a model that was not there.

    ``maxlenratio`` stands there where it bounds the output: 0 does not.
    """
    options = decode["options"]
    idle = set() if decode["lm_exp"] else {"lm_weight"}
    idle |= set() if options.get("maxlenratio") else {"maxlenratio"}
    return ", ".join(
        f"{name} {options[name]}" for name in SEARCH_OPTIONS if name in options and name not in idle
    )


def summary_table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the main figures of every experiment, decoding and set.

    Where an experiment has been decoded with several checkpoints, a column names them. What has
    learnt nothing is marked.

    Args:
        results: the ``results.json`` of the experiments.
    """
    several = any(
        len(
            {
                figures.get("checkpoint")
                for sets in result["decodes"].values()
                for figures in sets.values()
            }
        )
        > 1
        for result in results
    )
    rows = []
    for result in results:
        verdict = result.get("verdict")
        unlearnt = "" if verdict is None or verdict["learnt"] else ", NOT LEARNT"
        for tag, sets in result["decodes"].items():
            for name, figures in sets.items():
                low, high = figures["wer_ci"]
                mark = "" if figures["wer_ci_meaningful"] else " *"
                rows.append(
                    [
                        f"{result['experiment']}{unlearnt}",
                        result["encoder"],
                        tag,
                        *([as_text(figures.get("checkpoint") or "–")] if several else []),
                        name,
                        thousands(result["parameters"]),
                        scored_of(figures),
                        number(figures["wer"]),
                        f"{low:.2f} .. {high:.2f}{mark}",
                        figures["wer_ci_unit"],
                        _cer(figures),
                        number(figures["rtf"], 4),
                    ]
                )
    head = ["experiment", "encoder", "decoding", *(["checkpoint"] if several else []), "set"]
    left = len(head)
    head += ["parameters", "utterances", "WER", "95 % interval", "over", "CER", "RTF"]
    return table(head, rows, left=left)


def _cer(figures: Mapping[str, Any]) -> str:
    """Return the character error rate, with its interval where it was scored with one."""
    if not (ends := figures.get("cer_ci")):
        return number(figures["cer"])
    mark = "" if figures["wer_ci_meaningful"] else " *"
    return f"{number(figures['cer'])} ({ends[0]:.2f} .. {ends[1]:.2f}){mark}"


def unlearnt_lines(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a warning for each experiment that is no better than a constant output, or little."""
    lines = []
    for result in results:
        verdict = result.get("verdict")
        if verdict is not None and (verdict["causes"] or not verdict["learnt"]):
            much = "little" if verdict["learnt"] else "nothing"
            lines += [
                f"**Warning: `{result['experiment']}` has learnt {much}.** {verdict['line']}.",
                "",
            ]
            lines += [
                f"{place}. {text}: change {option}"
                for place, (text, option) in enumerate(verdict["causes"], 1)
            ]
            lines += [""]
    return lines


def pooled_sets(experiments: Sequence[Experiment]) -> dict[tuple[str, str], list[Path]]:
    """Return (inference tag, set) -> the folders of the experiments that have it scored."""
    found: dict[tuple[str, str], list[Path]] = {}
    for experiment in experiments:
        for tag, sets in experiment.decodes.items():
            for name in sets:
                found.setdefault((tag, name), []).append(experiment.path / tag / name)
    return found


def pooled_table(experiments: Sequence[Experiment]) -> list[str]:
    """Return a row for each group of experiments that differ in their seed alone."""
    rows, notes = [], []
    for group, members in groups(experiments).items():
        for (tag, name), folders in pooled_sets(members).items():
            if len(folders) < 2:
                continue
            try:
                words, letters = pool(folders, "wer"), pool(folders, "cer")
            except UserError as error:
                notes += ["", f"Not pooled: {error.message}"]
                continue
            seeds = ", ".join(number(rate) for rate in words.rates)
            rows.append(
                [
                    *(f"asr_{group}", members[0].config["encoder"], tag, name, len(folders)),
                    *(number(words.rate), *ends(words.interval()), seeds),
                    *(number(words.spread), low_high(words.seeds_alone()), number(letters.rate)),
                ]
            )
    head = ["experiments", "encoder", "decoding", "set", "seeds", "mean WER", "95 % interval"]
    head += ["over", "each seed", "std", "seeds alone", "CER"]
    return [*table(head, rows, left=4), *notes] if rows or notes else []


def energy_over_seeds(experiments: Sequence[Experiment]) -> list[str]:
    """Return how many times less energy each group of seeds needs than what it is compared with.

    Seeds and utterances are drawn together. By the first cost model that all of a group have, and
    by those of fp32 and int8. A network that is its own twin is left out.
    """
    rows, notes = [], []
    for group, members in groups(experiments).items():
        counted: dict[tuple[str, str], list[tuple[Path, Mapping[str, Any]]]] = {}
        for one in members:
            for tag, sets in one.decodes.items():
                for name, entry in sets.items():
                    if entry.get("count", {}).get("utts"):
                        found = counted.setdefault((tag, name), [])
                        found.append((one.path / tag / name, entry["count"]))
        for (tag, name), found in counted.items():
            counts = [count for _, count in found]
            models = _models_of_all([count["energy"] for count in counts])
            if len(found) < 2 or not models:
                continue
            sums = [count["energy"][model]["compute"] for count in counts for model in models]
            if any(map(by_earlier_rules, sums)):
                notes += ["", f"Energy not pooled: asr_{group}, {name}: earlier rules, {AGAIN}"]
                continue
            keys = list(counts[0]["utts"])
            if any(set(count["utts"]) != set(keys) for count in counts):
                notes += ["", f"Energy not pooled: asr_{group}, {name}: other utterances counted"]
                continue
            if why := _not_alike(members, [path for path, _ in found], counts, models):
                notes += ["", f"Energy not pooled: asr_{group}, {tag}, {name}: {why}"]
                continue
            scored = read_counts(found[0][0])
            of_utt = dict(zip(scored.keys, scored.speakers, strict=True))
            speakers = [of_utt[key] for key in keys]
            for model in models:
                energies = [[count["utts"][k]["energy"][model] for k in keys] for count in counts]
                against = [count["energy"][model]["compute"]["against"] for count in counts]
                for baseline, said in BASELINES.items():
                    # the sum over a set tells what it was compared with
                    if all(each.get(baseline) is not None for each in against):
                        cells = _pooled_energy(energies, baseline, speakers)
                        first = [f"asr_{group}", tag, name, len(found), cells[0], model, said]
                        rows.append([*first, *cells[1:]])
                    elif baseline == "trained_twin":
                        first = [f"asr_{group}", tag, name, len(found), "–", model, said]
                        rows.append([*first, "none given", *["–"] * 5])
    head = ["experiments", "decoding", "set", "seeds", "over", "cost model", "compared with"]
    for what in ("compute", "with memory"):
        head += [f"ratio, {what}", f"95 %, {what}", f"each seed, {what}"]
    return [*table(head, rows, left=3), *notes] if rows or notes else []


def _not_alike(
    members: Sequence[Experiment],
    folders: Sequence[Path],
    counts: Sequence[Mapping[str, Any]],
    models: Sequence[str],
) -> str:
    """Say what besides the seed is different between counts, empty if nothing is.

    Args:
        members: experiments of a group.
        folders: the sets, each of an experiment.
        counts: of each set.
        models: cost models to pool by.
    """
    of = {one.path: one.config.get("encoder_conf") or {} for one in members}
    names = [folder.parent.parent.name for folder in folders]
    trained = [of[folder.parent.parent] for folder in folders]
    ran = [
        execution_of(count["execution"], conf) | {"W_Q and W_K merged": count["fold_qk"]}
        for count, conf in zip(counts, trained, strict=True)
    ]
    lists = [{name: count["energy"][name]["model"] for name in models} for count in counts]
    for what, each, cure in (
        ("options of the encoder", trained, "give the experiments tags of their own (--asr_tag)"),
        ("options at run time", ran, "count again"),
        *((f"prices of {name}", [one[name] for one in lists], "count again") for name in models),
    ):
        for name, found in zip(names, each, strict=True):
            keys = {*found, *each[0]}
            other = sorted(key for key in keys if found.get(key) != each[0].get(key))
            if other:
                values = f"{each[0].get(other[0])} and {found.get(other[0])}"
                return f"other {what} in {names[0]} and {name}: {other[0]} {values}; {cure}"
    return ""


def _models_of_all(energies: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the first cost model that all have, and fp32 and int8; none of a dense network."""
    common = [m for m in energies[0] if all(m in each for each in energies)]
    if not common or is_dense(energies[0][common[0]]):
        return []
    wanted = [m for m in common if energies[0][m]["model"].get("precision") in PRECISIONS]
    return list(dict.fromkeys([common[0], *wanted]))


def _pooled_energy(
    energies: Sequence[Sequence[Mapping[str, Any]]], baseline: str, speakers: Sequence[str]
) -> list[str]:
    """Return over what was drawn, and of each column ratio, interval and each seed's ratio.

    Args:
        energies: of each training, of each utterance.
        baseline: a name in ``BASELINES``.
        speakers: of the utterances.
    """
    cells: list[str] = []
    over = ""
    for column in ENERGY_COLUMNS:
        theirs, ours = (
            np.array([[each[part][column] for each in training] for training in energies])
            for part in (baseline, "encoder_with_front_end")
        )
        trainings = Trainings(theirs, ours)
        interval, over = ends(over_trainings(trainings, speakers))
        each_seed = ", ".join(number(float(ratio)) for ratio in trainings.each)
        cells += [number(trainings.figure), interval, each_seed]
    return [over, *cells]


def difference_table(experiments: Sequence[Experiment], baseline: str | None) -> list[str]:
    """Return the paired differences in WER of every group of seeds against one.

    Args:
        experiments: the experiments.
        baseline: the tag, without its seed, of what is compared with. None: of two groups the one
            with an encoder of ESPnet; there is no table if that does not tell one from the other.

    Raises:
        UserError: no experiment has this tag.
    """
    members = groups(experiments)
    if baseline is None:
        theirs = [g for g, found in members.items() if found[0].config["encoder"] not in ENCODERS]
        if len(members) != 2 or len(theirs) != 1:
            return []
        baseline = theirs[0]
    baseline = baseline.removeprefix("asr_")
    if baseline not in members:
        raise UserError(
            f"--baseline {baseline}: no such experiment{did_you_mean(baseline, members)}",
            f"there are: {', '.join(members)}",
        )
    rows, notes = [], []
    base_sets = pooled_sets(members.pop(baseline))
    for group, others in members.items():
        for (tag, name), folders in pooled_sets(others).items():
            if (tag, name) not in base_sets:
                continue
            try:
                first, second = pool(base_sets[tag, name]), pool(folders)
                difference = compare(first, second)
            except UserError as error:
                notes += ["", f"Not compared: {error.message}"]
                continue
            runs = f"{len(second.runs)} / {len(first.runs)}"
            rows.append(
                [
                    *(f"asr_{group}", f"asr_{baseline}", tag, name, runs),
                    *(number(difference.second), number(difference.first)),
                    *(f"{difference.difference:+.2f}", *ends(difference.joint, "+")),
                    *(low_high(difference.welch, "+"), probability(difference.p_joint)),
                ]
            )
    head = ["experiments", "compared with", "decoding", "set", "runs", "WER", "WER compared with"]
    head += ["difference", "95 % interval", "over", "Welch, seeds alone", "P(better)"]
    return [*table(head, rows, left=4), *notes] if rows or notes else []


def experiment_section(experiment: Experiment, result: Mapping[str, Any]) -> list[str]:
    """Return everything about one experiment: how it was made, and its ESPnet tables."""
    training = result["training"]
    epochs = f"{training['epochs'] or '–'} of {training['max_epoch']}"
    seconds = "" if training["seconds"] is None else f" in {training['seconds'] / 60:.1f} min"
    lines = [
        f"### {result['experiment']}",
        "",
        f"- encoder `{result['encoder']}`, {thousands(result['parameters'])} parameters",
        f"- training: `{training['config'] or '–'}`, seed {training['seed']}, "
        f"{epochs} {'epoch' if training['max_epoch'] == 1 else 'epochs'}{seconds}",
    ]
    if result.get("verdict"):
        lines.append(f"- {result['verdict']['line']}")
    for tag, sets in experiment.decodes.items():
        for name in not_recorded(sets):
            lines.append(f"- decoding `{tag}/{name}`: search options not recorded (no decode.json)")
        decode = next((entry["decode"] for entry in sets.values() if entry["decode"]), None)
        if decode is None:
            continue
        options = decode["options"]
        model = f", language model `{decode['lm_exp']}`" if decode["lm_exp"] else ""
        if ngram := decode.get("ngram"):
            model += f", n-gram `{ngram}` of weight {options['ngram_weight']}"
        lines.append(
            f"- decoding `{tag}`: `{decode['checkpoint']}`{model}; `{decode['config'] or '–'}`: "
            f"{search_line(decode)}; "
            f"{plural(decode['jobs'], 'job')} of {plural(decode['threads'], 'thread')} "
            f"on {decode['device']}"
        )
    if result["commands"]:
        lines += ["", *code_block(result["commands"], "sh")]
    for metric in METRICS:
        lines += ["", f"{metric.upper()}", "", *table_head("dataset", metric)]
        for tag, sets in experiment.decodes.items():
            lines += [
                table_row(f"{tag}/{name}", entry["result"][metric]) for name, entry in sets.items()
            ]
    return [*lines, ""]


def environment_lines(experiments: Sequence[Experiment]) -> list[str]:
    """Return the environments in which the experiments were decoded, each once."""
    users: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for experiment in experiments:
        for tag, sets in experiment.decodes.items():
            for entry in sets.values():
                found = entry["decode"].get("environment")
                names = users.setdefault(tuple(found.items()) if found else (), [])
                if (name := f"{experiment.path.name}/{tag}") not in names:
                    names.append(name)
    lines = []
    for found, names in users.items():
        if len(users) > 1:
            lines += [f"Decoded in this environment: {', '.join(names)}", ""]
        lines += [f"- {key}: `{value}`" for key, value in found] or ["- not recorded"]
        lines.append("")
    return lines


def render(
    corpus: str,
    experiments: Sequence[Experiment],
    results: Sequence[Mapping[str, Any]],
    baseline: str | None = None,
) -> list[str]:
    """Return the lines of ``RESULTS.md``.

    Args:
        corpus: name of the recipe.
        experiments: what `espnet_spike.results.experiments.find_experiments` found.
        results: the ``results.json`` of each.
        baseline: see `difference_table`.
    """
    profiles = sorted(
        {
            entry["result"]["normalization"]
            for experiment in experiments
            for sets in experiment.decodes.values()
            for entry in sets.values()
        }
    )
    lines = [
        f"# Results: {corpus}",
        "",
        "## Summary",
        "",
        *summary_table(results),
        "",
        "Utterances: scored, and of how many where the set lost some. "
        f"Error rates in %. Text normalization: {', '.join(profiles)}. The interval comes from a "
        f"bootstrap over speakers if there are at least {MIN_SPEAKERS} of them, else over "
        f"utterances; \\* marks one that is not meaningful: under {MIN_UTTERANCES} utterances. "
        "Each row is one training, and its interval says nothing about another one. RTF: seconds "
        "of encoder and beam search, summed over the jobs, for a second of audio.",
        "",
    ]
    lines += unlearnt_lines(results)
    if tables := energy_tables(results):
        lines += ["## Operations and energy", ""]
        for title, head, rows in tables:
            lines += [title, "", *table(*without_blanks(head, rows), left=3), ""]
        lines += energy_notes(results)
        if rows := decoder_rows(results):
            lines += [DECODER_NOTE, "", *table(*without_blanks(DECODER_HEAD, rows), left=3), ""]
    if energies := energy_over_seeds(experiments):
        lines += [
            "### Energy over several seeds",
            "",
            *energies,
            "",
            "How many times the twin's energy is ours, summed over seeds and utterances; both are "
            "drawn together.",
            "",
        ]
    if pooled := pooled_table(experiments):
        lines += [
            "## Several seeds",
            "",
            *pooled,
            "",
            "The interval is of the mean over seeds: seeds and utterances (or speakers) are drawn "
            "together. std is over the seeds, and seeds alone is Student's interval over their "
            "rates. Two trainings say next to nothing on a third.",
            "",
        ]
    if differences := difference_table(experiments, baseline):
        lines += [
            "## Differences",
            "",
            *differences,
            "",
            "WER minus the WER compared with, in points, from the same utterances: paired "
            "bootstrap, in which the seeds of both are drawn together with utterances (or "
            "speakers); half the width is the standard deviation of the draws times a quantile of "
            "Student's t whose degrees of freedom follow from the share of the seeds (Welch). "
            "Welch, seeds alone: of the seeds' rates, as if the test set left nothing to chance. "
            "P(better): probability of fewer errors, by the same t distribution. With fewer than "
            f"{MIN_TRAININGS} trainings of either it is not known; of one training the interval is "
            "of the utterances alone, and another training may lie outside.",
            "",
        ]
    lines += simulation_lines(results)
    now = f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"
    lines += ["## Environments", "", *environment_lines(experiments)]
    lines += [f"Report of {now}, git `{environment()['git']}`.", "", "## Experiments", ""]
    for experiment, result in zip(experiments, results, strict=True):
        lines += experiment_section(experiment, result)
    in_code = False
    for place, line in enumerate(lines):
        fence = line.startswith("```")
        in_code ^= fence
        lines[place] = line if in_code or fence else as_text(line)
    return lines


EXPERIMENT = "### asr_"  # how the section of an experiment begins


def copy_between_marks(lines: Sequence[str], target: Path) -> None:
    """Write the report into a file of people's own words: only what is between the marks changes.

    Raises:
        UserError: the file exists without the marks, or has experiments that the report has not.
    """
    before, after = [], []
    if present(target):
        old = read_text(target).splitlines()
        if BEGIN not in old or END not in old or old.index(END) < old.index(BEGIN):
            raise UserError(
                f"{target} was not written by this command and would be lost",
                f"put the lines '{BEGIN}' and '{END}' where the tables belong, or remove the file",
            )
        before, after = old[: old.index(BEGIN)], old[old.index(END) + 1 :]
        there = [line for line in old[len(before) :] if line.startswith(EXPERIMENT)]
        if lost := [line.removeprefix("### ") for line in there if line not in set(lines)]:
            raise UserError(
                f"{target} holds results of {plural(len(lost), 'experiment')} not at hand: "
                f"{name_some(lost)}; they would be lost",
                "bring their folders back, or take their results out of the file yourself",
            )
    write_lines(target, [*before, BEGIN, *lines, END, *after])
