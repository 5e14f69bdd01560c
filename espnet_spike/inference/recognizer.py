"""Transcribe audio files with a trained model, long ones too.

Files of up to ``max_seconds`` are decoded as stage 10 decodes them: the same features, the same
batches, the same search. Longer ones are cut first. From where the last piece ended, the encoder
hears ``max_seconds``; the cut falls into the middle of the longest run of frames in which CTC finds
blank most probable, in the later half of what it heard. Every sample belongs to exactly one piece.

A greedy search cuts nothing: the encoder hears a file of any length in one pass, and CTC takes the
most probable token of each frame.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from espnet_spike.data.audio import Source, change_rate, inspect, read
from espnet_spike.data.feature_extractor import FeatureExtractor
from espnet_spike.data.tokens import read_bpe_model, spoken
from espnet_spike.errors import UserError
from espnet_spike.experiment import INFERENCE, VERDICT, model_file, read_config, read_verdict
from espnet_spike.inference.audio_inputs import Audio
from espnet_spike.inference.batches import make_batches
from espnet_spike.inference.beam_search import BeamSearch
from espnet_spike.inference.ctc import (
    Span,
    Word,
    align,
    collapse,
    held,
    quietest,
    timed_words,
    token_words,
    writes_spaces,
)
from espnet_spike.inference.decode import Settings, check_ngram, read_settings
from espnet_spike.inference.transcripts import Piece, Transcript
from espnet_spike.tasks.loading import ModelFolder, Trained, open_model
from espnet_spike.utils.files import present

logger = logging.getLogger("transcribe")
EARLIEST = 0.5  # of what was heard: no cut before
CTC_FRAMES = 4096  # of the vocabulary's probabilities at once: an hour's would take gigabytes


@dataclass(frozen=True)
class Stretch:
    """Samples ``first`` to ``last`` of a file, decoded as one utterance."""

    name: str
    first: int
    last: int


def source_of(audio: Path | Source, name: str) -> Source:
    """Return where the audio of a file comes from; a path is a file whatever it looks like."""
    return audio if isinstance(audio, Source) else Source(str(audio), path=str(audio))


def place_of(audio: Path | Source) -> str:
    """Return what names the audio in a transcript."""
    return audio.value if isinstance(audio, Source) else str(audio)


def find_settings(exp: Path, config: Path | None, arguments: str) -> Settings:
    """Read the beam search: as given, else that of the experiment's latest decoding.

    Raises:
        UserError: none is given and nothing has been decoded.
    """
    if config is None:
        used = [exp / INFERENCE, *exp.glob(f"*/{INFERENCE}")]
        used = sorted((p for p in used if present(p)), key=lambda p: p.stat().st_mtime)
        if not used:
            raise UserError(
                f"{exp}: nothing has been decoded with this model yet", "give --inference_config"
            )
        config = used[-1]
        logger.info("beam search of %s", config)
    return read_settings(config, arguments)


def warn_of_unlearnt(exp: Path) -> None:
    """Warn of a model that is no better than a constant output, where that was judged.

    Raises:
        UserError: a damaged verdict.
    """
    verdict = read_verdict(exp)
    if verdict is not None and not verdict["learnt"]:
        logger.warning("%s has learnt nothing, see %s: do not trust its text", exp, VERDICT)


class Recognizer:
    """A trained model with its features and its beam search.

    Args:
        model: experiment folder ``exp/asr_...``, or a pack of it, or what `open_model` yields.
        inference_config, inference_args: beam search; None is that of the latest decoding.
        fbank_config, fs: features, when they are not known from beside the model.
        device: ``cpu`` or ``cuda``.
        lm_exp: folder of a language model; a pack has its own.
        ngram_file: a token n-gram.
        trained: the model itself, if it is loaded already, which runs as it is set to; of
            ``model`` the rest is taken.

    Raises:
        UserError: no model, or it is not known what it takes.
    """

    def __init__(
        self,
        model: Path | ModelFolder,
        inference_config: Path | None = None,
        inference_args: str = "",
        fbank_config: Path | None = None,
        fs: int | None = None,
        device: str = "cpu",
        lm_exp: Path | None = None,
        ngram_file: Path | None = None,
        trained: Trained | None = None,
    ) -> None:
        opened = open_model(model) if isinstance(model, Path) else contextlib.nullcontext(model)
        with opened as folder:
            found = folder.resolved()
            exp = found.path
            config = read_config(exp)  # which says what is wrong with it
            warn_of_unlearnt(exp)
            settings = find_settings(exp, inference_config, inference_args)
            files = found.files(settings.asr_model)
            if lm_exp is not None:
                files["lm_train_config"] = str(lm_exp.resolve() / "config.yaml")
                files["lm_file"] = str(model_file(lm_exp.resolve(), settings.lm))
            if ngram_file is not None:
                check_ngram(ngram_file, exp, settings)
                files["ngram_file"] = str(ngram_file.resolve())
            self.feature_extractor = FeatureExtractor.find(exp, fbank_config, fs)
            # the configuration names its files as seen from the recipe
            with contextlib.chdir(exp.parent.parent):
                if config.get("token_type") == "bpe" and config.get("bpemodel"):
                    read_bpe_model(Path(config["bpemodel"]))  # likewise
                self.search = BeamSearch(files, settings, device, trained)
        self.speech2text, self.model = self.search.speech2text, self.search.model
        self.batch_size = self.search.batch_size
        self.token_type = getattr(self.speech2text.asr_train_args, "token_type", None)
        self.spaces = writes_spaces(self.model.token_list, self.token_type or "bpe")

    def log_posteriors(self, features: np.ndarray) -> np.ndarray:
        """Return the CTC log-probabilities ``(T', V)`` of features ``(T, D)``.

        Raises:
            UserError: the model has no CTC.
        """
        return np.concatenate([part.cpu().numpy() for part in self._log_posteriors(features)])

    def _log_posteriors(self, features: np.ndarray) -> Iterator[Any]:
        """Encode features ``(T, D)`` in one pass; yield log-probabilities of frames in turn."""
        import torch

        if self.model.ctc is None:
            raise UserError(
                "the model has no CTC, which tells where to cut and when a word is said",
                "give shorter files, and --format text",
            )
        speech = torch.from_numpy(features)[None].to(self.speech2text.device)
        lengths = torch.tensor([len(features)], device=speech.device)
        with torch.no_grad():
            with linear_masks():
                encoded, olens = self.model.encode(speech, lengths)
            encoded = encoded[0] if isinstance(encoded, tuple) else encoded
            for part in encoded[:, : int(olens[0])].split(CTC_FRAMES, dim=1):
                yield self.model.ctc.log_softmax(part)[0]

    def greedy(self, features: np.ndarray) -> tuple[list[int], list[Span], int, float]:
        """Take the most probable token of every frame of features ``(T, D)``, in one pass.

        Returns:
            the tokens that stand for a sound, without repetitions, the frames ``(first, last + 1)``
            of each, the number of frames ``T'``, and the log-probability of the path.

        Raises:
            UserError: the model has no CTC.
        """
        from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError

        best: list[np.ndarray] = []
        score = 0.0
        try:
            for part in self._log_posteriors(features):
                values, indices = part.max(dim=-1)
                score += float(values.double().sum())
                best.append(indices.cpu().numpy())
        except TooShortUttError:
            return [], [], 0, 0.0
        path = np.concatenate(best)
        ids, spans = collapse(path)
        kept = [n for n, i in enumerate(ids) if spoken([i], self.model.token_list)]
        return [ids[n] for n in kept], [spans[n] for n in kept], len(path), score

    def to_text(self, ids: Sequence[int]) -> str:
        """Return the text of token numbers."""
        tokenizer = self.speech2text.tokenizer
        said = [self.model.token_list[i] for i in spoken(ids, self.model.token_list)]
        return "" if tokenizer is None else tokenizer.tokens2text(said).strip()

    def audio(self, audio: Path | Source, name: str) -> np.ndarray:
        """Return the samples ``(N,)`` of a file at the model's rate; channels are averaged.

        Raises:
            UserError: it cannot be read, or is too short for one sample.
        """
        wave, rate = read(source_of(audio, name), name)
        wave = change_rate(wave, rate, fs := self.feature_extractor.fs)
        if not len(wave):
            raise UserError(f"{name} is shorter than one sample at {fs} Hz", "leave it out")
        return wave

    def cut(self, wave: np.ndarray, max_seconds: float) -> list[tuple[int, int]]:
        """Cut samples ``(N,)`` at CTC blanks into stretches of at most ``max_seconds``."""
        window = int(max_seconds * self.feature_extractor.fs)
        pieces, start = [], 0
        while len(wave) - start > window:
            heard = wave[start : start + window]
            posteriors = self.log_posteriors(self.feature_extractor(heard))
            place = quietest(posteriors, EARLIEST)
            end = start + round(place / len(posteriors) * window)
            pieces.append((start, end))
            start = end
        return [*pieces, (start, len(wave))]

    def words(
        self, features: np.ndarray, ids: Sequence[int], start: float, seconds: float
    ) -> tuple:
        """Return the words of a piece with their times, and whether these are from an alignment."""
        if not ids:
            return (), True
        posteriors = self.log_posteriors(features)
        return self.timed(ids, align(posteriors, ids), len(posteriors), start, seconds)

    def timed(
        self,
        ids: Sequence[int],
        spans: Sequence[Span] | None,
        frames: int,
        start: float,
        seconds: float,
    ) -> tuple:
        """Return the words of tokens said in ``spans`` of ``frames``, or spread evenly."""
        tokens, kind = [self.model.token_list[i] for i in ids], self.token_type or "bpe"
        if not ids:  # too short for a frame of the encoder, or nothing is said
            found = []
        elif spans is None:
            groups = token_words(tokens, kind, self.spaces)
            step = seconds / max(len(groups), 1)
            found = [Word(w, n * step, (n + 1) * step) for n, (w, _, _) in enumerate(groups)]
        else:
            found = held(timed_words(tokens, spans, seconds / frames, kind, self.spaces), seconds)
        words = tuple(
            Word(word.word, round(start + word.start, 3), round(start + word.end, 3))
            for word in found
        )
        return words, spans is not None or not words

    def transcribe(
        self,
        files: Audio,
        times: bool = False,
        max_seconds: float = 30.0,
        search: str = "beam",
        on_error: Callable[[str, UserError], None] | None = None,
    ) -> Iterator[Transcript]:
        """Transcribe files; yield each transcript when it is complete.

        Args:
            files: name -> file, or another source of audio.
            times: find when each word is said.
            max_seconds: of an utterance; longer files are cut, but not for a greedy search.
            search: ``beam``, or ``greedy`` CTC over the whole file.
            on_error: is told the name of a file that cannot be read, and why; the others are
                transcribed. None: that is an error.

        Raises:
            UserError: a file that cannot be read; before anything is decoded.
        """
        from tqdm import tqdm

        fs = self.feature_extractor.fs
        seconds = {}
        for name, path in files.items():
            with _told(name, on_error):
                info = inspect(source_of(path, name), name)
                seconds[name] = info.duration
        files = {name: path for name, path in files.items() if name in seconds}
        if search == "greedy":
            yield from self._transcribe_greedily(files, seconds, times, on_error)
            return
        short = {name for name in files if seconds[name] <= max_seconds}
        frames = {name: self.feature_extractor.frames(round(seconds[name] * fs)) for name in short}
        layout = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"
        with tqdm(total=sum(seconds.values()), desc="audio", bar_format=layout, delay=2) as bar:
            for batch in make_batches(frames, self.batch_size):
                stretches = []
                for name in batch:
                    with _told(name, on_error):
                        wave = self.audio(files[name], name)
                        stretches.append(
                            (Stretch(name, 0, len(wave)), self.feature_extractor(wave, name))
                        )
                for (stretch, _), piece in zip(
                    stretches, self._pieces(stretches, times), strict=True
                ):
                    name = stretch.name
                    place = place_of(files[name])
                    yield Transcript(name, place, seconds[name], [piece], self.spaces)
                    bar.update(seconds[name])
            for name in sorted(files.keys() - short):
                wave = np.zeros(0)
                with _told(name, on_error):
                    wave = self.audio(files[name], name)
                if not len(wave):
                    continue
                transcript = Transcript(name, place_of(files[name]), seconds[name], [], self.spaces)
                cuts = [Stretch(name, *cut) for cut in self.cut(wave, max_seconds)]
                for n in range(0, len(cuts), self.batch_size):
                    part = cuts[n : n + self.batch_size]
                    stretches = [
                        (s, self.feature_extractor(wave[s.first : s.last], name)) for s in part
                    ]
                    transcript.pieces += self._pieces(stretches, times)
                    bar.update(sum(s.last - s.first for s in part) / fs)
                yield transcript

    def _transcribe_greedily(
        self,
        files: Audio,
        seconds: dict[str, float],
        times: bool,
        on_error: Callable[[str, UserError], None] | None,
    ) -> Iterator[Transcript]:
        for name, path in files.items():
            wave = np.zeros(0)
            with _told(name, on_error):
                wave = self.audio(path, name)
            if not len(wave):
                continue
            features = self.feature_extractor(wave, name)
            ids, spans, frames, score = self.greedy(features) if len(features) else ([], [], 0, 0.0)
            text = self.to_text(ids)
            words = self.timed(ids, spans, frames, 0.0, seconds[name])[0] if times else ()
            piece = Piece(0.0, round(seconds[name], 3), text, score, words, True)
            yield Transcript(name, place_of(path), seconds[name], [piece], self.spaces)

    def _pieces(self, stretches: list[tuple[Stretch, np.ndarray]], times: bool) -> list[Piece]:
        """Decode stretches with their features; those without a frame are blank."""
        heard = [features for _, features in stretches if len(features)]
        results = iter(self.search(heard) if heard else [])
        pieces = []
        for stretch, features in stretches:
            text, ids, score = next(results) if len(features) else ("", [], 0.0)
            fs = self.feature_extractor.fs
            start, end = stretch.first / fs, stretch.last / fs
            words, aligned = ((), True)
            if times:
                words, aligned = self.words(features, ids, start, end - start)
            pieces.append(Piece(round(start, 3), round(end, 3), text, score, words, aligned))
        return pieces


@contextlib.contextmanager
def _told(name: str, on_error: Callable[[str, UserError], None] | None) -> Iterator[None]:
    """Tell why a file cannot be read, and go on."""
    try:
        yield
    except UserError as error:
        if on_error is None:
            raise
        on_error(name, error)


@contextlib.contextmanager
def linear_masks() -> Iterator[None]:
    """Let ESPnet's normalization and front ends mask padding in memory linear in the length.

    ESPnet makes that mask from a square of frames, 130 GB for an hour.
    """
    import torch
    from espnet2.layers import global_mvn, log_mel, stft, utterance_mvn

    def make_pad_mask(ilens: torch.Tensor, xs: torch.Tensor, length_dim: int = 1) -> torch.Tensor:
        frames = torch.arange(xs.shape[length_dim], device=xs.device)
        mask = frames >= ilens.to(xs.device)[:, None]
        return mask.view(*mask.shape, *[1] * (xs.dim() - 2)).expand_as(xs)

    modules: tuple[Any, ...] = (global_mvn, utterance_mvn, log_mel, stft)
    before = [module.make_pad_mask for module in modules]
    for module in modules:
        module.make_pad_mask = make_pad_mask
    try:
        yield
    finally:
        for module, function in zip(modules, before, strict=True):
            module.make_pad_mask = function
