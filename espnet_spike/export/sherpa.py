"""What sherpa-onnx asks of a model, and how its features differ from ours.

Its offline recogniser for CTC on log-mel features (``OfflineRecognizer.from_zipformer_ctc``)
takes a graph with inputs x (N, T, D) and x_lens (N,), outputs log_probs and log_probs_len, four
keys of metadata, and ``tokens.txt``. Its features are Kaldi's (package kaldi-native-fbank) of
samples in the range of +-1 with the settings ``FBANK``, which cannot be chosen from Python. A graph
of ``espnet_spike.export.onnx_graph`` fixes the range; what remains against ``conf/fbank.yaml`` is:

* ``snip_edges: false``: frames start 7.5 ms earlier and the audio is mirrored at its ends, which
  makes two frames more;
* ``high_freq: -400``: the filters end 400 Hz below half the sampling rate, so that each lies
  somewhat lower;
* ``mel_floor: 128``: in the range of +-1 the floor of the logarithm is met 20.8 higher, by digital
  silence and what comes near it.

Window, pre-emphasis, removal of the mean and no dither are the same. A model that is trained on
features with ``conf/fbank_sherpa.yaml`` hears in sherpa-onnx what it heard in training. The times
that it gives of tokens count four frames of features for each output of the encoder.
"""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_spike.data.fbank import FbankConfig
from espnet_spike.data.feature_extractor import FeatureExtractor
from espnet_spike.errors import UserError
from espnet_spike.utils.install import how_to_install

if TYPE_CHECKING:
    from espnet_spike.data.kaldi_dir import DataDir

FBANK = FbankConfig(snip_edges=False, high_freq=-400.0, mel_floor=2.0**-23 * 32768**2)
"""The settings of sherpa-onnx 2.0.1."""

BLANK = "<blk>"
WORD_START = "\u2581"


def metadata(comment: str) -> dict[str, str]:
    """Return the keys that sherpa-onnx reads."""
    return {
        "model_type": "zipformer2_ctc",  # its name of the contract, not of the encoder
        "version": "1",
        "model_author": "espnet_spike",
        "comment": comment,
    }


def token_lines(token_list: Sequence[str], token_type: str) -> list[str]:
    """Return the lines of ``tokens.txt``, "token number"; the blank is the first.

    sherpa-onnx joins tokens without spaces and writes U+2581 as a space.

    >>> token_lines(["<blank>", "<space>", "a"], "char")
    ['<blk> 0', '\u2581 1', 'a 2']
    """
    lines = []
    for number, token in enumerate(token_list):
        if number == 0:
            token = BLANK
        elif token == "<space>":
            token = WORD_START
        elif token_type == "word" and not token.startswith("<"):
            token = WORD_START + token
        lines.append(f"{token} {number}")
    return lines


def feature_differences(feature_extractor: FeatureExtractor) -> list[str]:
    """Return what sherpa-onnx computes otherwise than the features of a model, as sentences.

    Raises:
        UserError: the model takes raw audio.
    """
    fbank = feature_extractor.features("sherpa-onnx")
    return [
        f"{item.name} is {getattr(FBANK, item.name)} in sherpa-onnx, "
        f"{getattr(fbank, item.name)} in training"
        for item in fields(FbankConfig)
        if item.name not in ("compression_method", "num_mel_bins")
        and getattr(FBANK, item.name) != getattr(fbank, item.name)
    ]


def decode(model: Path, tokens: Path, data: "DataDir", fs: int) -> dict[str, str]:
    """Return what sherpa-onnx says to the audio of a set, utterance -> text.

    Args:
        model: ``model.onnx`` or ``model.int8.onnx``.
        tokens: ``tokens.txt`` beside it.
        data: the set.
        fs: sampling rate of the model in Hz; other audio is resampled as in stage 3.

    Raises:
        UserError: sherpa-onnx is not installed, or some audio cannot be read.
    """
    try:
        import sherpa_onnx
    except ImportError as error:
        raise UserError(
            f"decoding with sherpa-onnx needs its package ({error})", how_to_install("sherpa")
        ) from None
    from espnet_spike.data.audio import change_rate, parse_source, read

    recognizer = sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(
        str(model), str(tokens), sample_rate=fs
    )
    texts = {}
    for utt in data.text:
        value, start, end = data.source(utt)
        wave, rate = read(parse_source(value, utt), utt, start, end)
        wave = change_rate(wave, rate, fs, data.utt2speed.get(utt, 1.0))
        stream = recognizer.create_stream()
        stream.accept_waveform(fs, wave / 32768)
        recognizer.decode_stream(stream)
        texts[utt] = stream.result.text.strip()
    return texts
