"""A trial really trains the model that is planned."""

import pytest

from espnet_spike.advice.config import training_config
from espnet_spike.advice.plan import make_plan
from espnet_spike.advice.trial import Clock, count_parameters, run_trial, time_updates
from espnet_spike.errors import UserError
from tests.helpers.measured import speech


def test_a_trial_trains_as_many_updates_as_are_asked_for(monkeypatch, one_thread):
    import torch

    steps = []
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self, *_: steps.append(len(self.param_groups))
    )
    measured = speech(0.6, 13)
    config = training_config(make_plan(measured))
    state = torch.random.get_rng_state()
    trial = run_trial(config, measured, 8.0, updates=3)
    assert len(steps) == 4  # the first is not timed
    assert trial.updates == 3 and trial.cost >= trial.free > 0
    assert trial.parameters == count_parameters(config, measured) > 500_000
    assert torch.equal(torch.random.get_rng_state(), state)
    config["encoder_conf"]["output_siz"] = 3
    with pytest.raises(UserError, match="unknown key output_siz"):
        run_trial(config, measured, 8.0, updates=1)


# seconds of the wall and of the processor in two updates on utterances of 2 s and two of 5 s
@pytest.mark.parametrize(
    ("wall", "used", "cost"),
    [
        ((1.0, 1.0, 3.0, 3.0), (1.0, 1.0, 3.0, 3.0), 8.0),  # a free core
        ((1.0, 1.0, 3.0, 3.0), (1.9, 1.9, 5.8, 5.8), 8.0),  # two free ones
        ((4.0, 6.0, 9.0, 21.0), (1.0, 1.0, 3.0, 3.0), 40.0),  # a busy one
        ((9.0, 1.0, 3.0, 27.0), (9.0, 1.9, 5.8, 27.0), 40.0),  # threads that wait for each other
    ],
)
def test_an_update_on_a_free_core_is_told_from_what_it_lasts(wall, used, cost):
    now = [0.0, 0.0]
    rounds = iter(zip((9.0, *wall), (9.0, *used), strict=True))  # the first, which compiles

    def update(length):
        lasted, worked = next(rounds)
        now[0], now[1] = now[0] + lasted, now[1] + worked
        return 10.0

    fake = Clock(lambda: now[0], lambda: now[1])
    clock = time_updates(update, (2.0, 5.0, 5.0, 2.0, 2.0), 4, fake)
    assert clock.updates == 4
    assert clock.cost == pytest.approx(cost / 40)
    assert clock.free == pytest.approx(8 / 40)
