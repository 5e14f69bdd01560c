"""Speed perturbation: copies of a data directory at other speeds.

The audio itself is resampled when features are extracted.
"""

import logging
from pathlib import Path

from espnet_spike.data.kaldi_dir import DataDir
from espnet_spike.errors import UserError
from espnet_spike.utils.files import plural

_logger = logging.getLogger(__name__)


def parse_factors(value: str) -> list[float]:
    """Return the factors of an option value.

    Raises:
        UserError: no number, out of 0.5 to 2, or given twice.
    """
    factors = []
    for word in value.split():
        try:
            factor = float(word)
        except ValueError:
            factor = 0.0
        if not 0.5 <= factor <= 2:
            raise UserError(f"speed factor {word!r}: expected a number from 0.5 to 2")
        if factor in factors:
            raise UserError(f"speed factor {word} is given twice")
        factors.append(factor)
    if not factors:
        raise UserError("no speed factors are given", "for example --factors '0.9 1.0 1.1'")
    return factors


def perturb(data: DataDir, factors: list[float]) -> DataDir:
    """Return the directory with one copy of every utterance for each factor.

    Raises:
        UserError: the directory has no audio or is perturbed already, or two utterances would
            have one name.
    """
    if not data.wav:
        raise UserError("speed perturbation needs audio (wav.scp)", "perturb before extracting")
    if data.utt2speed:
        raise UserError("this data directory is perturbed already (it has utt2speed)")
    result = DataDir(wav=dict(data.wav) if data.segments else {})
    for factor in factors:
        prefix = "" if factor == 1 else f"sp{factor:g}-"
        for utt, words in data.text.items():
            name = prefix + utt
            if name in result.text:
                raise UserError(
                    f"two utterances are named {name}: {utt} at speed {factor:g}, and another",
                    "rename those that begin with 'sp'",
                )
            if data.segments:
                result.segments[name] = data.segments[utt]
            else:
                result.wav[name] = data.wav[utt]
            result.text[name] = words
            result.utt2spk[name] = prefix + data.utt2spk[utt]
            result.utt2speed[name] = factor
    return result


def perturb_dir(source: Path, target: Path, factors: list[float]) -> None:
    """Write ``target`` with one copy of every utterance of ``source`` for each factor.

    Raises:
        UserError: ``source`` has no audio, its tables do not name the same utterances, or see
            `perturb`.
    """
    data = DataDir.read(source)
    data.check_same_utterances(source)
    result = perturb(data, factors)
    result.write(target)
    _logger.info(
        "%s: %s from %d at speeds %s",
        target,
        plural(len(result.text), "utterance"),
        len(data.text),
        ", ".join(f"{factor:g}" for factor in factors),
    )
