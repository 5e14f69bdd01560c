"""Energy from counted instructions and memory accesses, under named prices.

An estimate to compare codings and cores with, not a measurement: every instruction and every
32-bit access has one price, whatever the core and the technology. The prices of a network's
operations, whatever runs them, are in ``espnet_spike.counting.energy``.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from espnet_spike.ranges import PROCESSOR, check
from espnet_spike.utils.resources import shipped
from espnet_spike.utils.yaml import read_named

# weights of these models fill hundreds of kilobytes
DEFAULT = "horowitz45_sram1m"


@dataclass(frozen=True)
class ProcessorPrices:
    """Prices in pJ; see the files of ``conf/processor_energy``.

    Attributes:
        name: of the file.
        source: where the prices come from.
        instruction: fetch, decode, registers and arithmetic of one instruction.
        access: of a 32-bit load or store.
    """

    name: str
    source: str
    instruction: float
    access: float

    def __post_init__(self) -> None:
        prices = {key: value for key, value in vars(self).items() if key != "name"}
        check(PROCESSOR, prices, self.name)


@functools.cache
def read_prices(name: str = DEFAULT) -> ProcessorPrices:
    """Read prices by the name of a file of ``conf/processor_energy``, or by a path.

    Raises:
        UserError: there is no such file, or it is incomplete.
    """
    folder = shipped("processor_energy")
    keys = set(ProcessorPrices.__dataclass_fields__) - {"name"}
    path, content = read_named(name, folder, keys, "prices of a processor")
    return ProcessorPrices(path.stem, **content)


def energy_uj(counts: Mapping[str, float], prices: ProcessorPrices) -> float:
    """Return the energy in microjoules of counted ``instructions``, ``loads`` and ``stores``."""
    access = (counts["loads"] + counts["stores"]) * prices.access
    return (counts["instructions"] * prices.instruction + access) * 1e-6
