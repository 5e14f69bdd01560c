"""Mutations of audio, ark files, archives and files of tensors."""

import bz2
import gzip
import io
import lzma
import pickle
import random
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.robustness.mutation import Expect, Mutation, Place, Reduced, mutator

BINARY = ("wav", "flac", "mp3", "ark", "tar", "tgz", "zip", "pack", "pth", "bpe", "npz")
CHECKED = ("zip", "pack", "pth", "npz", "tgz")  # formats with a checksum over the content
TEXTS = (b"<html><body>404</body></html>\n", b"version https://git-lfs.github.com/spec/v1\n")


def partly(place: Place, content: bytes | None, expect: Expect, note: str = "") -> Mutation:
    return Mutation(content, expect, note, place.touched)


# Any format


@mutator(*BINARY)
def another_file(rng: random.Random, data: bytes, place: Place) -> Mutation:
    text = rng.choice(
        [
            b"",
            b"\0",
            *TEXTS,
            bytes(len(data)),
            rng.randbytes(len(data)),
            rng.randbytes(5),
            b"PK\3\4",
        ]
    )
    return partly(place, text, Expect.REFUSED, repr(text[:20]))


@mutator(*BINARY)
def cut_off(rng: random.Random, data: bytes, place: Place) -> Mutation:
    at = rng.randrange(max(len(data) - 2, 1))
    # an mp3 is a row of frames: a cut one is a shorter one
    expect = Expect.PARTLY if place.path.endswith(("mp3", "model")) else Expect.REFUSED
    if place.path.endswith(".tar"):  # which ends in zeros
        expect = Expect.SAME_OR_REFUSED
    return partly(place, data[:at], expect, f"after {at} of {len(data)} bytes")


@mutator(*BINARY)
def a_bit(rng: random.Random, data: bytes, place: Place) -> Mutation:
    found = bytearray(data)
    at = rng.randrange(len(found))
    found[at] ^= 1 << rng.randrange(8)
    checked = place.path.endswith((".zip", ".pth", ".npz", ".tar.gz"))
    expect = Expect.SAME_OR_REFUSED if checked else Expect.PARTLY
    return partly(place, bytes(found), expect, f"byte {at} of {len(data)}")


@mutator(*BINARY)
def a_byte_of_the_head(rng: random.Random, data: bytes, place: Place) -> Mutation:
    found = bytearray(data)
    at = rng.randrange(min(64, len(found)))
    found[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, found[at] ^ 0xFF])
    return partly(place, bytes(found), Expect.PARTLY, f"byte {at}")


@mutator(*BINARY)
def a_stretch(rng: random.Random, data: bytes, place: Place) -> Mutation:
    found = bytearray(data)
    at = rng.randrange(len(found))
    size = rng.randrange(1, 64)
    kind = rng.choice(["zeros", "ones", "noise", "less", "more", "again"])
    piece = {
        "zeros": bytes(size),
        "ones": b"\xff" * size,
        "noise": rng.randbytes(size),
        "less": b"",
        "more": bytes(found[at : at + size]) + rng.randbytes(size),
        "again": bytes(found[at : at + size]) * 2,
    }[kind]
    found[at : at + size] = piece
    checked = place.path.endswith((".zip", ".pth", ".npz", ".tar.gz"))
    expect = Expect.SAME_OR_REFUSED if checked else Expect.PARTLY
    return partly(place, bytes(found), expect, f"{kind} at {at} of {len(data)}")


@mutator(*BINARY)
def a_tail(rng: random.Random, data: bytes, place: Place) -> Mutation:
    tail = rng.choice([b"\0", b"\n", rng.randbytes(40), data])
    checked = place.path.endswith((".zip", ".pth", ".npz", ".tar.gz"))
    expect = Expect.SAME_OR_REFUSED if checked else Expect.PARTLY
    return partly(place, data + tail, expect, f"{len(tail)} bytes")


# Audio


def wav_bytes(samples: np.ndarray, rate: int, **layout: Any) -> bytes:
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="WAV", **layout)
    return out.getvalue()


def wav_samples(data: bytes) -> tuple[np.ndarray, int]:
    import soundfile

    return soundfile.read(io.BytesIO(data), dtype="int16")


@mutator("wav")
def more_chunks(rng: random.Random, data: bytes, place: Place) -> Mutation:
    start = data.index(b"data")
    chunk = (
        b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf58.29.100\0"
    )
    found = data[:start] + chunk + data[start:]
    found = found[:4] + struct.pack("<I", len(found) - 8) + found[8:]
    return Mutation(found, Expect.SAME)


@mutator("wav")
def a_field_of_the_header(rng: random.Random, data: bytes, place: Place) -> Mutation:
    at, size = rng.choice(
        [(4, 4), (16, 4), (20, 2), (22, 2), (24, 4), (28, 4), (32, 2), (34, 2), (40, 4)]
    )
    value = rng.choice([0, 1, 3, 7, 255, (1 << 8 * size) - 1, 1 << (8 * size - 1)])
    found = data[:at] + value.to_bytes(size, "little") + data[at + size :]
    return partly(place, found, Expect.PARTLY, f"{value} at {at}")


@mutator("wav")
def samples_of_no_use(rng: random.Random, data: bytes, place: Place) -> Mutation:
    samples, rate = wav_samples(data)
    kind = rng.choice(["none", "nan", "inf"])
    if kind == "none":
        return partly(place, wav_bytes(samples[:0], rate), Expect.REFUSED, kind)
    values = samples / np.float32(32768)
    values[rng.randrange(len(values))] = float(kind)
    return partly(place, wav_bytes(values, rate, subtype="FLOAT"), Expect.REFUSED, kind)


@mutator("wav")
def another_form(rng: random.Random, data: bytes, place: Place) -> Mutation:
    samples, rate = wav_samples(data)
    kind = rng.choice(["stereo", "rate", "channels", "short", "float", "huge", "8 bits"])
    found = {
        "stereo": lambda: wav_bytes(np.stack([samples, samples], 1), rate),
        "rate": lambda: wav_bytes(samples, rng.choice([1, 50, 999, 4000, 44100, 655350])),
        "channels": lambda: wav_bytes(np.stack([samples] * 30, 1), rate),
        "short": lambda: wav_bytes(samples[: rng.choice([1, 2, 100, 190])], rate),
        "float": lambda: wav_bytes(samples / np.float32(32768), rate, subtype="FLOAT"),
        "huge": lambda: wav_bytes(samples * np.float32(1e30), rate, subtype="FLOAT"),
        "8 bits": lambda: wav_bytes(samples, rate, subtype="PCM_U8"),
    }[kind]()
    return partly(place, found, Expect.PARTLY, kind)


@mutator("flac")
def no_length(rng: random.Random, data: bytes, place: Place) -> Mutation:
    """A length of 0 in STREAMINFO: its encoder wrote to a pipe."""
    found = bytearray(data)
    found[21] &= 0xF0
    found[22:26] = bytes(4)
    return partly(place, bytes(found), Expect.PARTLY)


# Ark files


@mutator("ark")
def a_header_that_lies(rng: random.Random, data: bytes, place: Place) -> Mutation | None:
    starts = [found.start() for found in re.finditer(rb"\0BFM \x04", data)]
    if not starts:
        return None
    at = rng.choice(starts) + rng.choice([6, 11])
    value = rng.choice([0, 1, -1, 1 << 30, (1 << 31) - 1, -(1 << 31), 3])
    found = data[:at] + struct.pack("<i", value) + data[at + 4 :]
    return Mutation(found, Expect.PARTLY, f"{value} at {at}")


@mutator("ark")
def values_of_no_use(rng: random.Random, data: bytes, place: Place) -> Mutation | None:
    starts = [found.start() for found in re.finditer(rb"\0BFM \x04", data)]
    if not starts:
        return None
    at = rng.choice(starts) + 15 + 4 * rng.randrange(8)
    value = rng.choice([float("nan"), float("inf"), -float("inf")])
    return Mutation(
        data[:at] + struct.pack("<f", value) + data[at + 4 :], Expect.REFUSED, str(value)
    )


@mutator("ark")
def another_kind_of_matrix(rng: random.Random, data: bytes, place: Place) -> Mutation | None:
    starts = [found.start() for found in re.finditer(rb"\0BFM \x04", data)]
    if not starts:
        return None
    at = rng.choice(starts)
    kind = rng.choice([b"DM ", b"FV ", b"CM ", b"CM2", b"XX ", b"SM ", b"FM\0", b"AUD"])
    return Mutation(data[: at + 2] + kind + data[at + 5 :], Expect.PARTLY, repr(kind))


@mutator("ark")
def a_pickle_inside(rng: random.Random, data: bytes, place: Place) -> Mutation:
    at = data.index(b"\0B")
    content = pickle.dumps(Reduced(place.command))
    return Mutation(data[:at] + content + data[at:], Expect.REFUSED)


# Archives


def tar_files(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}  # type: ignore[union-attr]


def member(
    name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname, info.mode = size, kind, link, 0o6777
    return info


def tar_bytes(
    files: dict[str, bytes], extra: list[tuple[tarfile.TarInfo, bytes]], first: bool
) -> bytes:
    out = io.BytesIO()
    members = [(member(name, len(content)), content) for name, content in files.items()]
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in [*extra, *members] if first else [*members, *extra]:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def packed_as(path: str, data: bytes) -> bytes:
    return gzip.compress(data, mtime=0) if path.endswith(".gz") else data


def hostile_members(
    rng: random.Random, place: Place
) -> tuple[str, list[tuple[tarfile.TarInfo, bytes]]]:
    outside, text = str(place.outside), b"escaped"
    kinds = {
        "absolute": [(member(f"{outside}/escaped", 7), text)],
        "up": [(member("../" * 12 + f"{outside[1:]}/escaped", 7), text)],
        "beside": [(member("../outside/escaped", 7), text)],
        "inside up": [(member("a/../../outside/escaped", 7), text)],
        "link": [
            (member("out", 0, tarfile.SYMTYPE, outside), b""),
            (member("out/escaped", 7), text),
        ],
        "link up": [(member("out", 0, tarfile.SYMTYPE, "../../outside"), b"")],
        "hard link": [(member("out", 0, tarfile.LNKTYPE, f"{outside}/canary.txt"), b"")],
        "chain": [
            (member("a", 0, tarfile.SYMTYPE, "b/" * 30 + ".."), b""),
            (member("a/escaped", 7), text),
        ],
        "device": [(member("null", 0, tarfile.CHRTYPE), b"")],
        "fifo": [(member("fifo", 0, tarfile.FIFOTYPE), b"")],
        "file in a file": [(member("x", 7), text), (member("x/y", 7), text)],
        "deep": [(member("a/" * 500 + "x", 7), text)],
        "long name": [(member("a" * 300, 7), text)],
        "nul": [(member("a\0b", 7), text)],
        "back slash": [(member("..\\..\\x", 7), text)],
        "folder over file": [(member("x", 7), text), (member("x", 0, tarfile.DIRTYPE), b"")],
        "empty name": [(member("", 7), text)],
        "dots": [(member(".", 7), text)],
    }
    kind = rng.choice(list(kinds))
    return kind, kinds[kind]


@mutator("tar", "tgz")
def a_hostile_member(rng: random.Random, data: bytes, place: Place) -> Mutation:
    kind, members = hostile_members(rng, place)
    found = tar_bytes(tar_files(data), members, rng.random() < 0.5)
    expect = Expect.PARTLY if kind in ("empty name", "dots", "nul") else Expect.REFUSED
    return Mutation(packed_as(place.path, found), expect, kind)


@mutator("tar", "tgz")
def the_same_archive(rng: random.Random, data: bytes, place: Place) -> Mutation:
    files = tar_files(data)
    out = io.BytesIO()
    form = rng.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    names = rng.sample(list(files), len(files))
    folders = {str(name).rpartition("/")[0] for name in names} - {""}
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for folder in sorted(folders):
            archive.addfile(member(folder, 0, tarfile.DIRTYPE))
        for name in names:
            archive.addfile(member(f"./{name}", len(files[name])), io.BytesIO(files[name]))
    packing = rng.choice([bytes, gzip.compress, bz2.compress, lzma.compress])
    return Mutation(packing(out.getvalue()), Expect.SAME, f"{form} {packing.__name__}")


@mutator("tar", "tgz")
def a_tar_header(rng: random.Random, data: bytes, place: Place) -> Mutation:
    plain = bytearray(gzip.decompress(data) if place.path.endswith(".gz") else data)
    size = rng.choice(
        [
            b"77777777777\0",
            b"-0000000001\0",
            b"\x80" + bytes(3) + b"\xff" * 8,
            b"\xff" * 12,
            b"abc" + bytes(9),
        ]
    )
    plain[124:136] = size
    if rng.random() < 0.8:
        plain[148:156] = b"%06o\0 " % (sum(plain[:148]) + 256 + sum(plain[156:512]))
    return Mutation(packed_as(place.path, bytes(plain)), Expect.REFUSED, repr(size))


# 2 GB of zeros: 2 MB packed, and 20 kB packed again
_ZEROS = zlib.compressobj(9, wbits=31)
_BOMB = b"".join([_ZEROS.compress(bytes(1 << 20)) for _ in range(200)]) + _ZEROS.flush()


@mutator("tgz")
def a_bomb(rng: random.Random, data: bytes, place: Place) -> Mutation:
    info = member("zeros", 200 << 20)
    return Mutation(gzip.compress(info.tobuf(), mtime=0) + _BOMB, Expect.REFUSED)


def zip_files(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zip_bytes(
    files: dict[str, bytes],
    extra: Sequence[tuple[zipfile.ZipInfo | str, bytes]] = (),
    **layout: Any,
) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", **layout) as archive:
        for name, content in [*files.items(), *extra]:
            archive.writestr(name, content)
    return out.getvalue()


@mutator("zip", "pack")
def a_hostile_zip(rng: random.Random, data: bytes, place: Place) -> Mutation:
    kind = rng.choice(
        ["up", "absolute", "link", "device", "bomb", "method", "back slash", "deep", "in a file"]
    )
    info: zipfile.ZipInfo | str = "x"
    content = b"escaped"
    layout: dict[str, Any] = {}
    if kind == "up":
        info = "../" * 12 + f"{place.outside}/escaped"[1:]
    elif kind == "absolute":
        info = zipfile.ZipInfo("a")
        info.filename = f"{place.outside}/escaped"
    elif kind in ("link", "device"):
        info = zipfile.ZipInfo("out")
        info.external_attr = (0o120777 if kind == "link" else 0o020666) << 16
        content = str(place.outside).encode()
    elif kind == "bomb":
        content, layout = bytes(200 << 20), {"compression": zipfile.ZIP_DEFLATED}
    elif kind == "method":
        layout = {"compression": rng.choice([zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])}
    elif kind == "back slash":
        info = "..\\..\\escaped"
    elif kind == "deep":
        info = "a/" * 500 + "x"
    else:
        info = next(iter(zip_files(data))) + "/x"
    return Mutation(zip_bytes(zip_files(data), [(info, content)], **layout), Expect.REFUSED, kind)


@mutator("zip", "pack")
def the_same_zip(rng: random.Random, data: bytes, place: Place) -> Mutation:
    files = zip_files(data)
    names = rng.sample(list(files), len(files))
    method = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    return Mutation(zip_bytes({n: files[n] for n in names}, compression=method), Expect.SAME)


@mutator("pack")
def a_member_less(rng: random.Random, data: bytes, place: Place) -> Mutation:
    files = zip_files(data)
    name = rng.choice(list(files))
    del files[name]
    needed = name.endswith(("config.yaml", ".pth", "meta.yaml"))
    return Mutation(zip_bytes(files), Expect.REFUSED if needed else Expect.SAME_OR_REFUSED, name)


@mutator("pack")
def another_meta(rng: random.Random, data: bytes, place: Place) -> Mutation:
    import yaml

    files = zip_files(data)
    meta = yaml.safe_load(files["meta.yaml"])
    name = rng.choice(
        [
            "/etc/passwd",
            "../x",
            f"{place.outside}/canary.txt",
            "none.pth",
            "",
            ".",
            5,
            None,
            [],
            "README.md",
        ]
    )
    section = rng.choice(["files", "yaml_files"])
    kind = rng.choice(["name", "empty", "gone", "type"])
    if kind == "name":
        meta[section][next(iter(meta[section]))] = name
    elif kind == "empty":
        meta[section] = {}
    elif kind == "gone":
        del meta[section]
    else:
        meta[section] = rng.choice([[], 5, None, "x"])
    files["meta.yaml"] = yaml.safe_dump(meta).encode()
    return Mutation(zip_bytes(files), Expect.REFUSED, f"{section} {kind} {name!r}")


# Files of tensors


def saved(content: Any) -> bytes:
    import torch

    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


@mutator("pth")
def other_tensors(rng: random.Random, data: bytes, place: Place) -> Mutation | None:
    import torch

    state = torch.load(io.BytesIO(data), weights_only=True)
    floats = [k for k, v in state.items() if isinstance(v, torch.Tensor) and v.is_floating_point()]
    key = rng.choice(floats)
    value = state[key]
    kind = rng.choice(
        ["nan", "inf", "less", "more", "shape", "text", "none", "empty", "list", "flat", "rename"]
    )
    if kind in ("nan", "inf"):
        value = value.clone()
        value.reshape(-1)[rng.randrange(value.numel())] = float(kind)
        state[key] = value
    elif kind == "less":
        del state[key]
    elif kind == "more":
        state[f"{key}.more"] = value
    elif kind == "shape":
        state[key] = torch.zeros(*value.shape, 2)
    elif kind == "text":
        state[key] = "text"
    elif kind == "none":
        state[key] = None
    elif kind == "empty":
        state = {}
    elif kind == "list":
        state = [value]
    elif kind == "flat":
        state = {"model": state}
    else:
        state[f"module.{key}"] = state.pop(key)
    return Mutation(saved(state), Expect.REFUSED, f"{kind} {key}")


@mutator("pth")
def the_same_tensors(rng: random.Random, data: bytes, place: Place) -> Mutation:
    import torch

    state = torch.load(io.BytesIO(data), weights_only=True)
    kind = rng.choice(["order", "saved again"])
    if kind == "order":
        state = dict(reversed(state.items()))
    return Mutation(saved(state), Expect.SAME, kind)


@mutator("pth")
def a_pickle_of_a_command(rng: random.Random, data: bytes, place: Place) -> Mutation:
    import torch

    kind = rng.choice(["zip", "plain", "old"])
    evil = {"a": Reduced(place.command)}
    out = io.BytesIO()
    if kind == "plain":
        out.write(pickle.dumps(evil))
    else:
        torch.save(evil, out, _use_new_zipfile_serialization=kind == "zip")
    return Mutation(out.getvalue(), Expect.REFUSED, kind)


@mutator("npz")
def other_arrays(rng: random.Random, data: bytes, place: Place) -> Mutation:
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        arrays = dict(found)
    key = rng.choice(list(arrays))
    kind = rng.choice(["nan", "less", "shape", "pickle", "text"])
    if kind == "nan":
        arrays[key] = np.full_like(arrays[key], np.nan, dtype=np.float64)
    elif kind == "less":
        del arrays[key]
    elif kind == "shape":
        arrays[key] = np.zeros((3, 5))
    elif kind == "pickle":
        arrays[key] = np.array([Reduced(place.command)], dtype=object)
    else:
        arrays[key] = np.array("text")
    out = io.BytesIO()
    np.savez(out, allow_pickle=True, **arrays)
    return Mutation(out.getvalue(), Expect.REFUSED, f"{kind} {key}")
