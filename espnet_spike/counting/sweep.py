"""The trade-off of a trained model: errors against energy at other levels or thresholds."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from espnet_spike.counting.count import SetCount, count_utterances, saved_macs, summary
from espnet_spike.counting.energy import CostModel
from espnet_spike.counting.twin import Twin, encoder_input_size
from espnet_spike.data.ark import ArkReader
from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.encoders.spike_options import SpikeOptions
from espnet_spike.errors import UserError
from espnet_spike.inference.batches import make_batches
from espnet_spike.inference.beam_search import BeamSearch
from espnet_spike.inference.decode import Settings
from espnet_spike.nn.layers.fatrelu import named_fatrelus
from espnet_spike.nn.neurons.base import named_neurons, set_levels
from espnet_spike.results.energy_tables import big
from espnet_spike.results.formatting import table
from espnet_spike.results.scoring import align, normalized_pairs, rates, word_units
from espnet_spike.tasks.loading import open_model
from espnet_spike.utils.files import write_json, write_lines
from espnet_spike.utils.pareto import pareto


@dataclass(frozen=True)
class Setting:
    """One way to run the encoder; None leaves it as it is.

    Attributes:
        T: levels of the IMLS neurons.
        T_rule: ``keep`` or ``rescale`` their thresholds.
        scale: factor on the thresholds of all neurons, or else of all FATReLU layers.
        fat_threshold: threshold of all FATReLU layers.
        unchanged: what to call the encoder where nothing is set.
    """

    T: int | None = None
    T_rule: str | None = None
    scale: float | None = None
    fat_threshold: float | None = None
    unchanged: str = "as trained"

    def __str__(self) -> str:
        if self.T is not None:
            return f"T={self.T} {self.T_rule}"
        if self.scale is not None:
            return f"threshold x {self.scale:g}"
        if self.fat_threshold is not None:
            return f"FATReLU at {self.fat_threshold:g}"
        return self.unchanged

    @contextmanager
    def applied(self, encoder: Any) -> Iterator[None]:
        """Run the encoder so within the context.

        Raises:
            UserError: it has nothing of the kind.
        """
        neurons, fat = named_neurons(encoder).values(), named_fatrelus(encoder).values()
        levels = [(n, n.chosen_levels) for n in neurons if n.chosen_levels is not None]
        scales = [(n, n.threshold_scale) for n in neurons if n.thresholds() is not None]
        thresholds = [(layer, layer.T.item()) for layer in fat]
        if self.T is not None and not levels:
            raise UserError(f"{self}: the encoder has no IMLS neurons, so no levels to choose")
        if self.scale is not None and not (scales or thresholds):
            raise UserError(f"{self}: the encoder has no thresholds")
        if self.fat_threshold is not None and not thresholds:
            raise UserError(f"{self}: the encoder has no FATReLU layers")
        try:
            try:
                if self.T is not None:
                    set_levels(encoder, self.T, self.T_rule or "keep")
                if self.scale is not None:
                    for neuron, scale in scales:
                        neuron.scale_thresholds(scale * self.scale)
                    if not scales:
                        for layer, threshold in thresholds:
                            layer.set_T(threshold * self.scale)
                if self.fat_threshold is not None:
                    for layer, _ in thresholds:
                        layer.set_T(self.fat_threshold)
            except ValueError as error:
                raise UserError(f"{self}: {error}") from None
            yield
        finally:
            for neuron, chosen in levels:
                neuron.set_levels(*chosen)
            for neuron, scale in scales:
                neuron.scale_thresholds(scale)
            for layer, threshold in thresholds:
                layer.set_T(threshold)


@dataclass(frozen=True)
class Point:
    """What a setting yields on a set; energy and operations a second of audio, of the encoder."""

    setting: str
    wer: float
    wer_ci: tuple[float, float]
    compute: float
    total: float
    synops: float
    macs: float
    firing_rate: float | None
    sparsity: float | None
    pareto: bool = False


def recognise(search: BeamSearch, data: FeatureDir) -> tuple[dict[str, str], dict[str, list[int]]]:
    """Return utterance -> text, and utterance -> tokens."""
    texts, tokens = {}, {}
    frames = {utt: count for utt, (count, _) in data.shapes.items()}
    with ArkReader() as reader:
        for keys in make_batches(frames, search.batch_size):
            feats = [reader.read(utt, data.feats[utt]).copy() for utt in keys]
            for utt, (text, ids, _) in zip(keys, search(feats), strict=True):
                texts[utt], tokens[utt] = text, ids
    return texts, tokens


def measure(
    search: BeamSearch,
    setting: Setting,
    data: FeatureDir,
    model: CostModel,
    twin: Twin,
    normalization: str,
) -> Point:
    """Decode, score and count a set under a setting."""
    net = search.model
    with setting.applied(net.encoder):
        texts, tokens = recognise(search, data)
        result = SetCount()
        for utt, found in count_utterances(net, data, tokens, twin, result):
            result.add(utt, found, [model])
    counts = summary(result, [model], data.utt2spk, twin.encoder is None, saved_macs(net))
    place = Path(str(setting))
    utts, *pairs = normalized_pairs(data.text, texts, normalization, Path("references"), place)
    speakers = [data.utt2spk[utt] for utt in utts]
    words = align("wer", place, utts, speakers, *([*map(word_units, side)] for side in pairs))
    interval = words.counts.interval
    energy = counts["energy"][model.name]
    return Point(
        str(setting),
        rates(words.counts.table)["err"],
        (interval.low, interval.high),
        energy["compute"]["joules_per_second"],
        energy["total"]["joules_per_second"],
        counts["per_second"]["synops"],
        counts["per_second"]["macs"],
        counts["sparsity"]["firing_rate"],
        counts["sparsity"]["activations"],
    )


def sweep(
    asr_exp: Path,
    checkpoint: str | None,
    settings: Settings,
    sets: Mapping[str, FeatureDir],
    values: Sequence[Setting],
    model: CostModel,
    normalization: str,
) -> dict[str, list[Point]]:
    """Return, for every set, a point for every setting, the encoder as it is first.

    Args:
        asr_exp: ``exp/<asr_tag>``, or a pack of it.
        checkpoint: name of the model file; None for the best.
        settings: of the beam search.
        sets: name -> features.
        values: the settings to try.
        model: prices of operations.
        normalization: of the texts, see ``espnet_spike.data.text_normalization``.

    Raises:
        UserError: no trained model, or a setting that it cannot have.
    """
    logging.getLogger().setLevel(logging.ERROR)
    with open_model(asr_exp) as folder:
        search = BeamSearch(folder.files(checkpoint), settings)
    for setting in values:  # before hours of decoding
        with setting.applied(search.model.encoder):
            pass
    args = search.speech2text.asr_train_args
    size = encoder_input_size(search.model, args.input_size)
    twin = Twin(args.encoder, args.encoder_conf, size)
    unchanged = "as trained" if settings.execution == SpikeOptions() else "as decoded"
    found: dict[str, list[Point]] = {}
    for name, data in sets.items():
        points = []
        for setting in [Setting(unchanged=unchanged), *values]:
            point = measure(search, setting, data, model, twin, normalization)
            print(f"{name}: {point.setting}: WER {point.wer:.2f} %", flush=True)
            points.append(point)
        flags = pareto([(point.wer, point.total) for point in points])
        found[name] = [
            replace(point, pareto=best) for point, best in zip(points, flags, strict=True)
        ]
    return found


def markdown(points: Sequence[Point]) -> list[str]:
    """Return a table of the points, best in energy first."""
    head = ["setting", "Pareto", "WER", "95 %", "compute mJ/s", "with memory mJ/s", "SynOps/s"]
    rows = [
        [
            *(p.setting, "yes" if p.pareto else "", f"{p.wer:.2f}"),
            f"{p.wer_ci[0]:.2f} .. {p.wer_ci[1]:.2f}",
            *(f"{1e3 * p.compute:.4g}", f"{1e3 * p.total:.4g}", big(p.synops), big(p.macs)),
            "–" if p.firing_rate is None else f"{p.firing_rate:.3f}",
        ]
        for p in sorted(points, key=lambda p: p.total)
    ]
    return table([*head, "MAC/s", "firing rate"], rows, left=2)


def plot(path: Path, title: str, points: Sequence[Point]) -> None:
    """Draw errors against energy, compute alone and with memory, with the Pareto sets."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
    columns = (("compute", "compute"), ("total", "compute and memory"))
    for axis, (column, label) in zip(axes, columns, strict=True):
        energy = [1e3 * getattr(p, column) for p in points]
        axis.errorbar(
            energy,
            [p.wer for p in points],
            [
                [max(0.0, p.wer - p.wer_ci[0]) for p in points],
                [p.wer_ci[1] - p.wer for p in points],
            ],
            fmt="o",
            color="tab:blue",
            ecolor="lightgrey",
        )
        flags = pareto([(p.wer, getattr(p, column)) for p in points])
        best = sorted((e, p.wer) for e, p, ok in zip(energy, points, flags, strict=True) if ok)
        axis.plot(*zip(*best, strict=True), color="tab:orange", label="Pareto set")
        for number, (e, p) in enumerate(
            sorted(zip(energy, points, strict=True), key=lambda x: x[0])
        ):
            place = (4, 5 if number % 2 else -11)  # neighbours do not cover each other
            axis.annotate(p.setting, (e, p.wer), place, textcoords="offset points", fontsize=8)
        axis.margins(x=0.18)
        axis.set_xlabel(f"{label}, mJ for a second of audio")
        axis.legend()
    axes[0].set_ylabel("WER, %")
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def write(
    out: Path,
    experiment: str,
    found: Mapping[str, Sequence[Point]],
    model: CostModel,
    normalization: str,
) -> list[str]:
    """Write ``sweep.json``, ``sweep.md`` and a plot for each set; return the lines of Markdown."""
    out.mkdir(parents=True, exist_ok=True)
    lines = [f"# Errors against energy: {experiment}", ""]
    for name, points in found.items():
        plot(out / f"{name}.png", f"{experiment}, {name}", points)
        lines += [f"## {name}", "", *markdown(points), "", f"![{name}]({name}.png)", ""]
    lines += [
        f"Front end and encoder, {model.title} ({model.source}). "
        + "; ".join(model.warnings)
        + ".",
        "Pareto: no other setting has both fewer errors and less energy (with memory).",
        f"Text normalization: {normalization}.",
    ]
    content: dict[str, Any] = {"experiment": experiment, "normalization": normalization}
    content["cost_model"] = asdict(model)
    content["sets"] = {name: [asdict(p) for p in points] for name, points in found.items()}
    write_json(out / "sweep.json", content)
    write_lines(out / "sweep.md", lines)
    return lines
