"""The dense twin of an encoder: the same size without spikes or thresholds, and what it costs.

Two baselines: the twin with nothing skipped, which needs no training, and a twin that was trained,
whose ReLUs leave zeros that an accelerator skips as well.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from espnet_spike.counting.costs import Costs
from espnet_spike.counting.counter import Counter
from espnet_spike.counting.forms import encoder_costs
from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.errors import UserError
from espnet_spike.experiment import init_file, recorded_name
from espnet_spike.nn.neurons.base import named_neurons
from espnet_spike.tasks.config import TWIN
from espnet_spike.tasks.loading import load_model
from espnet_spike.utils.files import present, read_json


def find_twin(
    encoder: type, conf: Mapping[str, Any]
) -> tuple[Callable[..., nn.Module], dict[str, Any]] | None:
    """Return class and options of the twin of an encoder; None for one that is its own twin.

    The encoder's class says it: a method ``twin`` as that of ``BlockEncoder``. One that has none is
    taken for dense.

    Args:
        encoder: the class, ours, ESPnet's or a plugin's.
        conf: its options.
    """
    ask = getattr(encoder, "twin", None)
    return None if ask is None else ask(conf)


def encoder_input_size(model: Any, input_size: int | None) -> int:
    """Return the dimension of what the encoder of an ``ESPnetASRModel`` gets.

    Args:
        model: with its front end, if it has one.
        input_size: feature dimension; None of a model that takes audio.
    """
    for part in (model.preencoder, model.frontend):
        if part is not None:
            return part.output_size()
    if input_size is None:
        raise ValueError("neither features nor a front end")
    return input_size


class Twin:
    """Counts the dense twin of an encoder, by the number of input frames.

    Its dense counts depend on the length alone, so it runs without weights on the meta device.

    Args:
        encoder: name of the encoder.
        conf: its options.
        input_size: dimension of what the encoder gets, see `encoder_input_size`.
    """

    def __init__(self, encoder: str, conf: Mapping[str, Any], input_size: int) -> None:
        from espnet_spike.tasks.asr import SpikeASRTask

        choices = {c.name: c for c in SpikeASRTask.class_choices_list}["encoder"]
        cls: Any = choices.get_class(encoder)
        found = find_twin(cls, conf)
        self.encoder: nn.Module | None = None
        self._known: dict[int, Costs] = {}
        self.input_size = input_size
        if found is None:
            return
        dense, options = found
        with torch.device("meta"):
            self.encoder = dense(input_size=input_size, **options).eval()

    def costs(self, frames: int) -> Costs | None:
        """Return what ``frames`` frames cost; None for an encoder that is its own twin."""
        if self.encoder is None:
            return None
        if frames not in self._known:
            x = torch.zeros(1, frames, self.input_size, device="meta")
            with torch.inference_mode(), Counter(self.encoder, "encoder", dense=True) as counter:
                self.encoder(x, torch.full((1,), frames, device="meta"))
            self._known[frames] = dict(counter.costs)
        return self._known[frames]


def trained_twin_of(asr_exp: Path) -> Path | None:
    """Return the experiment of the twin that a training started from; None where there is none.

    It is the one of its name, else the one that its conversion is recorded to be of.
    """
    found = [asr_exp.with_name(f"{asr_exp.name}_{TWIN}")]
    record = init_file(asr_exp).with_suffix(".json")
    if present(record):
        with contextlib.suppress(UserError):  # a damaged one names nothing
            found.append(Path(str(read_json(record).get("twin"))).parent)
    return next((twin for twin in found if present(twin / "config.yaml")), None)


class TrainedTwin:
    """Counts a dense twin that was trained, on the utterances themselves, zeros skipped.

    Args:
        asr_exp: its experiment.
        twin: what it has to be of the same size as.

    Raises:
        UserError: it cannot be loaded, spikes itself, or is no twin.
    """

    def __init__(self, asr_exp: Path, twin: Twin) -> None:
        self.asr_exp = asr_exp
        trained = load_model(asr_exp)
        self.model = trained.model
        self.checkpoint = recorded_name(asr_exp, trained.checkpoint)
        cure = "give the experiment of the same encoder trained with ReLUs, or without spikes"
        if twin.encoder is None:
            raise UserError(
                f"--twin_exp {asr_exp}: the encoder is its own twin; its zeros are skipped anyway",
                "leave --twin_exp out",
            )
        if named_neurons(self.model.encoder):
            raise UserError(f"--twin_exp {asr_exp}: its encoder spikes", cure)
        wanted, found = (
            {name: tuple(x.shape) for name, x in encoder.named_parameters()}
            for encoder in (twin.encoder, self.model.encoder)
        )
        if wanted != found:
            names = sorted(wanted.items() ^ found.items())
            raise UserError(
                f"--twin_exp {asr_exp}: no twin of this encoder: {names[0][0]} is "
                f"{found.get(names[0][0], 'absent')}, not {wanted.get(names[0][0], 'there')}",
                cure,
            )

    def over(self, data: FeatureDir, utts: Iterable[str]) -> Iterator[tuple[str, Costs]]:
        """Return what each of some utterances of a set costs, one after the other."""
        return encoder_costs(self.model, data, utts)
