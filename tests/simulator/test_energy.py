import pytest

from espnet_spike.errors import UserError
from espnet_spike.simulator.energy import energy_uj, read_prices
from espnet_spike.utils.resources import shipped

COUNTS = {"instructions": 1e6, "loads": 2e5, "stores": 1e5}


def test_energy_is_the_sum_of_its_prices():
    assert energy_uj(COUNTS, read_prices("horowitz45_sram8k")) == pytest.approx(70 + 1.5)


def test_prices_are_published_ones():
    models = [read_prices(path.stem) for path in shipped("processor_energy").glob("*.yaml")]
    models.sort(key=lambda prices: energy_uj(COUNTS, prices))
    assert [m.name.removeprefix("horowitz45_") for m in models] == ["sram8k", "sram1m", "dram"]
    assert {m.instruction for m in models} == {70.0}
    assert [m.access for m in models] == [5.0, 50.0, 975.0]
    assert read_prices() == models[1] and read_prices().source == (
        "Horowitz, ISSCC 2014, 45 nm, 0.9 V: 70 pJ an instruction, 100 pJ for 64 bits of 1 MB SRAM"
    )


def test_prices_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("source: me\ninstruction: 1\naccess: 10\n")
    assert energy_uj(COUNTS, read_prices(str(path))) == pytest.approx(1 + 3)
    for content, message in (
        ("source: me\ninstruction: 1\n", "missing or unknown keys: access"),
        ("source: me\ninstruction: 1\naccess: little\n", "access: 'little' is out of range"),
    ):
        (tmp_path / f"{len(content)}.yaml").write_text(content)
        with pytest.raises(UserError, match=message):
            read_prices(str(tmp_path / f"{len(content)}.yaml"))
    with pytest.raises(UserError, match="did you mean 'horowitz45_dram'"):
        read_prices("horowitz45_dra")
