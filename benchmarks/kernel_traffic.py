"""The bytes that a compiled Triton kernel loads and stores, by the loops of its compiled form.

Read is Triton's last form before LLVM (TTGIR), which is made for one GPU and says of each load and
store how many values it has for a whole program. So a value that many threads hold counts once
for the program, as it crosses the bus once. Bounds of loops are evaluated, from the integers that
the kernel is launched with. Lanes that a mask leaves out count as well, and what other programs
have read before counts again, though a cache may have it: the sum is an upper bound.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from espnet_spike.errors import UserError

ACCESS = re.compile(r"\b(?:tt\.load|tt\.store|ttg\.async_copy_global_to_local) .*")
POINTERS = re.compile(r": (?:tensor<((?:\d+x)+))?!tt\.ptr<[a-z]*?(\d+)>")
OTHER = re.compile(r"\btt\.(?:atomic\w*|descriptor\w*)|\bttng\.async_tma\w*")
LOOP = re.compile(r"scf\.for %([\w#.$-]+) = %([\w#.$-]+) to %([\w#.$-]+) step %([\w#.$-]+)")
CONSTANT = re.compile(r"%([\w#.$-]+) = arith\.constant (-?\d+) : i(?:32|64)")
SCALAR = re.compile(r"%([\w#.$-]+) = arith\.(\w+) %([\w#.$-]+)(?:, %([\w#.$-]+))?.* : i(?:32|64)\b")
OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "addi": lambda a, b: a + b,
    "subi": lambda a, b: a - b,
    "muli": lambda a, b: a * b,
    "divsi": lambda a, b: int(a / b),
    "remsi": lambda a, b: a - b * int(a / b),
    "minsi": min,
    "maxsi": max,
    "extsi": lambda a, _: a,
    "trunci": lambda a, _: a,
}


@dataclass
class Region:
    """A loop, or all of a kernel.

    Attributes:
        variable, first, end, step: names of the loop's values, empty for all of a kernel.
        moved: bytes of a run of it, without the loops inside.
        inside: those loops.
    """

    variable: str = ""
    first: str = ""
    end: str = ""
    step: str = ""
    moved: int = 0
    inside: list["Region"] = field(default_factory=list)


def bytes_of_program(ttgir: str, arguments: Mapping[str, Any]) -> int:
    """Return the bytes that one program of a kernel loads and stores.

    Args:
        ttgir: the kernel, compiled.
        arguments: of the launch, by the kernel's names.

    Raises:
        UserError: an access, or a bound of a loop, that this does not know.
    """
    whole = Region()
    values, operations = {k: v for k, v in arguments.items() if isinstance(v, int)}, {}
    stack = [(whole, 0)]
    depth = 0
    for line in ttgir.splitlines():
        code = line.split(" loc(")[0]
        if other := OTHER.search(code):
            raise UserError(f"{other[0]} is not counted", "add it to benchmarks/kernel_traffic.py")
        if found := LOOP.search(code):
            loop = Region(found[1], found[2], found[3], found[4])
            stack[-1][0].inside.append(loop)
            stack.append((loop, depth))
        elif found := CONSTANT.search(code):
            values[found[1]] = int(found[2])
        elif found := SCALAR.search(code):
            operations[found[1]] = (found[2], found[3], found[4])
        elif ACCESS.search(code):
            stack[-1][0].moved += _size(code)
        depth += code.count("{") - code.count("}")
        if len(stack) > 1 and depth <= stack[-1][1]:
            stack.pop()
    return _moved(whole, values, operations)


def is_used(argument: str, ttgir: str) -> bool:
    """Return whether a kernel, as it is compiled, does anything with an argument."""
    return len(re.findall(rf"%{re.escape(argument)}(?![\w#.$-])", ttgir)) > 1  # once it is declared


def _size(code: str) -> int:
    pointers = POINTERS.search(code)
    if pointers is None:
        raise UserError(f"no type of pointers in {code.strip()!r}", "look at Triton's version")
    number = 1
    for size in (pointers[1] or "").split("x")[:-1]:
        number *= int(size)
    return number * max(1, int(pointers[2]) // 8)


def _moved(region: Region, values: dict[str, int], operations: Mapping[str, tuple]) -> int:
    if not region.variable:
        return region.moved + sum(_moved(loop, values, operations) for loop in region.inside)
    bounds = (_value(n, values, operations) for n in (region.first, region.end, region.step))
    turns = range(*bounds)
    total = region.moved * len(turns)
    for turn in turns if region.inside else ():
        inner = values | {region.variable: turn}
        total += sum(_moved(loop, inner, operations) for loop in region.inside)
    return total


def _value(name: str, values: Mapping[str, int], operations: Mapping[str, tuple]) -> int:
    if name in values:
        return values[name]
    operation, a, b = operations.get(name, ("", "", ""))
    if operation not in OPERATIONS:
        raise UserError(
            f"the bound %{name} of a loop is not known ({operation or 'no integer'})",
            "add its operation to benchmarks/kernel_traffic.py",
        )
    return OPERATIONS[operation](
        _value(a, values, operations), _value(b, values, operations) if b else 0
    )
