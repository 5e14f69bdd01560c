"""Functions and instructions are read from an ELF file; this one is written by hand."""

import struct

import pytest

from espnet_spike.errors import UserError
from espnet_spike.simulator.firmware import Firmware, Symbol, build_firmware, is_multiplication

ADD, MUL, DIVU, SUB = 0x00C58533, 0x02C58533, 0x02C5D533, 0x40C58533
C_NOP, C_RET = 0x0001, 0x8082


@pytest.fixture
def firmware(tmp_path):
    """Two functions: ``first`` adds, ``second`` multiplies; a 16-bit instruction ends each."""
    code = struct.pack("<IHIH", ADD, C_NOP, MUL, C_RET)
    strings = b"\0first\0second\0data\0"
    symbols = struct.pack("<IIIBBH", 0, 0, 0, 0, 0, 0)
    symbols += struct.pack("<IIIBBH", 1, 0x100, 6, 0x12, 0, 1)
    symbols += struct.pack("<IIIBBH", 7, 0x106, 6, 0x12, 0, 1)
    symbols += struct.pack("<IIIBBH", 14, 0x200, 4, 0x11, 0, 1)  # no function
    parts, sections, place = [code, symbols, strings], [], 52
    for part, (kind, flags, address, link, entry) in zip(
        parts, [(1, 6, 0x100, 0, 0), (2, 0, 0, 2, 16), (3, 0, 0, 0, 0)], strict=True
    ):
        header = 0, kind, flags, address, place, len(part), link, 0, 4, entry
        sections.append(struct.pack("<10I", *header))
        place += len(part)
    head = bytearray(52)
    struct.pack_into("<I", head, 32, place)
    struct.pack_into("<HH", head, 46, 40, len(sections))
    path = tmp_path / "firmware.elf"
    path.write_bytes(bytes(head) + b"".join(parts) + b"".join(sections))
    return Firmware(path, {})


def test_functions_are_found_by_name(firmware):
    assert firmware.symbols == {"first": Symbol(0x100, 6), "second": Symbol(0x106, 6)}


def test_instructions_are_32_or_16_bits(firmware):
    assert firmware.instructions("first") == [ADD, C_NOP]
    assert firmware.instructions("second") == [MUL, C_RET]
    with pytest.raises(KeyError, match="third"):
        firmware.instructions("third")


def test_multiplications_are_told_from_other_instructions():
    assert is_multiplication(MUL) and is_multiplication(DIVU)
    assert not is_multiplication(ADD) and not is_multiplication(SUB)


def test_an_unknown_compiler_is_refused():
    with pytest.raises(UserError, match="compiler: clang is unknown") as caught:
        build_firmware("clang")
    assert caught.value.hint == "one of zig, gcc"
