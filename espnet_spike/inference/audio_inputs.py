"""What is transcribed: files, folders, Kaldi lists and standard input, in the order they are given.

Of a folder the files are taken in natural order: ``talk2.wav`` before ``talk10.wav``.
"""

import itertools
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from espnet_spike.data.audio import Source, from_content, parse_source
from espnet_spike.errors import UserError
from espnet_spike.utils.files import fitting_name, name_some, read_table

STDIN = "-"
CONVERT = "ffmpeg -i FILE NEW.wav"
ENDINGS = (  # of what libsndfile reads
    ".wav .flac .ogg .oga .opus .mp3 .mp2 .mp1 .sph .nist .aiff .aif .aifc .au .snd .w64 .caf .rf64"
    " .voc .avr .ircam .pvf .sds"
).split()
FOREIGN = (  # of audio and video that it does not
    ".m4a .m4b .mp4 .m4v .aac .webm .weba .wma .mkv .mka .mov .avi .amr .awb .3gp .ape .wv .tta"
    " .ac3 .dts .ra .mpg .mpeg .flv .spx .mpc .asf"
).split()
LIST = ".scp"  # of a list as Kaldi's wav.scp
_SHOWN = " ".join(ENDINGS[:7])


def find_audio(
    paths: Sequence[Path], recursive: bool = True, foreign: list[Path] | None = None
) -> dict[str, Path]:
    """Return name -> file of the files given and of those in the folders given, in natural order.

    Folders that are links are gone into, each folder once. A name is that of the file without its
    ending; where two are alike, their path tells them apart, and where that does not, a number.

    Args:
        paths: files and folders.
        recursive: also the folders in folders.
        foreign: gets the audio and video files in folders that libsndfile cannot read.

    Raises:
        UserError: a file is missing, or a folder holds no audio.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            within = [p for p in _files_in(path, recursive) if p.is_file()]
            inside = [p for p in within if p.suffix.lower() in ENDINGS]
            unread = [p for p in within if p.suffix.lower() in FOREIGN]
            if not inside:
                lists = _names(p for p in within if p.suffix == LIST)
                what = f"no audio that libsndfile can read, {len(unread)} that it cannot"
                raise UserError(
                    f"{path}: " + (f"{what}: {_names(unread)}" if unread else "no audio in it"),
                    f"convert them: {CONVERT}"
                    if unread
                    else f"files that end in {_SHOWN}, ..."
                    + (f"; of a Kaldi directory give the list itself: {lists}" if lists else ""),
                )
            files += inside
            if foreign is not None:
                foreign += unread
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"{path}: no such file or folder")
    files = list(dict.fromkeys(files))
    names = [path.stem for path in files]
    if len(set(names)) < len(names):
        names = [str(path).lstrip("./").replace("/", "-") for path in files]
    found: dict[str, Path] = {}
    for name, path in zip(names, files, strict=True):
        if name in found:
            tried = (f"{name}-{number}" for number in itertools.count(2))
            name = next(n for n in tried if n not in found and n not in names)
        found[name] = path
    return found


def find_sources(
    words: Sequence[Path],
    recursive: bool = True,
    foreign: list[Path] | None = None,
    allow_pipes: bool = False,
    raw_fs: int | None = None,
) -> dict[str, Path | Source]:
    """Return name -> audio of all that the command line names.

    Args:
        words: files, folders, lists ``*.scp`` of lines "utterance audio", whose utterances keep
            their names, and ``-``, which is standard input. Files of a list are found from the
            current folder, as Kaldi finds them.
        recursive, foreign: see `find_audio`.
        allow_pipes: run the commands that a list holds.
        raw_fs: rate in Hz of standard input, if that is samples without a header.

    Raises:
        UserError: as `find_audio`; a list that is damaged or names an utterance twice; nothing on
            standard input.
    """
    words = list(dict.fromkeys(words))
    lists = [word for word in words if word.suffix == LIST and word.is_file()]
    kept: dict[str, tuple[Path, Source]] = {}
    for path in lists:
        table = read_table(path)
        if not table:
            raise UserError(f"{path} lists no audio", "lines are: utterance, space, audio file")
        for utt, value in table.items():
            if utt in kept:
                raise UserError(
                    f"{path}: {utt} is in {kept[utt][0]} too", "transcribe one list at a time"
                )
            kept[utt] = path, parse_source(value, utt, allow_pipes)
    files = [word for word in words if word not in lists and str(word) != STDIN]
    by_path = {path: name for name, path in find_audio(files, recursive, foreign).items()}
    found: dict[str, Path | Source] = {}
    taken = {*kept, *by_path.values()}

    def add(name: str, audio: Path | Source) -> None:
        if name in found or name in kept:
            tried = (f"{name}-{number}" for number in itertools.count(2))
            name = next(n for n in tried if n not in found and n not in taken)
        found[name] = audio

    for word in words:
        if word in lists:
            found |= {utt: source for utt, (path, source) in kept.items() if path == word}
        elif str(word) == STDIN:
            add("stdin", from_content(_standard_input(), "standard input", raw_fs))
        else:
            for path in [word] if word.is_file() else [*by_path]:
                if path in by_path and (path == word or word in path.parents):
                    add(by_path.pop(path), path)
    return found


def _standard_input() -> bytes:
    if sys.stdin.isatty():
        raise UserError(
            "- is standard input, and nothing is piped into it",
            "for example: ffmpeg -i talk.mp4 -f wav - | espnet-spike transcribe ... -",
        )
    return sys.stdin.buffer.read()


def natural_key(path: Path) -> list[list[tuple[int, int, str]]]:
    """Return what sorts paths as people number them: ``2`` before ``10``, capitals with smalls."""
    return [
        [
            (0, int(part), part) if part.isdecimal() else (1, 0, part.casefold())
            for part in re.split(r"(\d+)", name)
            if part
        ]
        for name in path.parts
    ]


def _names(files: Iterable[Path]) -> str:
    return name_some(path.name for path in files)


def _files_in(folder: Path, recursive: bool) -> list[Path]:
    """Return the files of a folder in natural order; one that is reached by several ways once."""
    found: list[Path] = []
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        found += [Path(place) / name for name in files]
        if not recursive:
            break
        folders.sort()
    return sorted(found, key=lambda path: (natural_key(path), path))


def output_paths(names: Iterable[str], folder: Path, ending: str) -> dict[str, Path]:
    """Return name -> the file for its transcript; known before the work begins.

    A slash, as in the utterances of a list, becomes ``-``; what the file system would refuse as too
    long is shortened. No two share a file.

    Args:
        names: of what is transcribed.
        folder: for the files.
        ending: of their names.
    """
    found: dict[str, Path] = {}
    taken: set[str] = set()
    names = list(names)
    for name in sorted(names, key=lambda n: ("/" in n, len(n.encode(errors="surrogateescape")))):
        tried = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
        plain = name.replace("/", "-")
        file = next(n for t in tried if (n := fitting_name(plain + t, ending)) not in taken)
        taken.add(file)
        found[name] = folder / file
    return {name: found[name] for name in names}


def in_order[T](
    done: Iterator[T], name_of: Callable[[T], str], order: Sequence[str], missing: Sequence[str]
) -> Iterator[T]:
    """Yield what is done in the order wanted, each as soon as all before it are done.

    Args:
        done: in any order; what it raises comes after what was done before.
        name_of: tells the name of one.
        order: of the names.
        missing: grows by the names that will not come.
    """
    waiting: dict[str, T] = {}
    failure: BaseException | None = None
    at = 0
    try:
        for one in done:
            waiting[name_of(one)] = one
            while at < len(order) and (order[at] in waiting or order[at] in missing):
                if order[at] in waiting:
                    yield waiting.pop(order[at])
                at += 1
    except (Exception, KeyboardInterrupt) as error:
        failure = error
    yield from (waiting[name] for name in order if name in waiting)
    if failure is not None:
        raise failure


Audio = Mapping[str, Path | Source]
