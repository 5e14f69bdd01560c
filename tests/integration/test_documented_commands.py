"""The commands of README and docs run as they stand, on tiny data; a page that is wrong fails."""

import shlex
from pathlib import Path

import pytest

from espnet_spike.errors import UserError
from tests.conftest import ROOT
from tests.helpers.lab import Command, Lab, blocks, commands

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
EVENTS = {"encoders.md"}  # pages whose exp/asr_X has events; those of others have spikes


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Lab(ROOT, tmp_path_factory.mktemp("lab") / "checkout")


def chosen(page: Path, root: Path) -> list[Command]:
    """Return the commands of a page that are run."""
    found = blocks(page.read_text(encoding="utf-8"))
    return [c for b in found for c in commands(b.code, root) if b.is_run(c.words)]


@pytest.mark.parametrize("page", [p for p in PAGES if chosen(p, ROOT)], ids=lambda page: page.name)
def test_commands_run(lab, page):
    lab.choose("event_speech_mamba" if page.name in EVENTS else "iml_spikeformer")
    for command in chosen(page, lab.root):
        print("$", shlex.join(command.words))
        lab.run(command)


def test_every_page_runs_something_or_says_why_not():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = blocks(text)
        assert text.count("```bash") == len(found), page.name
        for block in found:
            assert block.why is None or len(block.why.split()) > 4, page.name
            every = [command.words for command in commands(block.code, ROOT)]
            for part in block.only:
                assert any(part in word for words in every for word in words), (page.name, part)


def test_a_wrong_page_fails(lab):
    describe = "python -m espnet_spike.bin.describe"
    for code, error in (
        (f"{describe} --asr_config conf/no_such.yaml", UserError),
        (f"cd egs/fsdd\npython=python3\n$python {describe[7:]} --no_option x", AssertionError),
        ("./run.sh --list_encoders --no_option x", AssertionError),
    ):
        with pytest.raises(error):
            for command in commands(code, lab.root):
                lab.run(command)


def test_blocks_are_read_as_a_shell_reads_them():
    text = """
<!-- not run: takes an hour on one core -->
```bash
./run.sh --long
```

```bash
cd egs/fsdd && ./run.sh \\
  --x "a b"   # why
python=../../.venv/bin/python
$python -m espnet_spike.bin.x y
```
"""
    long, short = blocks(text)
    assert (long.code, long.why) == ("./run.sh --long\n", "takes an hour on one core")
    assert not long.is_run(["./run.sh", "--long"])
    assert short.is_run(["anything"]) and short.why is None
    (part,) = blocks("<!-- run only --x, y: others take days -->\n" + "```bash\n./run.sh\n```")
    assert part.is_run(["a", "--x"]) and part.is_run(["ay"]) and not part.is_run(["b"])
    first, second = commands(short.code, Path("r"))
    assert first.words == ["./run.sh", "--x", "a b"]
    assert first.module is None
    assert second.words == ["../../.venv/bin/python", "-m", "espnet_spike.bin.x", "y"]
    assert second.module == "espnet_spike.bin.x"
    assert first.folder == second.folder == Path("r/egs/fsdd")
