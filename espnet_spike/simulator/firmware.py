"""Compile the firmware, and read the ELF file that comes of it."""

import json
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from espnet_spike.errors import UserError
from espnet_spike.simulator import toolchain
from espnet_spike.utils.files import write_json

SOURCES = Path(__file__).parent / "csrc"

COMMON_FLAGS = (
    *("-O2", "-std=gnu11", "-ffreestanding", "-fno-builtin", "-fomit-frame-pointer"),
    # kernels say themselves what is unrolled; code alignment changes cycles, so it is fixed
    *("-fno-unroll-loops", "-falign-functions=4", "-falign-loops=4"),
    *("-nostdlib", "-static"),
)
ZIG_FLAGS = (
    *("-target", "riscv32-freestanding-none", "-mcpu=generic_rv32+m+c+zicsr"),
    *("-fno-sanitize=undefined", "-fno-stack-protector", "-Wl,--no-gc-sections"),
)
# the ratified parts that Ibex's bit manipulation has in any of its sizes
BITS = {"zig": ("+zicsr", "+zicsr+zba+zbb+zbs"), "gcc": ("_zicsr", "_zicsr_zba_zbb_zbs")}
GCC_FLAGS = ("-march=rv32imc_zicsr", "-mabi=ilp32", "-nostartfiles", "-falign-jumps=4")
FLAGS = {"zig": ZIG_FLAGS, "gcc": GCC_FLAGS}


@dataclass(frozen=True)
class Symbol:
    """A function: where it lies and how long it is, in bytes."""

    address: int
    size: int


@dataclass(frozen=True)
class Firmware:
    """The firmware and what it was made from."""

    elf: Path
    record: dict[str, object]

    @cached_property
    def _bytes(self) -> bytes:
        return self.elf.read_bytes()

    @cached_property
    def _sections(self) -> list[tuple[int, ...]]:
        offset = struct.unpack_from("<I", self._bytes, 32)[0]
        size, count = struct.unpack_from("<HH", self._bytes, 46)
        return [struct.unpack_from("<10I", self._bytes, offset + i * size) for i in range(count)]

    @cached_property
    def symbols(self) -> dict[str, Symbol]:
        """The functions by name."""
        found = {}
        for _, kind, _, _, offset, size, link, _, _, entry in self._sections:
            if kind != 2:
                continue
            strings = self._sections[link][4]
            for place in range(offset, offset + size, entry):
                name, value, length, info, _, _ = struct.unpack_from("<IIIBBH", self._bytes, place)
                if info & 15 == 2:
                    start = strings + name
                    text = self._bytes[start : self._bytes.index(b"\0", start)].decode()
                    found[text] = Symbol(value, length)
        return found

    def instructions(self, name: str) -> list[int]:
        """Return the machine code of a function, an instruction an element (16 or 32 bits).

        Raises:
            KeyError: no such function.
        """
        symbol = self.symbols[name]
        for _, kind, flags, address, offset, size, *_ in self._sections:
            # program bits that are executable
            if kind == 1 and flags & 4 and address <= symbol.address < address + size:
                place = offset + symbol.address - address
                break
        else:
            raise KeyError(name)
        end, words = place + symbol.size, []
        while place < end:
            low = struct.unpack_from("<H", self._bytes, place)[0]
            wide = low & 3 == 3
            words.append(struct.unpack_from("<I", self._bytes, place)[0] if wide else low)
            place += 4 if wide else 2
        return words


def is_multiplication(instruction: int) -> bool:
    """Tell whether an instruction is one of the M extension (mul*, div*, rem*)."""
    return instruction & 0x7F == 0x33 and instruction >> 25 == 1


def build_firmware(compiler: str = "zig", bit_manipulation: bool = False) -> Firmware:
    """Return the firmware, built on first use.

    Args:
        compiler: ``zig``, or ``gcc`` for a ``riscv64-unknown-elf-gcc`` of the system; they give
            other cycle numbers.
        bit_manipulation: use the instructions of Zba, Zbb and Zbs.

    Raises:
        UserError: the compiler is missing or unknown, or the build failed.
    """
    if compiler not in FLAGS:
        raise UserError(f"compiler: {compiler} is unknown", f"one of {', '.join(FLAGS)}")
    tool = toolchain.find_riscv_compiler(compiler)
    flags = [*FLAGS[compiler], *COMMON_FLAGS]
    if bit_manipulation:
        plain, with_bits = BITS[compiler]
        flags = [flag.replace(plain, with_bits) for flag in flags]
    files = sorted(path for path in SOURCES.iterdir() if path.suffix in (".c", ".S"))
    depends = sorted(path for path in SOURCES.iterdir() if path.is_file())
    record: dict[str, object] = {"compiler": tool.name, "flags": flags}
    key = toolchain.digest(json.dumps(record), *depends)

    def build(partial: Path) -> None:
        command = [*tool.command, *flags, "-T", str(SOURCES / "link.ld"), *map(str, files)]
        # 64-bit shifts and comparisons may call the compiler's own library
        command += ["-rtlib=compiler-rt"] if compiler == "zig" else ["-lgcc"]
        cache = {"ZIG_GLOBAL_CACHE_DIR": str(partial / "zig"), "ZIG_LOCAL_CACHE_DIR": str(partial)}
        toolchain.run([*command, "-o", "firmware.elf"], partial, cache)
        for path in partial.iterdir():
            if path.is_dir():
                toolchain.shutil.rmtree(path)
        write_json(partial / "record.json", record)

    built = toolchain.build_once("firmware", key, build)
    return Firmware(built / "firmware.elf", record | {"key": key})
