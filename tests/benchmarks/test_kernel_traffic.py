"""The bytes of a compiled kernel: by hand on a text, and against the PTX of two kernels."""

import re

import pytest
import torch

from benchmarks.bench_kernels import GPUS, compile_for, recorded
from benchmarks.kernel_traffic import bytes_of_program, is_used
from espnet_spike.errors import UserError
from espnet_spike.nn.ops.triton import fatrelu, selective_scan

TTGIR = """
  tt.func public @kernel(%x: !tt.ptr<f32> loc("x"(#loc)), %L: i32 loc("L"(#loc))) {
    %c-0_i32 = arith.constant 0 : i32 loc(#loc1)
    %c1_i32 = arith.constant 1 : i32 loc(#loc1)
    %c4_i32 = arith.constant 4 : i32 loc(#loc1)
    %length = tt.load %x : !tt.ptr<i64> loc(#loc2)
    %h:2 = scf.for %begin = %c-0_i32 to %L step %c4_i32 iter_args(%a = %b) -> (f32)  : i32 {
      %end = arith.addi %begin, %c4_i32 : i32 loc(#loc3)
      %end_1 = arith.minsi %end, %L : i32 loc(#loc3)
      scf.for %t = %begin to %end_1 step %c1_i32  : i32 {
        %u = tt.load %p, %m, %z : tensor<2x8x!tt.ptr<bf16>, #blocked> loc(#loc4)
        %s = "tt.reduce"(%u) <{axis = 1 : i32}> ({
        ^bb0(%v: f32 loc(#loc5), %w: f32 loc(#loc5)):
          tt.reduce.return %v : f32 loc(#loc5)
        }) : (tensor<2x8xf32>) -> tensor<2xf32> loc(#loc5)
      } loc(#loc6)
      tt.store %q, %h, %m : tensor<8x!tt.ptr<i1>, #blocked> loc(#loc7)
    } loc(#loc8)
    tt.store %q, %h, %m : tensor<8x!tt.ptr<f32>, #blocked> loc(#loc9)
  }
"""
GLOBAL = re.compile(r"\b(?:ld|st)\.global(?:\.[a-zA-Z_:0-9]+)*?(?:\.v(\d))?\.[bfsu](\d+)\b")


def bytes_of_thread(ptx, trips=()):
    """Bytes that one thread asks for; ``trips`` of the loops in the order of their heads."""
    lines = ptx.splitlines()
    heads = {m[1]: n for n, line in enumerate(lines) if (m := re.match(r"(\$\w+):", line))}
    jumps = [
        (m[1], n) for n, line in enumerate(lines) if (m := re.search(r"bra\S*\s+(\$\w+)", line))
    ]
    ends = {heads[to]: n for to, n in jumps if heads[to] < n}  # the last jump to a head
    loops = sorted(ends.items())
    assert len(loops) == len(trips)
    total = 0
    for n, line in enumerate(lines):
        times = 1
        for (first, last), trip in zip(loops, trips, strict=True):
            times *= trip if first < n < last else 1
        for width, bits in GLOBAL.findall(line):
            total += int(width or 1) * int(bits) // 8 * times
    return total


def compiled(call):
    with recorded() as launches:
        call()
    launch = launches[0]
    names = (parameter.name for parameter in launch.kernel.params)
    found = compile_for(launch, GPUS["H100"].capability)
    moved = bytes_of_program(found.asm["ttgir"], dict(zip(names, launch.arguments, strict=True)))
    return found, moved


def new(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def test_loops_within_loops_by_hand():
    for L, chunks in ((10, 3), (4, 1), (0, 0)):
        by_hand = 8 + 32 + chunks * 8 + L * 2 * 8 * 2
        assert bytes_of_program(TTGIR, {"L": L, "x": None}) == by_hand


def test_what_is_not_known_is_refused():
    with pytest.raises(UserError, match="bound %L of a loop"):
        bytes_of_program(TTGIR, {})
    with pytest.raises(UserError, match="atomic_rmw is not counted"):
        bytes_of_program("%a = tt.atomic_rmw fadd, %p, %x", {})


def test_an_elementwise_kernel_moves_what_its_threads_ask_for():
    found, moved = compiled(lambda: fatrelu.forward(new(2, 16, 1024), new(), False))
    asked = bytes_of_thread(found.asm["ptx"]) * 32 * found.metadata.num_warps
    # threads ask each for what is one for all: the threshold, and the places of two sums
    assert 1 <= asked / moved <= 1.25


def test_a_scan_moves_what_is_counted_by_hand():
    B, L, D, N = 2, 20, 64, 16
    u, bc = new(B, L, D).mT, new(B, L, N).mT
    direction = selective_scan.Direction(u, u, new(D, N), bc, bc, new(D))
    lengths = new(B, dtype=torch.int64)
    found, moved = compiled(lambda: selective_scan.forward([direction], lengths, None, False))
    by_hand = 4 * (D * N + D + L * (2 * D + 2 * N + D) + D * N) + 8
    assert moved == by_hand
    used = [name for name in ("u", "u_2", "first", "last") if is_used(name, found.asm["ttgir"])]
    assert used == ["u", "last"]
    # five times four frames, in one chunk
    asked = bytes_of_thread(found.asm["ptx"], (1, 5)) * 32 * found.metadata.num_warps
    assert asked >= moved
