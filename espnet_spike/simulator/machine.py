"""Run calls of firmware kernels on a simulated core and read the core's counters.

All calls of a run go through one memory image: their arguments and arrays go in, and come out as
the kernels left them, with the counters of each call beside (Ibex's own, by lowRISC's CSR numbers,
and those of the memory around it).
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from espnet_spike.errors import UserError
from espnet_spike.simulator.core import build_core
from espnet_spike.simulator.firmware import build_firmware
from espnet_spike.simulator.hardware import Hardware

IMAGE_BASE = 0x80200000
IMAGE_LIMIT = 60 << 20
MAGIC = 0x49424558
MAX_CYCLES = 20_000_000_000
# kernel -> place among its arguments of what it keeps from frame to frame
STATE = {
    **dict.fromkeys(("lif_hard", "lif_soft", "lif_hard_full_input", "lif_soft_full_input"), 1),
    **dict.fromkeys(("scan_dense", "scan_event"), 7),
    **dict.fromkeys(("scan_dense_blocked", "scan_event_blocked"), 2),
    **dict.fromkeys(("outer_spike", "read_spike"), 0),
}


@dataclass(frozen=True)
class Counters:
    """What the core counted over one call, without the call itself; cycles unless said.

    The last three are of the memory around it: loads and stores of weights (all that calls share:
    weights, biases, tables) and of state (what is kept from frame to frame), and words fetched.
    """

    cycles: int
    instructions: int
    data_wait: int
    fetch_wait: int
    loads: int
    stores: int
    jumps: int
    branches: int
    branches_taken: int
    compressed: int
    multiply_wait: int
    divide_wait: int
    weights: int
    state: int
    fetches: int

    @property
    def memory(self) -> int:
        """Loads and stores."""
        return self.loads + self.stores


COUNTERS = tuple(field.name for field in fields(Counters))


@dataclass(frozen=True)
class Call:
    """One kernel call.

    Attributes:
        kernel: name of a function of the firmware.
        args: whole numbers and contiguous arrays, in the order of the kernel's argument struct.
            Arrays that are not writeable are placed once for all calls that share them.
    """

    kernel: str
    args: tuple[int | np.ndarray, ...]

    @property
    def arrays(self) -> list[np.ndarray]:
        """The arguments that are arrays."""
        return [arg for arg in self.args if isinstance(arg, np.ndarray)]


@dataclass(frozen=True)
class Result:
    """What a call left.

    Attributes:
        counters: of the core.
        arrays: the array arguments of the call after it, in their order.
    """

    counters: Counters
    arrays: list[np.ndarray]


@dataclass(frozen=True)
class Speed:
    """Cycles that a simulator process simulated and the seconds it took."""

    cycles: int
    seconds: float


class Machine:
    """A simulated core with the firmware.

    Args:
        hardware: the core.
        compiler: of the firmware, see ``build_firmware``.

    Attributes:
        record: versions, flags and keys of everything that the numbers depend on.
        speed: of the last run; None before.

    Raises:
        UserError: a tool is missing.
    """

    def __init__(self, hardware: Hardware, compiler: str = "zig") -> None:
        self.hardware = hardware
        self.core = build_core(hardware)
        self.firmware = build_firmware(compiler, hardware.bit_manipulation != "none")
        self.record = {
            "hardware": hardware.as_dict(),
            "core": self.core.record,
            "firmware": self.firmware.record,
        }
        self.speed: Speed | None = None

    def run(self, calls: Sequence[Call], max_cycles: int = MAX_CYCLES) -> list[Result]:
        """Run calls one after the other.

        Raises:
            UserError: the firmware trapped or did not end.
            ValueError: the calls do not fit the memory.
        """
        image, offsets, starts = self._image(calls)
        with tempfile.TemporaryDirectory(prefix="espnet_spike_sim") as folder:
            path = Path(folder) / "image"
            path.write_bytes(image)
            waits = (self.hardware.data_wait_states, self.hardware.instruction_wait_states)
            words = [self.core.binary, self.firmware.elf, path, max_cycles, *waits, *starts]
            done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
            if done.returncode:
                names = ", ".join(dict.fromkeys(call.kernel for call in calls))
                raise UserError(_failure(done, max_cycles, names))
            image = path.read_bytes()
        report = json.loads(done.stdout)
        self.speed = Speed(report["cycles"], report["seconds"])
        return _results(calls, image, offsets)

    def _image(self, calls: Sequence[Call]) -> tuple[bytes, list[list[int]], list[int]]:
        """Return the memory image, where in it the arrays of every call lie, and three addresses.

        These are where weights, state and activations start, in this order.
        """
        symbols = self.firmware.symbols
        args = [len(call.args) for call in calls]
        results = 12 + 8 * len(calls)
        descriptors = results + 4 * len(COUNTERS) * len(calls)
        heap = -(-(descriptors + 4 * sum(args)) // 16) * 16
        kinds: tuple[dict[Any, np.ndarray], ...] = ({}, {}, {})
        for number, call in enumerate(calls):
            for place, arg in enumerate(call.args):
                if isinstance(arg, np.ndarray):
                    kept = STATE.get(call.kernel) == place
                    kind = (1 if kept else 2) if arg.flags.writeable else 0
                    kinds[kind][_identity(arg, number, place)] = arg
        places: dict[Any, int] = {}
        starts = []
        for kind in kinds:
            starts.append(IMAGE_BASE + heap)
            for key, array in kind.items():
                places[key] = heap
                heap = -(-(heap + max(array.nbytes, 1)) // 16) * 16
        if heap > IMAGE_LIMIT:
            raise ValueError(f"{heap >> 20} MiB of operands do not fit the simulated memory")
        header = [MAGIC, len(calls), IMAGE_BASE + results]
        words: list[int] = []
        offsets: list[list[int]] = []
        for number, call in enumerate(calls):
            if call.kernel not in symbols:
                raise ValueError(f"the firmware has no kernel {call.kernel}")
            header += [symbols[call.kernel].address, IMAGE_BASE + descriptors + 4 * len(words)]
            offsets.append([])
            for place, arg in enumerate(call.args):
                if isinstance(arg, np.ndarray):
                    offsets[-1].append(places[_identity(arg, number, place)])
                    words.append(IMAGE_BASE + offsets[-1][-1])
                else:
                    words.append(int(arg) & 0xFFFFFFFF)
        image = np.zeros(heap, np.uint8)
        for start, values in (0, header), (descriptors, words):
            data = np.array(values, np.uint32).view(np.uint8)
            image[start : start + len(data)] = data
        for kind in kinds:
            for key, array in kind.items():
                flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                image[places[key] : places[key] + array.nbytes] = flat
        return image.tobytes(), offsets, starts


def _identity(array: np.ndarray, call: int, place: int) -> Any:
    """Return what tells arrays apart: what is not writeable is placed once for all calls."""
    return (call, place) if array.flags.writeable else id(array)


def _results(calls: Sequence[Call], image: bytes, offsets: list[list[int]]) -> list[Result]:
    start = 12 + 8 * len(calls)
    counters = np.frombuffer(image, np.uint32, len(COUNTERS) * len(calls), start)
    found = []
    for call, row, places in zip(calls, counters.reshape(-1, len(COUNTERS)), offsets, strict=True):
        arrays = [
            np.frombuffer(image, array.dtype, array.size, place).reshape(array.shape)
            for array, place in zip(call.arrays, places, strict=True)
        ]
        found.append(Result(Counters(*row.view(np.int32).tolist()), arrays))
    return found


CAUSES = {
    1: "instruction access fault",
    2: "illegal instruction",
    5: "load fault",
    7: "store fault",
}


def _failure(done: subprocess.CompletedProcess, max_cycles: int, names: str) -> str:
    if done.returncode == 3:
        return f"the simulated firmware did not end within {max_cycles} cycles ({names})"
    try:
        status = json.loads(done.stdout)["status"]
    except (ValueError, KeyError):
        return f"the simulator failed with status {done.returncode}: {done.stderr.strip()}"
    if status >= 128:
        cause = CAUSES.get(status - 128, f"cause {status - 128}")
        return f"the simulated core trapped: {cause} ({names})"
    return f"the simulated firmware exited with {status} ({names})"


def cpi_identity(counters: Counters, hardware: Hardware) -> int:
    """Return cycles minus the sum of all that cycles are spent on: 0 on Ibex.

    Instructions, waits for memory, fetch, multiplier and divider; without a branch target ALU a
    cycle for each jump and taken branch, too.
    """
    total = counters.instructions + counters.data_wait + counters.fetch_wait
    total += counters.multiply_wait + counters.divide_wait
    if not hardware.branch_target_alu:
        total += counters.jumps + counters.branches_taken
    return counters.cycles - total


def sum_counters(many: Sequence[Counters]) -> Counters:
    """Add up counters."""
    return Counters(*np.array([astuple(c) for c in many]).sum(0).tolist())


def processes() -> int:
    """Return how many simulators to run at once: one a core."""
    return len(os.sched_getaffinity(0))
