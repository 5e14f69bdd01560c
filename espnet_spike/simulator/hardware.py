"""The description of a simulated core."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from espnet_spike.errors import UserError
from espnet_spike.ranges import HARDWARE, check
from espnet_spike.utils.files import present
from espnet_spike.utils.resources import shipped
from espnet_spike.utils.yaml import read_yaml

MULTIPLIERS = {
    "none": "RV32MNone",
    "slow": "RV32MSlow",
    "fast": "RV32MFast",
    "single_cycle": "RV32MSingleCycle",
}
BIT_MANIPULATION = {
    "none": "RV32BNone",
    "balanced": "RV32BBalanced",
    "full": "RV32BFull",
}


@dataclass(frozen=True)
class Hardware:
    """One Ibex core and its memory.

    Attributes:
        multiplier: a name in ``MULTIPLIERS``; ``none`` traps on multiplication and division.
        writeback_stage: third pipeline stage.
        branch_target_alu: separate adder for branch targets.
        bit_manipulation: a name in ``BIT_MANIPULATION``; kernels are compiled for Zba, Zbb and Zbs
            unless it is ``none``.
        data_wait_states: cycles that memory makes a load or store wait.
        instruction_wait_states: cycles that memory makes an instruction fetch wait.
        clock_mhz: turns cycles into seconds.

    Raises:
        UserError: a value that makes no sense.
    """

    multiplier: str = "fast"
    writeback_stage: bool = False
    branch_target_alu: bool = False
    data_wait_states: int = 0
    instruction_wait_states: int = 0
    clock_mhz: float = 100.0
    bit_manipulation: str = "none"

    def __post_init__(self) -> None:
        check(HARDWARE, vars(self), "hardware")

    @property
    def core(self) -> tuple[str, bool, bool, str]:
        """What the hardware is built from; the rest are options of a run."""
        options = self.writeback_stage, self.branch_target_alu
        return self.multiplier, *options, self.bit_manipulation

    @property
    def name(self) -> str:
        """A short name, unique apart from the clock."""
        parts = [self.multiplier]
        parts += ["wb"] * self.writeback_stage + ["bta"] * self.branch_target_alu
        parts += [f"b_{self.bit_manipulation}"] * (self.bit_manipulation != "none")
        if self.data_wait_states or self.instruction_wait_states:
            parts.append(f"wait{self.data_wait_states}_{self.instruction_wait_states}")
        return "-".join(parts)

    def seconds(self, cycles: float) -> float:
        """Return the duration of `cycles`."""
        return cycles / (self.clock_mhz * 1e6)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


def read_hardware(path: Path) -> Hardware:
    """Read a hardware YAML.

    Raises:
        UserError: no such file, or a key or value that makes no sense.
    """
    return _make(path, _read(path))


def read_grid(path: Path) -> Iterator[Hardware]:
    """Read a hardware YAML in which any value may be a list; give every combination.

    Raises:
        UserError: as ``read_hardware``.
    """
    conf = {key: v if isinstance(v, list) else [v] for key, v in _read(path).items()}
    for values in product(*conf.values()):
        yield _make(path, dict(zip(conf, values, strict=True)))


def _read(path: Path) -> dict[str, Any]:
    if not present(path):
        raise UserError(f"{path}: no such file", f"see {shipped('hardware')}")
    return read_yaml(path)


def _make(path: Path, conf: Mapping[str, Any]) -> Hardware:
    check(HARDWARE, conf, str(path))
    return Hardware(**conf)
