"""Cost models: what they hold, and their arithmetic by hand."""

import numpy as np
import pytest
import yaml

from espnet_spike.counting.energy import energy, ratio_interval, read_cost_model
from espnet_spike.errors import UserError
from espnet_spike.nn.accounting import Cost
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


def test_published_prices():
    found = {name: read_cost_model(name).operations for name in MODELS}
    assert {name: (prices["mac"], prices["ac"]) for name, prices in found.items()} == PUBLISHED


COSTS = {
    ("a", "linear"): Cost(
        **{"dense_macs": 100, "macs": 10, "acs": 20, "values_read": 7, "values_written": 3},
        **{"spike_bits_read": 16, "additions": 3, "inputs": 8, "nonzeros": 5, "slots": 8},
        **{"weight_size": 2048, "input_size": 4096, "output_size": 2048},
    ),
    ("a", "norm"): Cost(multiplies=4, additions=5, special=1, values_read=2, values_written=2),
}


def test_energy_by_operands():
    found = energy(read_cost_model("horowitz45_fp32"), COSTS)
    compute = 10 * 4.6 + 20 * 0.9
    elements = 4 * 3.7 + (5 + 3) * 0.9 + 1 * 4.6
    memory = ((7 + 3 + 2 + 2) * 4 + 16 / 8) * 24.96
    assert found["compute"] == pytest.approx(compute * 1e-12)
    assert found["total"] == pytest.approx((compute + elements + memory) * 1e-12)
    dense = energy(read_cost_model("horowitz45_fp32"), COSTS, dense=True)
    assert dense["compute"] == pytest.approx(100 * 4.6e-12)


def test_energy_by_operations():
    found = energy(read_cost_model("lemaire45_int32"), COSTS)
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
    prices, memory = content["operations"], content["memory"]
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
