"""Augmentation of features ``(B, T, D)`` in training: tempo, vocal tract, noise, reverberation.

It needs no audio, so that it serves corpora which are distributed as features, log-mel or cepstra.
All but the tempo happen in the log-mel spectrum; cepstra are turned into their (smoothed) log-mel
spectrum and back, which makes warping the linear transform of Pitz and Ney (2005).

Every draw is one of torch's generator on the CPU, which the trainer seeds anew for every epoch: a
resumed training draws the same. In evaluation mode features stay as they are. There are no
parameters and nothing in the state dict. Where no paper is named, a default is ours.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from espnet_spike.errors import UserError

TINY = 1e-12  # of power, relative to the loudest value of an utterance
MADE = ("white", "pink", "babble")
RECORDED = "recorded"


def _check(good: bool, key: str, value: object, what: str) -> None:
    if not good:
        raise UserError(f"model_conf.augment.{key}: {what}, not {value!r}")


def _check_range(key: str, value: Sequence[float], above: float = -math.inf) -> None:
    good = len(value) == 2 and above < value[0] <= value[1] < math.inf
    least = "" if above == -math.inf else f" above {above:g}"
    _check(good, key, value, f"must be [least, greatest]{least}")


def _check_probability(key: str, value: float) -> None:
    _check(0 <= value <= 1, f"{key}.probability", value, "must lie in [0, 1]")


@dataclass(frozen=True)
class Spectrum:
    """What features say about the log-mel spectrum.

    Args:
        kind: ``log_mel``, natural logarithms of the powers of mel filters, or ``cepstra``, their
            discrete cosine transform.
        fs: sampling rate of the audio, Hz.
        low_freq, high_freq: edges of the filters, Hz; ``high_freq`` up to 0 counts from ``fs / 2``.
        frame_shift: ms.
        num_mel_bins: cepstra: filters that they were made of. Kaldi's default.
        dct: cepstra: ``ortho``, the orthonormal transform (Kaldi, HTK), or ``mean``, the mean over
            the filters of log power times cosine (Sphinx).
        lifter: cepstra: L of the factors ``1 + L/2 sin(pi n / L)``; 0 for none. Kaldi's default.
    """

    kind: str
    fs: int = 16000
    low_freq: float = 20.0
    high_freq: float = 0.0
    frame_shift: float = 10.0
    num_mel_bins: int = 23
    dct: str = "ortho"
    lifter: float = 22.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: names the key.
        """
        kinds = self.kind in ("log_mel", "cepstra")
        _check(kinds, "features.kind", self.kind, "must be log_mel or cepstra")
        _check(self.dct in ("ortho", "mean"), "features.dct", self.dct, "must be ortho or mean")
        _check(self.lifter >= 0, "features.lifter", self.lifter, "must be 0 or more")
        _check(self.frame_shift > 0, "features.frame_shift", self.frame_shift, "must be above 0")
        _check(self.num_mel_bins > 1, "features.num_mel_bins", self.num_mel_bins, "must be above 1")
        edges = f"{self.low_freq:g} .. {self.high:g} Hz of {self.fs / 2:g}"
        good = 0 <= self.low_freq < self.high <= self.fs / 2
        _check(good, "features.low_freq and high_freq", edges, "must rise, up to half of fs")

    @property
    def high(self) -> float:
        """The upper edge of the filters, Hz."""
        return self.high_freq if self.high_freq > 0 else self.fs / 2 + self.high_freq

    def bins(self, dim: int) -> int:
        """Return the number of filters N of ``dim`` features.

        Raises:
            UserError: there are more cepstra than filters.
        """
        if self.kind == "log_mel":
            return dim
        if dim > self.num_mel_bins:
            raise UserError(
                f"model_conf.augment.features: {dim} cepstra of {self.num_mel_bins} filters",
                "set num_mel_bins to that of the features; deltas and stacked frames cannot be "
                "augmented",
            )
        return self.num_mel_bins

    def centres(self, bins: int) -> np.ndarray:
        """Return the centre frequencies ``(N,)`` of the filters, Hz, evenly spaced in mel."""
        low, high = _mel(self.low_freq), _mel(self.high)
        return _hertz(np.linspace(low, high, bins + 2)[1:-1])

    def transforms(self, dim: int) -> tuple[Tensor, Tensor] | None:
        """Return matrices ``(D, N)`` and ``(N, D)``, features to spectrum and back, or None.

        The product of the two is the identity: what the cepstra do not tell of the spectrum, the
        first matrix takes for zero.
        """
        if self.kind == "log_mel":
            return None
        bins = self.bins(dim)
        n, j = np.arange(dim), np.arange(bins) + 0.5
        back = np.cos(np.pi * n[:, None] * j / bins)  # (D, N)
        there = back * (2 - (n == 0))[:, None] / bins
        if self.dct == "ortho":
            norm = np.sqrt((2 - (n == 0)) / bins)[:, None]
            back, there = back * norm, back * norm
        else:
            back, there = back / bins, there * bins
        if self.lifter:
            factor = (1 + self.lifter / 2 * np.sin(np.pi * n / self.lifter))[:, None]
            back, there = back * factor, there / factor
        return torch.from_numpy(there).float(), torch.from_numpy(back.T.copy()).float()


def _mel(hertz: float) -> float:
    return 1127.0 * math.log1p(hertz / 700.0)


def _hertz(mel: np.ndarray) -> np.ndarray:
    return 700.0 * np.expm1(mel / 1127.0)


@dataclass(frozen=True)
class TimeStretch:
    """Another tempo at the same pitch, by linear interpolation between frames.

    The factors are those of three-fold speed perturbation (Ko et al., 2015), which resamples audio
    and so changes the pitch, too; ``VTLP`` is what does that here.

    Args:
        factors: one is drawn for each utterance; 0.9 is slower, of T frames makes T / 0.9.
    """

    factors: Sequence[float] = (0.9, 1.0, 1.1)

    def __post_init__(self) -> None:
        """Check the values; raises UserError."""
        good = bool(self.factors) and all(0.25 <= f <= 4 for f in self.factors)
        _check(good, "time_stretch.factors", self.factors, "must be speeds from 0.25 to 4")

    def draw(self, count: int, slowest: bool = False) -> Tensor:
        """Return ``(count,)`` factors; the least of all with ``slowest``."""
        if slowest:
            return torch.full((count,), min(self.factors), dtype=torch.float64)
        chosen = torch.randint(len(self.factors), (count,))
        return torch.tensor(list(self.factors), dtype=torch.float64)[chosen]


def stretched(frames: Tensor, factors: Tensor) -> Tensor:
    """Return the lengths ``(B,)`` of utterances of ``frames`` ``(B,)`` at another tempo, >= 1."""
    return (frames / factors + 0.5).floor().long().clamp_min(1)


def stretch(xs: Tensor, ilens: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Interpolate utterances to other lengths.

    Args:
        xs: ``(B, T, D)``.
        ilens: ``(B,)``, on the CPU.
        factors: ``(B,)`` float64, see `TimeStretch`. With 1 an utterance stays as it is.

    Returns:
        ``(B, T', D)``, zeros behind the ends, and ``(B,)``.
    """
    olens = stretched(ilens, factors)
    at = (torch.arange(int(olens.max())) + 0.5) * (ilens / olens)[:, None] - 0.5  # (B, T')
    at = torch.minimum(at.clamp_min(0), (ilens - 1)[:, None])
    left = at.floor().long()
    right = torch.minimum(left + 1, (ilens - 1)[:, None])
    share = (at - left).to(xs)[..., None]
    rows = torch.arange(len(xs))[:, None]
    left, right, rows = left.to(xs.device), right.to(xs.device), rows.to(xs.device)
    found = torch.lerp(xs[rows, left], xs[rows, right], share)
    valid = torch.arange(found.shape[1]) < olens[:, None]
    return found * valid.to(xs.device)[..., None], olens


@dataclass(frozen=True)
class VTLP:
    """Vocal tract length perturbation (Jaitly and Hinton, 2013, equation 1).

    Args:
        alpha: warp factors are drawn evenly between these.
        f_high: boundary frequency in Hz, which the formants that count lie below.
        probability: of an utterance to be warped.
    """

    alpha: Sequence[float] = (0.9, 1.1)
    f_high: float = 4800.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        """Check the values; raises UserError."""
        _check_range("vtlp.alpha", self.alpha, above=0.0)
        _check(self.f_high > 0, "vtlp.f_high", self.f_high, "must be above 0")
        _check_probability("vtlp", self.probability)

    def warp(self, hertz: np.ndarray, alpha: float, nyquist: float) -> np.ndarray:
        """Return where in the spectrum of the new speaker the frequencies ``(N,)`` come to lie.

        Proportional to ``alpha`` up to the boundary, above it linear to half the sampling rate.
        """
        # half of 16 kHz is well above 4800 Hz; of 8 kHz it is not
        high = min(self.f_high, 0.8 * nyquist) * min(alpha, 1.0)
        boundary = high / alpha
        above = nyquist - (nyquist - high) / (nyquist - boundary) * (nyquist - hertz)
        return np.where(hertz <= boundary, hertz * alpha, above)

    def apply(self, spectrum: Tensor, alpha: float, features: Spectrum) -> Tensor:
        """Return the spectrum ``(T, N)`` of which each filter listens at its warped frequency."""
        bins = spectrum.shape[1]
        warped = self.warp(features.centres(bins), alpha, features.fs / 2)
        low, high = _mel(features.low_freq), _mel(features.high)
        mel = 1127.0 * np.log1p(warped / 700.0)
        at = np.clip((mel - low) / (high - low) * (bins + 1) - 1, 0, bins - 1)
        left = np.minimum(at.astype(np.int64), bins - 2)
        share = torch.from_numpy(at - left).to(spectrum)
        return torch.lerp(spectrum[:, left], spectrum[:, left + 1], share)


@dataclass(frozen=True)
class Reverberation:
    """Late reverberation in the power domain: energy that decays by 60 dB in T60 (Polack, 1988).

    Args:
        t60: reverberation times in seconds are drawn evenly between these.
        direct_to_reverberant: ratios of energy in dB are drawn evenly between these.
        probability: of an utterance to be reverberated.
    """

    t60: Sequence[float] = (0.2, 0.8)
    direct_to_reverberant: Sequence[float] = (0.0, 12.0)
    probability: float = 0.3

    def __post_init__(self) -> None:
        """Check the values; raises UserError."""
        _check_range("reverberation.t60", self.t60, above=0.0)
        _check_range("reverberation.direct_to_reverberant", self.direct_to_reverberant)
        _check_probability("reverberation", self.probability)

    @staticmethod
    def apply(power: Tensor, t60: float, ratio: float, shift: float) -> Tensor:
        """Return ``(T, N)``: ``power`` and the decaying echoes of the frames before.

        Args:
            power: ``(T, N)``.
            t60: s.
            ratio: direct to reverberant energy, dB.
            shift: from frame to frame, s.
        """
        taps = max(math.ceil(t60 / shift), 1)
        # a softmax, for the sum of what has died away within a frame is 0
        decay = torch.softmax(-math.log(1e6) * shift / t60 * torch.arange(1, taps + 1), 0)
        kernel = torch.cat([torch.ones(1), decay * 10 ** (-ratio / 10)]).to(power)
        padded = nn.functional.pad(power.T[:, None], (taps, 0))  # (N, 1, T + taps)
        return nn.functional.conv1d(padded, kernel.flip(0)[None, None])[:, 0].T


@dataclass(frozen=True)
class Noise:
    """Noise, whose power is added.

    Args:
        kinds: one is drawn for each utterance: ``white``, ``pink`` (a power density of 1 / f),
            ``babble`` (another utterance of the batch, backwards), ``recorded``. When not given:
            ``recorded`` with a folder, the other three without.
        folder: recordings of noise, as features like those of the speech.
        snr: ratios of mean powers in dB are drawn evenly between these.
        probability: of an utterance to get noise.
    """

    kinds: Sequence[str] | None = None
    folder: str | None = None
    snr: Sequence[float] = (5.0, 25.0)
    probability: float = 0.5

    def __post_init__(self) -> None:
        """Check the values; raises UserError."""
        known = (*MADE, RECORDED)
        good = bool(self.drawn) and all(kind in known for kind in self.drawn)
        _check(good, "noise.kinds", self.kinds, f"must be of {', '.join(known)}")
        wanted = RECORDED in self.drawn
        _check(
            wanted == (self.folder is not None),
            "noise.folder",
            self.folder,
            "goes with kinds: recorded",
        )
        _check_range("noise.snr", self.snr)
        _check_probability("noise", self.probability)

    @property
    def drawn(self) -> Sequence[str]:
        """The kinds that are drawn from."""
        if self.kinds is None:
            return MADE if self.folder is None else (RECORDED,)
        return self.kinds

    @staticmethod
    def make(kind: str, frames: int, hertz: np.ndarray) -> Tensor:
        """Return power ``(frames, N)`` of stationary noise in mel filters at ``hertz`` ``(N,)``.

        A filter sums several points of a spectrum, each the sum of two squared normal values;
        four points are taken here.
        """
        width = 700.0 + hertz  # a filter's, in Hz, up to a factor
        density = 1 / hertz if kind == "pink" else np.ones_like(hertz)
        level = torch.from_numpy(width * density).float()
        return torch.randn(8, frames, len(hertz)).square().mean(0) * level

    @staticmethod
    def apply(power: Tensor, noise: Tensor, snr: float) -> Tensor:
        """Return ``power`` ``(T, N)`` with ``noise`` ``(T, N)`` at a ratio of ``snr`` dB."""
        loud = noise.mean().clamp_min(torch.finfo(noise.dtype).tiny)
        return power + noise * (power.mean() / loud * 10 ** (-snr / 10))


PARTS = {
    "features": Spectrum,
    "time_stretch": TimeStretch,
    "vtlp": VTLP,
    "reverberation": Reverberation,
    "noise": Noise,
}


class Augmentation(nn.Module):
    """What is drawn for each utterance of a batch, in this order; None leaves a part out.

    Args:
        features: see `Spectrum`; needed by all but ``time_stretch``.
        time_stretch: see `TimeStretch`.
        vtlp: see `VTLP`.
        reverberation: see `Reverberation`.
        noise: see `Noise`.
        recordings: reads the recordings of a folder, features ``(T, D)`` each.

    Raises:
        UserError: a value is out of range, or the kind of features is not told.
    """

    def __init__(
        self,
        features: Mapping[str, Any] | None = None,
        time_stretch: Mapping[str, Any] | None = None,
        vtlp: Mapping[str, Any] | None = None,
        reverberation: Mapping[str, Any] | None = None,
        noise: Mapping[str, Any] | None = None,
        recordings: Callable[[str], Sequence[np.ndarray]] | None = None,
    ) -> None:
        super().__init__()
        self.features = None if features is None else Spectrum(**features)
        self.time_stretch = None if time_stretch is None else TimeStretch(**time_stretch)
        self.vtlp = None if vtlp is None else VTLP(**vtlp)
        self.reverberation = None if reverberation is None else Reverberation(**reverberation)
        self.noise = None if noise is None else Noise(**noise)
        self.slowest = False
        parts = (self.vtlp, self.reverberation, self.noise)
        self.spectral = any(part is not None for part in parts)
        if self.spectral and self.features is None:
            raise UserError(
                "model_conf.augment: vtlp, noise and reverberation have to know the features",
                "add features: {kind: log_mel} or {kind: cepstra, ...}",
            )
        if not self.spectral and self.time_stretch is None:
            raise UserError("model_conf.augment: names nothing to do", "name time_stretch or vtlp")
        self.recordings: Sequence[np.ndarray] = ()
        if self.noise is not None and self.noise.folder is not None:
            if recordings is None:
                raise ValueError("noise from a folder needs a reader")
            self.recordings = recordings(self.noise.folder)

    @property
    def fastest(self) -> float:
        """The greatest factor that lengths may be divided by, at least 1."""
        return max(1.0, *self.time_stretch.factors) if self.time_stretch is not None else 1.0

    def forward(self, xs_pad: Tensor, ilens: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and lengths; in evaluation mode those that are given.

        Args:
            xs_pad: ``(B, T, D)``.
            ilens: ``(B,)``.

        Raises:
            UserError: the features do not fit what the options say of them.
        """
        if not self.training:
            return xs_pad, ilens
        device, lengths = ilens.device, ilens.cpu()
        if self.time_stretch is not None:
            factors = self.time_stretch.draw(len(lengths), self.slowest)
            xs_pad, lengths = stretch(xs_pad, lengths, factors)
        if self.spectral:
            xs_pad = self._spectral(xs_pad, lengths.tolist())
        return xs_pad, lengths.to(device)

    def _spectral(self, xs_pad: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return features ``(B, T, D)`` after what happens in the log-mel spectrum."""
        assert self.features is not None
        bins = self.features.bins(xs_pad.shape[2])
        transforms = self.features.transforms(xs_pad.shape[2])
        there, back = (None, None) if transforms is None else (m.to(xs_pad) for m in transforms)
        spectra = [xs_pad[i, :length] for i, length in enumerate(lengths)]
        if there is not None:
            spectra = [spectrum @ there for spectrum in spectra]
        found = list(spectra)
        if self.vtlp is not None:
            for i, alpha in self._chosen(self.vtlp.probability, len(found), self.vtlp.alpha):
                found[i] = self.vtlp.apply(found[i], alpha, self.features)
        if self.reverberation is not None:
            part = self.reverberation
            ranges = (part.t60, part.direct_to_reverberant)
            for i, t60, ratio in self._chosen(part.probability, len(found), *ranges):
                shift = self.features.frame_shift / 1000
                found[i] = _in_power(found[i], part.apply, t60, ratio, shift)
        if self.noise is not None:
            clean = list(found)
            hertz = self.features.centres(bins)
            for i, snr in self._chosen(self.noise.probability, len(found), self.noise.snr):
                noise = self._noise(i, clean, hertz, there)
                found[i] = _in_power(found[i], self.noise.apply, noise, snr)
        augmented = xs_pad.clone()
        for i, (old, new) in enumerate(zip(spectra, found, strict=True)):
            if new is not old:
                rows = augmented[i, : lengths[i]]
                augmented[i, : lengths[i]] = new if back is None else rows + (new - old) @ back
        return augmented

    @staticmethod
    def _chosen(probability: float, count: int, *ranges: Sequence[float]) -> Iterator[Any]:
        """Yield the numbers of the utterances that are drawn, each with a value of each range."""
        draws = torch.rand(count, 1 + len(ranges), dtype=torch.float64).tolist()
        for i, (lot, *shares) in enumerate(draws):
            if lot < probability:
                values = [a + s * (b - a) for s, (a, b) in zip(shares, ranges, strict=True)]
                yield i, *values

    def _noise(
        self, index: int, clean: Sequence[Tensor], hertz: np.ndarray, there: Tensor | None
    ) -> Tensor:
        """Return power ``(T, N)`` of a noise that is drawn for an utterance."""
        assert self.noise is not None
        frames = len(clean[index])
        kind = self.noise.drawn[int(torch.randint(len(self.noise.drawn), ()))]
        if kind not in ("babble", RECORDED):
            return self.noise.make(kind, frames, hertz).to(clean[index])
        if kind == "babble":
            others = [i for i in range(len(clean)) if i != index] or [index]
            source = clean[others[int(torch.randint(len(others), ()))]].flip(0)
        else:
            number = int(torch.randint(len(self.recordings), ()))
            source = torch.tensor(self.recordings[number]).to(clean[index])
            dim = len(hertz) if there is None else len(there)
            if source.shape[1] != dim:
                raise UserError(
                    f"{self.noise.folder}: noise {number + 1} of feats.scp has {source.shape[1]} "
                    f"dimensions, the speech {dim}",
                    "extract both with the same options (stage 3)",
                )
            source = source if there is None else source @ there
        start = int(torch.randint(len(source), ()))
        rows = (torch.arange(frames) + start) % len(source)
        source = source[rows.to(source.device)]
        return (source - source.max()).exp()


def _in_power(spectrum: Tensor, change: Callable[..., Tensor], *values: Any) -> Tensor:
    """Return the log spectrum ``(T, N)`` after ``change`` of its power, relative to the loudest."""
    loudest = spectrum.max()
    power = change((spectrum - loudest).exp(), *values)
    return power.clamp_min(TINY).log() + loudest


@contextlib.contextmanager
def slowest(model: nn.Module) -> Iterator[None]:
    """Stretch all utterances as far as can be drawn: batches need the most memory then."""
    parts = [module for module in model.modules() if isinstance(module, Augmentation)]
    for part in parts:
        part.slowest = True
    try:
        yield
    finally:
        for part in parts:
            part.slowest = False
