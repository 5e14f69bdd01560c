"""The sparsify stage: choose thresholds for a trained model, then fine-tune it with them.

A training YAML asks for it by a part ``sparsify`` of ``spike_meta``::

    spike_meta:
      sparsify:
        order: network              # keys of espnet_spike.training.calibration.Calibration
        base: running
        loss_factor: 1.001
        utterances: 200
        finetune:                   # keys of ESPnet, over those of the YAML
          max_epoch: 20
          optim_conf: {lr: 0.0002}
          encoder_conf: {lambda_act: 0.001, lambda_T: 0.000001}

The result is an experiment folder like that of a training: ``calibration/`` holds the search, its
log and ``init.pth``; ``finetune.yaml`` is what the fine-tuning was given.
"""

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from espnet_spike import ranges
from espnet_spike.data.feature_extractor import check_same_features, hand_on
from espnet_spike.errors import UserError
from espnet_spike.experiment import best_checkpoint, keep_files, read_config
from espnet_spike.tasks.config import META, merge
from espnet_spike.tasks.loading import build
from espnet_spike.training.asr import Features
from espnet_spike.training.calibration import Calibration, Calibrator, starting_thresholds
from espnet_spike.training.passes import choose_utterances, load_batches, task_loss
from espnet_spike.training.request import TrainingRequest, with_config
from espnet_spike.training.thresholds import finetuning_state, naive_thresholds
from espnet_spike.training.train import train
from espnet_spike.utils import files, yaml
from espnet_spike.utils.checkpoints import is_whole, load_tensors
from espnet_spike.utils.files import present
from espnet_spike.utils.shapes import read_state

# any positive value: the calibrated thresholds take its place
LEARNT = 0.05

_logger = logging.getLogger(__name__)


def read_part(path: Path, meta: Mapping[str, Any]) -> tuple[Calibration, dict[str, Any]] | None:
    """Return how to calibrate, and what fine-tuning changes.

    Args:
        path: the YAML, for messages.
        meta: its ``spike_meta``.

    Returns:
        None if there is no part ``sparsify``.

    Raises:
        UserError: an unknown key or impossible value in it.
    """
    part = meta.get("sparsify")
    if part is None:
        return None
    ranges.check(ranges.SPARSIFY, part, f"{path}: {META}.sparsify")
    part = dict(part)
    changes = part.pop("finetune", {})
    if "scan_batches" in meta:  # asked for once, for both trainings
        changes = {META: {"scan_batches": meta["scan_batches"]}, **changes}
    try:
        return Calibration(**part), dict(changes)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {error}") from None


def sparsify(
    request: TrainingRequest[Features], asr_exp: Path, steps: Sequence[str]
) -> Path | None:
    """Run the stage.

    Args:
        request: of a training in the folder of the sparse model, with the YAML of the dense one.
        asr_exp: the trained experiment.
        steps: some of ``calibrate`` and ``finetune``.

    Returns:
        the model file to decode with; None if the YAML does not ask for the stage.

    Raises:
        UserError: bad input, or fine-tuning that learnt nothing.
    """
    part = read_part(request.path, request.meta)
    if part is None:
        return None
    conf, changes = part
    init = request.exp_dir / "calibration" / "init.pth"
    if "calibrate" in steps:
        calibrate(asr_exp, request.data.train_dir, conf, init)
    if "finetune" not in steps:
        return init
    if not present(init):
        raise UserError(f"no thresholds yet: {init} is missing", "run the step calibrate first")
    finetune = request.exp_dir / "finetune.yaml"
    learnt = finetuning_changes(request.config, init, changes)
    yaml.write_config(finetune, merge(request.config, learnt))
    return train(with_config(request, finetune))


def finetuning_changes(
    config: Mapping[str, Any], init: Path, changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the fine-tuning configuration has over that of stage one.

    Args:
        config: of stage one.
        init: the parameters to start from, with thresholds.
        changes: what the user changes.
    """
    learnt = {"init_param": [str(init)], "encoder_conf": {"fat_threshold": LEARNT}}
    if config.get("decoder_conf", {}).get("fat_points", "none") not in ("none", []):
        learnt["decoder_conf"] = {"fat_threshold": LEARNT}
    return merge(learnt, changes)


def calibrate(asr_exp: Path, train_dir: Path, conf: Calibration, init: Path) -> None:
    """Choose thresholds for the model of ``asr_exp`` on its training data and write ``init``.

    A finished calibration of the same model, data and settings is kept.

    Raises:
        UserError: no trained model, or one without plain ReLU points.
    """
    check_same_features(asr_exp, [train_dir])
    args, model_file = _experiment(asr_exp)
    utterances = choose_utterances(asr_exp, conf.utterances, conf.seed)
    key = files.digest(
        json.dumps([files.digest(model_file.read_bytes()), conf.identity(), utterances]).encode()
    )
    init.parent.mkdir(parents=True, exist_ok=True)
    record = init.with_suffix(".json")
    if _calibrated(record) == key and is_whole(init):
        _logger.info("already calibrated: %s", init)
        return
    model = build(args, model_file)
    batches = load_batches(args, train_dir, utterances)
    calibrator = Calibrator(model, lambda: batches, conf, init.parent, key)
    thresholds = calibrator.run()
    stage_one = load_tensors(model_file)
    state = calibrator.state
    with files.replacing_bytes(init) as file:
        torch.save(finetuning_state(stage_one, starting_thresholds(state)), file)
    kept = ("key", "thresholds", "unraised", "final_ratio", "sparsity", "base_loss")
    report = {k: state[k] for k in kept}
    files.write_json(record, report | {"model": str(model_file)}, sort_keys=True)
    _logger.info("thresholds of %s: %s", files.plural(len(thresholds), "point"), record)


@dataclass(frozen=True)
class Calibrated:
    """What ``init.json`` beside the calibrated parameters has to hold."""

    key: str


def _calibrated(record: Path) -> str:
    """Return the key of a finished calibration, empty if there is none."""
    try:
        return read_state(record, Calibrated).key
    except UserError:
        return ""


def sparsify_naively(
    asr_exp: Path, train_dir: Path, output_dir: Path, sparsity: float, utterances: int, seed: int
) -> Path:
    """Give a dense SpeechMamba magnitude thresholds of a mean sparsity, without any training.

    The baseline in the table of Ahmed et al. (2026); the percentile rule is our choice. Writes an
    experiment folder to decode from; ``naive.json`` there holds the thresholds.

    Args:
        asr_exp: the trained experiment.
        train_dir: features it was trained on.
        output_dir: the new experiment.
        sparsity: mean share of zeros over the points F1 to F8, in (0, 1).
        utterances: how many it is measured on.
        seed: of their choice.

    Returns:
        the model file.

    Raises:
        UserError: the model is not a dense SpeechMamba, or the sparsity cannot be reached.
    """
    if not 0 < sparsity < 1 or utterances < 1:
        raise UserError(f"sparsity {sparsity} of {utterances} utterances", "0 < sparsity < 1")
    check_same_features(asr_exp, [train_dir])
    args, model_file = _experiment(asr_exp)
    if args.encoder != "speech_mamba":
        raise UserError(
            f"{asr_exp} has encoder {args.encoder}", "only speech_mamba can be made sparse naively"
        )
    if (args.decoder_conf or {}).get("fat_points", "none") not in ("none", []):
        raise UserError(
            f"{asr_exp}: its decoder has FATReLU points",
            "only a dense model is made sparse naively",
        )
    args.encoder = "event_speech_mamba"
    points = [f"F{number}" for number in range(1, 9)]
    args.encoder_conf |= {"fat_points": points, "fat_two_sided": points, "fat_learn": False}
    chosen = choose_utterances(asr_exp, utterances, seed)
    batches = load_batches(args, train_dir, chosen)
    model = build(args, model_file, strict=False)
    dense_loss = task_loss(model, batches)
    thresholds, reached = naive_thresholds(model, lambda: batches, sparsity)
    output_dir.mkdir(parents=True, exist_ok=True)
    best = output_dir / model_file.name
    with files.replacing_bytes(best) as file:
        torch.save(model.state_dict(), file)
    record = {
        "model": str(model_file),
        "sparsity": reached,
        "loss_ratio": task_loss(model, batches) / dense_loss,
        "utterances": len(chosen),
        "thresholds": thresholds,
    }
    files.write_json(output_dir / "naive.json", record, sort_keys=True)
    hand_on(asr_exp, output_dir)
    keep_files(output_dir, vars(args))
    yaml.write_config(output_dir / "config.yaml", vars(args))
    return best


def _experiment(asr_exp: Path) -> tuple[argparse.Namespace, Path]:
    model_file = best_checkpoint(asr_exp)
    return argparse.Namespace(**read_config(asr_exp)), model_file
