"""How many frames an encoder puts out, and which utterances are too short to train on.

A model with a front end of its own takes samples in place of frames.

CTC needs a frame for every token and one blank between equal neighbours. ESPnet gives an
utterance that has fewer an infinite loss, or stops at a batch of too short ones.
"""

import bisect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn


class OutputLength:
    """Encoder frames as a function of input frames, or samples, exact for every encoder.

    * an encoder with ``output_lengths(ilens) -> olens`` (ours) is asked;
    * ESPnet's encoders with an ``embed`` front end follow its convolutions;
    * any other, and a front end, is run on zeros, as seldom as a non-decreasing function allows.

    Args:
        model: an ``ESPnetASRModel``, possibly on the meta device.
        build: makes the same model with real parameters; called only in the last case, in which
            with None no length can be told.
        input_size: feature dimension; None of a model that takes samples.

    Attributes:
        unit: what it counts, ``frames`` or ``samples``.
        exact_formula: whether nothing has to be run.
    """

    def __init__(
        self, model: Any, build: Callable[[], nn.Module] | None, input_size: int | None
    ) -> None:
        self._known: dict[int, int] = {}
        self._sorted: list[int] = []
        self.unit = "frames" if getattr(model, "frontend", None) is None else "samples"
        formula = length_formula(model) if self.unit == "frames" else None
        self.exact_formula = formula is not None
        self._compute = formula or _by_running(build, input_size)

    def __call__(self, frames: int) -> int:
        """Return the number of encoder frames for one utterance of ``frames`` frames."""
        if frames not in self._known:
            self._known[frames] = max(self._compute(frames), 0)
            bisect.insort(self._sorted, frames)
        return self._known[frames]

    def reaches(self, frames: int, needed: int) -> bool:
        """Return whether ``frames`` input frames give at least ``needed`` encoder frames."""
        if frames not in self._known:
            place = bisect.bisect(self._sorted, frames)
            if place > 0 and self._known[self._sorted[place - 1]] >= needed:
                return True
            if place < len(self._sorted) and self._known[self._sorted[place]] < needed:
                return False
        return self(frames) >= needed


def is_too_short(error: RuntimeError) -> bool:
    """Return whether torch complains of an input shorter than a kernel, padding or window."""
    said = ("Kernel size", "Padding size should be less", "maximum size for tensor at dimension")
    return any(words in str(error) for words in said)


def length_formula(model: Any) -> Callable[[int], int] | None:
    """Return encoder frames as a function of frames of features; None where that is not known.

    Args:
        model: an ``ESPnetASRModel``; a front end of it is left out.
    """
    adaptor = _postencoder_length(model.postencoder)
    encoder = _encoder_length(model.encoder)
    if adaptor is None or encoder is None or not _keeps_length(model.preencoder):
        return None
    return lambda frames: adaptor(encoder(frames))


def _encoder_length(encoder: Any) -> Callable[[int], int] | None:
    """Return the length formula of an encoder, or None if it is not known."""
    if encoder is None:
        return lambda frames: frames
    if hasattr(encoder, "output_lengths"):
        return lambda frames: int(encoder.output_lengths(torch.tensor([frames]))[0])
    if not type(encoder).__module__.startswith("espnet2.asr.encoder.") or not hasattr(
        encoder, "embed"
    ):
        return None
    embed = encoder.embed
    if hasattr(embed, "conv"):
        convs = [m for m in embed.conv.modules() if isinstance(m, nn.Conv1d | nn.Conv2d)]
        return lambda frames: _after_convs(frames, convs)
    if embed is None or isinstance(embed, nn.Linear | nn.Sequential):
        # a projection, dropout, a norm, positions: frame by frame
        return lambda frames: frames
    return None


def _after_convs(frames: int, convs: Sequence[nn.Conv1d | nn.Conv2d]) -> int:
    for conv in convs:
        kernel = conv.dilation[0] * (conv.kernel_size[0] - 1) + 1
        padding = conv.padding[0]
        assert isinstance(padding, int)  # not "same" or "valid"
        frames = (frames + 2 * padding - kernel) // conv.stride[0] + 1
        if frames < 1:
            return 0
    return frames


def _postencoder_length(postencoder: Any) -> Callable[[int], int] | None:
    if postencoder is None:
        return lambda frames: frames
    if hasattr(postencoder, "length_adaptor_ratio"):
        return lambda frames: frames // postencoder.length_adaptor_ratio
    return None


def _keeps_length(preencoder: nn.Module | None) -> bool:
    return preencoder is None or type(preencoder).__name__ == "LinearProjection"


def _by_running(
    build: Callable[[], nn.Module] | None, input_size: int | None
) -> Callable[[int], int]:
    """Return a length function that runs the model on zeros; 0 where it refuses the length."""
    from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError

    built: list[Any] = []

    def compute(frames: int) -> int:
        if frames < 1:
            return 0
        if not built:
            if build is None:
                raise ValueError("the length cannot be told without running the model")
            built.append(build().eval())
        speech = torch.zeros((1, frames) if input_size is None else (1, frames, input_size))
        try:
            with torch.no_grad():
                _, olens = built[0].encode(speech, torch.tensor([frames]))
        except (TooShortUttError, AssertionError):
            # ESPnet asserts that an output has as many frames as its length tells
            return 0
        except RuntimeError as error:
            if is_too_short(error):
                return 0
            raise
        return int(olens[0])

    return compute
