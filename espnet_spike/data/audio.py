"""Reading audio as Kaldi's ``wav.scp`` names it: a path, or a pipe that we can do without."""

import io
import logging
import re
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from espnet_spike.data.containers import CUT, extent
from espnet_spike.errors import UserError
from espnet_spike.utils.files import plural, present

if TYPE_CHECKING:
    import soundfile

_logger = logging.getLogger(__name__)
# What stands in a WAV header when the writer could not seek back to fill in the size.
_SIZE_UNKNOWN = 0x7FFF0000
_HEADER = 1024  # bytes that a file without samples may have
_MAGIC = (
    b"RIFF",
    b"RF64",
    b"fLaC",
    b"OggS",
    b"ID3",
    b"FORM",
    b".snd",
    b"caff",
    b"NIST_1A",
    b"riff",
)
_CHANNELS = 64  # more are samples along the wrong axis
_LOUDEST = 64.0  # of samples that are meant to lie in -1 .. 1: what clips, but no int16
SILENT = 1e-4  # power of a channel, as a share of the loudest one's; ours


@dataclass(frozen=True)
class Source:
    """Where the audio of a recording comes from.

    Attributes:
        value: the wav.scp value as the user wrote it.
        path: the file to read, or None for a command.
        command: the shell command whose output is the audio, or None for a file.
        channel: zero-based channel to take, or None for all.
        content: a file's bytes, of audio that is in memory; or None.
    """

    value: str
    path: str | None = None
    command: str | None = None
    channel: int | None = None
    content: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class AudioInfo:
    """Header facts of a recording: rate in Hz, length in samples a channel, channels."""

    rate: int
    frames: int
    channels: int

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.frames / self.rate


def _plain_read(words: list[str]) -> tuple[str, int | None] | None:
    """Return ``(file, channel)`` when the command only decodes a file to WAV."""
    program, arguments = Path(words[0]).name, words[1:]
    files = [word for word in arguments if not word.startswith("-")]
    flags = [word for word in arguments if word.startswith("-")]
    if program == "flac" and len(files) == 1:
        letters = set("".join(flag[1:] for flag in flags if not flag.startswith("--")))
        long = {flag for flag in flags if flag.startswith("--")}
        decodes = "d" in letters or "--decode" in long
        to_stdout = "c" in letters or "--stdout" in long
        known = letters <= set("cds") and long <= {"--decode", "--stdout", "--silent"}
        if decodes and to_stdout and known:
            return files[0], None
    if program == "sph2pipe":
        channel, rest = None, list(arguments)
        while rest and rest[0].startswith("-"):
            flag = rest.pop(0)
            if flag == "-p":
                continue
            if flag == "-f" and rest and rest[0] in ("wav", "rif"):
                rest.pop(0)
            elif flag == "-c" and rest and rest[0] in ("1", "2"):
                channel = int(rest.pop(0)) - 1
            else:
                return None
        if len(rest) == 1:
            return rest[0], channel
    if program == "sox":
        rest = arguments[2:] if arguments[:1] == ["-t"] else arguments
        channel = None
        if rest[-2:-1] == ["remix"] and rest[-1].isdigit() and rest[-1] != "0":
            channel, rest = int(rest[-1]) - 1, rest[:-2]
        if rest[1:] in (["-t", "wav", "-"], ["-t", "wavpcm", "-"]) and not rest[0].startswith("-"):
            return rest[0], channel
    return None


def parse_source(value: str, name: str, allow_pipes: bool = False) -> Source:
    """Understand a wav.scp value.

    ``flac -c -d -s x |``, ``sph2pipe -f wav x |`` and ``sox x -t wav - |`` become reads of ``x``,
    ``sox x -t wav - remix 2 |`` of its second channel.

    Args:
        value: path, or command that ends in ``|``.
        name: recording or utterance, for messages.
        allow_pipes: run any other command through the shell.

    Raises:
        UserError: empty value, or a command that would have to be run without ``allow_pipes``.
    """
    if not value:
        raise UserError(f"{name}: no audio file named in wav.scp")
    if not value.endswith("|"):
        return Source(value, path=value)
    command = value[:-1].strip()
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    if words and not re.search(r"[|;&<>$`*?~]", command):
        plain = _plain_read(words)
        if plain:
            return Source(value, path=plain[0], channel=plain[1])
    if not allow_pipes:
        raise UserError(
            f"{name}: the wav.scp entry runs a command: {value}",
            "if you trust it, give --allow_pipes true",
        )
    return Source(value, command=command)


def from_content(content: bytes, name: str, raw_fs: int | None = None) -> Source:
    """Return audio that came through a pipe.

    Args:
        content: of a file of any format that libsndfile reads, or samples alone.
        name: of the stream, for messages.
        raw_fs: rate in Hz of samples without any header, 16 bits each, little-endian, one channel.

    Raises:
        UserError: nothing came, or a file where there should be samples alone.
    """
    if not content:
        raise UserError(f"{name} is empty (0 bytes)", "what wrote into the pipe has failed")
    if raw_fs is None:
        return Source(name, content=_with_length(content))
    if content.startswith(_MAGIC):
        raise UserError(f"{name} is a file with a header, no raw samples", "leave out --raw_fs")
    if len(content) % 2:
        _logger.warning("%s ends within a sample of 16 bits; the last byte is left out", name)
    return from_wave(np.frombuffer(content[: len(content) // 2 * 2], "<i2"), raw_fs, name)


def from_wave(wave: np.ndarray, rate: int, name: str = "audio") -> Source:
    """Return audio that is an array.

    Args:
        wave: samples ``(N,)``, or ``(N, C)`` of several channels: int16, or floating-point numbers
            from -1 to 1, as soundfile gives them.
        rate: in Hz.
        name: of the audio, for messages.

    Raises:
        UserError: it is nothing of the kind.
    """
    import soundfile

    how = "give samples (N,), or (N, channels), as soundfile.read gives them"
    wave = np.asarray(wave)
    if wave.ndim not in (1, 2) or (wave.ndim == 2 and wave.shape[1] > _CHANNELS):
        raise UserError(f"{name} has the shape {wave.shape}, which is that of no audio", how)
    if wave.dtype != np.int16 and not np.issubdtype(wave.dtype, np.floating):
        raise UserError(f"{name} is of {wave.dtype}, which has no known range", f"{how}, or int16")
    if not len(wave):
        raise UserError(f"{name} holds no samples", how)
    if isinstance(rate, bool) or rate != int(rate) or rate < 1:
        raise UserError(f"{name}: a rate of {rate} Hz", "give the sampling rate in Hz")
    if wave.dtype != np.int16:
        if not np.isfinite(wave).all():
            raise UserError(f"{name} holds samples that are not finite")
        if (most := float(np.abs(wave).max())) > _LOUDEST:
            raise UserError(
                f"{name} has samples up to {most:.4g}, where -1 to 1 is the range",
                "divide by 32768 what has the range of int16, or give int16",
            )
    file = io.BytesIO()
    kind = "PCM_16" if wave.dtype == np.int16 else "FLOAT"
    soundfile.write(file, wave, int(rate), kind, format="W64")  # of any length
    return Source(name, content=file.getvalue())


def _with_length(content: bytes) -> bytes:
    """Put the length into the header of a WAV file whose writer left a zero for it."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return content
    at = 12
    while at + 8 <= len(content):
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        if content[at : at + 4] == b"data":
            rest = len(content) - at - 8
            if size or not rest or _is_chunk(content, at + 8):
                return content
            length = min(rest, 0xFFFFFFFF).to_bytes(4, "little")
            return content[: at + 4] + length + content[at + 8 :]
        at += 8 + size + size % 2
    return content


def _is_chunk(content: bytes, at: int) -> bool:
    """Tell whether a chunk of RIFF begins at a place, and reaches no farther than the file."""
    size = int.from_bytes(content[at + 4 : at + 8], "little")
    return content[at : at + 4].isalnum() and at + 8 + size <= len(content)


def _run_command(command: str, name: str) -> io.BytesIO:
    done = subprocess.run(
        command, shell=True, capture_output=True, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode != 0:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise UserError(
            f"{name}: the command of its wav.scp entry ended with status {done.returncode}: "
            f"{command}" + "".join(f"\n  {line}" for line in last)
        )
    return io.BytesIO(_with_length(done.stdout))


def _open(source: Source, name: str) -> "soundfile.SoundFile":
    import soundfile

    if source.content is not None:
        file = io.BytesIO(source.content)
    elif source.command is not None:
        file = _run_command(source.command, name)
    else:
        if source.path is None:
            raise ValueError(f"{source}: no file, no command, no content")
        file = source.path
        try:
            file.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{source.path!r}: the name of this file is not UTF-8", "rename it"
            ) from error
        if not present(Path(source.path)):
            if re.search(r":[0-9]+(\[[0-9:,]*\])?$|\[[0-9:,]*\]$", source.path):
                raise UserError(
                    f"{name}: {source.path} is a place in a Kaldi archive, or a range of a file",
                    "write the audio to files of its own (Kaldi: wav-copy), and ranges to segments",
                )
            raise UserError(f"{name}: audio file {source.path} does not exist")
        if Path(source.path).stat().st_size == 0:
            raise UserError(f"{name}: audio file {source.path} is empty (0 bytes)")
    try:
        return soundfile.SoundFile(file)
    except (soundfile.LibsndfileError, TypeError) as error:
        raise UserError(
            f"{name}: {source.value} is no audio that libsndfile can read ({error})",
            "convert it to WAV or FLAC"
            + ("" if source.content is None else "; samples without a header need --raw_fs"),
        ) from error


def _declared_frames(file, source: Source) -> int:  # noqa: ANN001
    """Return the length that the header promises, in samples a channel.

    libsndfile shortens the length of a truncated WAV or SPHERE file without a word.
    """
    if file.format == "NIST" and source.command is None:
        header = (source.content or b"")[:1024]
        if source.path is not None:
            with open(source.path, "rb") as raw:
                header = raw.read(1024)
        match = re.search(rb"sample_count -i (\d+)", header)
        return int(match[1]) if match else file.frames
    # chunks that hold the samples in WAV, AIFF, AU, W64 and RF64 as libsndfile's log names them
    chunk = r"(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)"
    match = re.search(chunk, file.extra_info)
    if match and int(match[1]) < _SIZE_UNKNOWN:
        return max(file.frames, round(file.frames * int(match[1]) / max(int(match[2]), 1)))
    return file.frames


def inspect(source: Source, name: str, check_samples: bool = True) -> AudioInfo:
    """Open a recording, check that it is whole and has samples, and return its header facts.

    The last sample is read, which finds truncated files.

    Args:
        source: the recording.
        name: recording or utterance, for messages.
        check_samples: read floating-point files, which can hold NaN, as a whole.

    Raises:
        UserError: missing, unreadable, truncated, empty or non-finite audio.
    """
    import soundfile

    with _open(source, name) as file:
        info = AudioInfo(file.samplerate, file.frames, file.channels)
        if not file.seekable():  # a codec of which libsndfile guesses the length
            info = AudioInfo(info.rate, _decode(file), info.channels)
        if info.frames <= 0:
            size = Path(source.path).stat().st_size if source.path is not None else 0
            if size > _HEADER:
                raise UserError(
                    f"{name}: {source.value} holds no samples by its header, but {size} bytes",
                    "its writer could not go back to fill in the length; repair it, for example "
                    "with ffmpeg -i FILE NEW.wav",
                )
            raise UserError(f"{name}: {source.value} holds no samples")
        if info.frames >= 1 << 48:
            raise UserError(
                f"{name}: {source.value} does not say how long it is",
                "its encoder wrote to a pipe; decode it and encode it again",
            )
        declared = _declared_frames(file, source)
        truncated = UserError(
            f"{name}: {source.value} is truncated or damaged: its header promises about {declared} "
            f"samples, they cannot all be read",
            "copy or download the file again",
        )
        if declared > info.frames:
            raise truncated
        try:
            whole = not file.seekable() or _last_is_there(file, info.frames)
        except soundfile.LibsndfileError:
            whole = False
        if not whole and file.format == "SDS":  # in which libsndfile finds no place
            with _open(source, name) as again:
                whole = _decode(again) == info.frames
        if not whole:
            raise truncated
        if source.command is None:
            _check_extent(source, name, file.format, info)
        if check_samples and file.seekable() and file.subtype in ("FLOAT", "DOUBLE"):
            file.seek(0)
            for block in file.blocks(blocksize=1 << 20, dtype="float32"):
                if not np.isfinite(block).all():
                    raise UserError(f"{name}: {source.value} holds samples that are not finite")
    if source.channel is not None and source.channel >= info.channels:
        raise UserError(
            f"{name}: channel {source.channel + 1} is asked for, the file has {info.channels}"
        )
    return info


def _last_is_there(file: "soundfile.SoundFile", frames: int) -> bool:
    file.seek(frames - 1)
    return len(file.read(1)) == 1


def _decode(file: "soundfile.SoundFile") -> int:
    """Return how many samples a channel there are, from here to the end."""
    count = 0
    while part := len(file.read(1 << 16)):
        count += part
    return count


def _check_extent(source: Source, name: str, kind: str, info: AudioInfo) -> None:
    """Raise where a container holds more or less than what would be read of it."""
    held = Path(source.path or "") if source.content is None else io.BytesIO(source.content)
    fault, seen = extent(held, kind, info.frames)
    if fault:
        again = (
            "copy or download the file again; if there is no more of it, " if fault == CUT else ""
        )
        raise UserError(
            f"{name}: {source.value} is {fault} ({seen}); {info.duration:.2f} s would be read",
            f"{again}decode it and encode it again, for example with ffmpeg -i FILE NEW.wav",
        )


def read(
    source: Source, name: str, start: float = 0.0, end: float = -1.0
) -> tuple[np.ndarray, int]:
    """Read a recording, or the stretch from ``start`` to ``end`` seconds of it.

    Channels are averaged unless the source names one.

    Returns:
        Samples ``(N,)`` float32 in the range of int16, as Kaldi expects, and the rate in Hz.

    Raises:
        UserError: as ``inspect``, or fewer samples than the header promises.
    """
    import soundfile

    with _open(source, name) as file:
        rate = file.samplerate
        first = round(start * rate)
        last = file.frames if end == -1 else min(round(end * rate), file.frames)
        places = file.seekable() and file.format != "SDS"
        try:
            if not places and end == -1:
                with _open(source, name) as again:
                    last = _decode(again)
            if first and places:
                file.seek(first)
            elif first:
                file.read(first)
            # for 16-bit files libsndfile's own conversion to float takes several times longer
            kind = "int16" if file.subtype == "PCM_16" else "float32"
            wave = file.read(max(last - first, 0), dtype=kind)
        except soundfile.LibsndfileError as error:
            raise UserError(f"{name}: {source.value} cannot be decoded ({error})") from error
    if len(wave) < last - first:
        raise UserError(
            f"{name}: {source.value} gave {len(wave)} of {plural(last - first, 'sample')}"
        )
    wave = wave.astype(np.float32) if kind == "int16" else wave * np.float32(32768)
    if wave.ndim == 2:
        wave = wave.mean(axis=1) if source.channel is None else wave[:, source.channel].copy()
    return wave, rate


def least_correlation(source: Source, name: str, seconds: float = 5.0) -> float:
    """Return the least correlation of a recording's channels with the first, 0 of a silent one.

    Args:
        source: a recording with several channels.
        name: recording or utterance, for messages.
        seconds: of the middle of the recording, which are compared.

    Raises:
        UserError: as ``read``.
    """
    with _open(source, name) as file:
        count = min(file.frames, round(seconds * file.samplerate))
        file.seek((file.frames - count) // 2)
        wave = file.read(count, dtype="float64", always_2d=True)
    wave = wave - wave.mean(axis=0)
    power = np.square(wave).mean(axis=0)
    if power.min() < SILENT * power.max() or not power.max():
        return 0.0
    products = (wave[:, :1] * wave[:, 1:]).mean(axis=0)
    return float((products / np.sqrt(power[0] * power[1:])).min())


def change_rate(wave: np.ndarray, rate: int, new_rate: int, speed: float = 1.0) -> np.ndarray:
    """Resample, and play ``speed`` times as fast as sox's ``speed`` does: pitch changes too.

    Args:
        wave: samples ``(N,)``.
        rate: their rate in Hz.
        new_rate: the rate wanted in Hz.
        speed: length and pitch period are divided by it.

    Returns:
        About ``N * new_rate / (rate * speed)`` samples.
    """
    if rate * speed == new_rate:
        return wave
    import soxr

    return soxr.resample(wave, rate * speed, new_rate)
