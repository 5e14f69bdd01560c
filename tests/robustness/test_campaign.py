"""400 cases of the campaign, and that it sees what it has to see."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.robustness import campaign
from tests.robustness.drivers import DRIVERS, Driver, Input, Refused
from tests.robustness.known import KNOWN
from tests.robustness.mutation import Expect, Mutation, mutators_of

SEED, CASES, PARTS = 1, 400, 3


def test_nothing_gets_through_without_torch():
    """In a process of its own: copies of one that has torch take several times as long."""
    command = [sys.executable, "-m", "tests.robustness", f"--seed={SEED}", f"--cases={CASES}"]
    found = subprocess.run(
        [*command, "--torch=without"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert found.returncode == 0 and " cases in " in found.stdout, found.stdout + found.stderr


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_gets_through(part):
    """Each failure is printed with the line that repeats it; what is known to fail has to fail.

    A part is of drivers, not of numbers, so that the inputs of each are made in one process only;
    here, where other tests have loaded what these need.
    """
    wrong = []
    drivers = campaign.WITH_TORCH[part::PARTS]
    for case in campaign.drawn(SEED, range(CASES)):
        if case.driver not in drivers:
            continue
        number, outcome = case.number, campaign.run(case)
        good = outcome.verdict in campaign.GOOD
        known = KNOWN.get(number)
        if known and (outcome.case.label, outcome.verdict) != known:
            wrong.append(f"{number}: {known} is now {outcome.case.label}, {outcome.verdict}")
        elif not good and not known:
            wrong.append(
                f"{outcome.verdict}: {outcome.case.label} ({outcome.note})\n"
                f"  python -m tests.robustness --seed {SEED} --case {number}\n{outcome.detail}"
            )
    assert not wrong, "\n".join(wrong)


def test_light_drivers_have_no_torch():
    code = "import sys; from tests.robustness import campaign; print('torch' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout == "False\n"
    assert DRIVERS.keys() > set(campaign.WITH_TORCH)


# those that change files, in one process; a recipe that is there is not made again
NOT_KILLED = ("check_config", "describe", "prices", "decode", "new_recipe csv", "new_recipe gz")
KILLED = [
    name
    for name, driver in DRIVERS.items()
    # those that train are killed in the long form: python -m tests.robustness.recipe
    if name not in NOT_KILLED and not driver.build.__module__.endswith(".trained")
]


@pytest.mark.usefixtures("one_thread")
def test_killed_at_any_moment_the_same_command_makes_the_same(seed=1):
    """20 moments over all drivers, each before a file is written, renamed or removed."""
    rng = random.Random(seed)
    moments = [(rng.choice(KILLED), rng.random()) for _ in range(20)]
    found = {moment: campaign.run_killed(*moment) for moment in moments}
    wrong = {moment: why for moment, (verdict, why) in found.items() if verdict != "ok"}
    assert not wrong


def test_what_is_known_is_of_these_cases():
    assert set(KNOWN) <= set(range(CASES))


def test_every_format_is_damaged_and_every_file_drawn():
    assert all(
        len(mutators_of(entry.kind)) > 5 for d in DRIVERS.values() for entry in d.files.values()
    )
    drawn = {(c.driver, c.file) for c in (campaign.draw(3, number) for number in range(4000))}
    assert drawn == {(name, file) for name, driver in DRIVERS.items() for file in driver.files}


def _driver(run, **options):
    def build():
        Path("x").write_text("u 1\n")

    return Driver(build, run, {"x": Input("words")}, **options)


def _verdict(tmp_path, run, expect, content=b"u 2\n", touched=None, **options):
    driver = _driver(run, **options)
    source = tmp_path / "source"
    source.mkdir()
    (source / "x").write_text("u 1\n")
    mutation = Mutation(content, expect, touched=touched)
    root = tmp_path / "case"
    root.mkdir()
    found = campaign.run_apart(driver, source, root, mutation, "x")
    return campaign.judge(driver, mutation, found, {"u": "1", "v": "1"})[0]


def _read():
    return {"u": Path("x").read_text().split()[1], "v": "1"}


def _refuse():
    print("error: x: no", file=sys.stderr)
    raise Refused("x")


def _refuse_without_a_word():
    raise Refused("x")


def _escape():
    Path("../outside/escaped").touch()
    return _read()


def _write_elsewhere():
    Path("../elsewhere").write_text("x")
    return _read()


def _run_a_command():
    subprocess.run(["touch", "../outside/escaped"], check=True)
    return _read()


def _lose_the_input():
    Path("x").write_text("u 2\nv 2\n")
    return {"u": "1", "v": "1"}


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def _fill_the_memory():
    return {"u": "x" * (8 << 30)}


def _traceback_of_a_worker():
    print("Traceback (most recent call last):\nerror: job 1 failed", file=sys.stderr)
    raise Refused("x")


@pytest.mark.parametrize(
    ("run", "expect", "verdict"),
    [
        (_read, Expect.PARTLY, "ok"),
        (_read, Expect.SAME, "wrong success"),
        (_read, Expect.SAME_OR_REFUSED, "wrong success"),
        (_read, Expect.REFUSED, "wrong success"),
        (_refuse, Expect.REFUSED, "clear error"),
        (_refuse, Expect.PARTLY, "clear error"),
        (_refuse, Expect.SAME, "refused"),
        (_refuse_without_a_word, Expect.REFUSED, "traceback"),
        (_escape, Expect.PARTLY, "escape"),
        (_write_elsewhere, Expect.PARTLY, "escape"),
        (_run_a_command, Expect.PARTLY, "escape"),
        (_lose_the_input, Expect.SAME, "escape"),
        (_die, Expect.PARTLY, "traceback"),
        (_fill_the_memory, Expect.PARTLY, "traceback"),
        (_traceback_of_a_worker, Expect.REFUSED, "traceback"),
    ],
)
def test_a_verdict(tmp_path, run, expect, verdict):
    assert _verdict(tmp_path, run, expect) == verdict


def test_what_was_not_touched_has_to_stay(tmp_path):
    def other():
        return {"u": "1", "v": "2"}

    assert _verdict(tmp_path, other, Expect.PARTLY, touched=frozenset("u")) == "wrong success"


def test_a_hang(tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "WALL_SECONDS", 0.3)
    assert _verdict(tmp_path, lambda: time.sleep(100), Expect.PARTLY) == "hang"


def test_a_case_is_the_same_again(tmp_path):
    case = campaign.draw(5, 17)
    assert case == campaign.draw(5, 17)
    first, second = (campaign.mutate(case, tmp_path) for _ in range(2))
    assert first == second
