"""What a container holds beyond the length that its header gives.

libsndfile reads the first of several Ogg streams that stand one after the other, as many MP3 frames
as the first header counts, an Ogg file up to its last whole page, and of WAV and AIFF what the
header of the samples says. Of files that were joined, loaded in part, or whose header is wrong, one
would get a part of the audio without a word.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# encoder's delay and padding, which a decoder takes off: twelve bits each
_TRIMMED = 2 * 4096

JOINED = "several files one after the other"
CUT = "cut off"
LONGER = "longer than its header says"


def extent(path: Path | BinaryIO, kind: str, frames: int) -> tuple[str, str]:
    """Compare what a container holds with the length that libsndfile gives.

    Args:
        path: the file, or one that is open.
        kind: libsndfile's name of the format: ``OGG``, ``MP3``, ``WAV``, ``WAVEX`` or ``AIFF``; any
            other passes.
        frames: its samples a channel according to libsndfile.

    Returns:
        ``JOINED``, ``CUT`` or ``LONGER``, and how one sees it; two empty texts where the length is
        right.
    """
    checks = {"OGG": _ogg, "MP3": _mp3, "WAV": _chunks, "WAVEX": _chunks, "AIFF": _chunks}
    if kind not in checks:
        return "", ""
    with path.open("rb") if isinstance(path, Path) else contextlib.nullcontext(path) as file:
        return checks[kind](file, frames)


def _ogg(file: BinaryIO, _frames: int) -> tuple[str, str]:
    """Go from page to page (RFC 3533): each stream begins once, all at the beginning, and ends."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    inside = ended = False
    while header := file.read(27):
        if len(header) < 27 or header[:4] != b"OggS":
            if ended:
                break  # a tag behind the audio
            return CUT, "an Ogg page is not whole"
        first, last = bool(header[5] & 2), bool(header[5] & 4)
        if first and inside:
            return JOINED, "several Ogg streams"
        inside = inside or not first
        ended = ended or last
        following = file.tell() + header[26] + sum(file.read(header[26]))
        if following > size:
            return CUT, "the last Ogg page is not whole"
        file.seek(following)
    return ("", "") if ended else (CUT, "the end of the Ogg stream is missing")


_BITRATES = {  # kbit/s of (MPEG-1, layer), ISO 11172-3 and 13818-3
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_BITRATES[False, 3] = _BITRATES[False, 2]
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def _frame(header: bytes) -> tuple[int, int]:
    """Return bytes and samples of the MPEG audio frame that begins so; zeros where none does."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return 0, 0
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    index, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or not 0 < index < 15 or rate == 3:
        return 0, 0
    bits, hertz = 1000 * _BITRATES[version == 3, layer][index - 1], _RATES[version][rate]
    if layer == 1:
        return (12 * bits // hertz + padding) * 4, 384
    samples = 576 if layer == 3 and version != 3 else 1152
    return samples // 8 * bits // hertz + padding, samples


_APE, _APE_TAG = b"APETAGEX", 32  # header and footer of an APEv2 tag, and their size in bytes
_ID3V1 = 128  # bytes


def _ape(tag: bytes) -> tuple[int, bool, bool]:
    """Return bytes behind a tag's header, whether it has one, and whether this is that header."""
    size, flags = (int.from_bytes(tag[at : at + 4], "little") for at in (12, 20))
    return size, bool(flags >> 31), bool(flags >> 29 & 1)


def _without_tags_behind(data: bytes) -> bytes:
    """Take off ID3v1 and APEv2 behind the audio: their pictures hold what looks like frames."""
    if data[-_ID3V1:].startswith(b"TAG"):
        data = data[:-_ID3V1]
    footer = data[-_APE_TAG:]
    if footer.startswith(_APE):
        size, headed, _ = _ape(footer)
        length = size + _APE_TAG * headed
        data = data[:-length] if _APE_TAG <= length <= len(data) else data
    return data


def _mp3_frames(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield every whole frame of MPEG audio with its samples; tags between them are passed over."""
    data = _without_tags_behind(data)
    at = 0
    while at < len(data):
        size, samples = _frame(data[at : at + 4])
        if size:
            if at + size <= len(data):
                yield data[at : at + size], samples
            at += size
        elif data[at : at + 3] == b"ID3" and at + 10 <= len(data):
            length = sum(
                (byte & 0x7F) << 7 * n for n, byte in enumerate(data[at + 9 : at + 5 : -1])
            )
            at += 10 + length + (10 if data[at + 5] & 0x10 else 0)
        elif data.startswith(_APE, at) and _ape(data[at : at + _APE_TAG])[2]:
            at += _APE_TAG + _ape(data[at : at + _APE_TAG])[0]
        else:  # a tag of another kind, padding, or damage: on to what looks like a frame
            at = data.find(b"\xff", at + 1)
            if at < 0:
                return


def _mp3(file: BinaryIO, frames: int) -> tuple[str, str]:
    """Count the frames, and what a header of Xing's kind says of them."""
    there = counted = promised = heads = 0
    for frame, samples in _mp3_frames(file.read()):
        mark = max(
            frame.find(b"Xing", 0, 60), frame.find(b"Info", 0, 60), frame.find(b"VBRI", 0, 60)
        )
        if mark > 0:
            heads += 1
            if heads > 1:
                return JOINED, "several headers that count MP3 frames"
            if frame[mark : mark + 4] == b"VBRI":
                promised = int.from_bytes(frame[mark + 14 : mark + 18], "big")
            elif frame[mark + 7] & 1:
                promised = int.from_bytes(frame[mark + 8 : mark + 12], "big")
            continue
        counted += 1
        there += samples
    if promised > counted:
        return CUT, f"{counted} of {promised} MP3 frames are there"
    if there - frames > _TRIMMED:
        return JOINED, f"its MP3 frames hold {there} samples, its header says {frames}"
    return "", ""


_TAGS = (b"ID3", b"TAG", _APE)  # behind the chunks


def _chunks(file: BinaryIO, _frames: int) -> tuple[str, str]:
    """Go from chunk to chunk (RIFF; EA IFF 85): what follows the samples is chunks, or a tag."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    order = "little" if file.read(12)[:4] == b"RIFF" else "big"
    at, samples, whole = 12, 0, 0  # `whole`: up to where all is known
    while at + 8 <= size:
        file.seek(at)
        header = file.read(8)
        following = at + 8 + int.from_bytes(header[4:], order)
        if not all(32 <= byte < 127 for byte in header[:4]) or (samples and following > size):
            if at == whole and at % 2:  # some write no byte that makes a chunk even
                at += 1
                continue
            break
        if header[:4] in (b"data", b"SSND"):
            samples = following - at - 8
        whole = at = following
    if not samples or whole >= size:
        return "", ""  # samples to the end of the file
    file.seek(whole)
    behind = file.read(size - whole)
    if not behind.strip(b"\0") or behind.lstrip(b"\0").startswith(_TAGS):
        return "", ""
    return LONGER, f"samples of {samples} bytes, and {len(behind)} bytes behind them are no chunk"
