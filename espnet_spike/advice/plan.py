"""The size of a training, from the data: one rule from minutes to a thousand hours of speech.

All constants are ours. They were set so that the rule gives for AN4 (40 minutes) what is known to
work there, and for 960 hours about what ESPnet's recipes have.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from espnet_spike.advice.measure import FRAME_RATE, Measured
from espnet_spike.errors import UserError, did_you_mean

SHARE_OF_DIMS = 4  # a frequency mask covers at most one part of so many
WARM_UP = 0.1  # of the updates, of a one-cycle schedule
MOST_WARM_UP = 0.25  # of the updates, of the schedules in conf/
WORDS_A_PIECE = 200  # of training text
FEWEST_PIECES, MOST_PIECES = 30, 5000
FEWEST_UPDATES = 2000  # with less a model has seldom learnt to write words
FEWEST_EPOCHS = 10  # a budget shortens epochs rather than to have fewer; each is validated
# over an hour of speech; ours: AN4 then trains within half an hour of two cores
PASSES = 48
FEWEST_PASSES, MOST_PASSES = 30, 200
BROADBAND = 16_000  # Hz; what speech recognizers take, and all that speech needs
TOKENS = 3  # <blank>, <unk> and <sos/eos>


@dataclass(frozen=True)
class Size:
    """A size of models.

    Attributes:
        name: in the plan.
        hours: of speech from which on it is taken.
        width: channels of the blocks; 0: a model of ``conf/``.
        blocks: how many, of Transformers; SpeechMamba, whose blocks are larger, has half of them.
        dropout: rate.
    """

    name: str
    hours: float
    width: int = 0
    blocks: int = 0
    dropout: float = 0.1


SIZES = (
    Size("tiny", 0.0, 96, 4, 0.2),
    Size("small", 0.25, 128, 4, 0.15),
    Size("medium", 3.0, 192, 6, 0.1),
    Size("conf", 30.0),
)
# suffixes of the files of conf/ by the hours from which on they are taken
BASES = ((400.0, "_librispeech960"), (60.0, "_librispeech100"), (0.0, ""))
ENCODERS = (  # those whose small models this module knows
    *("iml_spikeformer", "transformer", "conformer", "e_branchformer"),
    *("speech_mamba", "event_speech_mamba", "spiking_speech_mamba"),
)


@dataclass(frozen=True)
class Plan:
    """What is trained, and how long.

    Attributes:
        measured: the data.
        encoder: name of the encoder.
        size: of the model.
        base: file of ``conf/`` that the model comes from, or None.
        token_type, pieces: the modelling unit; pieces is what ``--nbpe`` gets.
        vocabulary: tokens, special ones included.
        batch_seconds: of speech in a batch, padding and tokens not counted.
        accum_grad: batches an update.
        updates_an_epoch: likewise.
        epochs: how many.
        warm_up: updates while the learning rate rises.
        learning_rate: the highest; None: that of ``base``.
        freq_mask, time_mask: widest mask, in dims and frames; 0 dims: no frequency masks.
        fs: sampling rate that audio is brought to, in Hz; None: it stays.
        cut: what a budget left of the updates that the rule asks for, at most 1.
    """

    measured: Measured
    encoder: str
    size: Size
    base: str | None
    token_type: str
    pieces: int
    vocabulary: int
    batch_seconds: float
    accum_grad: int
    updates_an_epoch: int
    epochs: int
    warm_up: int
    learning_rate: float | None
    freq_mask: int
    time_mask: int
    fs: int | None
    cut: float = 1.0

    @property
    def updates(self) -> int:
        """Updates of the whole training."""
        return self.updates_an_epoch * self.epochs

    @property
    def batch_bins(self) -> int:
        """``batch_bins`` of ``batch_type: length``, which adds up frames and tokens."""
        return round(self.batch_seconds * (FRAME_RATE + self.measured.units_a_second))

    @property
    def passes(self) -> float:
        """How often every utterance is seen."""
        a_update = self.batch_seconds * self.accum_grad
        return self.updates * a_update / self.measured.seconds


def make_plan(
    measured: Measured,
    encoder: str = "iml_spikeformer",
    *,
    token_type: str | None = None,
    pieces: int | None = None,
    size: Size | None = None,
    base: Mapping[str, Any] | None = None,
    most_updates: int | None = None,
) -> Plan:
    """Return the plan of a training; a pure function of the data.

    With h hours of speech an update sees 38 sqrt(h) seconds of it, and there are 48 / h^0.3 passes
    over the data, from 30 on, more where they make fewer than 2000 updates, and at most 200.

    Args:
        measured: the data.
        encoder: one of ``ENCODERS``.
        token_type: the unit; None: characters of ideographic writing, else pieces.
        pieces: of the vocabulary; None: by the words, see `count_pieces`.
        size: of the model; None: by the hours.
        base: content of the file that `base_of` names, if it names one.
        most_updates: that a budget allows.

    Raises:
        UserError: an encoder whose sizes are not known here.
    """
    if encoder not in ENCODERS:
        raise UserError(
            f"--encoder {encoder}{did_you_mean(encoder, ENCODERS)}: there is no rule for its size",
            f"choose one of {', '.join(ENCODERS)}, or write conf/train_{encoder}.yaml yourself",
        )
    size = size or size_of(measured.hours)
    token_type = token_type or ("char" if measured.ideographic else "bpe")
    pieces = pieces or count_pieces(measured)
    update_seconds = min(38.0 * math.sqrt(measured.hours), measured.seconds)
    update_seconds = max(update_seconds, min(2 * measured.longest, measured.seconds))
    accum_grad = 1
    if base is not None:
        accum_grad = math.ceil(update_seconds / _batch_seconds(base))
    an_epoch = max(round(measured.seconds / update_seconds), 1)
    passes = max(round(PASSES * measured.hours**-0.3), FEWEST_PASSES)
    epochs = min(max(passes, math.ceil(FEWEST_UPDATES / an_epoch)), MOST_PASSES)
    asked = epochs * an_epoch
    if most_updates is not None and most_updates < asked:
        epochs = max(min(epochs, most_updates // an_epoch), min(FEWEST_EPOCHS, epochs))
        an_epoch = max(min(an_epoch, most_updates // epochs), 1)
    updates = epochs * an_epoch
    learning_rate: float | None = None
    if base is None:
        learning_rate = 0.003 if encoder == "iml_spikeformer" and size.width < 192 else 0.002
        warm_up = max(round(WARM_UP * updates), 1)
    else:
        shipped = base.get("scheduler_conf", {}).get("warmup_steps", updates)
        warm_up = max(min(shipped, round(MOST_WARM_UP * updates)), 1)
    mean_frames = FRAME_RATE * measured.seconds / measured.utterances
    time_mask = round(12 * max(measured.hours, 1.0) ** 0.25)
    return Plan(
        measured=measured,
        encoder=encoder,
        size=size,
        base=None if base is None else base_of(measured, encoder),
        token_type=token_type,
        pieces=pieces,
        vocabulary=_vocabulary(measured, token_type, pieces),
        batch_seconds=update_seconds / accum_grad,
        accum_grad=accum_grad,
        updates_an_epoch=an_epoch,
        epochs=epochs,
        warm_up=warm_up,
        learning_rate=learning_rate,
        # neighbours on the axis have to be neighbours in frequency
        freq_mask=0 if measured.convention is None else measured.dims // SHARE_OF_DIMS,
        time_mask=max(min(time_mask, round(mean_frames / 10)), 1),
        fs=choose_rate(measured),
        cut=updates / asked,
    )


def size_of(hours: float) -> Size:
    """Return the size of models for so much speech."""
    return next(size for size in reversed(SIZES) if hours >= size.hours)


def base_of(measured: Measured, encoder: str, size: Size | None = None) -> str | None:
    """Return the file of ``conf/`` that a large model comes from; None: the model is a small one.

    Args:
        measured: the data.
        encoder: name of the encoder.
        size: of the model; None: by the hours.
    """
    if (size or size_of(measured.hours)).width:
        return None
    suffix = next(suffix for hours, suffix in BASES if measured.hours >= hours)
    if encoder in ("transformer", "conformer", "e_branchformer"):
        suffix = ""
    elif measured.ideographic and suffix == "_librispeech100":
        suffix = "_aishell"
    elif "mamba" in encoder and not suffix:
        suffix = "_aishell" if measured.ideographic else "_librispeech100"
    return f"train_{encoder}{suffix}.yaml"


def count_pieces(measured: Measured) -> int:
    """Return how many pieces a text allows: one for 200 words, and a few more than its letters."""
    least = max(FEWEST_PIECES, measured.alphabet + 4)
    wanted = measured.words // WORDS_A_PIECE
    if wanted > 100:
        wanted -= wanted % (50 if wanted < 1000 else 500)
    return max(least, min(wanted, MOST_PIECES))


def choose_rate(measured: Measured) -> int | None:
    """Return the sampling rate in Hz to bring audio to: 16 kHz where rates differ or are higher."""
    if len(measured.rates) > 1 or max(measured.rates, default=0) > BROADBAND:
        return BROADBAND
    return None


def trial_seconds(plan: Plan) -> float:
    """Return the speech in a batch of a trial: that of the plan, or a minute if that is more."""
    return min(plan.batch_seconds, 60.0)


def _vocabulary(measured: Measured, token_type: str, pieces: int) -> int:
    """Return how many tokens there will be; those of words are not known before stage 5."""
    if token_type == "char":
        return measured.alphabet + (0 if measured.ideographic else 1) + TOKENS
    # <unk> is one of the pieces
    return pieces + TOKENS - 1 if token_type == "bpe" else max(measured.words // 5, 1) + TOKENS


def _batch_seconds(base: Mapping[str, Any]) -> float:
    """Return the seconds of a batch of a file of ``conf/``, whose bins are values of 80 dims."""
    dims = base.get("spike_meta", {}).get("input_size", 80)
    return base["batch_bins"] / (FRAME_RATE * dims)
