"""Leave out utterances that are too short for their transcript or their encoder."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from espnet_spike.errors import UserError
from espnet_spike.tasks.output_length import OutputLength
from espnet_spike.utils.files import iter_table, plural, read_table, replacing_text


def ctc_frames(tokens: Sequence[int]) -> int:
    """Return the fewest frames CTC can align ``tokens`` to.

    >>> ctc_frames([5, 5, 7])
    4
    """
    repeats = sum(a == b for a, b in itertools.pairwise(tokens))
    return len(tokens) + repeats


def drop_short(
    speech_shape: Path,
    text_shape: Path,
    text: Path,
    out_dir: Path,
    length: OutputLength,
    tokenize: Callable[[str], Sequence[int]],
    ctc: bool,
    fastest: float = 1.0,
) -> list[tuple[str, str]]:
    """Copy two shape files without the utterances that cannot be trained on.

    Args:
        speech_shape: lines "utt frames,dim", or "utt samples".
        text_shape: lines "utt tokens,vocabulary".
        text: Kaldi text, from which repeated tokens are counted where it matters.
        out_dir: gets ``speech_shape`` and ``text_shape``.
        length: encoder frames of an utterance.
        tokenize: transcript -> token ids.
        ctc: whether the model has a CTC loss; else one encoder frame is enough.
        fastest: how many times shorter augmentation may make an utterance.

    Returns:
        (utterance, reason) of the dropped.

    Raises:
        UserError: nothing is left, or the files do not name the same utterances.
    """
    # two passes over the files: there may be ten million lines
    # a transcript can only fail on its repeats if it would fail with every neighbour equal
    doubtful = {
        utt
        for utt, frames, count, _ in _sizes(speech_shape, text_shape)
        if ctc and count > 0 and not length.reaches(int(frames / fastest), 2 * count - 1)
    }
    needed = {}
    if doubtful:
        transcripts = ((utt, words) for utt, words in iter_table(text) if utt in doubtful)
        needed = {utt: ctc_frames(tokenize(words)) for utt, words in transcripts}
    dropped = []
    kept = 0
    out_dir.mkdir(parents=True, exist_ok=True)
    with (
        replacing_text(out_dir / "speech_shape") as speech,
        replacing_text(out_dir / "text_shape") as tokens,
    ):
        for utt, frames, count, values in _sizes(speech_shape, text_shape):
            enough = needed.get(utt, count) if ctc else 1
            least = int(frames / fastest)
            faster = "" if fastest == 1 else f" when {fastest:g} times as fast"
            if count == 0:
                dropped.append((utt, "empty transcript"))
            elif not length.reaches(least, 1):
                few = f"{least} {length.unit}{faster}: too few for the subsampling"
                dropped.append((utt, few))
            elif not length.reaches(least, enough):
                short = f"{plural(length(least), 'encoder frame')}{faster}, CTC needs {enough}"
                dropped.append((utt, short))
            else:
                kept += 1
                for file, value in zip((speech, tokens), values, strict=True):
                    file.write(f"{utt} {value}\n")
    if not kept:
        raise UserError(
            f"no utterance of {speech_shape} is long enough for this encoder, first: "
            f"{dropped[0][0]}: {dropped[0][1]}"
            if dropped
            else f"{speech_shape} is empty",
            "take a smaller subsampling (encoder_conf input_layer), larger tokens, or check data",
        )
    return dropped


def _sizes(speech_shape: Path, text_shape: Path) -> Iterator[tuple[str, int, int, tuple[str, str]]]:
    """Yield utterance, frames, tokens and both shapes, line by line."""
    tables = (iter_table(speech_shape), iter_table(text_shape))
    for (utt, speech), (other, tokens) in itertools.zip_longest(*tables, fillvalue=("", "")):
        if utt != other:
            odd = sorted(read_table(speech_shape).keys() ^ read_table(text_shape).keys())
            raise UserError(
                f"{speech_shape} and {text_shape} differ in {plural(len(odd), 'utterance')}, "
                f"first: {odd[0]}"
                if odd
                else f"{speech_shape} and {text_shape} are not in the same order",
                "run the stats stage again",
            )
        yield (
            utt,
            _first_size(speech_shape, speech),
            _first_size(text_shape, tokens),
            (speech, tokens),
        )


def _first_size(path: Path, shape: str) -> int:
    try:
        return int(shape.split(",")[0])
    except ValueError:
        raise UserError(f"{path}: malformed shape", "run the stats stage (7) again") from None
