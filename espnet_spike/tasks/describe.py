"""What a configuration builds: parameters by part, layers, neurons, points; without data."""

from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any

from espnet_spike.tasks.build import INPUT_SIZE, VOCAB_SIZE
from espnet_spike.tasks.config import read_training_config
from espnet_spike.utils.files import plural


def describe(
    path: Path, vocab_size: int | None = None, input_size: int | None = None, extra: str = ""
) -> dict[str, Any]:
    """Describe the model a YAML configures.

    Args:
        path: the YAML. Its key ``spike_meta: {vocab_size, input_size}`` gives the sizes that
            depend on data.
        vocab_size: stronger than ``spike_meta``; 30 if neither says.
        input_size: feature dimension; 80 if neither says. A front end in the YAML says it itself.
        extra: options of ESPnet over the YAML.

    Returns:
        plain values: ``parameters`` (``front_end``, ``encoder``, ``decoder``, ``ctc``, ``other``,
        ``total``), ``layers``, ``subsampling_factor``, ``min_input_frames``, ``neurons``,
        ``points`` (FATReLU layers by name).

    Raises:
        UserError: a mistake in the configuration.
    """
    from espnet_spike.tasks.config_check import check_training_config, own_model

    config, meta = read_training_config(path)
    meta = {"vocab_size": VOCAB_SIZE, "input_size": INPUT_SIZE} | meta
    tokens: int = vocab_size or meta["vocab_size"]
    size: int | None = input_size or meta["input_size"]
    if config.get("frontend") is not None:
        size = None  # of raw audio
    model = None if extra or size is None else own_model(config, tokens, size)
    encoder, decoder = config.get("encoder"), config.get("decoder")
    if model is None:
        from espnet_spike.tasks.asr import SpikeASRTask

        args, model = check_training_config(SpikeASRTask, config, path, extra, tokens, size)
        encoder, decoder = args.encoder, args.decoder
    return {
        "config": str(path),
        "encoder_name": encoder,
        "decoder_name": decoder if model.decoder is not None else None,
        "ctc_weight": model.ctc_weight,
        "vocab_size": tokens,
        "input_size": model.frontend.output_size() if size is None else size,
    } | describe_model(model)


def describe_model(model: Any) -> dict[str, Any]:
    """Describe an ``ESPnetASRModel``; see `describe`."""
    from espnet_spike.nn.layers.fatrelu import named_fatrelus
    from espnet_spike.nn.neurons.base import named_neurons
    from espnet_spike.tasks.output_length import length_formula

    encoder = model.encoder
    front_end = _count(getattr(encoder, "embed", None))
    parameters = {
        "front_end": front_end,
        "encoder": _count(encoder) - front_end,
        "decoder": _count(model.decoder),
        "ctc": _count(model.ctc),
    }
    parameters["other"] = _count(model) - sum(parameters.values())
    parameters["total"] = _count(model)
    own = encoder.describe() if hasattr(encoder, "describe") else {}
    length = length_formula(model)
    shortest = None
    if length is not None:
        shortest = next(frames for frames in range(1, 10_000) if length(frames) > 0)
    neurons = own.get("neurons") or {
        name: {"class": type(neuron).__name__} for name, neuron in named_neurons(encoder).items()
    }
    points = named_fatrelus(encoder)
    if model.decoder is not None:
        points |= {f"decoder.{n}": point for n, point in named_fatrelus(model.decoder).items()}
        found = named_neurons(model.decoder)
        neurons = neurons | {f"decoder.{n}": {"class": type(x).__name__} for n, x in found.items()}
    return {
        "parameters": parameters,
        "layers": {
            "encoder": _layers(encoder, "encoders"),
            "decoder": _layers(model.decoder, "decoders"),
        },
        "output_size": encoder.output_size(),
        "subsampling_factor": subsampling_factor(model),
        "min_input_frames": shortest,
        "neurons": neurons,
        "points": {
            name: {"learnt": point.learnt, "two_sided": point.two_sided}
            for name, point in points.items()
        },
    }


def subsampling_factor(model: Any) -> int | None:
    """Return how many frames of features make one of the encoder; None where that is not known."""
    from espnet_spike.tasks.output_length import length_formula

    factor = getattr(model.encoder, "subsampling_factor", None)
    length = length_formula(model)
    if factor is None and length is not None:
        factor = round(10_000 / length(10_000))
    return factor


def format_description(description: Mapping[str, Any]) -> str:
    """Format a description for people."""
    lines = [f"{description['config']}"]
    decoder = description["decoder_name"] or "none (CTC only)"
    lines.append(f"  encoder {description['encoder_name']}, decoder {decoder}")
    lines.append(
        f"  vocabulary {description['vocab_size']}, features {description['input_size']}, "
        f"ctc_weight {description['ctc_weight']:g}"
    )
    lines.append("  parameters")
    for part, count in description["parameters"].items():
        lines.append(f"    {part.replace('_', ' '):<10} {count:>14,}")
    layers = description["layers"]
    lines.append(f"  layers: encoder {layers['encoder']}, decoder {layers['decoder']}")
    factor = description["subsampling_factor"]
    shortest = description["min_input_frames"]
    lines.append(
        f"  subsampling: {factor if factor is not None else 'unknown'}"
        + (f" (needs at least {plural(shortest, 'frame')})" if shortest is not None else "")
    )
    neurons = description["neurons"]
    lines.append(f"  spiking neuron layers: {len(neurons)}")
    for name, neuron in neurons.items():
        facts = ", ".join(f"{k} {v}" for k, v in neuron.items() if k != "class")
        lines.append(f"    {name}: {neuron['class']}{f' ({facts})' if facts else ''}")
    points = description["points"]
    lines.append(f"  FATReLU points: {len(points)}")
    for name, point in points.items():
        facts = [fact.replace("_", "-") for fact, holds in point.items() if holds]
        lines.append(f"    {name}" + (f": {', '.join(facts)}" if facts else ""))
    lines += [f"  doubtful: {doubt}" for doubt in description.get("doubts", ())]
    return "\n".join(lines)


def _count(module: Any) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())


def _layers(module: Any, name: str) -> int | None:
    layers = getattr(module, name, None)
    return len(layers) if isinstance(layers, Sized) else None
