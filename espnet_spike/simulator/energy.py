"""Energy from counted instructions and memory accesses, under a named cost model.

An estimate to compare codings and cores with, not a measurement: a model gives every instruction
and every 32-bit access one price, whatever the core and the technology at hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from espnet_spike.errors import UserError, did_you_mean


@dataclass(frozen=True)
class CostModel:
    """Prices in pJ.

    Attributes:
        instruction: fetch, decode, registers and arithmetic of one instruction.
        access: of a 32-bit load or store.
        source: where the prices come from.
    """

    instruction: float
    access: float
    source: str


_HOROWITZ = "Horowitz, ISSCC 2014, 45 nm, 0.9 V: 70 pJ an instruction"
COST_MODELS = {
    "horowitz45_sram8k": CostModel(70.0, 5.0, f"{_HOROWITZ}, 10 pJ for 64 bits of 8 KB SRAM"),
    "horowitz45_sram1m": CostModel(70.0, 50.0, f"{_HOROWITZ}, 100 pJ for 64 bits of 1 MB SRAM"),
    "horowitz45_dram": CostModel(70.0, 975.0, f"{_HOROWITZ}, 1.3 to 2.6 nJ for 64 bits of DRAM"),
}
# weights of these models fill hundreds of kilobytes
DEFAULT = "horowitz45_sram1m"


def cost_model(name: str) -> CostModel:
    """Return a cost model by name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in COST_MODELS:
        raise UserError(
            f"cost model {name}: unknown{did_you_mean(name, COST_MODELS)}",
            f"one of {', '.join(COST_MODELS)}",
        )
    return COST_MODELS[name]


def energy_uj(counts: Mapping[str, float], model: str = DEFAULT) -> float:
    """Return the energy in microjoules of so many ``instructions``, ``loads`` and ``stores``."""
    prices = cost_model(model)
    access = (counts["loads"] + counts["stores"]) * prices.access
    return (counts["instructions"] * prices.instruction + access) * 1e-6
