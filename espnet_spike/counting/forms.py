"""The forms in which a trained spiking encoder can run, and what each costs.

``integer`` hands on spike counts, which training and the usual count have; ``binary`` hands on
slots of 0 and 1, the form that ``prove_spikes`` proves equal. Either with Q and K of attention
apart, whose product is one of real values, or merged (``fold_qk``), where the map is made of spikes
alone.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from espnet_spike.counting.costs import Costs
from espnet_spike.counting.counter import Counter
from espnet_spike.data.ark import ArkReader
from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.encoders.spike_options import SpikeOptions
from espnet_spike.errors import UserError
from espnet_spike.nn.neurons.base import SPIKE_MODES, named_neurons, set_spike_mode
from espnet_spike.tasks.loading import load_model


@dataclass(frozen=True)
class Form:
    """One form.

    Attributes:
        spike_mode: ``integer`` or ``binary``.
        fold_qk: W_Q and W_K are merged.
    """

    spike_mode: str
    fold_qk: bool


def forms_of(encoder: Any) -> list[Form]:
    """Return the forms that an encoder has, that of its training first.

    Raises:
        UserError: it does not spike.
    """
    neurons = named_neurons(encoder).values()
    if not neurons:
        raise UserError(
            f"--forms: {type(encoder).__name__} does not spike", "leave --forms out for it"
        )
    modes = [mode for mode in SPIKE_MODES if all(mode in n.spike_modes for n in neurons)]
    folds = (False, True) if hasattr(encoder, "reparameterize") else (False,)
    return [Form(mode, fold) for fold in folds for mode in modes]


def load_form(asr_exp: Path, checkpoint: str, execution: SpikeOptions, form: Form) -> Any:
    """Return a trained model in a form; arguments as of ``counting.count.count_sets``."""
    model = load_model(asr_exp, checkpoint).model
    encoder = model.encoder
    replace(execution, spike_mode=None).apply(encoder)
    if hasattr(encoder, "reparameterize") and (form.fold_qk or form.spike_mode == "binary"):
        encoder.reparameterize(fold_qk=form.fold_qk)
    set_spike_mode(encoder, form.spike_mode)  # the encoder's own would merge W_Q and W_K
    return model


def encoder_costs(model: Any, data: FeatureDir, utts: Iterable[str]) -> Iterator[tuple[str, Costs]]:
    """Yield what encoding each of some utterances of a set costs.

    Args:
        model: an ESPnet ASR model in evaluation.
        data: the features.
        utts: which are long enough.
    """
    with torch.inference_mode(), ArkReader() as reader, Counter(model) as counter:
        for utt in utts:
            speech = torch.from_numpy(reader.read(utt, data.feats[utt]).copy())[None].float()
            counter.reset()
            model.encode(speech, torch.tensor([speech.shape[1]]))
            yield utt, dict(counter.costs)
