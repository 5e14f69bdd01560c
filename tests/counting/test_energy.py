"""Cost models: what they hold, and their arithmetic by hand."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import yaml

from espnet_spike.counting.energy import (
    Rules,
    energy,
    quantised,
    ratio_interval,
    read_cost_model,
    real_share,
)
from espnet_spike.errors import UserError
from espnet_spike.nn.accounting import Cost
from espnet_spike.ranges import RULES
from espnet_spike.utils.resources import shipped

FOLDER = shipped("energy")
MODELS = sorted(path.stem for path in FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_says_where_it_comes_from(name):
    model = read_cost_model(name)
    assert model.name == name and model.warnings
    assert "20" in model.source and "nm" in model.technology and model.precision in name
    assert model.operations["mac"] == pytest.approx(
        model.operations["multiply"] + model.operations["add"]
    )


# pJ of a multiply-accumulate and of an accumulate, copied from the publication by hand
PUBLISHED = {
    "horowitz45_fp32": (4.6, 0.9),
    "horowitz45_fp16": (1.5, 0.4),
    "horowitz45_int8": (0.23, 0.03),
    "lemaire45_int32": (3.2, 0.1),
}


def test_every_rule_has_a_range():
    assert RULES.keys() == asdict(Rules()).keys()
    assert not any(RULES[key].wanted(value) for key, value in asdict(Rules()).items())


def test_published_prices():
    found = {name: read_cost_model(name).operations for name in MODELS}
    assert {name: (prices["mac"], prices["ac"]) for name, prices in found.items()} == PUBLISHED


def former(name):
    """Return a cost model without rules and accumulator, memory by operands at 3.12 pJ a bit."""
    model = read_cost_model(name)
    if model.memory["access"] == "levels":
        width = model.memory["bytes_per_value"]
        memory = {"access": "operands", "bytes_per_value": width, "pj_per_byte": 24.96}
        model = replace(model, memory=memory)
    return replace(model, rules=Rules(), accumulator=None)


COSTS = {
    ("a", "linear"): Cost(
        **{"dense_macs": 100, "macs": 10, "acs": 20, "values_read": 7, "values_written": 3},
        **{"spike_bits_read": 16, "additions": 3, "inputs": 8, "nonzeros": 5, "slots": 8},
        **{"weight_size": 2048, "input_size": 4096, "output_size": 2048},
    ),
    ("a", "norm"): Cost(multiplies=4, additions=5, special=1, values_read=2, values_written=2),
}


def test_energy_by_operands():
    found = energy(former("horowitz45_fp32"), COSTS)
    compute = 10 * 4.6 + 20 * 0.9
    elements = 4 * 3.7 + (5 + 3) * 0.9 + 1 * 4.6
    memory = ((7 + 3 + 2 + 2) * 4 + 16 / 8) * 24.96
    assert found["compute"] == pytest.approx(compute * 1e-12)
    assert found["total"] == pytest.approx((compute + elements + memory) * 1e-12)
    dense = energy(former("horowitz45_fp32"), COSTS, dense=True)
    assert dense["compute"] == pytest.approx(100 * 4.6e-12)


def test_energy_by_operations():
    found = energy(former("lemaire45_int32"), COSTS)
    compute = 10 * 3.2 + 20 * 0.1
    elements = 4 * 3.1 + (5 + 3) * 0.1 + 1 * 3.2
    # 2048 numbers are 8 kB: 10 pJ an access; 4096 are 16 kB, a third of the way to 32 kB
    weight = output = 10.0
    inputs = 10 + 10 * (16384 - 8192) / (32768 - 8192)
    memory = (10 + 20) * weight + 5 * inputs + 20 * 2 * output + 3 * output
    assert found["total"] == pytest.approx((compute + elements + memory) * 1e-12)


def test_int8_reads_a_quarter_of_the_bytes():
    values = {("a", "norm"): Cost(values_read=1000)}
    wide, narrow = (
        energy(read_cost_model(f"horowitz45_{name}"), values)["total"] for name in ("fp32", "int8")
    )
    assert wide == pytest.approx(4 * narrow)


PLAIN = {"mac": 5.0, "ac": 2.0, "multiply": 3.0, "add": 0.5, "special": 7.0}
ATTENTION = Cost(
    **{"dense_macs": 1000, "macs": 100, "acs": 60, "event_macs": 40, "additions": 30},
    **{"multiplies": 20, "channel_multiplies": 8, "events_read": 9, "partial_additions": 10},
)
NEURON = Cost(updates=50, multiplies=50, additions=150, special=5, unit_multiplies=50)
SCAN = Cost(dense_macs=300, macs=90, acs=10, event_macs=10, multiplies=200, state_multiplies=6)
THREE = {("a", "attention"): ATTENTION, ("a", "neuron"): NEURON, ("a", "scan"): SCAN}
PRODUCTS = 190 * 5 + 70 * 2
ELEMENTS = (20 + 50 + 200) * 3 + (30 + 150) * 0.5 + 5 * 7


@pytest.mark.parametrize(
    ("changed", "compute", "elements"),
    [
        ({}, PRODUCTS, ELEMENTS),
        ({"event": "mac"}, (190 + 50) * 5, ELEMENTS),
        ({"address_add": 0.25}, PRODUCTS, ELEMENTS + 9 * 0.25),
        ({"channel_scale": True}, PRODUCTS, ELEMENTS + 8 * 3),
        ({"threshold_factors": 2}, PRODUCTS, ELEMENTS + 50 * 3),
        ({"scan": "recurrence"}, PRODUCTS + 206 * 3, ELEMENTS - 200 * 3),
        ({"neuron": "mac"}, PRODUCTS + 50 * 5, 20 * 3 + 200 * 3 + 30 * 0.5),
        ({"partial_sums": "kept"}, PRODUCTS, ELEMENTS - 10 * 0.5),
        ({"compute": "arithmetic"}, PRODUCTS + ELEMENTS, 0),
        ({"statistic_read": True, "event_coding": "list"}, PRODUCTS, ELEMENTS),
    ],
    ids=str,
)
def test_each_rule_prices_what_it_names(changed, compute, elements):
    model = replace(former("horowitz45_fp32"), operations=PLAIN).with_rules(**changed)
    found = energy(model, THREE)
    assert found["compute"] == pytest.approx(compute * 1e-12)
    assert found["total"] == pytest.approx((compute + elements) * 1e-12)


def test_sums_of_products_are_as_wide_as_the_accumulator():
    model = replace(former("horowitz45_fp32"), operations=PLAIN)
    wide = replace(model, accumulator={"bits": 32, "add": 1.5})
    found = energy(wide, {("a", "attention"): ATTENTION})
    # a product is a multiplication and an addition there; a bias is added there as well
    compute = 100 * (3 + 1.5) + 60 * 1.5
    assert found["compute"] == pytest.approx(compute * 1e-12)
    assert found["total"] == pytest.approx((compute + 30 * 1.5 + 20 * 3) * 1e-12)
    dense = energy(wide, {("a", "attention"): ATTENTION}, dense=True)
    assert dense["compute"] == pytest.approx(1000 * 4.5e-12)
    # elsewhere an addition is as narrow as its operands
    assert energy(wide, {("a", "norm"): Cost(additions=4)})["total"] == pytest.approx(2e-12)


def test_int8_products_are_added_in_32_bits():
    prices = read_cost_model("horowitz45_int8").prices
    assert (prices["ac"], prices["mac"]) == (0.1, pytest.approx(0.3))
    assert prices["add"] == 0.03


def test_activations_of_a_few_levels_are_multiplied_once():
    model = replace(former("horowitz45_fp32"), operations=PLAIN)
    assert energy(quantised(model), THREE)["compute"] == pytest.approx(240 * 5e-12)
    assert real_share(model, THREE) == pytest.approx(190 * 5 / PRODUCTS)
    assert real_share(model, {}) is None


def test_files_without_rules_mean_what_they_meant(tmp_path):
    content = yaml.safe_load((FOLDER / "horowitz45_fp32.yaml").read_text())
    memory = {"access": "operands", "bytes_per_value": 4, "pj_per_byte": 24.96}
    kept = {k: v for k, v in content.items() if k not in ("rules", "accumulator")}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(kept | {"memory": memory}))
    model = read_cost_model(str(tmp_path / "mine.yaml"))
    assert energy(model, COSTS) == energy(former("horowitz45_fp32"), COSTS)
    assert model.rules == Rules() and model.prices == content["operations"]


def test_ratio_is_of_sums_and_its_interval_holds_it():
    rng = np.random.default_rng(0)
    ours = rng.uniform(1, 2, 60)
    twin = ours * rng.normal(4, 0.2, 60)
    ratio, interval = ratio_interval(ours, twin, [f"s{i % 3}" for i in range(60)])
    assert ratio == pytest.approx(twin.sum() / ours.sum())
    assert interval.low < ratio < interval.high < interval.low + 0.5
    assert (interval.unit, interval.units, interval.meaningful) == ("utterance", 60, True)
    same, exact = ratio_interval(ours, 3 * ours, [f"s{i}" for i in range(60)])
    assert same == pytest.approx(3) and exact.high - exact.low < 1e-9 and exact.unit == "speaker"
    assert not ratio_interval([1.0], [2.0], ["a"])[1].meaningful


SRAM = {"access": "operations", "bytes_per_value": 4}
BAD_SRAM = (None, [], 5, [1, 2], [[1, -1]], [[1, float("nan")]], [[8, 1], [4, 2]], [[0, 0]], ["ab"])


def test_a_wrong_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="horowitz45_fp32"):
        read_cost_model("horowitz45_fp23")
    content = yaml.safe_load((FOLDER / "horowitz45_fp32.yaml").read_text())
    prices = content["operations"]
    memory = {"access": "operands", "bytes_per_value": 4, "pj_per_byte": 24.96}
    levels, rules = content["memory"], content["rules"]
    path = tmp_path / "mine.yaml"
    for change, message in (
        ({}, None),
        ({"source": None}, "source: None is out of range"),
        ({"sauce": "x"}, "sauce"),
        ({"operations": {"mac": 1}}, "operations: missing keys: ac, add, multiply, special"),
        ({"memory": {"access": "operands"}}, "pj_per_byte"),
        ({"operations": 3}, "operations: 3 is out of range"),
        ({"operations": prices | {"mac": "cheap"}}, "operations: mac: 'cheap' is out of range"),
        ({"operations": prices | {"ac": -1}}, "ac: -1 is out of range"),
        ({"operations": prices | {"add": 0}}, "add: 0 is out of range"),
        ({"operations": prices | {"special": float("nan")}}, "special: nan is out of range"),
        ({"memory": memory | {"pj_per_byte": None}}, "memory: pj_per_byte: None is out of range"),
        ({"memory": memory | {"bytes_per_value": 0}}, "bytes_per_value: 0 is out of range"),
        ({"memory": memory | {"colour": "red"}}, "memory: unknown key 'colour'"),
        ({"memory": levels | {"reuse": 0}}, "memory: reuse: 0 is out of range"),
        ({"memory": levels | {"dram": -1}}, "memory: dram: -1 is out of range"),
        ({"memory": levels | {"activations": 0}}, "memory: activations: 0 is out of range"),
        ({"memory": levels | {"dataflow": "none"}}, "memory: dataflow: 'none' is out of range"),
        ({"memory": levels | {"levels": [[9, 9], [8, 8]]}}, "memory: levels: .* out of range"),
        ({"accumulator": {"bits": 32}}, "accumulator: missing keys: add"),
        ({"accumulator": {"bits": 0, "add": 1}}, "accumulator: bits: 0 is out of range"),
        ({"rules": rules | {"event": "free"}}, "rules: event: 'free' is out of range"),
        ({"rules": rules | {"threshold_factors": 3}}, "threshold_factors: 3 is out of range"),
        ({"rules": {"events": "mac"}}, "rules: unknown key 'events' .did you mean 'event'"),
        ({"memory": []}, "memory: \\[\\] is out of range"),
        ({"memory": {"access": "magic"}}, "memory: access is 'magic'"),
        *(
            ({"memory": SRAM | {"sram": sram}}, "memory: sram: .*is out of range")
            for sram in BAD_SRAM
        ),
    ):
        path.write_text(yaml.safe_dump(content | change))
        if message is None:
            assert read_cost_model(str(path)).name == "mine"
        else:
            with pytest.raises(UserError, match=message):
                read_cost_model(str(path))
