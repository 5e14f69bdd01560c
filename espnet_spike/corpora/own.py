"""Your own data: Kaldi data directories from manifests, Kaldi directories or lhotse manifests.

Run by a recipe that ``espnet_spike.bin.new_recipe`` has made, in its folder::

    ../../.venv/bin/python -m espnet_spike.corpora.own --set train=train.csv --set test=test.csv
"""

import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from espnet_spike.corpora.manifests import Item, names_of, read_source
from espnet_spike.corpora.sets import divide, write_sets
from espnet_spike.data.ark import parse_entry
from espnet_spike.data.audio import AudioInfo, inspect, least_correlation, parse_source
from espnet_spike.data.kaldi_dir import DataDir, Segment
from espnet_spike.data.text_normalization import PROFILES, profile
from espnet_spike.errors import UserError
from espnet_spike.utils.cli import SHARE, Parser, run
from espnet_spike.utils.files import name_some, plural

logger = logging.getLogger("data")
CHANNELS = ("mean", "alike")  # besides a number counted from 1
ALIKE = 0.7  # least correlation of channels that hold the same; ours


def add_options(parser: Parser) -> None:
    """Add the options that say how sources are to be read."""
    parser.add_argument(
        "--audio_dir", type=Path, help="where relative names of audio begin, if not at the manifest"
    )
    parser.add_argument(
        "--columns", nargs="+", default=[], metavar="WHAT=NAME", help="such as audio=clip text=said"
    )
    parser.add_argument(
        "--channel",
        help="of audio with several: 1, 2, ..., mean, or alike: the mean, unless they differ",
    )
    parser.add_argument(
        "--normalization", default="none", help=f"of the transcripts: {', '.join(PROFILES)}"
    )
    parser.add_argument(
        "--valid_from_train",
        type=SHARE,
        default=0.0,
        help="take this share of the training utterances, by whole speakers, as validation set",
    )


def get_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(description="Prepare your own data: data/NAME for each --set NAME=SOURCE.")
    parser.add_argument(
        "--set", action="append", required=True, dest="sets", metavar="NAME=SOURCE", help="a set"
    )
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="where to write")
    parser.add_argument("--corpus_dir", type=Path, help="the same as --audio_dir, from run.sh")
    add_options(parser)
    return parser


def parse_pairs(pairs: Sequence[str], option: str) -> dict[str, str]:
    """Read ``NAME=VALUE`` arguments.

    Raises:
        UserError: no ``=``, or a name given twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals and value) or name in found:
            raise UserError(f"{option} {pair}: expected NAME=VALUE, each name once")
        found[name] = value
    return found


def locate(path: str, places: Sequence[Path], where: str) -> str:
    """Return the first existing file of a name that may be relative to one of several folders.

    Raises:
        UserError: there is none.
    """
    if Path(path).is_absolute():
        candidates = [Path(path)]
    else:
        candidates = [place / path for place in places]
    for candidate in candidates:
        if candidate.is_file():
            return str(candidate.absolute())
    raise UserError(
        f"{where}: {path} is not there; looked in {', '.join(str(p.parent) for p in candidates)}",
        "give --audio_dir, the folder where the names begin",
    )


def places_of(source: Path, audio_dir: Path | None) -> list[Path]:
    """Return the folders where relative file names of a source may begin."""
    if audio_dir is not None:
        return [audio_dir]
    if source.is_dir():  # Kaldi's names begin at the recipe, above data/train
        return [Path.cwd(), source, source.parent, source.parent.parent]
    return [source.parent, Path.cwd()]


def wav_value(item: Item, path: str, channel: str | None, name: str, channels: int) -> str:
    """Return the ``wav.scp`` value for one channel of a file.

    Raises:
        UserError: a file with several channels and no choice, or one that does not have it.
    """
    if channels == 1:
        return path
    chosen = item.channel + 1 if item.channel is not None else channel
    if chosen is None:
        raise UserError(
            f"{name}: {path} has {channels} channels",
            "choose with --channel 1 (or 2, ...), or --channel mean for their average",
        )
    if chosen == "alike" and (found := least_correlation(parse_source(path, name), name)) < ALIKE:
        raise UserError(
            f"{name}: the {channels} channels of {path} differ (correlation {found:.2f})",
            "choose with --channel 1 (or 2, ...), or --channel mean for their average",
        )
    if chosen in CHANNELS:
        return path
    if not 1 <= int(chosen) <= channels:
        raise UserError(
            f"{name}: {path} has {plural(channels, 'channel')}, there is no channel {chosen}"
        )
    if re.search(r"[|;&<>$`*?~]", path):
        raise UserError(
            f"{name}: {path} has several channels and special characters in its name",
            "rename it, or take --channel mean",
        )
    return f"sox {shlex.quote(path)} -t wav - remix {chosen} |"


def import_set(
    source: Path,
    audio_dir: Path | None = None,
    columns: Mapping[str, str] | None = None,
    channel: str | None = None,
    normalization: str = "none",
    headers: dict[str, AudioInfo] | None = None,
) -> DataDir:
    """Read a source into the tables of a data directory.

    Args:
        source: see `read_source`.
        audio_dir: where relative names begin.
        columns: names of columns.
        channel: of audio with several, counted from 1, ``mean``, or ``alike`` for the mean of
            channels that hold the same; None: that is an error.
        normalization: profile of the transcripts.
        headers: gets, by value of ``wav.scp``, what the headers say.

    Raises:
        UserError: a file is missing or unreadable, or there is nothing to choose a channel by.
    """
    from tqdm import tqdm

    if channel is not None and channel not in CHANNELS and not channel.isdigit():
        raise UserError(f"--channel {channel}", "a number counted from 1, mean, or alike")
    normalize = profile(normalization)
    items = read_source(source, columns)
    places = places_of(source, audio_dir)
    data = DataDir()
    pieces = any(item.start or item.end != -1 for item in items)
    recordings: dict[tuple[str, int | None], str] = {}
    known: dict[str, tuple[str, AudioInfo | None]] = {}
    values: dict[tuple[str, int | None], str] = {}
    blank = []
    bar = tqdm(zip(names_of(items, source), items, strict=True), total=len(items), delay=2)
    for name, item in bar:
        if item.lost:
            data.dropped[name] = item.lost
            continue
        text = normalize(item.text)
        if not text:
            blank.append(name)
            continue
        data.text[name] = text
        data.utt2spk[name] = re.sub(r"\s+", "_", item.speaker) or name
        if item.speed != 1.0:
            data.utt2speed[name] = item.speed
        if item.feats:
            ark = parse_entry(name, item.feats).path
            data.feats[name] = locate(ark, places, name) + item.feats.removeprefix(ark)
            continue
        if item.audio not in known:
            known[item.audio] = _look(item.audio, places, name)
        path, info = known[item.audio]
        value = values.get((item.audio, item.channel))
        if value is None:
            value = wav_value(item, path, channel, name, 1 if info is None else info.channels)
            values[item.audio, item.channel] = value
        if headers is not None and info is not None:
            headers[value] = info
        if not pieces:
            data.wav[name] = value
            continue
        recording = recordings.setdefault(
            (item.audio, item.channel), f"rec{len(recordings) + 1:06d}"
        )
        data.wav[recording] = value
        data.segments[name] = Segment(recording, item.start, item.end)
    data.dropped |= dict.fromkeys(blank, "empty text")
    if blank:
        logger.warning("%s: %d without words: %s", source, len(blank), name_some(blank))
    if not data.text:
        raise UserError(f"{source}: no utterance has words under --normalization {normalization}")
    if data.utt2speed:
        data.utt2speed = {utt: data.utt2speed.get(utt, 1.0) for utt in data.text}
    if not any(item.speaker for item in items):
        logger.warning("%s: no speakers are given; each utterance counts as one", source)
    return data


def _look(audio: str, places: Sequence[Path], name: str) -> tuple[str, AudioInfo | None]:
    """Return a recording's absolute name, or Kaldi command, and what its header says."""
    if audio.endswith("|"):
        source = parse_source(audio, name, allow_pipes=True)
        if source.path is None or source.channel is not None:
            return audio, None  # stage 1 runs it, if that is allowed
        audio = source.path
    path = locate(audio, places, name)
    return path, inspect(parse_source(path, name), name, check_samples=False)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    columns = parse_pairs(args.columns, "--columns")
    sets = {
        name: import_set(
            *(Path(source), args.corpus_dir or args.audio_dir, columns),
            *(args.channel, args.normalization),
        )
        for name, source in parse_pairs(args.sets, "--set").items()
    }
    if args.valid_from_train:
        if "dev" in sets:
            raise UserError(
                f"--set dev=... and --valid_from_train {args.valid_from_train:g}",
                "take one of the two out of local/data.sh or the command",
            )
        divide(sets, "train", "dev", args.valid_from_train)
    write_sets(sets, args.data_dir)


if __name__ == "__main__":
    run(main)
