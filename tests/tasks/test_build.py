import argparse
import logging

import pytest
import torch

from espnet_spike.errors import UserError
from espnet_spike.tasks.build import build_on_meta, parameters_on_meta, token_names


class Task:
    """Builds a layer of a size, and says something about it."""

    @staticmethod
    def build_model(args):
        logging.getLogger().info("building")
        args.sizes.append(5)
        return torch.nn.Linear(*args.sizes)


def test_a_model_is_built_without_memory_and_in_silence(caplog):
    caplog.set_level(logging.INFO)
    args = argparse.Namespace(sizes=[10**9])
    model = build_on_meta(Task, args)
    assert model.weight.is_meta and model.weight.shape == (5, 10**9)
    assert args.sizes == [10**9] and not caplog.messages


def test_a_constructor_that_parameters_alone_do_not_suit_has_all_on_the_meta_device():
    class Mixes(Task):
        @staticmethod
        def build_model(args):
            if not torch.ones(1).is_meta:
                raise RuntimeError("a parameter without values beside a tensor with them")
            return Task.build_model(args)

    args = argparse.Namespace(sizes=[4])
    assert build_on_meta(Mixes, args).weight.is_meta and args.sizes == [4]


def test_parameters_alone_are_without_memory():
    with parameters_on_meta():
        layer, position = torch.nn.Embedding(3, 2), torch.arange(3) + 1
    assert layer.weight.is_meta and position.tolist() == [1, 2, 3]
    assert not torch.nn.Embedding(3, 2).weight.is_meta


def test_token_names():
    assert len(token_names(7)) == len(set(token_names(7))) == 7
    with pytest.raises(UserError, match="too small"):
        token_names(2)
