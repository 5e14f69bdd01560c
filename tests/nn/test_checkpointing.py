"""The flags that layers with state read while a checkpointed layer runs."""

import torch

from espnet_spike.nn.checkpointing import checkpoint, inside_checkpoint, is_recomputing


def test_flags_tell_the_runs_apart():
    seen = []

    def layer(x):
        seen.append((inside_checkpoint(), is_recomputing()))
        return x.square()

    x = torch.tensor(3.0, requires_grad=True)
    y = checkpoint(layer, x)
    assert not inside_checkpoint()
    y.backward()
    assert seen == [(True, False), (True, True)]
    assert x.grad == 6 and not inside_checkpoint() and not is_recomputing()


def test_flags_are_reset_after_an_error():
    def layer(x):
        raise RuntimeError("broken layer")

    try:
        checkpoint(layer, torch.zeros(1, requires_grad=True))
    except RuntimeError as error:
        assert "broken layer" in str(error)
    assert not inside_checkpoint()
