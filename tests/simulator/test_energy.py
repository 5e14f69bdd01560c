import pytest

from espnet_spike.errors import UserError
from espnet_spike.simulator.energy import COST_MODELS, energy_uj

pytestmark = pytest.mark.xdist_group("simulator")


def test_energy_is_the_sum_of_its_prices():
    counts = {"instructions": 1e6, "loads": 2e5, "stores": 1e5}
    assert energy_uj(counts, "horowitz45_sram8k") == pytest.approx(70 + 1.5)
    energies = [energy_uj(counts, name) for name in COST_MODELS]
    assert energies == sorted(energies) and energies[0] < energies[-1]
    with pytest.raises(UserError, match="did you mean 'horowitz45_dram'"):
        energy_uj(counts, "horowitz45_dra")
