"""One page on one experiment: errors, learning, spikes, operations, and where it all comes from.

The page is a single file without scripts that loads nothing; see ``espnet_spike.results.html``.
"""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.errors import UserError
from espnet_spike.experiment import model_file
from espnet_spike.results import scoring
from espnet_spike.results.breakdown import (
    SHOWN_SPEAKERS,
    by_frequency,
    by_length,
    by_speaker,
    group_rows,
    training_texts,
    word_frequency,
)
from espnet_spike.results.energy_tables import BASELINES, baselines, by_earlier_rules, is_dense
from espnet_spike.results.experiments import not_recorded
from espnet_spike.results.formatting import number, scored_of, thousands
from espnet_spike.results.hardware_findings import simulations
from espnet_spike.results.hardware_tables import hardware_tables, notes
from espnet_spike.results.html import Html, definitions, el, figure, join, missing, page, table
from espnet_spike.results.html_energy import count_provenance, energy_parts
from espnet_spike.results.markdown import search_line
from espnet_spike.results.page_data import Material
from espnet_spike.results.recording import DecodedUtterance, choose_utterance
from espnet_spike.results.scoring import mark
from espnet_spike.tasks.registry import ENCODERS
from espnet_spike.utils.files import plural, read_table
from espnet_spike.utils.provenance import environment, portable_path

SHOWN_ERRORS = 8  # words in each list of confusions
SHOWN_UTTERANCES = 5  # of each set


def build(material: Material, utt: str | None = None) -> str:
    """Return the page.

    Args:
        material: what it is about.
        utt: the utterance of the first set that is shown in the encoder; None: see
            ``recording.choose_utterance``.

    Raises:
        UserError: no such utterance.
    """
    name = material.experiment.path.name
    sections = {
        "Error rates": error_section(material),
        "Confused words": confusion_section(material),
        "Where the errors are": breakdown_section(material),
        "Worst utterances": alignment_section(material),
        "Learning": learning_section(material),
        "Inside the encoder": encoder_section(material, utt),
        "Operations and energy": energy_section(material),
        "Hardware cycles": hardware_section(material),
        "How it was made": provenance_section(material),
    }
    ids = {title: title.lower().replace(" ", "-") for title in sections}
    nav = el("nav", *(el("a", title, href=f"#{ids[title]}") for title in sections))
    body = [
        el("section", el("h2", title), content, id=ids[title])
        for title, content in sections.items()
    ]
    return page(
        name, el("h1", name), lead(material), verdict_part(material), tiles(material), nav, *body
    )


def lead(material: Material) -> Html:
    """Return a line under the title."""
    training = material.results["training"]
    parts = [f"encoder {material.encoder}", f"decoding {material.tag}"]
    parts += [f"seed {training['seed']}", f"training set-up {training['config'] or 'not recorded'}"]
    return el("p", " · ".join(parts), class_="lead")


def verdict_part(material: Material) -> Html:
    """Return what the training has come to, with the likely causes if that is nothing or little."""
    verdict = material.results.get("verdict")
    if verdict is None:
        return join([])
    enough = verdict["learnt"] and not verdict["causes"]
    line = el("p", verdict["line"], class_="lead" if enough else "missing")
    causes = [el("li", f"{text}: change {option}") for text, option in verdict["causes"]]
    decoded = [(entry["decode"] or {}).get("checkpoint") for entry in material.decodes.values()]
    starts = sorted({name for name in decoded if name and name.endswith("/init.pth")})
    parts = [line]
    if causes:
        parts.append(el("ol", *causes))
    if starts:
        said = f"Decoded was {', '.join(starts)}, from which this training started"
        parts.append(el("p", f"{said}: it is not judged here.", class_="lead"))
    return join(parts)


def tiles(material: Material) -> Html:
    """Return the main figures."""
    found = []
    for name, entry in material.decodes.items():
        if name in material.sets:
            wer = entry["result"]["wer"]
            low, high = wer["ci"]
            ends = f"{low:.2f} .. {high:.2f}".replace(" ", "\u00a0")
            found.append((f"{wer['err']:.2f} %", f"word error rate of {name}, 95 %: {ends}"))
    found.append((thousands(material.experiment.parameters), "parameters"))
    found += mean_rate(material)
    for name, count in list(material.counts.items())[:1]:
        model, energy = next(iter(count["energy"].items()))
        if is_dense(energy) or by_earlier_rules(energy["compute"]):
            continue
        (_, trained, _), (_, dense, _), _ = baselines(energy["compute"])
        fair, usual = (f"its {BASELINES[key]}" for key in ("trained_twin", "twin"))
        if trained != "–":
            found.append((trained, f"times less energy for products than {fair} ({model}, {name})"))
        found.append((dense, f"times less energy for products than {usual} ({model}, {name})"))
    return el(
        "div",
        *(el("div", el("b", value), el("span", note), class_="tile") for value, note in found),
        class_="tiles",
    )


def error_section(material: Material) -> Html:
    """Return rates with intervals."""
    from espnet_spike.results.figures import error_rates

    every = [e["decode"] for sets in material.experiment.decodes.values() for e in sets.values()]
    several = len({decode.get("checkpoint") for decode in every}) > 1
    rows, points = [], []
    for tag, sets in material.experiment.decodes.items():
        for name, entry in sets.items():
            wer, cer, decode = entry["result"]["wer"], entry["result"]["cer"], entry["decode"]
            low, high = wer["ci"]
            title = name if tag == material.tag else f"{tag}/{name}"
            points.append((title, wer["err"], low, high))
            star = "" if wer["ci_meaningful"] else " *"
            rows.append(
                [
                    title,
                    *([decode.get("checkpoint") or "–"] if several else []),
                    *(number(wer["err"]), f"{low:.2f} .. {high:.2f}{star}"),
                    plural(wer["ci_units"], wer["ci_unit"]),
                    scored_of(entry["result"]),
                    *(number(wer[kind]) for kind in ("sub", "del", "ins")),
                    *(number(cer["err"]), number(wer["sentence_err"]), wer["units"]),
                    number(decode.get("rtf"), 4),
                ]
            )
    head = ["set", *(["checkpoint"] if several else []), "WER", "95 % interval", "over"]
    head += ["utterances", "Sub", "Del", "Ins", "CER", "SER", "words", "RTF"]
    profiles = {entry["result"]["normalization"] for entry in material.decodes.values()}
    note = (
        f"All rates in %. Text normalization: {', '.join(sorted(profiles))}. Interval: bootstrap "
        "over what the column says; * fewer than 20 utterances. This is one training: the interval "
        "says nothing about another one. SER: sentences with an error. RTF: "
        "seconds of encoder and beam search for a second of audio."
    )
    return join(
        [
            figure(error_rates(points), "Word error rate and its 95 % interval."),
            table(head, rows, label="error rates"),
            el("p", note, class_="note"),
        ]
    )


def confusion_section(material: Material) -> Html:
    """Return the most frequent substitutions, deletions and insertions of each set."""
    parts = []
    for name, score in material.scores.items():
        errors = Counter(pair for pairs in score.alignments for pair in pairs if pair[0] != pair[1])
        parts.append(el("h3", f"Set {name}"))
        if not errors:
            parts.append(missing("No word of this set is wrong."))
            continue
        lists = []
        for kind, title in (("S", "Substitutions"), ("D", "Deletions"), ("I", "Insertions")):
            found = [(n, r, h) for (r, h), n in errors.items() if mark(r, h) == kind]
            found.sort(key=lambda item: (-item[0], item[1] or "", item[2] or ""))
            rows = [
                [r or h if kind != "S" else f"{r} → {h}", n] for n, r, h in found[:SHOWN_ERRORS]
            ]
            total = sum(n for n, *_ in found)
            more = f", {len(rows)} of {len(found)} kinds" if len(found) > len(rows) else ""
            heading = el("h4", f"{title}: {total}{more}")
            column = {"S": "reference → hypothesis", "D": "missed word", "I": "added word"}[kind]
            listing = table([column, "times"], rows, label=f"{title} in {name}") if rows else None
            lists.append(el("div", heading, listing))
        parts.append(el("div", *lists, class_="columns"))
    return join(parts)


def breakdown_section(material: Material) -> Html:
    """Return error rates by length, speaker and word frequency of each set."""
    profile = next(iter(material.decodes.values()))["result"]["normalization"]
    texts = training_texts(material.experiment.path)
    frequency = word_frequency(texts, profile)
    parts = []
    for name, score in material.scores.items():
        speakers = by_speaker(score.counts)
        tables = [("words of an utterance", "utterances", by_length(score.counts))]
        tables.append(("speaker", "utterances", speakers[:SHOWN_SPEAKERS]))
        if texts:
            head = "occurrences in the training text"
            tables.append((head, "kinds of words", by_frequency(score.alignments, frequency)))
        parts.append(el("h3", f"Set {name}"))
        found = [
            table([head, units, "words", "WER"], group_rows(groups), label=f"error rate by {head}")
            for head, units, groups in tables
        ]
        parts.append(el("div", *(el("div", one) for one in found), class_="columns wide"))
        if len(speakers) > SHOWN_SPEAKERS:
            line = f"The {SHOWN_SPEAKERS} worst of {plural(len(speakers), 'speaker')}."
            parts.append(el("p", line, class_="note"))
    if texts:
        note = "Inserted words count for utterances and speakers, not for words of a frequency."
        parts.append(el("p", note, class_="note"))
    else:
        parts.append(missing("The training text is no longer there: no rates by frequency."))
    return join(parts)


def alignment_section(material: Material) -> Html:
    """Return the utterances with the most errors, reference above hypothesis."""
    key = [
        el("span", "S substituted", class_="S"),
        " ",
        el("span", "D deleted", class_="D"),
        " ",
        el("span", "I inserted", class_="I"),
        " — above the reference, below the hypothesis",
    ]
    parts = [el("p", *key, class_="key note")]
    for name, score in material.scores.items():
        counts = score.counts
        order = sorted(
            range(len(counts.keys)),
            key=lambda i: (-counts.errors[i], -counts.errors[i] / counts.lengths[i], i),
        )
        worst = [i for i in order if counts.errors[i]][:SHOWN_UTTERANCES]
        parts.append(el("h3", f"Set {name}"))
        if not worst:
            parts.append(missing("No utterance of this set has an error."))
        for i in worst:
            wrong, words = int(counts.errors[i]), int(counts.lengths[i])
            title = f"{counts.keys[i]} · speaker {counts.speakers[i]} · "
            title += f"{plural(wrong, 'error')} in {plural(words, 'word')}"
            pairs = [_pair(ref, hyp) for ref, hyp in score.alignments[i]]
            block = [el("header", title), el("div", *pairs, class_="pairs")]
            parts.append(el("div", *block, class_="utterance"))
    return join(parts)


def _pair(ref: str | None, hyp: str | None) -> Html:
    kind = mark(ref, hyp)
    cells = [el("span", ref or "\u00a0"), el("span", hyp or "\u00a0"), el("small", kind)]
    return el("span", *cells, class_=f"pair {kind}".strip())


def learning_section(material: Material) -> Html:
    """Return the learning curves."""
    from espnet_spike.results.figures import LEARNING, curves

    epochs = [e for e in material.epochs if "valid" in e]
    if not epochs:
        return missing("There is no epochs.jsonl: this model was not trained by stage 8 here.")
    x = [e["epoch"] for e in epochs]
    figures, odd = [], 0
    for key, name, label, factor in LEARNING:
        series = {}
        for phase in ("train", "valid"):
            values = [e[phase].get(key) for e in epochs]
            if any(value is not None for value in values):
                there = [key in e[phase] for e in epochs]
                odd += sum(v is None and t for v, t in zip(values, there, strict=True))
                series[phase] = [None if v is None else factor * v for v in values]
        if series:
            note = "Of the validation set." if list(series) == ["valid"] else None
            figures.append(figure(curves(name, label, x, series), note))
    parts = [el("div", *figures, class_="columns figures")]
    skipped = sum(e["steps"] - e["applied"] for e in epochs)
    seconds = sum(e.get("seconds", 0.0) for e in epochs)
    line = f"{plural(len(epochs), 'epoch')} of {material.experiment.config['max_epoch']} in "
    line += f"{seconds / 60:.1f} min; {plural(skipped, 'update')} skipped for their gradients."
    parts.append(el("p", line, class_="note"))
    if odd:
        parts.append(missing(f"{plural(odd, 'value')} not finite: gaps in the curves."))
    return join(parts)


def layer_statistics(material: Material) -> tuple[dict[str, float], str, str]:
    """Return layer -> firing rate (or sparsity), which of the two it is, and where it is from."""
    for name, count in material.counts.items():
        rates = {
            row["layer"].removeprefix("encoder."): row["firing_rate"]
            for row in count["layers"]
            if row["kind"] == "neuron" and row["firing_rate"] is not None
        }
        if rates:
            return rates, "firing rate", f"test set {name}"
    last = material.epochs[-1].get("valid", {}) if material.epochs else {}
    for key in ("firing_rate", "sparsity"):
        rates = {
            layer.removeprefix(f"{key}_"): value
            for layer, value in last.items()
            if layer.startswith(f"{key}_") and value is not None and layer != "sparsity_macs"
        }
        if rates:
            source = f"validation set after epoch {material.epochs[-1]['epoch']}"
            return rates, key.replace("_", " "), source
    return {}, "", ""


def mean_rate(material: Material) -> list[tuple[str, str]]:
    """Return the firing rate that the tables give, over all neurons, with what it is.

    Where nothing has been counted, it is the mean over layers of what training has recorded.
    """
    for name, count in material.counts.items():
        rate = count["sparsity"].get("firing_rate")
        if rate is not None:
            return [(f"{rate:.3f}", f"firing rate of all neurons ({name})")]
    rates, what, source = layer_statistics(material)
    if not rates:
        return []
    return [(f"{sum(rates.values()) / len(rates):.3f}", f"mean {what} of the layers ({source})")]


def encoder_section(material: Material, utt: str | None) -> Html:
    """Return what the layers emit: rates, one utterance, decay masks."""
    from espnet_spike.results.figures import layer_rates

    parts = []
    rates, what, source = layer_statistics(material)
    if rates:
        limits = what == "firing rate"
        unit = "spikes over what could fire" if limits else "share of zeros"
        caption = f"{what.capitalize()} of each layer, {source}."
        if limits:
            caption += " Dashed: under 0.01 a layer is as good as dead, over 0.6 saturated."
        parts.append(figure(layer_rates(rates, f"{what}, {unit}", limits), caption))
    elif material.encoder in ENCODERS:
        parts.append(missing(f"No layer of this {material.encoder} encoder spikes (or no record)."))
    else:
        parts.append(
            missing(f"{material.encoder} is an encoder of ESPnet: it has no spikes to show.")
        )
    return join([*parts, *recording_parts(material, utt)])


def recording_parts(material: Material, utt: str | None) -> list[Html]:
    """Return the raster of one utterance and the decay masks."""
    set_name, folder = next(iter(material.sets.items()))
    decode = material.decodes[set_name]["decode"]
    try:
        checkpoint = model_file(material.experiment.path, decode.get("checkpoint"))
    except UserError as error:
        return [missing(f"No utterance is shown: {error.message}.")]
    from espnet_spike.results.figures import (
        SHOWN_LAYERS,
        SHOWN_SECONDS,
        decay_masks,
        decay_reach,
        spike_raster,
    )

    data = FeatureDir.read(folder)
    if utt is not None and utt not in data.feats:
        raise UserError(f"{folder}: no utterance {utt}")
    chosen = utt or choose_utterance(data.durations)
    set_dir = material.experiment.path / material.tag / set_name
    decoded = DecodedUtterance(checkpoint, set_dir, decode.get("options", {}), data, chosen)
    found = decoded.kept()
    if found is None:  # else torch and the model are not needed
        from espnet_spike.results.utterance import record_decoded

        found = record_decoded(decoded)
    emitted = "what FATReLU lets pass (values that are not zero)" if found.events else "spikes"
    caption = [f"{chosen} of {set_name}, {found.seconds:.2f} s. Features and, above, the words of "]
    caption += ["the hypothesis, at the times where CTC emits them (vertical lines). "]
    if found.layers:
        some = "each" if len(found.layers) <= SHOWN_LAYERS else f"{SHOWN_LAYERS} of the"
        caption.append(
            f"Below, the share of all neurons' possible {emitted.split(' (')[0]} over time, and "
            f"{emitted} of {some} layer{'' if some == 'each' else 's'}: a row is a neuron (24 of "
            "each layer, evenly spread), darker is more spikes. 0.attn.in stands for "
            "encoders.0.attn.neuron_in."
        )
    if found.seconds > SHOWN_SECONDS:
        caption.append(f" Only the first {SHOWN_SECONDS:g} s are shown.")
    said = definitions(
        [("reference", data.text[chosen]), ("hypothesis", _hypothesis(material, set_name, chosen))]
    )
    title = "One utterance, its spikes and words" if found.layers else "One utterance and its words"
    drawn = figure(spike_raster(found), join(caption), narrow=spike_raster(found, narrow=True))
    parts = [el("h3", title), drawn, said]
    if not found.layers:
        parts.append(missing(f"{material.encoder} has no spiking layer: nothing to draw below."))
    if found.words is None:
        parts.append(missing("The times of the words are not known: there is no CTC path of them."))
    parts.append(el("h3", "Decay masks"))
    if not found.log_gammas:
        return [*parts, missing(f"Attention of {material.encoder} here has no decay mask.")]
    step = found.seconds / found.frames
    masks = decay_masks(found.log_gammas, found.frames, step)
    caption = "Weight of a key frame for a query frame by distance alone, up to four blocks and "
    caption += "heads, before rows are normalised."
    reach = "How far attention reaches, by layer and head."
    return [
        *parts,
        el("div", figure(masks, caption), figure(decay_reach(found.log_gammas, step), reach),
           class_="columns figures"),
    ]  # fmt: skip


def _hypothesis(material: Material, set_name: str, utt: str) -> str:
    return read_table(material.experiment.path / material.tag / set_name / "text")[utt] or "(blank)"


def energy_section(material: Material) -> Html:
    """Return operations and energy."""
    if not material.counts:
        return missing("Operations and energy have not been counted: there is no count.json.")
    return join(energy_parts(material.counts))


def hardware_section(material: Material) -> Html:
    """Return simulated cycles by coding, sub-module and layer."""
    name = material.experiment.path.name
    found = simulations([{"experiment": name, "simulate": material.simulate}])
    if not found:
        return missing("Hardware cycles have not been simulated (stage 13).")
    parts = []
    for listing in hardware_tables(found):
        rows = [[_bold(cell) for cell in row] for row in listing.rows]
        parts.append(el("h3", listing.title))
        parts.append(table(listing.head, rows, listing.left, label=listing.title))
    return join([*parts, el("p", notes(found).replace("`", ""), class_="note")])


def _bold(cell: str) -> Html | str:
    return el("b", cell.strip("*")) if cell.startswith("**") else cell


def _ngram(decode: Mapping[str, Any]) -> str:
    ngram = decode.get("ngram")
    return f"{ngram}, weight {decode['options']['ngram_weight']}" if ngram else ""


def _first_recorded(sets: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    return next((entry["decode"] for entry in sets.values() if entry["decode"]), {})


def provenance_section(material: Material) -> Html:
    """Return versions, commands and settings."""
    results, training = material.results, material.results["training"]
    decode = _first_recorded(material.decodes)
    pairs: list[tuple[object, object]] = [
        ("experiment", portable_path(material.experiment.path)),
        ("encoder", material.encoder),
        ("training configuration", training["config"] or "not recorded"),
        ("seed", training["seed"]),
        ("model file", decode.get("checkpoint") or "not recorded"),
    ]
    for name in not_recorded(material.decodes):
        pairs.append((f"search options of {name}", "not recorded (no decode.json)"))
    if decode:
        pairs += [
            ("search", search_line(decode)),
            ("search configuration", decode["config"] or "given by options"),
            ("language model", decode["lm_exp"] or "none"),
            ("n-gram", _ngram(decode) or "none"),
            ("decoded", f"{decode.get('finished')}, on {decode['device']}"),
        ]
        pairs += list(decode.get("environment", {}).items())
    pairs += [("scored by", f"jiwer, checked by kaldialign; bootstrap seed {scoring.SEED}")]
    for count in list(material.counts.values())[:1]:
        pairs += count_provenance(count)
    now = time.strftime("%Y-%m-%d %H:%M %Z")
    pairs += [("this page", f"{now}, git {environment()['git']}")]
    parts = [definitions(pairs)]
    if results["commands"]:
        parts += [el("h3", "Commands"), el("pre", "\n".join(results["commands"]))]
    else:
        parts.append(missing("No command line is recorded (run.sh writes commands.txt)."))
    return join(parts)
