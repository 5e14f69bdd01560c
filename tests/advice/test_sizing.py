"""The training that fits data, machine and budget."""

from dataclasses import replace

import pytest

from espnet_spike.advice.plan import FEWEST_EPOCHS, make_plan
from espnet_spike.advice.sizing import size_training
from espnet_spike.advice.spectrum import SAID
from espnet_spike.advice.trial import Trial
from tests.helpers.measured import speech

SMALL = speech(0.63, 13, words=4861, letters=11934, alphabet=26)


def at(cost):
    """Return a trial on a machine that takes ``cost`` seconds for one of speech and width 128."""

    def run(config, measured, seconds, updates):
        width = config["encoder_conf"]["output_size"]
        measured_cost = cost * (width / 128) ** 2
        return Trial(1_000_000, measured_cost, measured_cost, updates)

    return run


def test_without_a_budget_the_rule_holds_and_the_minutes_are_told():
    sized = size_training(SMALL, 300.0, trial=at(0.005))
    assert sized.plan == make_plan(SMALL)
    passes, epochs = sized.plan.passes, sized.plan.epochs
    spoken = passes * 0.63 * 3600 + epochs * 300 / 3
    assert sized.minutes == pytest.approx(0.005 * spoken / 60)
    lines = dict(sized.lines())
    assert lines["features"] == "13 dims, log mel"
    assert lines["augmentation"] == "tempo 0.9 to 1.1, vocal tract 0.9 to 1.1"
    assert lines["SpecAug"] == "masks of up to 3 dims and 12 frames"
    assert lines["minutes here"].startswith(f"{sized.minutes:.1f}, measured by 20 updates of 30 s")
    assert "busy" not in lines["minutes here"] and not sized.doubts(None)


def test_what_is_not_drawn_is_told():
    strange = replace(SMALL, convention=None, grounds="dims are slow")
    sized = size_training(strange, 0.0, trial=at(0.005))
    unknown = dict(sized.lines())
    assert unknown["features"] == "13 dims, of a kind that is not known (dims are slow)"
    assert unknown["SpecAug"] == "masks of up to 12 frames"
    assert sized.config["specaug_conf"]["apply_freq_mask"] is False
    assert "not certain what the features are (dims are slow)" in sized.doubts(None)[0]
    assert "--features mel or cepstra" in sized.doubts(None)[0]
    said = size_training(replace(strange, grounds=SAID), 0.0, trial=at(0.005))
    assert not said.doubts(None)
    assert "no vocal tracts, which need log-mel" in unknown["augmentation"]
    large = dict(size_training(speech(100), 0.0, trial=lambda *_: Trial(1, 1.0, 1.0, 2)).lines())
    assert large["augmentation"] == "that of the file"


def test_a_busy_machine_is_told():
    def busy(*_):
        return Trial(1_000_000, 0.04, 0.01, 20, load=5.25)

    sized = size_training(SMALL, 0.0, trial=busy)
    assert not sized.doubts(None)
    said = dict(sized.lines())["minutes here"]
    assert said.startswith(
        f"{sized.minutes / 4:.1f} on a free core; now about {sized.minutes:.1f},"
    )
    assert "since other programs use the processor (load 5.2), measured by 20 updates" in said
    short = size_training(SMALL, 0.0, budget=sized.minutes / 10, trial=busy)
    assert any("busy with other things, which took 75% of the" in d for d in short.doubts(1.0))
    free = size_training(SMALL, 0.0, budget=sized.minutes / 10, trial=at(0.04))
    assert not any("busy" in doubt for doubt in free.doubts(1.0))


@pytest.mark.parametrize(("share", "size"), [(2.0, "small"), (0.7, "small"), (0.4, "tiny")])
def test_a_budget_takes_updates_first_and_the_size_then(share, size):
    whole = size_training(SMALL, 0.0, trial=at(0.005))
    budget = share * whole.minutes
    sized = size_training(SMALL, 0.0, budget=budget, trial=at(0.005))
    assert sized.plan.size.name == size and sized.minutes <= budget * 1.001
    assert sized.minutes > min(0.9 * budget, 0.9 * whole.minutes)
    assert bool(sized.doubts(budget)) == (share < 1)


@pytest.mark.parametrize("budget", [1.0, 2.0, 5.0])
def test_validation_is_part_of_a_budget(budget):
    sized = size_training(SMALL, 1200.0, budget=budget, trial=at(0.02))
    assert 0.8 * budget < sized.minutes <= budget
    assert not any("more than the budget" in doubt for doubt in sized.doubts(budget))


def test_a_budget_that_validation_alone_exceeds_is_told():
    sized = size_training(SMALL, 1200.0, budget=0.1, trial=at(0.02))
    assert sized.minutes > 0.1 and sized.plan.updates == sized.plan.epochs == FEWEST_EPOCHS
    said = " ".join(sized.doubts(0.1))
    assert "budget of 0.1: one validation has 1200 seconds of speech, and there are 10" in said


def test_a_budget_in_which_nothing_is_learnt_is_told():
    sized = size_training(SMALL, 0.0, budget=0.5, trial=at(0.005))
    assert sized.plan.size.name == "tiny" and sized.plan.updates < 2000
    assert "updates in all" in sized.doubts(0.5)[0]
    with pytest.raises(ValueError, match="needs a trial"):
        size_training(SMALL, 0.0, budget=5.0, trial_updates=0)
