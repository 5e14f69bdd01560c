"""Recognition while the speech comes in: features, encoder and greedy CTC, chunk by chunk.

What comes out does not depend on how the audio is cut into chunks, and equals what the whole
utterance gives: features of a frame need its own samples only, ``global_mvn`` is a fixed scale,
the causal encoders carry their states (``nn.stream_state``), norms use running statistics.
"""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from espnet_spike.errors import UserError
from espnet_spike.inference.ctc import collapse
from espnet_spike.nn.stream_state import Carries

if TYPE_CHECKING:
    import numpy as np

    from espnet_spike.data.fbank import FbankConfig


class EncoderStream:
    """One stream through an encoder that has ``check_streams`` and ``forward_chunk``.

    Args:
        encoder: in evaluation mode; it may serve several streams.

    Raises:
        UserError: the encoder cannot stream.
    """

    def __init__(self, encoder: Any) -> None:
        if not hasattr(encoder, "forward_chunk"):
            raise UserError(
                f"the encoder {type(encoder).__name__} cannot stream",
                "the encoders speech_mamba, event_speech_mamba and spiking_speech_mamba can",
            )
        encoder.check_streams()
        self.encoder = encoder
        self.carries = Carries(encoder)

    @torch.no_grad()
    def step(self, xs: Tensor) -> Tensor:
        """Encode the next frames ``(B, F, C)``; return what they complete, ``(B, L, D)``."""
        if self.encoder.training:
            raise ValueError("a stream needs the evaluation mode: encoder.eval()")
        with self.carries.active():
            return self.encoder.forward_chunk(xs)


class FbankStream:
    """Log-mel features of audio that comes in pieces.

    Args:
        config: of the features.
        rate: of the audio in Hz.

    Raises:
        UserError: features that need the whole utterance.
    """

    def __init__(self, config: "FbankConfig", rate: int) -> None:
        from espnet_spike.data.fbank import Fbank

        if not config.snip_edges or config.dither:
            raise UserError(
                "these features cannot be computed chunk by chunk",
                "a stream needs snip_edges: true and dither: 0.0",
            )
        self.fbank = Fbank(config, rate)
        self.waiting: np.ndarray | None = None

    def step(self, wave: "np.ndarray") -> "np.ndarray":
        """Take samples ``(N,)`` in the range of int16; return new frames ``(F, bins)``.

        Raises:
            UserError: the samples are too large for features.
        """
        import numpy as np

        from espnet_spike.data.fbank import check_finite

        if self.waiting is not None:
            wave = np.concatenate([self.waiting, wave])
        frames = self.fbank(wave)
        check_finite(frames, "the stream")
        self.waiting = wave[len(frames) * self.fbank.shift :].copy()
        return frames


class CTCStream:
    """Greedy CTC of a trained model on a stream of features.

    Args:
        model: an ``ESPnetASRModel`` that reads features, with a CTC layer.

    Attributes:
        tokens: all so far, repeats merged, blanks left out.

    Raises:
        UserError: the model, or its normalisation, needs whole utterances.
    """

    def __init__(self, model: Any) -> None:
        from espnet2.layers.global_mvn import GlobalMVN

        normalize = getattr(model.normalize, "normalize", model.normalize)
        if model.ctc is None:
            raise UserError("the model has no CTC layer", "train it with model_conf ctc_weight > 0")
        if model.frontend is not None or model.preencoder is not None:
            raise UserError("the model does not read features", "train it with frontend: null")
        if not isinstance(normalize, GlobalMVN | None):
            raise UserError(
                f"{type(normalize).__name__} needs the whole utterance",
                "a stream needs normalize: global_mvn",
            )
        self.model, self.normalize = model, normalize
        self.encoder = EncoderStream(model.encoder)
        self.tokens: list[int] = []
        self.last = model.blank_id

    @torch.no_grad()
    def step(self, feats: Tensor) -> list[int]:
        """Take features ``(F, C)``; return the new tokens."""
        xs = feats[None].clone()  # ESPnet normalises in place
        if self.normalize is not None and len(feats):
            xs, _ = self.normalize(xs, torch.tensor([len(feats)], device=xs.device))
        out = self.encoder.step(xs)
        if not out.shape[1]:
            return []
        path = self.model.ctc.argmax(out)[0].cpu()
        new, _ = collapse(path, self.model.blank_id, self.last)
        self.last = int(path[-1])
        self.tokens += new
        return new


@dataclass
class Timing:
    """How long the chunks of a stream took.

    Attributes:
        audio: seconds of audio in each chunk.
        compute: seconds from having a chunk to having its tokens.
    """

    audio: list[float] = field(default_factory=list)
    compute: list[float] = field(default_factory=list)

    @property
    def rtf(self) -> float:
        """Real-time factor: seconds of computation for a second of audio."""
        return sum(self.compute) / max(sum(self.audio), 1e-9)

    def percentile(self, percent: float) -> float:
        """Return a percentile of the computation a chunk, in seconds; 0 without any chunk."""
        ordered = sorted(self.compute)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


class Transcriber:
    """From pieces of audio to tokens.

    Args:
        model: see ``CTCStream``.
        config: of the features.
        rate: of the audio in Hz.
    """

    def __init__(self, model: Any, config: "FbankConfig", rate: int) -> None:
        self.config, self.rate = config, rate
        self.fbank = FbankStream(config, rate)
        self.ctc = CTCStream(model)
        self.timing = Timing()

    def step(self, wave: "np.ndarray") -> list[int]:
        """Take samples in the range of int16; return the new tokens."""
        start = time.perf_counter()
        feats = torch.from_numpy(self.fbank.step(wave))
        new = self.ctc.step(feats.to(next(self.ctc.model.parameters())))
        self.timing.audio.append(len(wave) / self.rate)
        self.timing.compute.append(time.perf_counter() - start)
        return new

    def timing_lines(self, chunk_ms: float) -> list[str]:
        """Return how long chunks of ``chunk_ms`` took and wait, and the size of the state."""
        timing, encoder, config = self.timing, self.ctc.model.encoder, self.config
        wait = config.frame_length + encoder.look_ahead * config.frame_shift
        return [
            f"a chunk of {chunk_ms:g} ms: computed in {1000 * timing.percentile(50):.1f} ms "
            f"(median), {1000 * timing.percentile(95):.1f} ms (95 %), "
            f"{1000 * timing.percentile(100):.1f} ms (most); an output frame, one every "
            f"{encoder.subsampling_factor * config.frame_shift:g} ms, waits for {wait:g} ms of "
            "audio",
            f"real-time factor {timing.rtf:.3f}; state of the stream "
            f"{self.ctc.encoder.carries.nbytes() / 1024:.0f} KiB",
        ]
