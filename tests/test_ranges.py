"""Every key of our YAML files has a range, and what lies outside of it is an error."""

import inspect
import math
import typing
from dataclasses import fields

import pytest

from espnet_spike import ranges
from espnet_spike.data.fbank import FbankConfig
from espnet_spike.encoders.spike_options import SpikeOptions
from espnet_spike.errors import UserError
from espnet_spike.inference.decode import OWN_KEYS
from espnet_spike.nn.neurons.factory import NEURONS
from espnet_spike.ranges import (
    AsText,
    Curve,
    Either,
    Flag,
    Keys,
    Listed,
    Number,
    OneOf,
    Ratio,
    Text,
    check,
)
from espnet_spike.simulator.energy import ProcessorPrices
from espnet_spike.simulator.hardware import BIT_MANIPULATION, Hardware
from espnet_spike.simulator.hardware import MULTIPLIERS as BUILT
from espnet_spike.tasks.config import Distill, InitFrom
from espnet_spike.tasks.registry import DECODERS, ENCODERS, load_class
from espnet_spike.training.calibration import Calibration
from espnet_spike.utils.cluster import ClusterConfig
from espnet_spike.utils.yaml import read_yaml
from tests.conftest import ROOT

MEMORY = list(ranges.MEMORY.items())
TABLES = {
    name: table
    for name, table in vars(ranges).items()
    if isinstance(table, dict) and name.isupper() and name not in ("MEMORY", "_VALUE")
} | {f"MEMORY {access}": table for access, table in MEMORY}


def names(cls):
    return {field.name for field in fields(cls)}


def test_every_key_of_what_is_read_is_declared():
    assert ranges.FBANK.keys() == names(FbankConfig)
    assert ranges.HARDWARE.keys() == names(Hardware) and set(ranges.MULTIPLIERS) == set(BUILT)
    assert set(ranges.BIT_MANIPULATION) == set(BIT_MANIPULATION)
    assert ranges.PROCESSOR.keys() == names(ProcessorPrices) - {"name"}
    assert ranges.CLUSTER.keys() == names(ClusterConfig)
    assert ranges.SPARSIFY.keys() == names(Calibration) | {"finetune"}
    assert ranges.INIT_FROM.keys() == names(InitFrom) - {"source"} | {"from"}
    assert ranges.DISTILL.keys() == names(Distill) - {"source"} | {"from"}
    assert ranges.DECODING.keys() >= {*names(SpikeOptions), *OWN_KEYS}


@pytest.mark.parametrize("path", [*ENCODERS.values(), *DECODERS.values(), *NEURONS])
def test_every_number_of_a_model_has_a_range_that_its_constructor_checks(path):
    neuron = NEURONS.get(path)
    cls, sizes = (neuron, {"dim": 4}) if neuron else (load_class(path), {"input_size": 20})
    parameters = inspect.signature(cls).parameters
    if "vocab_size" in parameters:
        sizes = {"vocab_size": 5, "encoder_output_size": 8}
    hints = typing.get_type_hints(cls.__init__)
    numbers = [
        name
        for name in parameters.keys() - sizes.keys()
        if hints[name] in (int, float, int | None, float | None)
    ]
    assert len(numbers) >= (path != "relu")
    for name in numbers:
        for value in (math.nan, math.inf, ranges.MODEL[name].low - 1):
            with pytest.raises(ValueError, match=rf"^{name}: {value} is out of range; give "):
                cls(**sizes, **{name: value})


@pytest.mark.parametrize(
    ("pattern", "table"),
    [
        ("conf/fbank*.yaml", "FBANK"),
        ("conf/energy/*.yaml", "COST_MODEL"),
        ("conf/processor_energy/*.yaml", "PROCESSOR"),
        ("conf/cluster/*.yaml", "CLUSTER"),
        ("**/conf/decode*.yaml", "DECODING"),
        ("**/conf/train*.yaml", "META"),
        ("**/conf/train*.yaml", "TRAINING"),
        ("**/conf/lm*.yaml", "TRAINING"),
    ],
)
def test_the_files_of_the_recipes_are_in_range(pattern, table):
    files = sorted({*ROOT.glob(pattern), *(ROOT / "egs").glob(pattern)})
    assert files
    for file in files:
        content = read_yaml(file)
        if table == "TRAINING":
            check(ranges.MODEL_CONF, content.get("model_conf", {}), file.name, None)
            check(ranges.CTC_CONF, content.get("ctc_conf", {}), file.name, None)
            check(ranges.SCHEDULER_CONF, content.get("scheduler_conf", {}), file.name, None)
        if table == "META":
            content = content.get("spike_meta") or {}
            check(ranges.SPARSIFY, content.get("sparsify", {}), file.name)
        others = None if table in ("DECODING", "TRAINING") else ()
        check(TABLES[table], content, str(file), others)
        if others is not None:
            assert content.keys() <= TABLES[table].keys()


def bad_values(kind):
    """Yield what a key of a kind is not."""
    common = [[1, "x"], {"x": 1}, object()]
    if isinstance(kind, Number):
        beyond = [math.nan, math.inf, -math.inf, True, "1", "", kind.high + max(1, kind.high)]
        low = kind.low if kind.above else kind.low - max(1, abs(kind.low))
        yield from [*common, *beyond, low, *[None] * (not kind.null), *[1.5] * kind.whole]
    elif isinstance(kind, AsText):
        yield from (bad for bad in bad_values(kind.of) if bad != "1")
        yield from ["-1", "nan", "many", "1e400", "-inf"]
    elif isinstance(kind, Ratio):
        beyond = [math.nan, math.inf, -math.inf, True, "1", kind.high * 2, -0.5, -1.5]
        yield from [*common, *beyond, None, -kind.tokens - 1]
    elif isinstance(kind, OneOf):
        yield from [*common, "anything", 7, True, *[None] * (None not in kind.values)]
    elif isinstance(kind, Flag):
        yield from [*common, 0, 1, "true", None]
    elif isinstance(kind, Text):
        yield from [*common, "", " ", 0, math.nan, *[None] * (not kind.null)]
    elif isinstance(kind, Listed):
        yield from ["x", None, {"a": 1}, *([bad] for bad in bad_values(kind.of))]
        yield from [[30, 20], [20, 20]] if kind.rising else []
        yield from [[]] if kind.least else []
    elif isinstance(kind, Curve):
        yield from [None, [], 1, [1], [[1]], [[0, math.nan], [1, 1]], [[math.nan, 1]], [[0, 0]]]
        yield from [[[0, 1], [0, 2]], [[0, 2], [1, 1]], [[0, -1], [1, 1]], [[True, 1]], ["ab"]]
    elif isinstance(kind, Either):
        yield from (bad for bad in bad_values(kind.first) if kind.second.wanted(bad))
    else:
        assert isinstance(kind, Keys)
        yield from [None, 1, [], "x"]


@pytest.mark.parametrize("name", TABLES)
def test_what_is_out_of_range_names_file_and_key(name):
    table = TABLES[name]
    assert table
    for key, kind in table.items():
        for value in bad_values(kind):
            with pytest.raises(UserError) as caught:
                check(table, {key: value}, "x.yaml")
            assert caught.value.message.startswith(f"x.yaml: {key}: "), value
            assert caught.value.hint.startswith("give ") and len(caught.value.message) < 140


def test_unknown_keys_and_no_mapping():
    with pytest.raises(UserError, match=r"unknown key 'clock_mh' .did you mean 'clock_mhz'"):
        check(ranges.HARDWARE, {"clock_mh": 1}, "x")
    check(ranges.HARDWARE, {"more": 1}, "x", others=["more"])
    check(ranges.HARDWARE, {"more": 1}, "x", others=None)
    with pytest.raises(UserError, match="x: 3 is no mapping"):
        check(ranges.HARDWARE, 3, "x")


@pytest.mark.parametrize(
    ("least", "most", "good"),
    [
        *((0, 0, True), (0.2, 0, True), (0.2, 0.3, True), (0.3, 0.2, False), (-5, -9, True)),
        *((-9, -5, False), (-9, 0.1, True), (None, 0.1, True)),
    ],
)
def test_the_shortest_hypothesis_is_no_longer_than_the_longest(least, most, good):
    options = {"minlenratio": least, "maxlenratio": most}
    if good:
        ranges.check_lengths(options, "x")
    else:
        with pytest.raises(UserError, match=r"x: minlenratio .* is beyond maxlenratio"):
            ranges.check_lengths(options, "x")


def test_a_number_of_a_training_may_be_written_as_text():
    check(
        ranges.TRAINING, {"max_epoch": "30", "grad_clip": "0.5", "keep_nbest_models": [3, 5]}, "x"
    )
    check(ranges.TRAINING, {"encoder": "x", "patience": None}, "x", others=None)
