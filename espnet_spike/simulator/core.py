"""Build a simulator binary of one Ibex core with Verilator."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from espnet_spike.simulator import toolchain
from espnet_spike.simulator.hardware import BIT_MANIPULATION, MULTIPLIERS, Hardware
from espnet_spike.utils.files import write_json

RTL = Path(__file__).parent / "rtl"
_LOWRISC = "vendor/lowrisc_ip/ip"
_PRIM = "dv/uvm/core_ibex/common/prim"

PACKAGES = ("util", "count", "secded", "mubi", "ram_1p", "cipher")
PRIMS = (
    "count ram_1p_adv ram_1p_scr lfsr prince subst_perm onehot_check onehot_enc onehot_mux "
    "secded_inv_28_22_enc secded_inv_28_22_dec secded_inv_39_32_enc secded_inv_39_32_dec"
).split()
GENERIC = ("ram_1p", "buf", "clock_mux2", "flop", "and2")
IBEX = (
    "pkg alu branch_predict compressed_decoder controller csr cs_registers counter decoder "
    "dummy_instr ex_block wb_stage id_stage icache if_stage load_store_unit lockstep multdiv_slow "
    "multdiv_fast prefetch_buffer fetch_fifo register_file_ff register_file_fpga "
    "register_file_latch pmp core top"
).split()

VERILATOR_FLAGS = (
    *("--cc", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert", "-Wno-fatal"),
    *("+define+SYNTHESIS", "--top-module", "ibex_sim_top"),
)
CXX_FLAGS = (
    *("-std=c++20", "-O3", "-march=native", "-w", "-DVL_TIME_CONTEXT", "-DVM_SC=0"),
    *("-DVM_COVERAGE=0", "-DVM_TIMING=0", "-DVM_TRACE=0", "-DVM_TRACE_FST=0"),
    *("-DVM_TRACE_VCD=0", "-DVM_TRACE_SAIF=0"),
)
RUNTIME = ("verilated", "verilated_threads")


def sources(folder: Path) -> list[Path]:
    """Return the RTL files below the folder of ``pythondata-cpu-ibex``, in order."""
    names = ["lint/verilator_waiver.vlt", f"{_PRIM}/prim_pkg.sv"]
    names += [f"{_LOWRISC}/prim/rtl/prim_{name}_pkg.sv" for name in PACKAGES]
    names += [f"{_LOWRISC}/prim/rtl/prim_{name}.sv" for name in PRIMS]
    names += [f"{_LOWRISC}/prim_generic/rtl/prim_generic_{name}.sv" for name in GENERIC]
    names += [f"{_PRIM}/prim_{name}.sv" for name in GENERIC]
    names += [f"rtl/ibex_{name}.sv" for name in IBEX]
    return [folder / name for name in names]


@dataclass(frozen=True)
class Core:
    """A simulator binary and what it was made from."""

    binary: Path
    record: dict[str, object]


def build_core(hardware: Hardware) -> Core:
    """Return the simulator of a core, built on first use (some 20 s).

    Raises:
        UserError: a tool is missing, or the build failed.
    """
    folder, version = toolchain.rtl_folder()
    verilator, cxx = toolchain.find_verilator(), toolchain.find_cxx()
    multiplier, writeback, target_alu, bits = hardware.core
    parameters = [
        f"+define+RV32M=ibex_pkg::{MULTIPLIERS[multiplier]}",
        f"+define+RV32B=ibex_pkg::{BIT_MANIPULATION[bits]}",
        f"-GWritebackStage={int(writeback)}",
        f"-GBranchTargetALU={int(target_alu)}",
    ]
    ours = [RTL / "prim_clock_gating.sv", RTL / "ibex_sim_top.sv", RTL / "testbench.cc"]
    record: dict[str, object] = {
        "rtl": version,
        "verilator": verilator.name,
        "cxx": cxx.name,
        "parameters": parameters,
        "verilator_flags": list(VERILATOR_FLAGS),
        "cxx_flags": list(CXX_FLAGS),
    }
    key = toolchain.digest(json.dumps(record), toolchain.host(), *ours)

    def build(partial: Path) -> None:
        include = [f"+incdir+{folder / name}" for name in ("rtl", f"{_LOWRISC}/prim/rtl")]
        include.append(f"+incdir+{folder / 'vendor/lowrisc_ip/dv/sv/dv_utils'}")
        rtl = [str(path) for path in [*sources(folder), *ours[:2]]]
        command = [*verilator.command, *VERILATOR_FLAGS, "--Mdir", "model", *parameters]
        env = {"VERILATOR_ROOT": str(verilator.root)}
        toolchain.run([*command, *include, *rtl], partial, env)
        assert verilator.root is not None  # find_verilator knows it
        _compile(partial, verilator.root)
        write_json(partial / "record.json", record)

    built = toolchain.build_once("ibex", key, build)
    return Core(built / "sim", record | {"key": key})


def _compile(partial: Path, root: Path) -> None:
    """Compile the C++ that Verilator wrote; only the binary stays."""
    cxx = toolchain.find_cxx()
    model = partial / "model"
    files = [*sorted(model.glob("*.cpp")), RTL / "testbench.cc"]
    include = [f"-I{model}", f"-I{root / 'include'}", f"-I{root / 'include/vltstd'}"]

    def compile_one(source: Path) -> Path:
        output = model / f"{source.stem}.o"
        # what runs once needs no optimisation
        level = ["-O1"] if "Slow" in source.stem else []
        command = [*cxx.command, *CXX_FLAGS, *level, *include, "-c", str(source), "-o", str(output)]
        toolchain.run(command, partial)
        return output

    with ThreadPoolExecutor(2) as pool:
        # the largest first
        files.sort(key=lambda path: -path.stat().st_size)
        objects = list(pool.map(compile_one, files))
    objects += _runtime(root)
    command = [*cxx.command, "-O3", "-o", "sim", *map(str, objects), "-lpthread"]
    toolchain.run(command, partial)
    for path in model.iterdir():
        path.unlink()
    model.rmdir()


def _runtime(root: Path) -> list[Path]:
    """Return Verilator's own objects, which all cores share."""
    cxx = toolchain.find_cxx()
    files = [root / f"include/{name}.cpp" for name in RUNTIME]
    key = toolchain.digest(cxx.name, CXX_FLAGS, toolchain.host(), *files)

    def build(partial: Path) -> None:
        include = [f"-I{root / 'include'}", f"-I{root / 'include/vltstd'}"]
        for path in files:
            command = [*cxx.command, *CXX_FLAGS, *include, "-c", str(path)]
            toolchain.run([*command, "-o", f"{path.stem}.o"], partial)

    folder = toolchain.build_once("verilated", key, build)
    return [folder / f"{path.stem}.o" for path in files]
