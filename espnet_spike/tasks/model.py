"""The hybrid CTC/attention model of ESPnet, plus what spiking and sparse parts have to tell."""

import inspect
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from espnet_spike.data.noises import RecordedNoise
from espnet_spike.encoders.monitor import captured
from espnet_spike.errors import UserError
from espnet_spike.experiment import best_checkpoint, read_config
from espnet_spike.nn.augmentation import Augmentation
from espnet_spike.nn.layers.fatrelu import mean_sparsity, sparsities
from espnet_spike.nn.neurons.base import firing_rates, threshold_spreads
from espnet_spike.nn.ops import backends
from espnet_spike.nn.ops.precision import at_least_fp32
from espnet_spike.tasks.late_imports import late_imports
from espnet_spike.tasks.loaders import check_finite
from espnet_spike.tasks.output_length import is_too_short
from espnet_spike.utils.checkpoints import load_tensors
from espnet_spike.utils.cli import quiet
from espnet_spike.utils.files import plural

with late_imports():
    from espnet2.asr.espnet_model import ESPnetASRModel
    from espnet2.asr.specaug.abs_specaug import AbsSpecAug
    from espnet2.layers.abs_normalize import AbsNormalize
    from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError


class SpikeASRModel(ESPnetASRModel):
    """``ESPnetASRModel`` that logs firing rates and adds auxiliary losses of encoder and decoder.

    Chosen by ``model: spike_asr`` (the default of ``SpikeASRTask``); takes the arguments of
    ``ESPnetASRModel``, ``specaug_after_normalize``, ``augment`` and ``distill``. Any encoder and
    decoder works: one without spiking neurons and FATReLUs only adds nothing.

    Added to the statistics, and so to log, plots and tensorboard:

    * ``firing_rate_<layer>``: spikes per neuron, frame and level, padding excluded, in [0, 1];
    * ``firing_rate``: their mean over layers;
    * ``threshold_spread_<layer>``, in validation: how much a threshold follows its input, as the
      coefficient of variation over valid frames; ``threshold_spread``: their mean;
    * ``sparsity_<point>``: share of exact zeros behind a FATReLU, padding excluded, in [0, 1];
    * ``sparsity``: their mean over points; ``sparsity_macs``: weighted by the operations saved;
    * ``loss_<name>``: each auxiliary loss, see ``auxiliary_losses``.

    Those are the encoder's; of the decoder, layers are ``<statistic>_decoder.<layer>``, means and
    losses ``decoder_<statistic>``, ``loss_decoder_<name>``.
    """

    def __init__(
        self,
        *args: Any,
        specaug: AbsSpecAug | None = None,
        normalize: AbsNormalize | None = None,
        specaug_after_normalize: bool = False,
        augment: dict[str, Any] | None = None,
        distill: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Take ``ESPnetASRModel``'s arguments.

        Args:
            specaug_after_normalize: mask normalised features, so that the zeros of a mask are the
                mean. ESPnet masks first: its zeros are far below the mean of log-mel features in
                Kaldi's scale, and shift an utterance's mean. Ours; ESPnet's order by default.
            augment: in training, what else happens to features, always before normalisation and
                masks: the arguments of `Augmentation`. Nothing by default.
            distill: arguments of ``Teacher``, whose loss training adds as ``loss_distill``;
                ``spike_meta.distill`` sets it.

        Raises:
            UserError: a value of ``augment`` is out of range.
        """
        if specaug_after_normalize and specaug is not None and normalize is not None:
            specaug, normalize = None, NormalizeThenMask(normalize, specaug)
        if augment is not None:
            specaug = AugmentThenMask(Augmentation(**augment, recordings=_recordings), specaug)
        super().__init__(*args, specaug=specaug, normalize=normalize, **kwargs)
        if self.ctc is not None:
            # its softmax and sums over paths are fp32 under autocast, on CPUs as on GPUs
            self.ctc.ctc_lo.register_forward_hook(_in_fp32)
        self.teacher = None if distill is None else Teacher(**distill)

    @property
    def fastest(self) -> float:
        """How many times shorter augmentation may make an utterance, 1 without."""
        specaug = self.specaug
        return specaug.augmentation.fastest if isinstance(specaug, AugmentThenMask) else 1.0

    def encode(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """Encode; see ``ESPnetASRModel.encode``.

        Raises:
            UserError: a waveform, where the model has no front end and takes features: its samples
                would count as frames, and take gigabytes.
        """
        if self.frontend is None and speech.dim() < 3:
            raise UserError(
                f"a waveform of {plural(speech.shape[-1], 'sample')}, where the model takes "
                "features (B, T, D)",
                "espnet_spike.load_model(MODEL).transcribe(wave, fs) takes it, or a file; "
                "espnet_spike.FeatureExtractor makes features of samples",
            )
        return super().encode(speech, speech_lengths, *args, **kwargs)

    def _extract_feats(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the front end, if there is one; audio too short for it is as it is for encoders."""
        try:
            return super()._extract_feats(speech, speech_lengths)
        except RuntimeError as error:
            if self.frontend is None or not is_too_short(error):
                raise
            samples = speech.shape[1]
            raise TooShortUttError(
                f"{plural(samples, 'sample')}: too few for the front end: {error}",
                samples,
                samples + 1,
            ) from error

    def _calc_ctc_loss(
        self,
        encoder_out: torch.Tensor,
        encoder_out_lens: torch.Tensor,
        ys_pad: torch.Tensor,
        ys_pad_lens: torch.Tensor,
    ) -> tuple[torch.Tensor, Any]:
        """Return the CTC loss and, in validation, the CER of greedy search on valid frames.

        ESPnet searches the padding of a batch too: what an encoder puts out there is taken for
        speech, and chooses the best model.
        """
        ctc: Any = self.ctc  # there is one where ESPnet asks
        loss = ctc(encoder_out, encoder_out_lens, ys_pad, ys_pad_lens)
        errors: Any = self.error_calculator
        if self.training or errors is None:
            return loss, None
        best = ctc.argmax(encoder_out).cpu()
        padding = torch.arange(best.shape[1]) >= encoder_out_lens.cpu()[:, None]
        best = best.masked_fill(padding, self.blank_id)
        return loss, errors(best, ys_pad.cpu(), is_ctc=True)

    def task_loss(self, **batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Return what ``forward`` does, without auxiliary losses and what they are made of."""
        return super().forward(**batch)

    def forward(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        text: torch.Tensor,
        text_lengths: torch.Tensor,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Compute the training loss.

        Args:
            speech: features (B, T, D); where there is a front end, samples (B, N).
            speech_lengths: frames, or samples, of each utterance (B,).
            text: token ids (B, L), padded with -1.
            text_lengths: tokens of each utterance (B,).
            **kwargs: ``utt_id``, the names of the B utterances.

        Returns:
            the loss, the statistics (1-dim tensors) and the weight of the batch (its size).

        Raises:
            UserError: a feature of some utterance is NaN or infinite; names the utterance.
        """
        if not backends.on_gpu(speech):  # there the trainer has looked before the transfer
            check_finite(speech, kwargs.get("utt_id"))
        encoder: Any = self.encoder
        taught = self.teacher is not None and self.training
        with captured({"encoder": encoder} if taught else {}, _whole_call) as calls:
            loss, stats, weight = super().forward(
                speech, speech_lengths, text, text_lengths, **kwargs
            )
        auxiliary = auxiliary_losses(self)
        if self.teacher is not None and taught:
            auxiliary["distill"] = self.teacher.loss(self.ctc, *calls["encoder"])
        for name, value in auxiliary.items():
            loss = loss + value
            stats[f"loss_{name}"] = value.detach().reshape(1)
        if auxiliary:
            stats["loss"] = loss.detach()
        for prefix, part in (("", self.encoder), ("decoder", self.decoder)):
            if part is not None:
                stats |= activity(part, spreads=not self.training, prefix=prefix)
        return loss, stats, weight


def _in_fp32(module: nn.Module, args: tuple, logits: torch.Tensor) -> torch.Tensor:
    return at_least_fp32(logits)


def _whole_call(name: str, module: nn.Module, args: tuple, out: Any) -> tuple:
    return args, out


class Teacher:
    """A trained model whose CTC posteriors another learns from; no part of that one.

    Hinton et al. (2015, arXiv 1503.02531): the cross entropy with the teacher's softmax at a
    temperature, times its square; here less the teacher's own entropy (a divergence, 0 for equal
    posteriors), summed over valid frames, a mean over utterances, as ESPnet's CTC loss is. Teacher
    and pupil see the same features, masked alike. Posteriors of CTC are peaks, whose places two
    trainings choose differently (Kurata and Audhkhasi, 2018); a pupil that starts from its teacher
    has its places.

    Args:
        exp: the experiment.
        weight: of the loss.
        temperature: of both softmaxes.
    """

    def __init__(self, exp: str, weight: float = 1.0, temperature: float = 1.0) -> None:
        self.exp = exp
        self.weight = weight
        self.temperature = temperature
        self.compared = False
        self.model: Any = None  # loaded when training asks, so that decoding does without it

    def _loaded(self, device: torch.device) -> Any:
        if self.model is None:
            from espnet_spike.tasks.espnet import ASRTask

            exp = Path(self.exp)
            with quiet():
                model: Any = ASRTask.build_model(Namespace(**read_config(exp)))
            model.load_state_dict(load_tensors(best_checkpoint(exp)))
            self.model = model.to(device).eval().requires_grad_(False)
        return self.model

    def loss(self, ctc: Any, inputs: tuple, outputs: tuple) -> torch.Tensor:
        """Return the weighted divergence, 0-dim.

        Args:
            ctc: of the model that learns.
            inputs: of its encoder: features ``(B, T, D)`` and lengths ``(B,)``.
            outputs: of its encoder.

        Raises:
            UserError: the teacher makes another number of frames.
        """
        xs, olens = _frames(outputs)
        teacher = self._loaded(xs.device)
        with torch.no_grad():
            shown, their_lengths = _frames(teacher.encoder(*inputs[:2]))
            # lengths are looked at in the first batch alone: a GPU has to be waited for
            others = not self.compared and not torch.equal(their_lengths, olens)
            self.compared = True
            if shown.shape[:2] != xs.shape[:2] or others:
                raise UserError(
                    f"distill: {self.exp} makes {plural(shown.shape[1], 'frame')} where the model "
                    f"that learns makes {xs.shape[1]}",
                    "both need the same input_layer",
                )
            soft = F.log_softmax(teacher.ctc.ctc_lo(shown) / self.temperature, -1)
        own = F.log_softmax(ctc.ctc_lo(xs) / self.temperature, -1)
        each = (soft.exp() * (soft - own)).sum(-1)
        valid = torch.arange(xs.shape[1], device=xs.device) < olens[:, None]
        total = each.masked_fill(~valid, 0).sum() / len(xs)
        return self.weight * self.temperature**2 * total


def _frames(outputs: tuple) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the output of an encoder ``(B, N, D)``, without those between blocks, and lengths."""
    xs, olens = outputs[:2]
    return (xs[0] if isinstance(xs, tuple) else xs), olens


def auxiliary_losses(model: Any) -> dict[str, torch.Tensor]:
    """Return the auxiliary losses of a model's last forward pass, 0-dim, weighted, by name.

    Encoder and decoder have them by a method ``auxiliary_losses() -> dict[str, Tensor]``; the
    names of the decoder's get ``decoder_`` before them.
    """
    found = dict(getattr(model.encoder, "auxiliary_losses", dict)())
    more = getattr(getattr(model, "decoder", None), "auxiliary_losses", dict)()
    return found | {f"decoder_{name}": value for name, value in more.items()}


def activity(part: nn.Module, spreads: bool, prefix: str = "") -> dict[str, torch.Tensor]:
    """Return firing rates, threshold spreads and sparsities of the last forward pass.

    Args:
        part: encoder or decoder.
        spreads: whether threshold spreads are asked for.
        prefix: of the names, "" for the encoder.

    Returns:
        detached 1-dim tensors; nothing of a part without neurons and FATReLUs.
    """
    found: dict[str, torch.Tensor] = {}
    layer, mean = (f"{prefix}.", f"{prefix}_") if prefix else ("", "")
    each = {"firing_rate": firing_rates(part), "sparsity": sparsities(part)}
    each["threshold_spread"] = threshold_spreads(part) if spreads else {}
    for key, values in each.items():
        found |= {f"{key}_{layer}{name}": v.detach().reshape(1) for name, v in values.items()}
        if values:
            found[f"{mean}{key}"] = torch.stack(list(values.values())).detach().mean().reshape(1)
    saved = mean_sparsity(part, mac_weighted=True)
    if saved is not None:
        found[f"{mean}sparsity_macs"] = saved.reshape(1)
    return found


def _signature() -> inspect.Signature:
    """Return ESPnet's signature and our own arguments: configurations are checked against it."""
    parents = inspect.signature(ESPnetASRModel.__init__)
    parameters = inspect.signature(SpikeASRModel.__init__).parameters
    own = [parameters[name] for name in ("specaug_after_normalize", "augment", "distill")]
    return parents.replace(parameters=[*parents.parameters.values(), *own])


SpikeASRModel.__init__.__signature__ = _signature()


class NormalizeThenMask(AbsNormalize):
    """Normalise features ``(B, T, D)``; in training, mask them afterwards."""

    def __init__(self, normalize: AbsNormalize, specaug: AbsSpecAug) -> None:
        super().__init__()
        self.normalize = normalize
        self.specaug = specaug

    def forward(
        self, xs_pad: torch.Tensor, ilens: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the features and their lengths."""
        xs_pad, ilens = self.normalize(xs_pad, ilens)
        return self.specaug(xs_pad, ilens) if self.training else (xs_pad, ilens)


class AugmentThenMask(AbsSpecAug):
    """Augment features ``(B, T, D)``, then mask them; ESPnet calls it in training alone."""

    def __init__(self, augmentation: Augmentation, specaug: AbsSpecAug | None) -> None:
        super().__init__()
        self.augmentation = augmentation
        self.specaug = specaug

    def forward(
        self, x: torch.Tensor, x_lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the features and their lengths."""
        if x_lengths is None:
            x_lengths = torch.full((len(x),), x.shape[1], device=x.device)
        x, x_lengths = self.augmentation(x, x_lengths)
        return (x, x_lengths) if self.specaug is None else self.specaug(x, x_lengths)


def _recordings(folder: str) -> RecordedNoise:
    return RecordedNoise(Path(folder))
