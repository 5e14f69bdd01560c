"""ESPnet's trainer with a record of each epoch, from which training is judged and shown.

With ``use_amp`` it computes in ``amp_dtype``, on CPUs as well, where ESPnet's would say nothing and
take fp32. What stays in fp32: ``nn.ops.precision``.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib
import json
import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from espnet2.train.distributed_utils import DistributedOption
from espnet2.train.reporter import Reporter, SubReporter, aggregate
from espnet2.utils.types import str2bool

from espnet_spike.errors import UserError, did_you_mean
from espnet_spike.experiment import (
    CHECKPOINT,
    EPOCHS,
    PREVIOUS_CHECKPOINT,
    read_epochs,
    unhealthy_layers,
)
from espnet_spike.tasks import determinism, loaders, oom_scan
from espnet_spike.tasks.espnet import epochs_of
from espnet_spike.tasks.late_imports import late_imports
from espnet_spike.utils.checkpoints import load_tensors
from espnet_spike.utils.cli import ON_TERMINAL
from espnet_spike.utils.files import plural

with late_imports():
    from espnet2.schedulers.abs_scheduler import AbsValEpochStepScheduler
    from espnet2.train.trainer import Trainer, TrainerOptions

AMP_DTYPES = ("bfloat16", "float16")
# what ESPnet's model reports if it has CTC, or a decoder, or is asked to
SOMETIMES = ("acc", "cer", "wer", "cer_ctc", "loss_att", "loss_ctc")
PER_LAYER = ("firing_rate_", "threshold_spread_")  # statistics of single layers


@dataclasses.dataclass
class SpikeTrainerOptions(TrainerOptions):
    """ESPnet's options of a training, and ours.

    Attributes:
        amp_dtype: of ``use_amp``, one of ``AMP_DTYPES``; None for bfloat16 where the device has
            it, else float16.
        compile_encoder: run the encoder within ``torch.compile``.
    """

    amp_dtype: str | None = None
    compile_encoder: bool = False


class SpikeTrainer(Trainer):
    """``Trainer`` that appends one JSON line an epoch to ``<output_dir>/epochs.jsonl``.

    A line holds the mean of every statistic of the ``train`` and ``valid`` part, and what ESPnet
    does not tell: how many updates were applied out of how many steps, whether any trainable
    parameter changed, and, for the first epoch, the loss of its first batch in evaluation mode
    before and after the epoch (a deterministic sign of learning even if there is one epoch only).
    """

    _current: ClassVar[dict[str, Any]] = {}

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add the options that are ours."""
        parser.add_argument(
            "--amp_dtype",
            choices=AMP_DTYPES,
            help="precision of use_amp; by default bfloat16 where the device has it, else float16",
        )

        parser.add_argument(
            "--compile_encoder",
            type=str2bool,
            default=False,
            help="train the encoder within torch.compile; speech_mamba alone",
        )

    @classmethod
    def build_options(cls, args: argparse.Namespace) -> SpikeTrainerOptions:
        """Return the options of a training, see ``Trainer.build_options``."""
        options = vars(super().build_options(args))
        return SpikeTrainerOptions(
            **options,
            amp_dtype=getattr(args, "amp_dtype", None),
            compile_encoder=getattr(args, "compile_encoder", False),
        )

    @classmethod
    def run(cls, *, trainer_options: TrainerOptions, **kwargs: Any) -> None:
        """Train as ESPnet does, after the scan of the worst batches; draw the curves at the end.

        ESPnet draws the curves under ``images`` anew in every epoch. With a firing rate per layer
        that takes longer than an epoch on a small corpus; tensorboard shows them all meanwhile.
        """
        determinism.apply()
        draw, trainer_options.use_matplotlib = trainer_options.use_matplotlib, False
        distributed = kwargs["distributed_option"]
        options = vars(trainer_options)
        partial = options.get("use_adapter") and options.get("save_strategy", "all") != "all"
        epochs = contextlib.nullcontext() if partial else epochs_of(kwargs["model"])
        device = "cuda" if trainer_options.ngpu > 0 else "cpu"
        if options.get("compile_encoder"):
            kwargs["model"].encoder.compile()  # in place: names of parameters stay
        # of a training that goes on; another looks at its first batch
        if done := read_epochs(Path(trainer_options.output_dir)):
            criteria = _Criteria(trainer_options, kwargs["schedulers"])
            for phase in ("train", "valid"):
                criteria.check(phase, dict.fromkeys(done[-1].get(phase, {}), True))
        with mixed_precision(device, options.get("amp_dtype")):
            if oom_scan.wanted(trainer_options.ngpu):
                batches = kwargs["train_iter_factory"]
                several = distributed.distributed
                oom_scan.scan(kwargs["model"], batches, trainer_options.use_amp, several)
            with loaders.explained(), epochs:
                super().run(trainer_options=trainer_options, **kwargs)
        if draw and (not distributed.distributed or distributed.dist_rank == 0):
            _draw_curves(Path(trainer_options.output_dir))

    @staticmethod
    def resume(checkpoint: Path | str, *args: Any, **kwargs: Any) -> None:
        """Go on from a checkpoint as ESPnet does; see `Trainer.resume`.

        A learning rate schedule that is longer now than when the checkpoint was written goes on
        as the longer one; ESPnet would put back the shorter, which ends the training.

        Raises:
            UserError: it is that of another training.
        """
        schedulers = kwargs["schedulers"] if "schedulers" in kwargs else args[3]
        wanted = [_length(scheduler) for scheduler in schedulers]
        try:
            Trainer.resume(checkpoint, *args, **kwargs)
            for scheduler, length in zip(schedulers, wanted, strict=True):
                if length is not None and scheduler.total_steps != length["total_steps"]:
                    _lengthen(scheduler, length)
        except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
            message = " ".join(str(error).split())
            raise UserError(
                f"{checkpoint} is not of this training: {type(error).__name__}: {message[:400]}",
                "put back the one that this training wrote, or train under another --asr_tag",
            ) from error

    @classmethod
    def train_one_epoch(
        cls,
        model: torch.nn.Module,
        iterator: Iterable[tuple[list[str], dict[str, torch.Tensor]]],
        optimizers: list[torch.optim.Optimizer],
        schedulers: list[Any],
        scaler: Any,
        reporter: SubReporter,
        summary_writer: Any,
        options: TrainerOptions,
        distributed_option: DistributedOption,
    ) -> bool:
        """Train one epoch as ESPnet does and keep its record; see `Trainer.train_one_epoch`."""
        start = time.time()
        first = reporter.get_epoch() == 1
        criteria = _Criteria(options, schedulers)
        probe = _Probe(iterator, model, active=first, look=criteria.check_valid)
        before = _fingerprint(model)
        all_invalid = super().train_one_epoch(
            model=model,
            iterator=_Checked(probe) if options.ngpu > 0 else probe,
            optimizers=optimizers,
            schedulers=schedulers,
            scaler=scaler,
            reporter=reporter,
            summary_writer=summary_writer,
            options=options,
            distributed_option=distributed_option,
        )
        if first:
            criteria.check("train", reporter.stats)
        applied = sum(math.isfinite(v.value) for v in reporter.stats.get("grad_norm", []))
        cls._current = {
            "epoch": reporter.get_epoch(),
            "max_epoch": options.max_epoch,
            "start": start,
            "batches": reporter.count,
            "steps": reporter.count // options.accum_grad,
            "applied": applied,
            "parameters_moved": _fingerprint(model) != before,
            "probe_loss": [probe.loss_before, probe.loss_now()],
            "highest_rate": max(
                (v.value for v in reporter.stats.get("optim0_lr0", [])), default=None
            ),
            "train": _means(reporter),
        }
        return all_invalid

    @classmethod
    def validate_one_epoch(
        cls,
        model: torch.nn.Module,
        iterator: Iterable[dict[str, torch.Tensor]],
        reporter: SubReporter,
        options: TrainerOptions,
        distributed_option: DistributedOption,
    ) -> None:
        """Validate as ESPnet does, then write the record of the epoch.

        The last whole checkpoint is set aside first: ESPnet is about to write the new one in
        place, and a kill in that moment would leave neither.
        """
        super().validate_one_epoch(
            model=model,
            iterator=_Checked(iterator) if options.ngpu > 0 else iterator,
            reporter=reporter,
            options=options,
            distributed_option=distributed_option,
        )
        if distributed_option.distributed and distributed_option.dist_rank != 0:
            return
        output_dir = Path(options.output_dir)
        now = time.time()
        record = cls._current | {"valid": _means(reporter), "end": now}
        record["seconds"] = now - record["start"]
        with open(output_dir / EPOCHS, "a", encoding="utf-8") as f:
            f.write(json.dumps(record) + "\n")
        if odd := unhealthy_layers(record["valid"]):
            logging.warning("epoch %d: %s", record["epoch"], odd)
        if (output_dir / CHECKPOINT).exists():
            os.replace(output_dir / CHECKPOINT, output_dir / PREVIOUS_CHECKPOINT)


@contextlib.contextmanager
def mixed_precision(device: str, dtype: str | None) -> Iterator[None]:
    """Let ``use_amp`` of ESPnet's trainer mean a device and a precision, within the context.

    Args:
        device: ``cuda``, or ``cpu``, which ESPnet's trainer computes on in fp32 whatever is asked.
        dtype: one of ``AMP_DTYPES``; None for bfloat16 on a CPU, and ESPnet's choice on a GPU.
    """
    module = importlib.import_module("espnet2.train.trainer")
    changes: dict[str, Any] = {}
    if dtype is not None:
        changes["autocast_args"] = {"dtype": getattr(torch, dtype)}
    if device == "cpu":
        changes.setdefault("autocast_args", {"dtype": torch.bfloat16})
        changes["autocast"] = lambda _, **conf: torch.autocast("cpu", **conf)
        # bfloat16 reaches as far as fp32: there is no loss to scale
        changes["GradScaler"] = functools.partial(torch.amp.GradScaler, "cpu", enabled=False)
    before = {name: vars(module)[name] for name in changes}
    vars(module).update(changes)
    try:
        yield
    finally:
        vars(module).update(before)


def _length(scheduler: Any) -> dict[str, Any] | None:
    """Return what a scheduler's state says of its length; None of one that has none."""
    if not isinstance(scheduler, torch.optim.lr_scheduler.OneCycleLR):
        return None
    return {key: scheduler.state_dict()[key] for key in ("total_steps", "_schedule_phases")}


def _lengthen(scheduler: torch.optim.lr_scheduler.OneCycleLR, length: dict[str, Any]) -> None:
    """Let a cycle go on as one of another length at the step that it has come to, and say so."""
    before, old = scheduler.total_steps, scheduler.get_last_lr()[0]
    vars(scheduler).update(length)
    with warnings.catch_warnings():  # that the rates are asked for beside a step
        warnings.simplefilter("ignore", UserWarning)
        rates = [float(rate) for rate in scheduler.get_lr()]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = [*rates]
    logging.warning(
        "the schedule has %s in place of %d: after %d of them it goes on as one of that "
        "length, and the learning rate is %.3g, not %.3g",
        *(plural(length["total_steps"], "update"), before, scheduler.last_epoch, rates[0], old),
        extra={ON_TERMINAL: True},
    )


class _Checked:
    """Hand on the batches of an iterator; look at them before they go to a GPU."""

    def __init__(self, iterator: Iterable[Any]) -> None:
        self.iterator = iterator

    def __len__(self) -> int:
        # lists read in parts come without a length: ESPnet expects the TypeError of len
        iterator: Any = self.iterator
        return len(iterator)

    def __iter__(self) -> Iterator[Any]:
        for utt_ids, batch in self.iterator:
            if "speech" in batch:
                loaders.check_finite(batch["speech"], utt_ids)
            yield utt_ids, batch


class _Probe:
    """Hand on the batches of an iterator; remember the first and its loss in evaluation mode.

    Args:
        iterator: gives names and tensors of each batch.
        model: is run on the first.
        active: whether to do so at all.
        look: is given the statistics of that run, before the model is trained on anything.
    """

    def __init__(
        self,
        iterator: Iterable[Any],
        model: torch.nn.Module,
        active: bool,
        look: Callable[[Mapping[str, Any]], None] = lambda stats: None,
    ) -> None:
        self.iterator = iterator
        self.active = active
        self.look = look
        self.model = getattr(model, "module", model)
        self.batch: dict[str, Any] | None = None
        self.loss_before: float | None = None

    def __len__(self) -> int:
        # lists read in parts come without a length: ESPnet expects the TypeError of len
        iterator: Any = self.iterator
        return len(iterator)

    def __iter__(self) -> Iterator[Any]:
        for utt_ids, batch in self.iterator:
            if self.active and self.batch is None:
                # a copy: the model writes ignore_id into the text it is given
                self.batch = {k: v.clone() for k, v in batch.items()} | {"utt_id": utt_ids}
                self.loss_before, stats = self._evaluate()
                self.look(stats)
            yield utt_ids, batch

    def loss_now(self) -> float | None:
        return self._evaluate()[0]

    def _evaluate(self) -> tuple[float | None, Mapping[str, Any]]:
        if self.batch is None:
            return None, {}
        device = next(self.model.parameters()).device
        training = self.model.training
        self.model.eval()
        batch = {
            k: v.to(device, copy=True) if isinstance(v, torch.Tensor) else v
            for k, v in self.batch.items()
        }
        with torch.no_grad():
            retval = self.model(**batch)
        self.model.train(training)
        loss, stats = (retval["loss"], retval["stats"]) if isinstance(retval, dict) else retval[:2]
        value = float(loss.mean())
        return value if math.isfinite(value) else None, stats


class _Criteria:
    """What the epochs of a training are judged by: the statistics that its options name.

    ESPnet passes over one of ``best_model_criterion`` that no model reports, keeps the models of no
    epoch but the last, and has none to decode with in the end; any other ends the training after
    its first epoch, with a KeyError.
    """

    def __init__(self, options: TrainerOptions, schedulers: Iterable[Any]) -> None:
        self.best = [(phase, key) for phase, key, *_ in options.best_model_criterion]
        self.others: dict[str, tuple[str, str]] = {}
        if options.patience is not None:
            phase, key, *_ = options.early_stopping_criterion
            self.others["early_stopping_criterion"] = phase, key
        if any(isinstance(scheduler, AbsValEpochStepScheduler) for scheduler in schedulers):
            phase, key = options.val_scheduler_criterion
            self.others["val_scheduler_criterion"] = phase, key

    def check_valid(self, stats: Mapping[str, Any]) -> None:
        """Check those of ``valid`` against what a run in evaluation mode has reported."""
        self.check("valid", stats)

    def check(self, phase: str, stats: Mapping[str, Any]) -> None:
        """Check those of a phase.

        Raises:
            UserError: no such statistic is reported.
        """
        reported = [key for key, value in stats.items() if value is not None]
        best = [key for of, key in self.best if of == phase]
        # one alone has to be there; of several, those that the model may do without may be absent
        alone = len(self.best) == len(best) and not set(best) & set(reported)
        wanted = [("best_model_criterion", key) for key in best if alone or key not in SOMETIMES]
        wanted += [(option, key) for option, (of, key) in self.others.items() if of == phase]
        for option, key in wanted:
            if key not in reported:
                known = [name for name in reported if not name.startswith(PER_LAYER)]
                raise UserError(
                    f"{option}: {phase} {key}: not reported{did_you_mean(key, reported)}",
                    f"name one of {', '.join(known) or 'none, as the model reports nothing'}",
                )


def _draw_curves(exp_dir: Path) -> None:
    """Draw every statistic of the training but those of single layers."""
    states = load_tensors(exp_dir / CHECKPOINT)
    reporter = Reporter()
    reporter.load_state_dict(states["reporter"])
    for phases in reporter.stats.values():
        for stats in phases.values():
            for key in [key for key in stats if key.startswith(PER_LAYER)]:
                del stats[key]
    reporter.matplotlib_plot(exp_dir / "images")


def _fingerprint(model: torch.nn.Module) -> list[float]:
    """Return sums that change when a trainable parameter does; no copy of the model is kept."""
    with torch.no_grad():
        sums = [
            part
            for p in model.parameters()
            if p.requires_grad
            for part in (p.double().sum(), p.double().square().sum())
        ]
        return torch.stack(sums).tolist() if sums else []


def _means(reporter: SubReporter) -> dict[str, float | None]:
    """Aggregate the statistics of a phase as ESPnet's reporter will; non-finite is None."""
    found: dict[str, Any] = {key: aggregate(values) for key, values in reporter.stats.items()}
    means = {key: float(mean) for key, mean in found.items()}
    return {key: mean if math.isfinite(mean) else None for key, mean in means.items()}
