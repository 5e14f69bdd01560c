"""Single values against a parser's option and against a constructor."""

import argparse

import pytest

from espnet_spike.tasks.config_values import (
    check_choice,
    check_conf,
    check_value,
    numbers_as_text,
)


class Layer:
    def __init__(self, size: int, rate: float = 0.5, kind="relu", window: tuple[int, int] = (1, 1)):
        pass


class Open(Layer):
    def __init__(self, size: int, **more):
        pass


def test_what_fits_a_constructor():
    assert check_conf("conf", {"size": 3, "rate": 1, "window": [2, 2]}, Layer, ()) == []
    assert check_conf("conf", {"rate": 0.1}, Layer, {"size"}) == []
    assert check_conf("conf", {"size": 1, "anything": 2}, Open, ()) == []


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        ([1], "conf: must be a mapping, not [1]"),
        ({}, "conf: Layer needs size"),
        ({"size": "3"}, "conf.size: must be int, not '3'"),
        ({"size": 1, "rate": "much"}, "conf.rate: must be float, not 'much'"),
        ({"size": 1, "kind": 5}, "conf.kind: must be text like 'relu', not 5"),
        ({"size": 1, "window": [1, 2, 3]}, "conf.window: must be tuple[int, int], not (1, 2, 3)"),
        (
            {"size": 1, "rat": 1},
            "conf: unknown key rat (did you mean 'rate'?); Layer takes size, rate, kind, window",
        ),
    ],
)
def test_what_does_not_fit_a_constructor(conf, said):
    assert check_conf("conf", conf, Layer, ()) == [said]


def test_arguments_of_the_task_are_not_the_users():
    assert check_conf("conf", {"size": 3}, Layer, {"size"}) == [
        "conf.size is given by the task; remove it"
    ]


def test_a_choice_and_its_arguments_belong_together():
    classes = {"layer": Layer}
    assert check_choice("encoder", "layer", {"size": 1}, classes) == []
    assert check_choice("encoder", None, {}, classes) == []
    (said,) = check_choice("encoder", "layr", {}, classes)
    assert said == "encoder: unknown encoder 'layr' (did you mean 'layer'?); known: layer"
    assert check_choice("encoder", None, {"size": 1}, classes) == [
        "encoder_conf is given, but encoder is null"
    ]
    assert check_choice("encoder", None, {}, classes, optional=False) == [
        "encoder: null, but one is needed: layer"
    ]


def option(**conf):
    return argparse.ArgumentParser().add_argument("--key", **conf)


@pytest.mark.parametrize(
    ("conf", "value", "said"),
    [
        ({"type": int}, 3, None),
        ({"type": int}, "3", None),
        ({"type": int}, None, None),
        ({"type": int, "default": 1}, None, "null is not possible, the default is 1"),
        ({"type": int}, 1.5, "must be a whole number, not 1.5"),
        ({"type": int}, True, "must be a whole number, not True"),
        ({"type": int}, "4e6", "YAML reads 4e6 as text, not as a number; write 4000000"),
        ({"type": float}, "x", "must be a number, not 'x'"),
        ({}, [1], "must be one value, not [1]"),
        ({"choices": ["adam"]}, "adm", "unknown value 'adm' (did you mean 'adam'?); known: adam"),
        ({"nargs": 2, "type": int}, [1, 2], None),
        ({"nargs": 2, "type": int}, [1], "must be a list of 2, not [1]"),
        ({"nargs": "+"}, "x", "must be a list, not 'x'"),
    ],
)
def test_values_as_argparse_takes_them(conf, value, said):
    assert check_value("key", value, option(**conf)) == ([] if said is None else [f"key: {said}"])


def test_numbers_that_yaml_reads_as_text_are_found_in_mappings():
    config = {"max": "1e3", "a": {"b": {"lr": "2e-3"}, "list": ["5E0", "x", 1.0], "name": "e3"}}
    assert numbers_as_text(config) == [
        "a.b.lr: YAML reads 2e-3 as text, not as a number; write 0.002",
        "a.list: YAML reads 5E0 as text, not as a number; write 5",
    ]
