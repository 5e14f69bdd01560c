"""Configurations that contradict themselves or the data."""

import re

import pytest

from espnet_spike.advice.config import training_config
from espnet_spike.advice.doubts import (
    Facts,
    count_updates,
    doubts,
    facts_of,
    longer,
    with_arguments,
)
from espnet_spike.advice.plan import FEWEST_UPDATES, make_plan
from espnet_spike.tasks.config_check import check_asr_config
from espnet_spike.utils.yaml import read_yaml
from tests.helpers.measured import speech

AN4 = Facts(846, 226_290, 13, 4861, 27, 200)
FORMER = {  # what new_recipe once gave everybody
    "specaug": "specaug",
    "specaug_conf": {"apply_freq_mask": True, "freq_mask_width_range": [0, 20]},
    "batch_type": "numel",
    "batch_bins": 300000,
    "max_epoch": 20,
    "scheduler": "warmuplr",
    "scheduler_conf": {"warmup_steps": 300},
}


def test_the_former_defaults_are_doubted_in_the_order_of_their_weight():
    assert count_updates(FORMER, AN4) == 200
    found = doubts(FORMER, AN4)
    assert [doubt.option.split(" (")[0] for doubt in found] == [
        "scheduler_conf warmup_steps",
        "batch_bins or batch_size",
        "specaug_conf freq_mask_width_range",
        "--nbpe",
    ]
    assert "warm-up of 300 updates is longer than the training of 200" in found[0].text
    assert "up to 20 dims, and features have 13" in found[2].text
    assert "change --nbpe (to about 31)" in str(found[3])


@pytest.mark.parametrize("hours", [0.1, 0.6, 10])
@pytest.mark.parametrize("dims", [13, 80])
def test_a_planned_training_is_not_doubted(hours, dims):
    measured = speech(hours, dims)
    plan = make_plan(measured)
    facts = Facts(
        *(measured.utterances, round(100 * measured.seconds), dims, measured.words),
        *(measured.alphabet, plan.pieces),
    )
    assert not doubts(training_config(plan), facts)


def test_configurations_at_hand_are_not_doubted_without_their_data(root):
    files = [*root.glob("conf/train_*.yaml"), *root.glob("egs/*/conf/train_*.yaml")]
    files = [file for file in files if file.parts[-3] != "mini_an4"]  # eight utterances
    short = root / "egs/an4/conf/train_iml_spikeformer_cepstra.yaml"  # as it says itself
    (doubt,) = doubts(read_yaml(short), Facts(dims=13))
    assert "355 updates in all" in doubt.text
    files.remove(short)
    assert len(files) > 30
    for file in files:
        config = read_yaml(file)
        dims = config["spike_meta"].get("input_size", 80)
        assert not doubts(config, Facts(dims=dims)), file


def test_options_are_stronger_than_the_configuration():
    config = with_arguments(
        FORMER, "--max_epoch 90 --scheduler_conf warmup_steps=50 --batch_bins=100000 --fused"
    )
    assert config["max_epoch"] == 90 and config["batch_bins"] == 100_000
    assert config["scheduler_conf"] == {"warmup_steps": 50}
    assert FORMER["scheduler_conf"] == {"warmup_steps": 300}
    assert count_updates(config, AN4) == 90 * 30


def test_a_schedule_longer_than_the_training_is_doubted():
    config = {"max_epoch": 10, "num_iters_per_epoch": 200, "scheduler_conf": {"total_steps": 9000}}
    (doubt,) = doubts(config, Facts())
    assert "9000 updates, the training 2000" in doubt.text


def test_batches_are_counted_by_their_kind():
    facts = Facts(utterances=100, frames=50_000, dims=10)
    assert count_updates({"max_epoch": 2, "batch_type": "length", "batch_bins": 5000}, facts) == 20
    assert count_updates({"max_epoch": 2, "batch_type": "numel", "batch_bins": 5000}, facts) == 200
    sized = {"max_epoch": 2, "batch_type": "sorted", "batch_size": 10}
    assert count_updates(sized, facts) == 20
    assert count_updates(sized | {"accum_grad": 4}, facts) == 4
    assert count_updates(sized, Facts()) is None


def test_facts_come_from_a_data_directory(tmp_path):
    (tmp_path / "feats_shape").write_text("a 100,13\nb 50,13\n")
    (tmp_path / "text").write_text("a one two\nb one\n")
    assert facts_of(tmp_path, pieces=30) == Facts(2, 150, 13, 3, 6, 30)
    assert facts_of(tmp_path / "none", 80) == Facts(dims=80)


def test_a_longer_training_works_as_it_is_typed(root):
    """Of a fixed schedule, which ends a training that takes one step more."""
    path = root / "egs/an4/conf/train_iml_spikeformer_cepstra.yaml"
    config = read_yaml(path)
    assert config["scheduler"] == "onecyclelr" and isinstance(config["max_epoch"], int)
    (doubt,) = doubts(config, Facts(dims=13))
    typed = re.search(r'--asr_args "(.*)"', doubt.option)[1]
    epochs = int(typed.split()[1])
    longest = with_arguments(config, typed)
    one_less = longest | {"max_epoch": epochs - 1}
    reached, missed = (count_updates(each, Facts()) or 0 for each in (longest, one_less))
    assert missed < FEWEST_UPDATES <= reached
    assert typed == f"--max_epoch {epochs} --scheduler_conf total_steps=auto"
    args = check_asr_config(path, typed).args
    assert args.max_epoch == epochs
    assert args.scheduler_conf["total_steps"] == epochs * args.num_iters_per_epoch
    # a cycle as long as the YAML's own training grows with it; any other is refused
    grown = check_asr_config(path, f"--max_epoch {epochs}").args
    assert grown.scheduler_conf == args.scheduler_conf


def test_a_longer_training_without_fixed_steps_is_longer_alone():
    assert longer({}) == "max_epoch (more)"
    assert longer({"max_epoch": 10}).endswith('--asr_args "--max_epoch 20"')
    for updates, epochs in ((None, 4), (40, 100), (1500, 4), (1, 500), (0, 500)):
        assert f'--max_epoch {epochs}"' in longer({"max_epoch": 2}, updates)
    assert '--max_epoch 1600"' in longer({"max_epoch": 800}, 400)  # never fewer than there are
    of_unknown_length = {"max_epoch": 10, "scheduler_conf": {"total_steps": 500}}
    assert "total_steps=1000" in longer(of_unknown_length)
    assert "--max_epoch 40 --scheduler_conf total_steps=2000" in longer(of_unknown_length, 500)


def test_a_schedule_is_never_advised_to_end_before_the_training():
    config = {"max_epoch": 10, "num_iters_per_epoch": 200, "scheduler_conf": {"total_steps": 9000}}
    found = doubts(config, Facts(), updates=1500)  # the others were skipped
    assert found[0].option == "scheduler_conf total_steps (to 2000)"
