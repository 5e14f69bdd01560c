"""Log-mel filter bank features with Kaldi's definition (``compute-fbank-feats``).

Frames go through numpy and scipy in blocks that stay in the processor's cache, which is faster
than ``torchaudio.compliance.kaldi.fbank`` (the tests hold the two equal) and spares the processes
of the extraction stage the import of torch.
"""

import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from espnet_spike.errors import UserError
from espnet_spike.ranges import FBANK, check

BLOCK = 128  # frames computed at once; more make the allocator return memory in between


@dataclass(frozen=True)
class FbankConfig:
    """The keys of ``conf/fbank.yaml``, named as in Kaldi and torchaudio.

    Attributes:
        num_mel_bins: triangular filters, evenly spaced on the mel scale.
        frame_length: window in ms.
        frame_shift: hop in ms.
        low_freq: lower edge of the first filter in Hz.
        high_freq: upper edge of the last filter in Hz; 0 or less counts from the Nyquist rate.
        window_type: one of ``ranges.WINDOWS``.
        preemphasis_coefficient: weight of the previous sample.
        remove_dc_offset: subtract the mean of each frame.
        snip_edges: only frames that lie in the audio as a whole; else the audio is mirrored.
        dither: standard deviation of the noise added to the audio, in int16 units.
        mel_floor: the least energy of a filter, of audio in int16 units; met by digital silence.
        compression_method: of the ark file: None is float32, else Kaldi's number.
    """

    num_mel_bins: int = 80
    frame_length: float = 25.0
    frame_shift: float = 10.0
    low_freq: float = 20.0
    high_freq: float = 0.0
    window_type: str = "povey"
    preemphasis_coefficient: float = 0.97
    remove_dc_offset: bool = True
    snip_edges: bool = True
    dither: float = 0.0
    mel_floor: float = 2.0**-23  # the smallest step of fp32 at 1, as in Kaldi
    compression_method: int | None = None

    def __post_init__(self) -> None:
        """Check types and ranges.

        Raises:
            UserError: names the key.
        """
        check(FBANK, vars(self), "fbank config")


def load_config(path: Path) -> FbankConfig:
    """Read and check a YAML file of ``FbankConfig`` keys.

    Raises:
        UserError: unreadable, no mapping, an unknown key (with the nearest known one) or value.
    """
    from espnet_spike.utils.yaml import read_yaml

    keys = read_yaml(path)
    check(FBANK, keys, str(path))
    return FbankConfig(**keys)


def mel_scale(hertz: np.ndarray | float) -> np.ndarray:
    """Return 1127 ln(1 + f / 700), Kaldi's mel."""
    return 1127.0 * np.log1p(np.asarray(hertz, dtype=np.float64) / 700.0)


def mel_banks(bins: int, fft_length: int, rate: int, low: float, high: float) -> np.ndarray:
    """Return triangular filters, linear on the mel scale.

    Args:
        bins: number of filters.
        fft_length: points of the Fourier transform.
        rate: sampling rate in Hz.
        low: lower edge of the first filter in Hz.
        high: upper edge of the last filter in Hz.

    Returns:
        ``(fft_length // 2 + 1, bins)`` float32; the Nyquist row is zero, as in Kaldi.
    """
    edges = np.linspace(mel_scale(low), mel_scale(high), bins + 2)
    width = edges[1] - edges[0]
    mel = mel_scale(np.arange(fft_length // 2) * (rate / fft_length))[:, None]
    rising, falling = (mel - edges[:-2]) / width, (edges[2:] - mel) / width
    banks = np.maximum(0.0, np.minimum(rising, falling))
    return np.concatenate((banks, np.zeros((1, bins)))).astype(np.float32)


def window(kind: str, length: int) -> np.ndarray:
    """Return Kaldi's window ``(length,)`` float32."""
    cosine = np.cos(2 * np.pi * np.arange(length) / (length - 1))
    shapes = {
        "povey": (0.5 - 0.5 * cosine) ** 0.85,
        "hanning": 0.5 - 0.5 * cosine,
        "hamming": 0.54 - 0.46 * cosine,
        "rectangular": np.ones(length),
    }
    return shapes[kind].astype(np.float32)


class Fbank:
    """Log-mel features of one sampling rate.

    Args:
        config: the settings.
        rate: sampling rate of the audio in Hz.

    Raises:
        UserError: settings that do not fit the rate.
    """

    def __init__(self, config: FbankConfig, rate: int) -> None:
        self.config = config
        self.rate = rate
        self.length = int(rate * config.frame_length / 1000)
        self.shift = int(rate * config.frame_shift / 1000)
        nyquist = rate / 2
        high = config.high_freq + nyquist if config.high_freq <= 0 else config.high_freq
        if self.length < 2 or self.shift < 1:
            raise UserError(f"fbank config: frames of {self.length} samples at {rate} Hz")
        if not config.low_freq < high <= nyquist:
            raise UserError(
                f"fbank config: {config.low_freq:g} to {high:g} Hz does not fit audio of {rate} Hz",
                "lower high_freq or low_freq",
            )
        self.fft_length = 1 << (self.length - 1).bit_length()
        self.banks = mel_banks(config.num_mel_bins, self.fft_length, rate, config.low_freq, high)
        self.bands = split_bands(self.banks)
        self.empty_bins = int((self.banks.max(axis=0) == 0).sum())
        self.window = window(config.window_type, self.length)

    def num_frames(self, samples: int) -> int:
        """Return the number of frames of ``samples`` samples; less than one window gives none."""
        if samples < self.length:
            return 0
        if self.config.snip_edges:
            return 1 + (samples - self.length) // self.shift
        return (samples + self.shift // 2) // self.shift

    def __call__(self, wave: np.ndarray, name: str = "") -> np.ndarray:
        """Compute the features of an utterance.

        Args:
            wave: samples ``(N,)`` float32 in the range of int16.
            name: seeds the dither, so that it does not depend on the order of utterances.

        Returns:
            ``(num_frames(N), num_mel_bins)`` float32, natural logarithm of the filter energies.
        """
        import scipy.fft

        config, length = self.config, self.length
        total = self.num_frames(len(wave))
        features = np.empty((total, config.num_mel_bins), np.float32)
        if total == 0:
            return features
        if config.dither:
            noise = np.random.default_rng(zlib.crc32(name.encode()))
            wave = wave + np.float32(config.dither) * noise.standard_normal(len(wave), np.float32)
        if not config.snip_edges:
            left = length // 2 - self.shift // 2
            start = wave[:left][::-1] if left > 0 else wave[:0]
            wave = np.concatenate((start, wave[max(-left, 0) :], wave[::-1]))
        alpha = np.float32(config.preemphasis_coefficient)
        padded = np.zeros((min(BLOCK, total), self.fft_length), np.float32)
        for first in range(0, total, BLOCK):
            last = min(first + BLOCK, total)
            # Pre-emphasis of the stretch costs less than of the overlapping frames. A frame's first
            # sample has none before it in the frame: Kaldi takes the sample itself in its place.
            stretch = wave[first * self.shift : (last - 1) * self.shift + length]
            sharp = np.empty_like(stretch)
            np.multiply(stretch[:-1], -alpha, out=sharp[1:])
            sharp[1:] += stretch[1:]
            frames = self._frames(stretch)
            shaped = padded[: last - first, :length]
            if config.remove_dc_offset:
                means = frames.mean(axis=1)
                # the mean passes pre-emphasis with gain 1 - alpha
                np.subtract(self._frames(sharp), ((1 - alpha) * means)[:, None], out=shaped)
                shaped[:, 0] = (1 - alpha) * (frames[:, 0] - means)
            else:
                shaped[:] = self._frames(sharp)
                shaped[:, 0] = (1 - alpha) * frames[:, 0]
            shaped *= self.window
            parts = np.asarray(scipy.fft.rfft(padded[: last - first])).view(np.float32)
            parts *= parts
            power = parts[:, ::2] + parts[:, 1::2]
            for filters, bins, bank in self.bands:
                features[first:last, filters] = power[:, bins] @ bank
        np.maximum(features, np.float32(config.mel_floor), out=features)
        return np.log(features, out=features)

    def _frames(self, wave: np.ndarray) -> np.ndarray:
        """Return the overlapping frames ``(T, length)`` that lie in ``wave``, without a copy."""
        return np.lib.stride_tricks.sliding_window_view(wave, self.length)[:: self.shift]


def split_bands(banks: np.ndarray, width: int = 20) -> list[tuple[slice, slice, np.ndarray]]:
    """Cut a matrix of filters, most of it zero, into the parts that are not.

    Args:
        banks: ``(F, M)`` filters in columns, in order of frequency.
        width: filters in a part.

    Returns:
        For each part: its filters, the frequency bins they touch, and that block of ``banks``.
    """
    bands = []
    for first in range(0, banks.shape[1], width):
        filters = slice(first, min(first + width, banks.shape[1]))
        touched = np.flatnonzero(banks[:, filters].any(axis=1))
        bins = slice(touched[0], touched[-1] + 1) if len(touched) else slice(0, 1)
        bands.append((filters, bins, np.ascontiguousarray(banks[bins, filters])))
    return bands


def check_finite(features: np.ndarray, name: str) -> None:
    """Raise where an energy is beyond single precision.

    Raises:
        UserError: names the audio.
    """
    if not np.isfinite(features).all():
        raise UserError(
            f"{name} gives features that are not finite",
            "it holds NaN, or samples far beyond full scale; repair or remove it",
        )


@lru_cache(maxsize=4)
def extractor(config: FbankConfig, rate: int) -> Fbank:
    """Return the extractor of a rate; the filters are computed once a process."""
    return Fbank(config, rate)
