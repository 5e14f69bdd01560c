"""From a trained dense twin to spikes: its parameters, thresholds from its activations.

A training YAML asks for it by ``init_from`` and ``distill`` of ``spike_meta``::

    spike_meta:
      init_from: twin            # trained first, by the same command; or exp/asr_... of a twin
      twin: {max_epoch: 40}      # keys of ESPnet for the twin's training, over those of the YAML
      distill: {from: twin, weight: 1.0, temperature: 1.0}

Parameters go by name. What the twin lacks is made here: a batch norm that only the spiking model
has starts as the identity on what it reads, and every neuron's thresholds are set so that the least
of the twin's activations is lost (``Neuron.fit_thresholds``). Neurons come in the order in which
they run, each on what those before it let through. ``docs/from_twin.md`` has the sources.

``conversion/`` of the experiment holds ``init.pth``, which the training starts from, and
``init.json``: of every neuron what is lost and the threshold of each channel.
"""

import contextlib
import json
import logging
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from espnet_spike.data.tokens import read_token_list
from espnet_spike.encoders.monitor import watching
from espnet_spike.errors import UserError
from espnet_spike.experiment import LOG, best_checkpoint, init_file, read_config, read_epochs
from espnet_spike.nn.neurons.base import Neuron, named_neurons
from espnet_spike.nn.neurons.fitting import Piece
from espnet_spike.nn.norms import MaskedBatchNorm
from espnet_spike.tasks.config import META, TWIN, check_start, from_twin, merge
from espnet_spike.tasks.loading import build
from espnet_spike.training.judge import check_finished
from espnet_spike.training.passes import (
    Batch,
    Passes,
    choose_utterances,
    each_forward,
    load_batches,
    task_loss,
)
from espnet_spike.utils import files
from espnet_spike.utils.cli import quiet
from espnet_spike.utils.files import present

_logger = logging.getLogger(__name__)


def twin_exp(source: str, exp_dir: Path) -> Path:
    """Return the experiment that ``from`` names, of a model that is trained in ``exp_dir``."""
    return exp_dir.with_name(f"{exp_dir.name}_{TWIN}") if source == TWIN else Path(source)


def sources(meta: Mapping[str, Any], exp_dir: Path) -> dict[str, Path]:
    """Return the experiments that ``spike_meta`` names, by its key."""
    parts = zip(("init_from", "distill"), from_twin(meta), strict=True)
    return {key: twin_exp(part.source, exp_dir) for key, part in parts if part is not None}


def twin_files(meta: Mapping[str, Any], exp_dir: Path) -> dict[str, Path]:
    """Return the model files that a training starts and learns from, those that are there."""
    found = {}
    for key, exp in sources(meta, exp_dir).items():
        if present(exp / "config.yaml"):
            found[key] = best_checkpoint(exp)
    return found


def start_settings(meta: Mapping[str, Any]) -> dict[str, int]:
    """Return what else decides what a training starts from, by its key; empty without a twin."""
    init, _ = from_twin(meta)
    if init is None:
        return {}
    return {"init_from.utterances": init.utterances, "init_from.seed": init.seed}


def started_from_twin(
    config: Mapping[str, Any], meta: Mapping[str, Any], path: Path, exp_dir: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return configuration and ``spike_meta`` of a training as ESPnet gets it.

    Without ``init_from`` and ``distill`` they are as they were.

    Raises:
        UserError: they say twice what the model starts or learns from.
    """
    check_start(config, meta, path)
    init, distill = from_twin(meta)
    config = dict(config)
    if init is not None:
        config["init_param"] = [str(init_file(exp_dir))]
    if distill is not None:
        teacher = {
            "exp": str(twin_exp(distill.source, exp_dir)),
            "weight": distill.weight,
            "temperature": distill.temperature,
        }
        config = merge(config, {"model_conf": {"distill": teacher}})
    return config, dict(meta)


def check_named(meta: Mapping[str, Any]) -> None:
    """Check that the experiments are trained that ``spike_meta`` names; ``twin`` will be.

    Raises:
        UserError: one is missing or not finished.
    """
    for key, part in zip(("init_from", "distill"), from_twin(meta), strict=True):
        if part is not None and part.source != TWIN:
            _trained(key, Path(part.source))


def _trained(key: str, exp: Path) -> dict[str, Any]:
    """Return the configuration of a twin that has been trained."""
    if not present(exp / "config.yaml"):
        hint = "train it first: ./run.sh does with from: twin, or asr_train --twin"
        raise UserError(f"{META}.{key}: no trained twin in {exp}", hint)
    theirs = read_config(exp)
    check_finished(read_epochs(exp), theirs, exp / LOG)
    best_checkpoint(exp)
    return theirs


def check_twin(meta: Mapping[str, Any], exp_dir: Path, args: Namespace) -> None:
    """Check that the twins are trained, and fit.

    Args:
        meta: ``spike_meta``.
        exp_dir: of the spiking model.
        args: its arguments for ESPnet, complete.

    Raises:
        UserError: one is missing or not finished, or has other tokens or normalises otherwise; or
            an option starts the model from something else.
    """
    for key, exp in sources(meta, exp_dir).items():
        theirs = _trained(key, exp)
        if _tokens(theirs["token_list"]) != _tokens(args.token_list):
            raise UserError(f"{META}.{key}: {exp} has other tokens", "train it on these")
        for option in ("normalize", "normalize_conf"):
            if _by_content(theirs.get(option)) != _by_content(getattr(args, option)):
                raise UserError(
                    f"{META}.{key}: {option} is {getattr(args, option)}, "
                    f"but {theirs.get(option)} in {exp}",
                    "both have to read the same features",
                )
        if key == "distill":
            for whose, conf in ((exp, theirs["model_conf"]), (exp_dir, args.model_conf)):
                if conf.get("ctc_weight", 0.5) == 0:
                    raise UserError(f"{META}.distill: {whose} has no CTC", "give it a ctc_weight")
    if "init_from" in sources(meta, exp_dir) and args.init_param != [str(init_file(exp_dir))]:
        raise UserError(f"init_param {args.init_param} and {META}.init_from", "give one of them")


def _by_content(value: Any) -> Any:
    """Return an option with the digest of the statistics that it names: paths may differ."""
    if not isinstance(value, Mapping) or "stats_file" not in value:
        return value
    path = Path(str(value["stats_file"]))
    return {**value, "stats_file": files.file_digest(path) if path.is_file() else str(path)}


def _tokens(tokens: Any) -> list[str]:
    if isinstance(tokens, str | Path):
        return read_token_list(Path(tokens))
    return list(tokens)


def convert(
    meta: Mapping[str, Any], exp_dir: Path, train_dir: Path | None, args: Namespace
) -> None:
    """Write what the training of a spiking model starts from; nothing without ``init_from``.

    A conversion of the same twin, model and data is kept.

    Args:
        meta: ``spike_meta``.
        exp_dir: of the spiking model, with its ``shapes``.
        train_dir: features.
        args: its arguments for ESPnet.

    Raises:
        UserError: the parameters do not fit, or a neuron cannot be set.
    """
    init, _ = from_twin(meta)
    if init is None or train_dir is None:
        return
    twin = twin_exp(init.source, exp_dir)
    model_file = best_checkpoint(twin)
    utterances = choose_utterances(exp_dir, init.utterances, init.seed)
    content = [files.file_digest(model_file), args.encoder, args.encoder_conf, utterances]
    key = files.digest(json.dumps(content, default=str).encode())
    target, record = init_file(exp_dir), init_file(exp_dir).with_suffix(".json")
    with contextlib.suppress(UserError):  # a damaged record is no record
        if files.present(target) and files.read_json(record).get("key") == key:
            _logger.info("already converted: %s", target)
            return
    dense = build(Namespace(**read_config(twin)), model_file).eval()
    spiking = build_spiking(args, dense, twin)
    batches = load_batches(args, train_dir, utterances)
    rows = set_thresholds(spiking, dense, batches)
    losses = {"twin": task_loss(dense, batches), "converted": task_loss(spiking, batches)}
    target.parent.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)  # killed in between, an old one would vouch for the new model
    with files.replacing_bytes(target) as file:
        torch.save(spiking.state_dict(), file)
    report = {"key": key, "twin": str(model_file), "utterances": len(utterances), "loss": losses}
    files.write_json(record, report | {"neurons": rows})
    _logger.info("thresholds of %d neuron layers from %s:\n%s", len(rows), twin, table(rows))
    _logger.info("loss of the twin %.4g, converted %.4g: %s", *losses.values(), record)


def build_spiking(args: Namespace, dense: Any, exp: Path) -> Any:
    """Build the spiking model with the parameters of its twin, all that go by name.

    Raises:
        UserError: the twin spikes, or parameters are left over, missing or of another size.
    """
    from espnet_spike.tasks.asr import SpikeASRTask

    spiking = named_neurons(dense.encoder)
    if spiking:
        raise UserError(
            f"{META}.init_from: {exp} is no dense twin: {next(iter(spiking))} of it spikes",
            "give the experiment of its twin (encoder_conf neuron: relu, or speech_mamba)",
        )
    with quiet():
        model: Any = SpikeASRTask.build_model(args)
    model.load_state_dict(mapped_state(model, dense.state_dict(), exp))
    return model.eval()


def mapped_state(model: nn.Module, theirs: Mapping[str, Tensor], exp: Path) -> dict[str, Tensor]:
    """Return the state of ``model`` with the tensors of its twin.

    Those of neurons, batch norms that the twin lacks, and buffers that are no parameters keep
    their values.

    Raises:
        UserError: names every tensor that fits nowhere.
    """
    state = model.state_dict()
    parameters = {name for name, _ in model.named_parameters()}
    made_here = tuple(
        f"{name}."
        for name, module in model.named_modules()
        if isinstance(module, Neuron | MaskedBatchNorm)
    )
    wrong = [f"{name} has no place in the spiking model" for name in theirs if name not in state]
    for name, value in state.items():
        if name not in theirs:
            if name in parameters and not name.startswith(made_here):
                wrong.append(f"{name} is not in the twin")
        elif theirs[name].shape != value.shape:
            sizes = tuple(theirs[name].shape), tuple(value.shape)
            wrong.append(f"{name} is {sizes[0]} in the twin, {sizes[1]} in the spiking model")
    if wrong:
        shown = "\n  ".join(wrong[:10]) + (f"\n  and {len(wrong) - 10} more" if wrong[10:] else "")
        raise UserError(
            f"{META}.init_from: the parameters of {exp} do not fit:\n  {shown}",
            f"init_from: {TWIN} trains the twin of this very configuration",
        )
    return {name: theirs.get(name, value) for name, value in state.items()}


@torch.no_grad()
def set_thresholds(spiking: Any, dense: Any, batches: list[Batch]) -> list[dict[str, Any]]:
    """Set what a spiking model with the parameters of its twin has beyond them, in place.

    Args:
        spiking: in evaluation.
        dense: its twin, in evaluation.
        batches: of the training data.

    Returns:
        a row for each neuron, in the order in which they run.

    Raises:
        UserError: a neuron that does not say how its thresholds are set.
    """
    theirs = dict(dense.named_modules())
    their_state = dense.state_dict()
    modules = dict(spiking.encoder.named_modules())
    new_norms = {
        name: m
        for name, m in modules.items()
        if isinstance(m, MaskedBatchNorm) and f"encoder.{name}.weight" not in their_state
    }
    neurons = named_neurons(spiking.encoder)
    passes, their_passes = Passes(spiking, batches), Passes(dense, batches)
    rows = []
    for name in running_order(spiking, new_norms | neurons, batches):
        calls: list[tuple[tuple, Tensor]] = []
        passes.keep_before(
            f"encoder.{name}", lambda args, out, calls=calls: calls.append((args, out))
        )
        if name in new_norms:
            become_identity(new_norms[name], [args for args, _ in calls])
            continue
        place = spiking.encoder.twin_place(name, dense.encoder)
        targets: list[Tensor] = []
        if place is not None and f"encoder.{place}" in theirs:
            their_passes.keep_before(
                f"encoder.{place}", lambda _, out, targets=targets: targets.append(out)
            )
        rows.append(_fit(name, neurons[name], calls, targets))
    return rows


def _fit(
    name: str, neuron: Neuron, calls: list[tuple[tuple, Tensor]], targets: list[Tensor]
) -> dict[str, Any]:
    pieces = []
    for index, (args, _) in enumerate(calls):
        x, mask = _input(args)
        dense = targets[index] if targets else x.view(neuron.time_steps, -1, *x.shape[1:]).mean(0)
        pieces.append(Piece(x, mask, dense if targets else dense.clamp(min=0)))
    try:
        lost = neuron.fit_thresholds(pieces)
    except ValueError as error:
        raise UserError(
            f"{META}.init_from: {name}: {error}",
            "of LIF and I-LIF neurons per_channel: true gives each channel one (neuron_conf; of "
            "spiking_speech_mamba, encoder_conf)",
        ) from None
    thresholds = neuron.thresholds()
    assert thresholds is not None  # it has set them
    return {
        "neuron": name,
        "class": type(neuron).__name__,
        "lost": float(lost.mean()),
        "lost_most": float(lost.max()),
        "thresholds": [float(f"{float(v):.4g}") for v in thresholds],
    }


def _input(args: tuple) -> tuple[Tensor, Tensor | None]:
    """Return input and mask among the arguments of a neuron or norm."""
    return args[0], args[1] if len(args) > 1 else None


def running_order(model: Any, modules: Mapping[str, nn.Module], batches: list[Batch]) -> list[str]:
    """Return the names of modules of the encoder in the order of their first calls."""
    order: dict[str, None] = {}
    with watching(modules, lambda name, *_: order.setdefault(name)):
        for _ in each_forward(model, batches[:1]):
            pass
    return list(order)


def become_identity(norm: MaskedBatchNorm, calls: list[tuple]) -> None:
    """Let a batch norm hand on what it reads, in training as in evaluation.

    Args:
        norm: the norm.
        calls: its arguments ``(x, mask)``, ``x`` ``(B, N, ..., C)``.
    """
    rows = []
    for args in calls:
        x, mask = _input(args)
        valid = x if mask is None else x[mask]
        rows.append(valid.reshape(-1, x.shape[-1]))
    found = torch.cat(rows)
    variance, mean = torch.var_mean(found, 0, correction=0)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_((variance + norm.eps).sqrt())
    norm.bias.copy_(mean)


def table(rows: list[dict[str, Any]]) -> str:
    """Return a line for each neuron: what is lost of the twin's activations, and thresholds."""
    width = max((len(row["neuron"]) for row in rows), default=0)
    lines = [f"{'neuron':{width}}  {'lost':>6}  {'most':>6}  thresholds: least, median, largest"]
    for row in rows:
        ordered = sorted(row["thresholds"])
        found = ordered[0], ordered[len(ordered) // 2], ordered[-1]
        lines.append(
            f"{row['neuron']:{width}}  {row['lost']:6.1%}  {row['lost_most']:6.1%}  "
            + " ".join(f"{value:.4g}" for value in found)
        )
    return "\n".join(lines)
