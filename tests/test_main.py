import subprocess
import sys
from pathlib import Path

import pytest

from espnet_spike import bin as commands
from espnet_spike.__main__ import main


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--help"], 0, "transcribe"),
        ([], 2, "usage: espnet-spike"),
        (["transcibe"], 1, "did you mean 'transcribe'"),
        (["new-recipe", "--help"], 0, "SOURCE"),
        (["transcribe", "--model", "x"], 2, "give files, folders, lists or -"),
    ],
)
def test_the_first_word_names_the_command(words, status, said):
    run = subprocess.run(
        [sys.executable, "-m", "espnet_spike", *words], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == status
    assert said in run.stdout + run.stderr


def test_every_command_is_listed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["espnet-spike", "-h"])
    with pytest.raises(SystemExit) as left:
        main()
    names = {path.stem for path in Path(commands.__file__).parent.glob("[a-z]*.py")}
    assert left.value.code == 0
    assert set(capsys.readouterr().out.split("\n\n")[1].split()) == names
