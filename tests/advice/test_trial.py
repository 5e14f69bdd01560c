"""A trial really trains the model that is planned."""

import pytest

from espnet_spike.advice.config import training_config
from espnet_spike.advice.plan import make_plan
from espnet_spike.advice.trial import count_parameters, run_trial
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
    assert trial.updates == 3 and trial.cost > 0 and trial.processor > 0
    assert trial.parameters == count_parameters(config, measured) > 500_000
    assert torch.equal(torch.random.get_rng_state(), state)
    config["encoder_conf"]["output_siz"] = 3
    with pytest.raises(UserError, match="unknown key output_siz"):
        run_trial(config, measured, 8.0, updates=1)
