"""ESPnet's beam search over the features of utterances, with the options that stage 10 gives it."""

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from espnet_spike.errors import UserError
from espnet_spike.inference.decode import Settings
from espnet_spike.tasks.arguments import parse_search
from espnet_spike.tasks.loading import Trained

if TYPE_CHECKING:
    import numpy as np


class BeamSearch:
    """A trained model with its beam search.

    Args:
        files: the model's, and those of a language model, under the names of ESPnet's options.
        settings: of the search, and how the encoder runs.
        device: ``cpu`` or ``cuda``.
        trained: the model itself, if it is loaded already, which runs as it is set to.

    Attributes:
        speech2text: ESPnet's recogniser.
        model: its ``ESPnetASRModel``.
        batch_size: utterances that are searched together.
    """

    def __init__(
        self,
        files: Mapping[str, str],
        settings: Settings,
        device: str = "cpu",
        trained: Trained | None = None,
    ) -> None:
        import espnet_spike.task  # noqa: F401  registers the encoders
        from espnet_spike.inference.speech2text import Speech2Text

        options = _options(settings) | {"batch_size": settings.batch_size, "device": device}
        with _given(trained):
            self.speech2text = Speech2Text(**{**options, **files})
        if self.speech2text.tokenizer is not None:
            self.speech2text.tokenizer.text2tokens("")  # reads its files now, not at first use
        self.model: Any = self.speech2text.asr_model
        self.batch_size = settings.batch_size
        if trained is None:
            settings.execution.apply(self.model.encoder)

    def __call__(self, batch: Sequence["np.ndarray"]) -> list[tuple[str, list[int], float]]:
        """Return text, tokens and score of each utterance, as ESPnet's inference does.

        What is too short for the encoder, or without any hypothesis, has no tokens.

        Args:
            batch: features ``(T, D)`` of each.
        """
        from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError

        try:
            results = self._search(batch)
        except TooShortUttError:
            if len(batch) == 1:
                return [("", [], 0.0)]
            return [self([features])[0] for features in batch]
        found = []
        for result in results:
            text, _, ids, hypothesis = result[0] if result else ("", [], [], None)
            score = 0.0 if hypothesis is None else float(hypothesis.score)
            found.append(((text or "").strip(), list(ids), score))
        return found

    def _search(self, batch: Sequence["np.ndarray"]) -> list[Any]:
        """Return the n best results of each utterance."""
        import torch

        from espnet_spike.inference.speech2text import n_best

        speech = [torch.from_numpy(features) for features in batch]
        if self.batch_size == 1:
            return [n_best(self.speech2text(one)) for one in speech]
        lengths = torch.tensor([len(features) for features in batch])
        padded = torch.nn.utils.rnn.pad_sequence(speech, batch_first=True)
        return self.speech2text.batch_decode(padded, lengths)


@contextlib.contextmanager
def _given(trained: Trained | None) -> Iterator[None]:
    """Let ESPnet's recogniser take a model that is there, where it would build one from a file."""
    from espnet_spike.tasks.espnet import asr_inference

    if trained is None:
        yield
        return

    class Given(asr_inference.ASRTask):
        @classmethod
        def build_model_from_file(cls, *_: Any, device: str = "cpu", **__: Any) -> Any:
            return trained.model.to(device), trained.options

    before = asr_inference.ASRTask
    asr_inference.ASRTask = Given
    try:
        yield
    finally:
        asr_inference.ASRTask = before


def _options(settings: Settings) -> dict[str, Any]:
    """Return all options of a search under the names that ESPnet's recogniser takes.

    Raises:
        UserError: one of the command line that changes nothing here.
    """
    from espnet_spike.tasks.espnet import asr_inference

    options = parse_search(settings.config, settings.words)
    known = inspect.signature(asr_inference.Speech2Text.__init__).parameters
    given = [word.removeprefix("--").split("=")[0] for word in settings.words if word[:2] == "--"]
    if unused := [name for name in given if name not in known]:
        raise UserError(
            f"--inference_args: {', '.join(unused)}: without effect on files of audio",
            "leave it out; it is for the decoding of a set",
        )
    return {key: value for key, value in options.items() if key in known and value is not None}
