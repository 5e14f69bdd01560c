"""A trained model that transcribes: what ``espnet_spike.load_model`` gives."""

import contextlib
import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from espnet_spike.data.audio import Source, from_wave
from espnet_spike.encoders.spike_options import SpikeOptions
from espnet_spike.errors import UserError
from espnet_spike.inference.decode import read_settings
from espnet_spike.tasks import loading

if TYPE_CHECKING:
    from espnet_spike.inference.recognizer import Recognizer
    from espnet_spike.inference.transcripts import Transcript


@dataclass(frozen=True)
class SpeechModel(loading.Trained):
    """A trained model, see `espnet_spike.tasks.loading.Trained`, that takes audio.

    Attributes:
        recognizer: makes, at its first call, what searches with this very model; the same ever
            after. A pack stays unpacked as long as this is referred to.
    """

    recognizer: Callable[[], "Recognizer"] = field(repr=False)

    def transcribe(
        self,
        audio: "Path | str | np.ndarray | Any",
        fs: int | None = None,
        *,
        times: bool = False,
        max_seconds: float = 30.0,
        search: str = "beam",
    ) -> "Transcript":
        """Transcribe a file, or an array.

        Args:
            audio: a file of any format that libsndfile reads, or samples ``(N,)``, or ``(N, C)`` of
                several channels, which are averaged: int16, or floating-point numbers from -1 to 1.
            fs: of an array, its sampling rate in Hz; it is resampled to the model's.
            times: find when each word is said.
            max_seconds: of an utterance; what is longer is cut where CTC hears nothing, but not for
                a greedy search.
            search: ``beam``, or ``greedy`` CTC over the whole.

        Returns:
            The transcript: ``.text``, ``.words`` with their times, ``.pieces`` with their scores.

        Raises:
            UserError: no such audio; an array without its rate; a model of which it is not known
                what features or what beam search it takes.
        """
        if search not in ("beam", "greedy"):
            raise UserError(f"search {search!r}", "there are beam and greedy")
        source: Path | Source
        if isinstance(audio, str | Path):
            if fs is not None:
                raise UserError(f"{audio}: a file has its own rate", "leave out fs")
            source, name = Path(audio), Path(audio).stem
        else:
            if fs is None:
                raise UserError(
                    "the rate of an array is not known", "transcribe(wave, fs), its rate in Hz"
                )
            source, name = from_wave(np.asarray(audio), fs), "audio"
        (found,) = self.recognizer().transcribe({name: source}, times, max_seconds, search)
        return found


def load_model(
    model: Path | str,
    checkpoint: str | None = None,
    spike_options: SpikeOptions | None = None,
    *,
    inference_config: Path | str | None = None,
    inference_args: str = "",
    device: str = "cpu",
) -> SpeechModel:
    """Load a trained model.

    Args:
        model: experiment folder ``exp/asr_...``, a pack of it, or a model file in it.
        checkpoint: name of a model file of the experiment; the best if None.
        spike_options: how the encoder runs; None for as the beam search given says, else as it was
            trained.
        inference_config, inference_args: beam search; None is that of the latest decoding.
        device: ``cpu`` or ``cuda``.

    Raises:
        UserError: no trained model, parameters of another one, or it cannot run so.
    """
    config = Path(inference_config).resolve() if inference_config is not None else None
    spike_options = spike_options or read_settings(config, inference_args).execution
    with contextlib.ExitStack() as opening:
        found = opening.enter_context(loading.open_model(Path(model))).resolved()
        trained = loading.load_model(found, checkpoint, spike_options)
        unpacked = opening.pop_all()
    trained.model.to(device)

    @functools.cache
    def recognizer() -> "Recognizer":
        from espnet_spike.inference.recognizer import Recognizer

        return Recognizer(found, config, inference_args, device=device, trained=trained)

    weakref.finalize(recognizer, unpacked.close)
    return SpeechModel(**vars(trained), recognizer=recognizer)
