"""What the values of our YAML files may be: each key of each kind of file, with its range.

A price of zero, a clock that stands or a search without an end is valid YAML and gives a result
that is wrong without a word. So a file is compared with what is declared here when it is read,
before any work. What ESPnet's own options take, ESPnet's parser says; of those that the search
depends on the ranges are here, too.
"""

import contextlib
import itertools
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard

from espnet_spike.errors import UserError, did_you_mean


class Check(Protocol):
    """Says what a value may be."""

    def wanted(self, value: object) -> str:
        """Return what is expected instead of a value, or nothing if it will do."""
        ...


@dataclass(frozen=True)
class Number:
    """A finite number.

    Attributes:
        low, high: its range, both included.
        above: ``low`` itself is not.
        whole: no fractions.
        null: may be null.
        unit: for messages.
    """

    low: float
    high: float
    above: bool = False
    whole: bool = False
    null: bool = False
    unit: str = ""

    def wanted(self, value: object) -> str:
        """See `Check`."""
        if value is None and self.null:
            return ""
        if is_number(value):
            good = self.low < value if self.above else self.low <= value
            if (
                good
                and value <= self.high
                and (isinstance(value, numbers.Integral) or not self.whole)
            ):
                return ""
        what = "a whole number" if self.whole else "a number"
        start = f"above {self.low:.12g} and up to" if self.above else f"from {self.low:.12g} to"
        end = f"{self.high:.12g}{self.unit and ' '}{self.unit}{', or null' if self.null else ''}"
        return f"{what} {start} {end}"


@dataclass(frozen=True)
class Ratio:
    """Tokens of a hypothesis for each frame of the encoder; below zero: a number of tokens.

    Attributes:
        high: the largest share of the frames.
        tokens: the largest number.
    """

    high: float
    tokens: int = 10_000

    def wanted(self, value: object) -> str:
        """See `Check`."""
        if is_number(value):
            count = -self.tokens <= value <= -1 and value == int(value)
            if count or 0 <= value <= self.high:
                return ""
        return (
            f"a share of the encoder's frames from 0 to {self.high:.12g}, or a whole number of "
            f"tokens below zero, to -{self.tokens}"
        )


@dataclass(frozen=True)
class OneOf:
    """One of some values; null only if it is among them."""

    values: tuple[object, ...]

    def wanted(self, value: object) -> str:
        """See `Check`."""
        if any(value == known and type(value) is type(known) for known in self.values):
            return ""
        guess = did_you_mean(str(value), [str(known) for known in self.values])
        names = ("null" if known is None else str(known) for known in self.values)
        return f"one of {', '.join(names)}{guess}"


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def wanted(self, value: object) -> str:
        """See `Check`."""
        return "" if isinstance(value, bool) else "true or false"


@dataclass(frozen=True)
class Text:
    """Text that is not blank, or ``null`` if that may be."""

    null: bool = False

    def wanted(self, value: object) -> str:
        """See `Check`."""
        if (isinstance(value, str) and value.strip()) or (value is None and self.null):
            return ""
        return f"text{', or null' if self.null else ''}"


@dataclass(frozen=True)
class Listed:
    """A list.

    Attributes:
        of: what each value of it is.
        least: how many there are at least.
        length: how many there are; None: any number.
        rising: each number is above the one before.
    """

    of: Check
    least: int = 0
    length: int | None = None
    rising: bool = False

    def wanted(self, value: object) -> str:
        """See `Check`."""
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) < self.least:
            return f"a list{f' of at least {self.least}' if self.least else ''}"
        if self.length not in (None, len(value)):
            return f"a list of {self.length}"
        for item in value:
            if problem := self.of.wanted(item):
                return f"a list, each of it {problem}"
        if self.rising and any(a >= b for a, b in itertools.pairwise(value)):
            return "a list of rising numbers"
        return ""


@dataclass(frozen=True)
class Curve:
    """Points (x, y) from which values between are interpolated: x rises, y does not fall."""

    x: Number
    y: Number

    def wanted(self, value: object) -> str:
        """See `Check`."""
        form = f"a list of points [x, y]: x {self.x.wanted('')}, y {self.y.wanted('')}"
        points = value if isinstance(value, list | tuple) else ()
        pairs = [tuple(p) for p in points if isinstance(p, list | tuple) and len(p) == 2]
        if not pairs or len(pairs) < len(points):
            return form
        if any(self.x.wanted(x) or self.y.wanted(y) for x, y in pairs):
            return form
        steps = list(itertools.pairwise(pairs))
        if any(b[0] <= a[0] or b[1] < a[1] for a, b in steps) or pairs[-1][1] <= 0:
            return f"{form}; x rises, y does not fall, and the last is above 0"
        return ""


@dataclass(frozen=True)
class AsText:
    """A number that may be written as text, which ESPnet's parser converts.

    Attributes:
        of: what the number is.
    """

    of: Check

    def wanted(self, value: object) -> str:
        """See `Check`."""
        if isinstance(value, str) and value.lower() in ("none", "null", "nil"):
            value = None
        if isinstance(value, str):
            for convert in (int, float):
                with contextlib.suppress(ValueError):
                    return self.of.wanted(convert(value))
        return self.of.wanted(value)


@dataclass(frozen=True)
class Keys:
    """A mapping; its keys are checked by a table of their own, or not here."""

    def wanted(self, value: object) -> str:
        """See `Check`."""
        return "" if isinstance(value, Mapping) else "a mapping of key: value"


@dataclass(frozen=True)
class Either:
    """What one of two checks takes."""

    first: Check
    second: Check

    def wanted(self, value: object) -> str:
        """See `Check`."""
        found = self.first.wanted(value), self.second.wanted(value)
        return f"{found[0]}, or {found[1]}" if all(found) else ""


Table = Mapping[str, Check]
PRICE = Number(0, 1e6, above=True, unit="pJ")
SEED = Number(0, 2**32 - 1, whole=True)
RATE = Number(1000, 10_000_000, whole=True, unit="Hz")
"""Of sampling; what is below is kHz."""

MULTIPLIERS = ("none", "slow", "fast", "single_cycle")
BIT_MANIPULATION = ("none", "balanced", "full")
WINDOWS = ("povey", "hamming", "hanning", "rectangular")

# conf/fbank.yaml
FBANK: Table = {
    "num_mel_bins": Number(4, 4096, whole=True),
    "frame_length": Number(0, 10_000, above=True, unit="ms"),
    "frame_shift": Number(0, 10_000, above=True, unit="ms"),
    "low_freq": Number(0, 1e6, unit="Hz"),
    "high_freq": Number(-1e6, 1e6, unit="Hz"),
    "window_type": OneOf(WINDOWS),
    "preemphasis_coefficient": Number(0, 1),
    "remove_dc_offset": Flag(),
    "snip_edges": Flag(),
    "dither": Number(0, 32768),
    "mel_floor": Number(0, 1e12, above=True),
    "compression_method": Number(1, 7, whole=True, null=True),
}

# conf/energy: the file, its operations, accumulator, rules and memory
COST_MODEL: Table = {
    "title": Text(),
    "source": Text(),
    "technology": Text(),
    "precision": Text(),
    "operations": Keys(),
    "memory": Keys(),
    "warnings": Listed(Text()),
    "accumulator": Keys(),
    "rules": Keys(),
}
ACCUMULATOR: Table = {"bits": Number(1, 128, whole=True, unit="bits"), "add": PRICE}
RULES: Table = {
    "event": OneOf(("additions", "mac")),
    "event_coding": OneOf(("dense", "list")),
    "address_add": Number(0, 1e6, unit="pJ"),
    "channel_scale": Flag(),
    "threshold_factors": Number(1, 2, whole=True),
    "statistic_read": Flag(),
    "scan": OneOf(("macs", "recurrence")),
    "neuron": OneOf(("operations", "mac")),
    "partial_sums": OneOf(("stored", "kept")),
    "compute": OneOf(("products", "arithmetic")),
}
OPERATIONS: Table = {key: PRICE for key in ("mac", "ac", "multiply", "add", "special")}
_VALUE = {"bytes_per_value": Number(0, 64, above=True)}
# by the value of the key access
MEMORY: Mapping[str, Table] = {
    "operands": {"access": OneOf(("operands",)), **_VALUE, "pj_per_byte": PRICE},
    "operations": {
        "access": OneOf(("operations",)),
        **_VALUE,
        "sram": Curve(Number(0, 1e15, unit="bytes"), Number(0, 1e6, unit="pJ")),
    },
    "levels": {
        "access": OneOf(("levels",)),
        **_VALUE,
        "levels": Curve(Number(0, 1e15, unit="bytes"), Number(0, 1e6, unit="pJ")),
        "dram": PRICE,
        "activations": Number(0, 1e15, above=True, unit="bytes"),
        "dataflow": OneOf(("output_stationary", "weight_stationary")),
        "reuse": Number(1, 4096, whole=True),
    },
}

# conf/processor_energy
PROCESSOR: Table = {"source": Text(), "instruction": PRICE, "access": PRICE}

# conf/hardware
_CYCLES = Number(0, 1000, whole=True, unit="cycles")
HARDWARE: Table = {
    "multiplier": OneOf(MULTIPLIERS),
    "writeback_stage": Flag(),
    "branch_target_alu": Flag(),
    "data_wait_states": _CYCLES,
    "instruction_wait_states": _CYCLES,
    "clock_mhz": Number(0, 100_000, above=True, unit="MHz"),
    "bit_manipulation": OneOf(BIT_MANIPULATION),
}

# conf/cluster; options are those of the class that cluster names
CLUSTER: Table = {
    "cluster": OneOf(("local", "slurm", "pbs", "sge")),
    "workers": Number(1, 100_000, whole=True),
    "options": Keys(),
}
# those of its options whose meaning does not depend on the kind of cluster
CLUSTER_OPTIONS: Table = {
    "cores": Number(1, 10_000, whole=True),
    "memory": Text(),
    "walltime": Text(),
}

# spike_meta of a training, and sparsify in it
META: Table = {
    "vocab_size": Number(3, 10_000_000, whole=True),
    "input_size": Number(1, 100_000, whole=True),
    "sparsify": Keys(),
    "scan_batches": Flag(),
    "init_from": Either(Text(), Keys()),
    "distill": Either(Text(), Keys()),
    "twin": Keys(),
}
INIT_FROM: Table = {
    "from": Text(),
    "utterances": Number(1, 100_000_000, whole=True),
    "seed": SEED,
}
DISTILL: Table = {
    "from": Text(),
    "weight": Number(0, 1e6, above=True),
    "temperature": Number(0, 1000, above=True),
}
SPARSIFY: Table = {
    "order": OneOf(("network", "percentile")),
    "base": OneOf(("running", "fixed")),
    "loss_factor": Number(1, 1000, above=True, null=True),
    "utterances": Number(1, 100_000_000, whole=True),
    "first": Number(0, 100, above=True, unit="%"),
    "percentiles": Listed(Number(0, 100, above=True, unit="%"), least=1, rising=True),
    "quantile_over": OneOf(("positive", "all")),
    "max_values": Number(1, 1e12, whole=True),
    "seed": SEED,
    "finetune": Keys(),
}

# conf/train_*.yaml and conf/lm*.yaml: of ESPnet's options of a training, those whose parser takes
# numbers that it cannot train with; model_conf, ctc_conf and scheduler_conf in them
_COUNT = AsText(Number(1, 1e12, whole=True))
_COUNT_OR_NULL = AsText(Number(1, 1e12, whole=True, null=True))
_SHARE = Number(0, 1)
TRAINING: Table = {
    "max_epoch": AsText(Number(1, 1e9, whole=True)),
    "patience": AsText(Number(0, 1e9, whole=True, null=True)),
    "num_iters_per_epoch": _COUNT_OR_NULL,
    "accum_grad": _COUNT,
    "batch_size": _COUNT,
    "batch_bins": _COUNT,
    "valid_batch_size": _COUNT_OR_NULL,
    "valid_batch_bins": _COUNT_OR_NULL,
    "log_interval": _COUNT_OR_NULL,
    "num_workers": AsText(Number(0, 10_000, whole=True)),
    "num_att_plot": AsText(Number(0, 1_000_000, whole=True)),
    "nbest_averaging_interval": AsText(Number(0, 1e9, whole=True)),
    "keep_nbest_models": Either(_COUNT, Listed(_COUNT, least=1)),
    "grad_clip": AsText(Number(0, 1e12, above=True)),
    "grad_clip_type": AsText(Number(0, 1e6, above=True)),
}
_DROPOUT = Number(0, 0.99)  # with 1 nothing is left
MODEL_CONF: Table = {"lsm_weight": _SHARE, "interctc_weight": _DROPOUT}
CTC_CONF: Table = {"dropout_rate": _DROPOUT}
_RATE = AsText(Number(0, 1e6, above=True))
OPTIM_CONF: Table = {
    "lr": _RATE,
    "weight_decay": AsText(Number(0, 1e6)),
    "momentum": _DROPOUT,
    "maximize": OneOf((False,)),  # of the loss
    "differentiable": OneOf((False,)),
}
SCHEDULER_CONF: Table = {
    "warmup_steps": AsText(Number(0, 1e12)),
    "max_lr": Either(_RATE, Listed(_RATE, least=1)),
    **dict.fromkeys("eta_min base_lr min_lr".split(), AsText(Number(0, 1e6))),
    **dict.fromkeys("step_size T_max first_cycle_steps".split(), _COUNT),
    **dict.fromkeys(
        "model_size gamma div_factor final_div_factor".split(), AsText(Number(0, 1e12, above=True))
    ),
}
_WIDTH = Number(0, 1e6, whole=True)
_WIDTHS = Either(Number(0, 1e6, whole=True, null=True), Listed(_WIDTH, length=2))
_MASKS = Number(1, 10_000, whole=True)
SPECAUG_CONF: Table = {
    "time_warp_window": Number(1, 1e6, whole=True),
    "freq_mask_width_range": _WIDTHS,
    "num_freq_mask": _MASKS,
    "time_mask_width_range": _WIDTHS,
    "time_mask_width_ratio_range": Either(OneOf((None,)), Listed(_SHARE, length=2)),
    "num_time_mask": _MASKS,
}

# encoder_conf and decoder_conf, also of ESPnet's classes and of packages: what a model is as large
# as. A damaged one would be built until the memory is full, one without blocks passes its input on.
_SIZE = Number(1, 100_000, whole=True)
SIZES: Table = {
    "num_blocks": Number(1, 1000, whole=True),
    **dict.fromkeys("output_size attention_heads d_state conv_channels expand".split(), _SIZE),
    "linear_units": Number(1, 1_000_000, whole=True),
}
# lm_conf of ESPnet's language models
LM: Table = {
    **dict.fromkeys("layer nlayers".split(), Number(1, 1000, whole=True)),
    **dict.fromkeys("unit embed_unit att_unit head nhid".split(), _SIZE),
    "dropout_rate": _DROPOUT,
}

# Numbers that our encoders, decoders and neurons take, see utils.options.numbers_in_range
_POSITIVE = Number(0, 1e6, above=True)
_NOT_NEGATIVE = Number(0, 1e6)
_FINITE = Number(-1e6, 1e6)
MODEL: Table = {
    **SIZES,
    **dict.fromkeys("d_conv dt_rank conv_kernel conv_module_kernel T time_steps".split(), _SIZE),
    **dict.fromkeys(
        "dropout_rate positional_dropout_rate attention_dropout_rate".split(), _DROPOUT
    ),
    **dict.fromkeys("r_min r_max surrogate_tail".split(), _SHARE),
    **dict.fromkeys("v_th attn_v_th surrogate_alpha ssa_scale fat_k".split(), _POSITIVE),
    **dict.fromkeys(
        "beta lambda_q lambda_b lambda_act lambda_T fat_threshold".split(), _NOT_NEGATIVE
    ),
    **dict.fromkeys("hdm_r v_reset".split(), _FINITE),
    **dict.fromkeys("e_min e_max".split(), Number(-50, 50)),  # 1 - 2^-50 is 1 but for rounding
    "alpha_init": Number(0, 100, above=True),
    "ssa_decay": Listed(Number(0.001, 50), length=2),
    "attention_window": Listed(Number(0, 2**30, whole=True), length=2),
    "tau": Number(1, 1e6),
    "scan_memory": Number(0, 1e9, above=True, unit="MiB"),
    "warm_start_steps": Number(0, 1e12, whole=True),
}

# conf/decode*.yaml: what the search depends on, ours and ESPnet's. Two tokens for each frame of the
# encoder are more than anyone says; far above, a search that finds no end goes on for days.
DECODING: Table = {
    "batch_size": Number(1, 100_000, whole=True),
    "beam_size": Number(1, 10_000, whole=True),
    "nbest": Number(1, 10_000, whole=True),
    "ctc_weight": Number(0, 1),
    "lm_weight": Number(-100, 100),
    "ngram_weight": Number(-100, 100),
    "penalty": Number(-1000, 1000),
    "maxlenratio": Ratio(high=2),
    "minlenratio": Ratio(high=1),
    "ctc_window_margin": Number(0, 1_000_000, whole=True),
    "spike_mode": OneOf((None, "integer", "binary", "fire")),
    "T": Number(1, 1024, whole=True, null=True),
    "T_rule": OneOf((None, "keep", "rescale")),
    "inference_asr_model": Text(null=True),
    "inference_lm": Text(null=True),
}


def check(table: Table, content: object, where: str, others: Iterable[str] | None = ()) -> None:
    """Compare the keys and values of a mapping with what they may be.

    Args:
        table: key -> range.
        content: what was read.
        where: the file, and the key in it that holds this mapping, for messages.
        others: further keys, checked elsewhere; None: any.

    Raises:
        UserError: names each such key, its value and what it may be.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: {content!r} is no mapping", "write key: value")
    problems, cures = [], []
    for key, value in content.items():
        if key not in table:
            if others is None or key in others:
                continue
            known = [*table, *others]
            raise UserError(
                f"{where}: unknown key {key!r}{did_you_mean(str(key), known)}",
                f"known keys: {', '.join(known)}",
            )
        if wanted := table[key].wanted(value):
            shown = repr(value)
            shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
            problems.append(f"{key}: {shown} is out of range")
            cures.append(wanted if not cures else f"{key}: {wanted}")
    if problems:
        raise UserError(f"{where}: {'; '.join(problems)}", f"give {'; '.join(cures)}")


def check_sizes(conf: object, where: str, table: Table = SIZES) -> None:
    """Check the numbers of an ``encoder_conf``, a ``decoder_conf`` or, by `LM`, an ``lm_conf``.

    What is no number is left to the check of the types.

    Raises:
        UserError: as `check`.
    """
    if isinstance(conf, Mapping):
        check(table, {k: v for k, v in conf.items() if k in table and is_number(v)}, where)


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value is a number, NumPy's too; true and false are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def not_finite(part: object, where: str) -> list[str]:
    """Return the places of numbers in a mapping, and in those in it, that are NaN or infinite."""
    if isinstance(part, Mapping):
        found = (not_finite(value, f"{where}.{key}") for key, value in part.items())
    elif isinstance(part, list | tuple):
        found = (not_finite(value, where) for value in part)
    else:
        return [where] if isinstance(part, float) and not math.isfinite(part) else []
    return list(itertools.chain.from_iterable(found))


def check_lengths(options: Mapping[str, object], where: str) -> None:
    """Compare the shortest and the longest hypothesis that a search may find.

    Raises:
        UserError: none is long enough and short enough.
    """
    least, most = options.get("minlenratio") or 0, options.get("maxlenratio") or 0
    assert isinstance(least, int | float)  # their ranges are checked
    assert isinstance(most, int | float)
    alike = (least > 0) == (most > 0)
    if least and most and alike and abs(least) > abs(most):
        raise UserError(
            f"{where}: minlenratio {least} is beyond maxlenratio {most}", "lower minlenratio"
        )
