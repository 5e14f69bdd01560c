"""What README, docs and the recipes' pages print can be typed: commands, options, files, links."""

import importlib
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("egs/*/README.md")],
    key=lambda path: path.relative_to(ROOT).as_posix(),
)
MEASURED = sorted(ROOT.glob("benchmarks/results/*.md"))
PYTHON = re.compile(r"(^|/)python3?$|^\$python$")
SCRIPT = re.compile(r"^(\./|\S*/)?(run|speech_mamba|ablation|augmented|curve)\.sh$")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def commands(page: Path) -> Iterator[list[str]]:
    """Give the commands of a page as words: lines of its shell blocks, and code in its text."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    inline = [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", prose)]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [code for code in inline if re.match(r"\S*python -m \S+ \S", code)]
    for line in lines:
        words = shlex.split(line, comments=True)
        while words and (words[0] == "&&" or re.match(r"\w+=", words[0])):
            words = words[1:]
        if words[:1] == ["cd"]:
            words = words[3:]  # cd FOLDER && ...
        for separator in ("|", "&&", ";"):
            words = words[: words.index(separator)] if separator in words else words
        if words:
            yield words


def python_commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Give the modules of ours that a page starts, with their arguments."""
    for words in commands(page):
        if PYTHON.search(words[0]) and words[1:2] == ["-m"]:
            module, arguments = words[2], words[3:]
            if module == "espnet_spike" and arguments:
                module, arguments = f"espnet_spike.bin.{arguments[0]}", arguments[1:]
            if module.split(".")[0] in ("espnet_spike", "benchmarks"):
                yield module, arguments
        elif words[0] == "espnet-spike" and words[1:]:
            yield f"espnet_spike.bin.{words[1].replace('-', '_')}", words[2:]


@pytest.mark.parametrize("page", [*PAGES, *MEASURED], ids=name_of)
def test_commands_parse(page):
    for module, arguments in python_commands(page):
        if "NAME" in module or "--help" in arguments or not arguments:
            continue  # a bare name in a text is no command
        if page.name == "espnet.md":
            continue  # ESPnet's arguments: tests/integration/test_espnet_recipe.py
        parser = getattr(importlib.import_module(module), "get_parser", None)
        if parser is None:
            continue
        try:
            parser().parse_args(arguments)
        except SystemExit as error:
            pytest.fail(f"{module} {shlex.join(arguments)}: status {error.code}, see above")


@pytest.mark.parametrize("page", MEASURED, ids=name_of)
def test_what_was_measured_names_its_command(page):
    text = page.read_text(encoding="utf-8")
    python = r"(?:`|^)(?:\.\./)*\.venv/bin/python -m ((?:benchmarks|espnet_spike\.bin)\.\w+)"
    named = re.findall(python, text, re.M)
    assert named, f"{name_of(page)} does not say which command made it"
    for module in named:
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), f"{name_of(page)}: {module}"


@pytest.mark.parametrize("page", sorted({*PAGES, *MEASURED}), ids=name_of)
def test_python_is_that_of_the_checkout(page):
    """Nothing has to be activated: from the root, or from a folder of egs."""
    text = page.read_text(encoding="utf-8")
    for python, module in re.findall(r"(\S*)python[\d.]*\s+-m\s+([\w.]+)", text):
        if module.startswith("espnet2."):  # ESPnet's own, in its environment
            continue
        assert re.fullmatch(r"\W*(\.\./\.\./)?\.venv/bin/", python) or python.endswith("$"), module
        path = ROOT / module.replace(".", "/")
        assert (
            "NAME" in module
            or module == "pytest"
            or path.is_dir()
            or path.with_suffix(".py").is_file()
        )


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """The options of ``run.sh`` and of every recipe."""
    found = {}
    for script in [ROOT / "run.sh", *ROOT.glob("egs/[a-z]*/run.sh")]:
        words = ["bash", str(script), "--help"]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        assert "15 pack" in done.stdout
        found[script.parent.name] = set(re.findall(r"^ +(--\w+)", done.stdout, re.M))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_of_the_driver_exist(page, options):
    recipe = page.parent.name if page.parent.parent.name == "egs" else None
    for words in commands(page):
        if not SCRIPT.match(words[0]):
            continue
        used = [word for word in words[1:] if re.fullmatch(r"--\w+", word) and word != "--help"]
        named = words[words.index("--recipe") + 1] if "--recipe" in words else recipe
        known = options.get(named or "", set().union(*options.values()))
        if not words[0].endswith("run.sh"):
            (script,) = ROOT.glob(f"egs/{recipe or '*'}/{Path(words[0]).name}")
            known = known | set(re.findall(r"\[(--\w+)", script.read_text(encoding="utf-8")))
        unknown = sorted(set(used) - known)
        assert not unknown, f"{shlex.join(words)}: no option {unknown}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        place = page.parent / path if path else page
        assert place.exists(), f"{name_of(page)} links to {target}"
        if anchor:
            heads = re.findall(r"^#+ (.+)$", place.read_text(encoding="utf-8"), re.M)
            anchors = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in anchors, f"{name_of(page)} links to {target}"


def test_the_first_page_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
