import pytest

from espnet_spike.errors import UserError
from espnet_spike.tasks.config import check_training_values, read_training_config


def test_spike_meta_is_taken_out(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("encoder: rnn\nspike_meta: {vocab_size: 5}\n")
    assert read_training_config(path) == ({"encoder": "rnn"}, {"vocab_size": 5})
    path.write_text("spike_meta: 5\n")
    with pytest.raises(UserError, match="spike_meta: 5 is no mapping"):
        read_training_config(path)
    path.write_text("spike_meta: {scan_batch: true}\n")
    with pytest.raises(UserError, match=r"unknown key 'scan_batch' .did you mean 'scan_batches'"):
        read_training_config(path)
    path.write_text("spike_meta: {scan_batches: 1}\n")
    with pytest.raises(UserError, match="scan_batches: 1 is out of range"):
        read_training_config(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("num_workers: -1\n", "num_workers: -1 is out of range"),
        ("max_epoch: [1]\n", "max_epoch: "),
        ("batch_bins: 0\n", "batch_bins: 0"),
        ("model_conf: {lsm_weight: -1.0e+30}\n", "model_conf: lsm_weight"),
        ("ctc_conf: {dropout_rate: 1.5}\n", "ctc_conf: dropout_rate"),
        ("scheduler_conf: {warmup_steps: -1}\n", "scheduler_conf: warmup_steps: -1 is out of"),
        ("encoder_conf: {conv_channels: 0}\n", "encoder_conf: conv_channels: 0 is out of range"),
        ("optim_conf: {lr: 0}\n", "optim_conf: lr: 0 is out of range"),
        ("scheduler_conf: {max_lr: .nan}\n", "scheduler_conf: max_lr: nan is out of range"),
        ("specaug_conf: {num_time_mask: -2}\n", "specaug_conf: num_time_mask: -2 is out of range"),
        ("specaug_conf: {freq_mask_width_range: [-5, 5]}\n", "freq_mask_width_range: [-5, 5] is"),
        ("specaug_conf: {time_warp_window: 0}\n", "time_warp_window: 0 is out of range"),
        ("specaug_conf: {time_mask_width_ratio_range: 1}\n", "time_mask_width_ratio_range: 1 is"),
        ("optim_conf: {maximize: true}\n", "optim_conf: maximize: True is out of range"),
        ("optim_conf: {eps: .inf}\n", "optim_conf.eps is not finite"),
        ("scheduler_conf: {eta_min: -1}\n", "scheduler_conf: eta_min: -1 is out of range"),
        ("scheduler_conf: {step_size: 0}\n", "scheduler_conf: step_size: 0 is out of range"),
        ("encoder_conf: {a: {b: [1, .nan]}}\n", "encoder_conf.a.b is not finite"),
        ("model_conf: {interctc_weight: 1.0}\n", "interctc_weight: 1.0 is out of range"),
        ("lm_conf: {nlayers: 0}\n", "lm_conf: nlayers: 0 is out of range"),
        ("scheduler_conf: wa\n", "scheduler_conf: 'wa' is no mapping"),
    ],
)
def test_values_that_nothing_can_train_with(tmp_path, content, said):
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(UserError) as error:
        read_training_config(tmp_path / "c.yaml")
    assert said in error.value.message and "c.yaml" in error.value.message


def test_values_that_espnet_takes_are_left(tmp_path):
    text = "specaug_conf: {time_mask_width_range: null, time_mask_width_ratio_range: [0.0, 0.05]}\n"
    text += "patience: none\nnum_iters_per_epoch: null\nlog_interval: None\n"
    text += "optim_conf: {lr: 2e-3}\nscheduler_conf: {max_lr: [0.1, 0.2]}\n"  # the first is text
    (tmp_path / "c.yaml").write_text(text)
    read_training_config(tmp_path / "c.yaml")


def test_a_key_that_is_no_text_is_left_to_who_knows_the_keys():
    check_training_values({None: 1, 5: {}}, "c.yaml")
