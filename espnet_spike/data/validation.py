"""Check the audio and the tables of a data directory, and drop what is unusable."""

import filecmp
import logging
from collections import Counter
from pathlib import Path

from espnet_spike.data.audio import inspect, parse_source
from espnet_spike.data.dropping import DROPPED, ScoredSets
from espnet_spike.data.kaldi_dir import DataDir, backup, fix
from espnet_spike.data.text_normalization import profile
from espnet_spike.errors import UserError
from espnet_spike.utils.files import SHOWN, name_some, plural, present

logger = logging.getLogger("prepare_data_dir")
ROUNDING = 0.01  # seconds that a segment may end after its recording


def check_audio(data: DataDir, allow_pipes: bool) -> tuple[float, list[str]]:
    """Open every recording and compare the segments with it.

    Returns:
        Hours of audio over the utterances, notes for the user.

    Raises:
        UserError: names every recording (the first few of many) that cannot be used.
    """
    from tqdm import tqdm

    problems: list[str] = []
    durations: dict[str, float] = {}
    stereo = 0
    seconds = 0.0
    for recording in tqdm(sorted(data.wav), desc="audio files", unit="file", delay=2):
        try:
            source = parse_source(data.wav[recording], recording, allow_pipes)
            info = inspect(source, recording)
        except UserError as error:
            problems.append(str(error))
            continue
        stereo += info.channels > 1 and source.channel is None
        if data.segments:
            durations[recording] = info.duration
        else:
            seconds += info.duration
    for utt, segment in data.segments.items():
        if segment.recording not in durations:
            continue
        duration = durations[segment.recording]
        end = duration if segment.end == -1 else segment.end
        if not 0 <= segment.start < end <= duration + ROUNDING:
            problems.append(
                f"{utt}: segment {segment.start:g} to {segment.end:g} s does not lie in "
                f"{segment.recording}, which is {duration:.2f} s long"
            )
        else:
            seconds += end - segment.start
    if problems:
        more = len(problems) - SHOWN
        listed = "\n".join(problems[:SHOWN]) + (f"\nand {more} more" if more > 0 else "")
        raise UserError(
            f"{plural(len(problems), 'recording')} or segments cannot be used:\n{listed}"
        )
    notes = (
        [f"{plural(stereo, 'recording')} of several channels, which are averaged"] if stereo else []
    )
    return seconds / 3600, notes


def prepare(
    path: Path,
    allow_pipes: bool = False,
    normalization: str = "none",
    scored: ScoredSets | None = None,
) -> DataDir:
    """Check and fix one directory in place.

    Nothing is written before everything has been checked, and nothing at all when there is
    nothing to fix.

    Args:
        path: the directory.
        allow_pipes: run any command found in ``wav.scp``.
        normalization: profile of the transcripts, see ``data.text_normalization``.
        scored: which directories lose no utterance.

    Raises:
        UserError: something that cannot be fixed; the message begins with the directory.
    """
    before = DataDir.read(path)
    if normalization != "none":
        normalize = profile(normalization)
        before.text = {utt: normalize(text) for utt, text in before.text.items()}
    data, dropped, notes = fix(before)
    lost = data.dropped
    if data.wav and data.feats:  # either may be taken later
        lost = lost | {utt: "not in feats.scp" for utt in data.text if utt not in data.feats}
    (scored or ScoredSets()).check(path, lost)
    if not data.text:
        counts = Counter(dropped.values()).most_common()
        raise UserError(
            f"{path}: no utterance is left (" + ", ".join(f"{n} {why}" for why, n in counts) + ")",
            "the tables must use the same utterance ids",
        )
    try:
        hours, audio_notes = check_audio(data, allow_pipes)
    except UserError as error:
        raise UserError(f"{path}: {error.message}", error.hint) from error
    for reason, count in Counter(dropped.values()).most_common():
        names = name_some(utt for utt, why in dropped.items() if why == reason)
        lost = plural(count, "utterance")
        logger.warning("%s: dropped %s, %s: %s", path, lost, reason, names)
    for note in notes + audio_notes:
        logger.warning("%s: %s", path, note)
    if _write_if_changed(path, data):
        logger.info("%s: fixed; the tables as they were are in %s/.backup", path, path)
    logger.info(
        "%s: %s, %s, %s",
        path,
        plural(len(data.text), "utterance"),
        plural(len(set(data.utt2spk.values())), "speaker"),
        f"{hours:.2f} h" if data.wav else "features only",
    )
    return data


def _write_if_changed(path: Path, data: DataDir) -> bool:
    """Write the tables unless the files hold exactly this already; True when they changed."""
    trial = path / ".fixed"
    data.write(trial)
    names = {file.name for file in trial.iterdir()}
    optional = {"segments", "utt2speed", "wav.scp", "feats.scp", DROPPED}
    changed = any(
        not present(path / name) or not filecmp.cmp(path / name, trial / name, shallow=False)
        for name in names
    ) or any(present(path / name) for name in optional - names)
    for file in trial.iterdir():
        file.unlink()
    trial.rmdir()
    if changed:
        backup(path)
        data.write(path)
    return changed
