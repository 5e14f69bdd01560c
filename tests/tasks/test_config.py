import pytest

from espnet_spike.errors import UserError
from espnet_spike.tasks.config import read_training_config


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
