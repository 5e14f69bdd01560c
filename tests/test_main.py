import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--help"], 0, "transcribe"),
        ([], 2, "usage: espnet-spike"),
        (["transcibe"], 1, "did you mean 'transcribe'"),
        (["new-recipe", "--help"], 0, "SOURCE"),
        (["transcribe", "--model", "x"], 2, "required: audio"),
    ],
)
def test_the_first_word_names_the_command(words, status, said):
    run = subprocess.run(
        [sys.executable, "-m", "espnet_spike", *words], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == status
    assert said in run.stdout + run.stderr
