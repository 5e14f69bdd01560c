"""Recording from a microphone, and text while one speaks.

``sounddevice`` delivers blocks of samples from a thread of its own; none is lost while the model
computes. A model that streams hears each block at once. The transcript is that of the whole
recording, by the same search as for a file.
"""

import contextlib
import importlib
import logging
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from espnet_spike.errors import UserError
from espnet_spike.utils.files import plural
from espnet_spike.utils.install import how_to_install

if TYPE_CHECKING:
    from espnet_spike.inference.recognizer import Recognizer
    from espnet_spike.inference.streaming import Transcriber

logger = logging.getLogger("transcribe")
BLOCK = 0.16  # seconds that are heard at once; ours
SILENCE = 10.0  # seconds without a block after which the device is taken for dead; ours


class Microphone:
    """An input device of this machine, or of what PortAudio takes for one.

    Args:
        device: its number or (part of) its name; None for the system's default.

    Attributes:
        name: of the device.

    Raises:
        UserError: ``sounddevice`` or PortAudio is missing, or there is no such device.
    """

    def __init__(self, device: str | None = None) -> None:
        self._sounddevice = _import_sounddevice()
        self._device = int(device) if device is not None and device.isdecimal() else device
        try:
            found = self._sounddevice.query_devices(self._device, "input")
        except (ValueError, self._sounddevice.PortAudioError) as error:
            there = [
                f"{number} {one['name']}"
                for number, one in enumerate(self._sounddevice.query_devices())
                if one["max_input_channels"] > 0
            ]
            what = "no microphone" if device is None else f"no microphone {device!r}"
            raise UserError(
                f"{what} ({error})",
                f"--microphone_device takes the number or the name: {', '.join(there)}"
                if there
                else "this machine has none that PortAudio knows; transcribe a file, or - (a pipe)",
            ) from error
        self.name = str(found["name"])
        self._default_rate = round(found["default_samplerate"])

    def blocks(
        self, rate: int, ended: threading.Event, seconds: float | None = None
    ) -> Iterator[np.ndarray]:
        """Record; yield blocks of samples ``(N,)`` float32 in the range of int16, at ``rate`` Hz.

        The samples of a device that does not know the rate are resampled.

        Args:
            rate: wanted, in Hz.
            ended: set when the recording is to end.
            seconds: of the recording; None for no other end.

        Raises:
            UserError: the device fails, or is silent for 10 s.
        """
        own = self._rate(rate)
        heard: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()
        lost: list[bool] = []

        def take(data: Any, frames: int, when: Any, status: Any) -> None:
            if status.input_overflow:
                lost.append(True)
            heard.put(np.array(data[:, 0], np.float32))  # a copy: the buffer is used again

        left = None if seconds is None else round(seconds * own)
        resample = _resampler(own, rate)
        options = {"samplerate": own, "blocksize": round(own * BLOCK), "device": self._device}
        try:
            with self._sounddevice.InputStream(**options, channels=1, dtype="int16", callback=take):
                waited = 0.0
                while not ended.is_set() and (left is None or left > 0):
                    try:
                        block = heard.get(timeout=BLOCK)[:left]
                    except queue.Empty:
                        waited += BLOCK
                        if waited < SILENCE:
                            continue
                        raise UserError(
                            f"{self.name} has given nothing for {SILENCE:g} s",
                            "is it muted, or in use?",
                        ) from None
                    waited = 0.0
                    left = None if left is None else left - len(block)
                    yield resample(block, False)
        except self._sounddevice.PortAudioError as error:
            raise UserError(f"{self.name} cannot be recorded: {error}", "is it in use?") from error
        while not heard.empty() and left is None:  # what was said before the end
            yield resample(heard.get(), False)
        if len(rest := resample(np.zeros(0, np.float32), True)):
            yield rest
        if lost:
            logger.warning("the system, too busy, has lost samples %s", plural(len(lost), "time"))

    def _rate(self, rate: int) -> int:
        """Return the rate if the device knows it, else its own."""
        try:
            self._sounddevice.check_input_settings(self._device, 1, "int16", None, rate)
        except (ValueError, self._sounddevice.PortAudioError):
            return self._default_rate
        return rate


def _import_sounddevice() -> Any:
    try:
        return importlib.import_module("sounddevice")
    except ImportError as error:
        raise UserError(
            f"--microphone needs the package sounddevice, the extra 'microphone' ({error})",
            how_to_install("microphone"),
        ) from None
    except OSError as error:  # of a library of the system
        raise UserError(
            f"--microphone: sounddevice does not find PortAudio ({error})",
            "install it (Debian, Ubuntu: libportaudio2)",
        ) from None


def _resampler(rate: int, new_rate: int) -> Callable[[np.ndarray, bool], np.ndarray]:
    """Return what resamples block after block; the second argument says that it is the last."""
    if rate == new_rate:
        return lambda block, last: block
    import soxr

    stream = soxr.ResampleStream(rate, new_rate, 1, "float32")
    return lambda block, last: stream.resample_chunk(block, last)


def streaming(recognizer: "Recognizer") -> "Transcriber | None":
    """Return a stream through a model; None, with a note why, of one that needs the whole."""
    from espnet_spike.inference.streaming import Transcriber

    extractor = recognizer.feature_extractor
    try:
        fbank = extractor.features("stream")
        first = Transcriber(recognizer.model, fbank, extractor.fs)
        # loading the compiled kernels takes longer than any block
        first.step(np.zeros(extractor.fs, np.float32))
        return Transcriber(recognizer.model, fbank, extractor.fs)
    except UserError as error:
        logger.info("text comes when the recording has ended: %s", error.message)
        return None


@contextlib.contextmanager
def until_interrupted() -> Iterator[threading.Event]:
    """Yield what Ctrl-C sets, once; the second one interrupts as ever."""
    ended = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield ended
        return

    def end(number: int, frame: Any) -> None:
        if ended.is_set():
            raise KeyboardInterrupt
        ended.set()

    before = signal.signal(signal.SIGINT, end)
    try:
        yield ended
    finally:
        signal.signal(signal.SIGINT, before)


def record(
    microphone: Microphone,
    recognizer: "Recognizer",
    show: Callable[[float, str], None],
    seconds: float | None = None,
) -> np.ndarray:
    """Record until Ctrl-C, or for some seconds, and show the text of a model that streams.

    Args:
        microphone: what is recorded.
        recognizer: with the model.
        show: gets the seconds heard and the text so far, whenever that has grown.
        seconds: of the recording.

    Returns:
        Samples ``(N,)`` int16 at the model's rate.

    Raises:
        UserError: the device fails, or nothing was recorded.
    """
    fs = recognizer.feature_extractor.fs
    transcriber = streaming(recognizer)
    logger.info("%s: speak; Ctrl-C ends the recording", microphone.name)
    blocks: list[np.ndarray] = []
    count = 0
    behind = 0.0
    start = time.monotonic()
    with until_interrupted() as ended:
        for block in microphone.blocks(fs, ended, seconds):
            blocks.append(block)
            count += len(block)
            if transcriber is not None and transcriber.step(block):
                show(count / fs, recognizer.to_text(transcriber.ctc.tokens))
            behind = max(behind, time.monotonic() - start - count / fs)
    if not count:
        raise UserError(f"{microphone.name}: nothing was recorded", "speak before Ctrl-C")
    if transcriber is not None and behind > 1:
        logger.warning("the text was up to %.1f s late: this machine is too slow for it", behind)
    return np.clip(np.concatenate(blocks).round(), -32768, 32767).astype(np.int16)
