"""Figures of the report, as SVG to be put into a page.

Text stays text. Colours are variables of the page's style sheet, so that a figure follows its light
and dark theme: matplotlib draws with stand-ins, ``_to_html`` puts the variables in.
"""

import io
import logging
import math
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from espnet_spike.experiment import DEAD, SATURATED
from espnet_spike.inference.ctc import Word
from espnet_spike.results.html import plain
from espnet_spike.results.recording import LayerSpikes, Recording

# stand-in -> variable of the page
NAMES = ("ink", "muted", "grid", "c1", "c2", "band", "paper")
INK, MUTED, GRID, FIRST, SECOND, BAND, PAPER = COLOURS = [f"#0{n}0{n}0{n}" for n in range(1, 8)]
VARIABLES = dict(zip(COLOURS, NAMES, strict=True))
PIXELS_PER_POINT = 1.45  # at full size; text of 9 points is 13 pixels high
SPIKE_COLOUR = (0.13, 0.53, 0.80)  # reads on white and on black; more spikes are more opaque
STYLE: dict[Any, object] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a word may hold a dollar sign
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "legend.frameon": False,
    "image.interpolation": "none",
}
LEARNING = (  # statistic of an epoch, title, label, factor
    ("loss", "loss", "loss, nats an utterance", 1.0),
    ("optim0_lr0", "learning rate", "learning rate, mean of an epoch", 1.0),
    ("cer_ctc", "character errors of greedy CTC", "cer_ctc, %", 100.0),
    ("acc", "accuracy of the decoder", "acc, %", 100.0),
    ("firing_rate", "firing rate", "spikes over what could fire", 1.0),
    ("sparsity", "sparsity behind FATReLU", "zeros, %", 100.0),
)
SHOWN_LAYERS, SHOWN_CHANNELS = 24, 24  # of a spike raster
SHOWN_FRAMES = 160  # of a decay mask
SHOWN_SECONDS = 12.0  # of a recording


def short_name(layer: str) -> str:
    """Return a layer's name without what all of them share.

    >>> short_name("encoders.0.attn.neuron_in"), short_name("encoders.0.attn.sublayer.neuron_in")
    ('0.attn.in', '0.attn.in')
    >>> short_name("embed.neurons.1")
    'embed.1'
    """
    layer = layer.removeprefix("encoder.").removeprefix("encoders.")
    return re.sub(r"neurons?[._]|sublayer\.", "", layer)


def draw(width: float, height: float) -> Figure:
    """Return an empty figure, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_visible(False)
    return figure


def _axes(figure: Figure, *place: Any, **kwargs: Any) -> Axes:
    axes = figure.add_subplot(*place, **kwargs)
    axes.patch.set_visible(False)
    return axes


def _styled(function: Callable[..., tuple[str, Figure]]) -> Callable[..., str]:
    """Let a function that returns a Figure return its SVG."""

    def styled(*args: Any, **kwargs: Any) -> str:
        logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
        with matplotlib.rc_context(STYLE), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # glyphs that its own fonts lack
            name, figure = function(*args, **kwargs)
            matplotlib.rcParams["svg.hashsalt"] = name
            out = io.StringIO()
            FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None})
        return _to_html(out.getvalue(), name)

    styled.__doc__ = function.__doc__
    styled.__name__ = function.__name__
    return styled


def _to_html(svg: str, name: str) -> str:
    """Return an SVG document as an element of an HTML page."""
    root = ET.fromstring(svg)
    used = set(re.findall(r"(?:#|url\(#)([\w.-]+)", svg))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            plain_key = key.rpartition("}")[2]
            if plain_key == "id" and value not in used:
                continue
            for colour, variable in VARIABLES.items():
                value = value.replace(colour, f"var(--{variable})")
            if plain_key == "style":
                # the page's own font
                value = re.sub(r"font-family: [^;]*;?", "", value)
            element.set(plain_key, value)
    width, height = (
        PIXELS_PER_POINT * float(root.attrib[key].removesuffix("pt")) for key in ("width", "height")
    )
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("style", f"max-width: {width:.0f}px; --tall: {height:.0f}px")
    root.set("role", "img")
    root.set("aria-label", plain(name))
    return ET.tostring(root, encoding="unicode")


@_styled
def error_rates(rows: Sequence[tuple[str, float, float, float]]) -> tuple[str, Figure]:
    """Draw error rates with their intervals.

    Args:
        rows: name, rate and ends of the interval, %.
    """
    figure = draw(4.8, 0.62 + 0.28 * len(rows))
    axes = _axes(figure)
    for place, (_, rate, low, high) in enumerate(rows):
        axes.plot([max(low, 0.0), high], [place, place], color=FIRST, linewidth=2.5)
        axes.plot([rate], [place], "o", color=FIRST, markersize=7)
        text = f"{rate:.2f}"
        axes.annotate(text, (high, place), (6, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(rows)), [plain(row[0]) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, max(max(row[1], row[3]) for row in rows) * 1.2 + 0.5)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.set_xlabel("word error rate, %")
    return "word error rates", figure


def _look(number: int) -> tuple[str, str, str]:
    """Return colour, line and marker of a curve; of sixteen no two are alike."""
    colours, lines, markers = (FIRST, SECOND, INK, MUTED), ("-", "--", ":", "-."), "os^v"
    turn = number // len(colours)
    return colours[number % 4], lines[(number + turn) % 4], markers[(number + turn) % 4]


def _legend_name(name: str) -> str:
    """Return a name that a legend shows: matplotlib leaves out one that begins with ``_``."""
    return plain(name).lstrip("_") or name


@_styled
def curves(
    name: str, label: str, epochs: Sequence[int], series: Mapping[str, Sequence[float | None]]
) -> tuple[str, Figure]:
    """Draw learning curves.

    Args:
        name: title.
        label: of the y axis, with its unit.
        epochs: x.
        series: name -> a value for each epoch; None where there is none or it was not finite.
    """
    few = len(series) < 3
    figure = draw(4.3, 2.9 if few else 2.9 + 0.2 * len(series))
    axes = _axes(figure)
    for number, (key, values) in enumerate(series.items()):
        y = [math.nan if value is None else value for value in values]
        colour, line, marker = _look(number)
        axes.plot(
            epochs, y, line, color=colour, marker=marker, markersize=3, label=_legend_name(key)
        )
    if len(series) > 1 and few:
        axes.legend()
    elif len(series) > 1:
        figure.legend(loc="outside lower left")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.set_ylim(0, top(series.values()))
    axes.grid()
    axes.set_title(name)
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    return f"learning curve: {name}", figure


def top(curves: Iterable[Sequence[float | None]]) -> float:
    """Return where an axis from 0 ends, so that no curve touches its end."""
    values = [y for curve in curves for y in curve if y is not None and math.isfinite(y)]
    return 1.08 * max(values, default=0.0) or 1.0


@_styled
def layer_rates(rates: Mapping[str, float], label: str, limits: bool) -> tuple[str, Figure]:
    """Draw a bar for each layer.

    Args:
        rates: layer -> value.
        label: of the x axis.
        limits: mark where a layer counts as dead or saturated.
    """
    figure = draw(4.6, 0.75 + 0.19 * len(rates))
    axes = _axes(figure)
    places = range(len(rates))
    values = list(rates.values())
    axes.barh(places, values, 0.7, color=FIRST)
    axes.set_yticks(places, [plain(short_name(layer)) for layer in rates], fontsize=8)
    axes.set_ylim(len(rates) - 0.4, -0.6)
    right = max([*values, 1e-6]) * 1.16
    if limits:
        for limit in (DEAD, SATURATED):
            if limit < right:
                axes.axvline(limit, color=SECOND, linestyle="--", linewidth=1.2)
    axes.set_xlim(0, right)
    for place, value in zip(places, values, strict=True):
        axes.annotate(
            f"{value:.3g}", (value, place), (3, 0), textcoords="offset points", va="center",
            fontsize=7.5,
        )  # fmt: skip
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.set_xlabel(label)
    return f"{label} by layer", figure


@_styled
def energy_by_layer(energies: Mapping[str, tuple[float, float]]) -> tuple[str, Figure]:
    """Draw the energy of each layer, and a diamond for the dense network.

    Args:
        energies: layer -> energy of its products and of the dense ones, uJ for a second of audio.
    """
    figure = draw(4.8, 0.95 + 0.19 * len(energies))
    axes = _axes(figure)
    places = range(len(energies))
    ours, dense = (list(column) for column in zip(*energies.values(), strict=True))
    axes.barh(places, ours, 0.7, color=FIRST, label="this network")
    axes.plot(dense, places, "D", color=SECOND, markersize=4, label="nothing skipped")
    axes.set_yticks(places, [plain(short_name(layer)) for layer in energies], fontsize=8)
    axes.set_ylim(len(energies) - 0.4, -0.6)
    axes.set_xlim(0, max(*ours, *dense) * 1.06)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.set_xlabel("energy of products, µJ for a second of audio")
    figure.legend(loc="outside upper center", ncols=2)
    return "energy by layer", figure


def _evenly(count: int, wanted: int) -> list[int]:
    return [round(i) for i in np.linspace(0, count - 1, min(count, wanted))]


def _place_words(axes: Axes, words: Sequence[Word], seconds: float, letters: int) -> int:
    """Write words above their times, in as many rows as it takes; return the number of rows.

    Args:
        axes: of time.
        words: with their times.
        seconds: length of the axis.
        letters: that stand side by side on it.
    """
    ends: list[float] = []
    a_letter = seconds / letters
    for word in words:
        middle = (word.start + word.end) / 2
        half = 0.5 * a_letter * (len(word.word) + 1)
        at = min(max(middle, half), max(seconds - half, half))
        row = next((i for i, end in enumerate(ends) if at - half > end), len(ends))
        ends[row : row + 1] = [at + half]
        axes.plot([middle, middle], [0, row + 0.2], color=SECOND, linewidth=0.8)
        backing = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.5}
        name = plain(word.word)
        axes.text(at, row + 0.25, name, ha="center", va="bottom", bbox=backing, zorder=3)
    axes.set_ylim(0, max(len(ends), 1) + 0.2)
    return max(len(ends), 1)


@_styled
def spike_raster(recording: Recording, narrow: bool = False) -> tuple[str, Figure]:
    """Draw the features of an utterance, its words and what every layer emits.

    Args:
        recording: of the utterance.
        narrow: for a narrow screen, on which a broad figure could not be read.
    """
    seconds = min(recording.seconds, SHOWN_SECONDS)
    words = [word for word in recording.words or [] if word.end <= seconds]
    layers = [recording.layers[i] for i in _evenly(len(recording.layers), SHOWN_LAYERS)]
    layers = layers if recording.layers else []
    heights = [0.55, 1.5] + ([0.75, 0.2 * len(layers) + 0.2] if layers else [])
    figure = draw(4.0 if narrow else 8.0, sum(heights) + 0.7)
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    rows = [_axes(figure, grid[0])]
    rows += [_axes(figure, grid[i], sharex=rows[0]) for i in range(1, len(heights))]
    rows[0].set_xlim(0, seconds)
    _place_words(rows[0], words, seconds, 22 if narrow else 62)
    rows[0].axis("off")
    _spectrogram(rows[1], recording)
    if layers:
        _population(rows[2], recording)
        _raster(rows[3], layers, recording)
    for word in words:
        middle = (word.start + word.end) / 2
        rows[1].axvline(middle, color="white", linewidth=1, alpha=0.9)
        for axes in rows[2:]:
            axes.axvline(middle, color=SECOND, linewidth=0.8)
    for axes in rows[:-1]:
        axes.tick_params(labelbottom=False)
    rows[-1].set_xlabel("time, s")
    shown = ", narrow" if narrow else ""
    return f"features and spikes of {recording.utt}{shown}", figure


def _spectrogram(axes: Axes, recording: Recording) -> None:
    features = recording.features.T
    low, high = np.percentile(features, [2, 99.8])
    extent = (0, recording.seconds, 0, len(features))
    axes.imshow(
        features, aspect="auto", origin="lower", extent=extent, cmap="magma", vmin=low, vmax=high
    )
    axes.set_xlim(0, min(recording.seconds, SHOWN_SECONDS))
    axes.set_ylabel("feature\n(mel band)" if len(features) == 80 else "feature")


def _population(axes: Axes, recording: Recording) -> None:
    """Draw what share of all that could fire does, over time."""
    longest = max(len(layer.counts) for layer in recording.layers)
    time = (np.arange(longest) + 0.5) / longest * recording.seconds
    total = np.zeros(longest)
    size = 0
    for layer in recording.layers:
        place = (time / recording.seconds * len(layer.counts)).astype(int)
        total += layer.counts.sum(1)[place] / layer.levels
        size += layer.counts.shape[1]
    axes.fill_between(time, 100 * total / size, color=FIRST, alpha=0.35, linewidth=0)
    axes.plot(time, 100 * total / size, color=FIRST, linewidth=1.2)
    axes.set_ylim(0, top([list(100 * total / size)]))
    axes.set_ylabel("not zero, %" if recording.events else "firing, %")
    axes.grid(axis="y")


def _raster(axes: Axes, layers: Sequence[LayerSpikes], recording: Recording) -> None:
    for place, layer in enumerate(layers):
        chosen = layer.counts[:, _evenly(layer.counts.shape[1], SHOWN_CHANNELS)].T
        pixels = np.zeros((*chosen.shape, 4))
        pixels[..., :3] = SPIKE_COLOUR
        strength = chosen / layer.levels
        pixels[..., 3] = np.where(chosen > 0, 0.3 + 0.7 * strength, 0)
        if place % 2 == 0:
            axes.axhspan(place, place + 1, color=BAND, linewidth=0)
        extent = (0, recording.seconds, place + 0.96, place + 0.04)
        axes.imshow(pixels, aspect="auto", extent=extent, zorder=2)
    axes.set_xlim(0, min(recording.seconds, SHOWN_SECONDS))
    axes.set_ylim(len(layers), 0)
    names = [plain(short_name(layer.name)) for layer in layers]
    axes.set_yticks(np.arange(len(layers)) + 0.5, names, fontsize=8)
    axes.tick_params(axis="y", length=0)


@_styled
def decay_masks(
    log_gammas: Mapping[str, np.ndarray], frames: int, step: float
) -> tuple[str, Figure]:
    """Draw decay masks as pictures: query frames down, key frames to the right.

    Args:
        log_gammas: layer -> logarithm of gamma per head ``(H,)``.
        frames: length of the encoder's output.
        step: seconds a frame.
    """
    shown = min(frames, SHOWN_FRAMES)
    names = list(log_gammas)
    names = [names[i] for i in _evenly(len(names), 4)]
    heads = _evenly(len(log_gammas[names[0]]), 4)
    figure = draw(1.6 + 0.9 * len(heads), 0.75 + 0.95 * len(names))
    distance = np.abs(np.subtract.outer(np.arange(shown), np.arange(shown)))
    extent = (0, shown * step, shown * step, 0)
    cells = figure.subplots(len(names), len(heads), squeeze=False, sharex=True, sharey=True)
    for row, name in zip(cells, names, strict=True):
        for axes, head in zip(row, heads, strict=True):
            picture = axes.imshow(
                np.exp(distance * log_gammas[name][head]), cmap="cividis", vmin=0, vmax=1,
                extent=extent,
            )  # fmt: skip
            axes.xaxis.set_major_locator(MaxNLocator(3))
            axes.yaxis.set_major_locator(MaxNLocator(3))
        row[0].set_ylabel(f"block {plain(short_name(name)).split('.')[0]}\nquery, s")
    for axes, head in zip(cells[0], heads, strict=True):
        axes.set_title(f"head {head}")
    for axes in cells[-1]:
        axes.set_xlabel("key, s")
    figure.colorbar(picture, ax=cells, label="weight", fraction=0.05, aspect=30)
    return "decay masks", figure


@_styled
def decay_reach(log_gammas: Mapping[str, np.ndarray], step: float) -> tuple[str, Figure]:
    """Draw how far each head sees: the distance at which its weight has fallen to a half."""
    figure = draw(4.6, 0.75 + 0.22 * max(len(log_gammas), 4))
    axes = _axes(figure)
    for place, logs in enumerate(log_gammas.values()):
        reach = step * math.log(0.5) / np.asarray(logs, dtype=float)
        axes.plot([reach.min(), reach.max()], [place, place], color=GRID, linewidth=2, zorder=1)
        axes.plot(reach, [place] * len(reach), "o", color=FIRST, markersize=5)
    axes.set_yticks(range(len(log_gammas)), [plain(short_name(name)) for name in log_gammas])
    axes.set_ylim(len(log_gammas) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x")
    axes.set_xlabel("distance at which the weight is 1/2, s (a dot a head)")
    return "reach of the decay", figure
