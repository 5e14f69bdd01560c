"""The core itself: costs of single instructions, identities, traps, memory."""

from dataclasses import astuple

import numpy as np
import pytest

from espnet_spike.errors import UserError
from espnet_spike.simulator.firmware import is_multiplication
from espnet_spike.simulator.kernels import MODELS
from espnet_spike.simulator.machine import Call, Counters, cpi_identity, sum_counters
from tests.simulator.calls import any_call, linear

pytestmark = pytest.mark.xdist_group("simulator")

SMALL = {}
MAXPERF = {"multiplier": "single_cycle", "writeback_stage": True, "branch_target_alu": True}
# cycles an instruction: lowRISC's documentation, and measured before on the same RTL
COLUMNS = {
    "small": SMALL,
    "slow": {"multiplier": "slow"},
    "single_cycle": {"multiplier": "single_cycle"},
    "bta": {"multiplier": "single_cycle", "branch_target_alu": True},
    "wb": {"multiplier": "single_cycle", "writeback_stage": True},
    "maxperf": MAXPERF,
}
TABLE = {
    "alu": (1, 1, 1, 1, 1, 1),
    "csr": (1, 1, 1, 1, 1, 1),
    "load": (2, 2, 2, 2, 1, 1),
    "store": (2, 2, 2, 2, 1, 1),
    "load_use": (3, 3, 3, 3, 3, 3),
    "load_misaligned": (3, 3, 3, 3, 2, 2),
    "store_misaligned": (3, 3, 3, 3, 2, 2),
    "mul": (3, None, 1, 1, 1, 1),  # slow: as many cycles as the operand has bits
    "mulh": (4, 33, 2, 2, 2, 2),
    "div": (37, 37, 37, 37, 37, 37),
    "rem": (37, 37, 37, 37, 37, 37),
    "div_by_zero": (2, 2, 2, 2, 2, 2),
    "branch_not_taken": (1, 1, 1, 1, 1, 1),
    "branch_taken": (3, 3, 3, 2, 3, 2),
    "jal": (2, 2, 2, 2, 2, 2),
}


def micro(machine, names):
    """Return the cost of single instructions, as counters of 64 of them."""
    scratch = 0  # the firmware hands the address of the arguments on: memory to read and write
    calls = [Call(f"micro_{n}_{count}", (scratch,) * 2) for n in names for count in (64, 128)]
    counters = [astuple(result.counters) for result in machine.run(calls)]
    pairs = zip(counters[::2], counters[1::2], strict=True)
    return {
        name: Counters(*np.subtract(long, short).tolist())
        for name, (short, long) in zip(names, pairs, strict=True)
    }


@pytest.mark.parametrize("column", COLUMNS)
def test_every_instruction_costs_what_the_manual_says(machine, column):
    core = machine(**COLUMNS[column])
    place = list(COLUMNS).index(column)
    cost = micro(core, list(TABLE))
    for name, row in TABLE.items():
        if row[place] is not None:
            assert cost[name].cycles == 64 * row[place], name
    assert cost["load"].loads == cost["store"].stores == 64
    assert cost["load_misaligned"].loads == cost["load_misaligned"].instructions == 64
    assert cost["branch_taken"].branches_taken == cost["branch_not_taken"].branches == 64
    assert cost["jal"].jumps == 64
    if column == "slow":
        assert 64 * 10 < cost["mul"].cycles < 64 * 33


def kernel_calls(rng):
    return [any_call(kernel, rng) for kernel in MODELS]


@pytest.mark.parametrize("conf", [SMALL, MAXPERF, {"multiplier": "slow"}], ids=str)
def test_cycles_are_instructions_and_waits_and_nothing_else(machine, conf):
    core = machine(**conf)
    calls = kernel_calls(np.random.default_rng(0))
    for call, result in zip(calls, core.run(calls), strict=True):
        assert cpi_identity(result.counters, core.hardware) == 0, call.kernel


def test_a_run_repeats_to_the_cycle_whatever_runs_before(machine):
    calls = kernel_calls(np.random.default_rng(1))
    core = machine()
    first, again = core.run(calls), core.run(calls[::-1])[::-1]
    for one, two in zip(first, again, strict=True):
        assert one.counters == two.counters
        assert all(np.array_equal(a, b) for a, b in zip(one.arrays, two.arrays, strict=True))


def test_wait_states_cost_time_and_change_nothing_else(machine):
    call = linear("linear_event", np.random.default_rng(0), 32, 32, 20)
    (fast,) = machine().run([call])
    for conf, waits in ({"data_wait_states": 2}, "data"), ({"instruction_wait_states": 1}, "fetch"):
        core = machine(**conf)
        (slow,) = core.run([call])
        assert np.array_equal(slow.arrays[-1], fast.arrays[-1])
        assert slow.counters.instructions == fast.counters.instructions
        assert slow.counters.memory == fast.counters.memory
        assert cpi_identity(slow.counters, core.hardware) == 0
        extra = slow.counters.cycles - fast.counters.cycles
        assert extra > 0
        if waits == "data":
            assert (
                extra
                == 2 * fast.counters.memory
                == slow.counters.data_wait - (fast.counters.data_wait)
            )


SPIKE_KERNELS = [name for name in MODELS if "spike" in name or name.startswith("lif")]


def test_spike_kernels_run_without_a_multiplier(machine):
    # imls_spikes makes spikes of values, which needs a product; the rest reads spikes
    kernels = [name for name in SPIKE_KERNELS if name != "imls_spikes"]
    assert len(kernels) >= 12
    core = machine(multiplier="none")
    rng = np.random.default_rng(2)
    calls = [any_call(kernel, rng) for kernel in kernels]
    small = machine().run(calls)
    for call, one, two in zip(calls, core.run(calls), small, strict=True):
        assert one.counters == two.counters, call.kernel
        assert all(np.array_equal(a, b) for a, b in zip(one.arrays, two.arrays, strict=True))
        code = core.firmware.instructions(call.kernel)
        assert len(code) > 10 and not any(map(is_multiplication, code)), call.kernel


@pytest.mark.parametrize("kernel", ["linear_dense", "linear_event", "imls"])
def test_a_multiplication_traps_without_a_multiplier(machine, kernel):
    core = machine(multiplier="none")
    assert any(map(is_multiplication, core.firmware.instructions(kernel)))
    with pytest.raises(UserError, match="illegal instruction"):
        core.run([any_call(kernel, np.random.default_rng(0))])


def test_what_goes_wrong_is_said(machine):
    call = linear("linear_dense", np.random.default_rng(0), 64, 64, 5)
    with pytest.raises(UserError, match=r"did not end within 1000 cycles \(linear_dense"):
        machine().run([call], max_cycles=1000)
    with pytest.raises(ValueError, match=r"no kernel linear_dens$"):
        machine().run([Call("linear_dens", ())])
    with pytest.raises(ValueError, match="do not fit"):
        machine().run([Call("add", (np.zeros(40 << 20, np.int16),))])
    bad = Call("add", (0x1000, 0x2000, 4))
    with pytest.raises(UserError, match="trapped: load fault"):
        machine().run([bad])


def test_arrays_that_are_shared_are_placed_once(machine):
    rng = np.random.default_rng(0)
    y = rng.integers(-99, 99, 1 << 20).astype(np.int16)
    y.flags.writeable = False
    x = np.zeros(8, np.int16)
    # 40 times 2 MiB would not fit
    results = machine().run([Call("add", (x, y, 8))] * 40)
    assert all(np.array_equal(result.arrays[0], y[:8]) for result in results)


def test_counters_add_up(machine):
    calls = kernel_calls(np.random.default_rng(3))[:3]
    counters = [result.counters for result in machine().run(calls)]
    assert sum_counters(counters).cycles == sum(c.cycles for c in counters)
    assert sum_counters(counters).memory == sum(c.loads + c.stores for c in counters)


def test_memory_is_told_apart_by_kind(machine):
    """By hand: four taps of weights shared by all calls, potentials that stay, the rest."""
    n, rng = 32, np.random.default_rng(0)
    x, v = (rng.integers(-99, 99, n).astype(np.int16) for _ in range(2))
    weight = rng.integers(-9, 9, n).astype(np.int16)
    weight.flags.writeable = False
    silent = np.zeros(n, np.uint16), np.zeros(1, np.uint32)
    calls = [
        Call("lif_hard", (x, v, *silent, n, 4096, 1)),
        Call("affine", (x, weight, weight, np.zeros(n, np.int16), n, 3)),
        Call("add", (x.copy(), x.copy(), n)),
    ]
    lif, affine, add = (result.counters for result in machine().run(calls))
    assert (lif.weights, lif.state) == (0, 2 * n)  # read and written back
    assert (affine.weights, affine.state) == (2 * n, 0)
    assert (add.weights, add.state) == (0, 0)
    assert add.memory >= 3 * n
    for counters in lif, affine, add:  # words of one or two instructions, and what jumps throw away
        assert counters.instructions / 2 < counters.fetches < 2 * counters.instructions


def test_bit_manipulation_changes_instructions_and_no_result(machine):
    rng = np.random.default_rng(1)
    calls = [any_call(kernel, rng) for kernel in ("add", "gate", "relu", "layernorm")]
    plain, bits = machine(), machine(bit_manipulation="balanced")
    for call, one, two in zip(calls, plain.run(calls), bits.run(calls), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one.arrays, two.arrays, strict=True))
        assert two.counters.instructions < one.counters.instructions, call.kernel
