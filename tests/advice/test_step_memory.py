"""Memory of a training step: what is predicted from shapes is what is allocated."""

import pytest
import torch

from espnet_spike.advice.step_memory import predicted_memory, step_memory
from espnet_spike.nn.ops import backends
from espnet_spike.tasks.registry import ENCODERS, load_class

SMALL = {"output_size": 32, "attention_heads": 2, "linear_units": 64, "num_blocks": 3}
OWN = {
    "iml_spikeformer": {"conv_channels": 4},
    "speech_mamba": {"conv_channels": 4},
    "event_speech_mamba": {"conv_channels": 4, "fat_threshold": 0.1},
    "spiking_speech_mamba": {"conv_channels": 4},
}


@pytest.mark.parametrize(
    ("name", "conf"),
    [
        ("speech_mamba", {"scan_backend": "torch"}),
        ("speech_mamba", {"interctc_layer_idx": [1]}),
        ("iml_spikeformer", {"interctc_layer_idx": [1, 2]}),
    ],
)
def test_predictions_follow_the_configuration(name, conf):
    encoder = load_class(ENCODERS[name])(20, **(SMALL | OWN[name] | conf)).train()
    measured = step_memory(encoder, torch.randn(2, 101, 20), torch.full((2,), 101))
    predicted = predicted_memory(encoder.to("meta"), 2, 101, 20)
    assert predicted == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("name", OWN)
def test_predicted_memory_is_what_a_step_allocates(name):
    kernels, peaks = backends.kernels, []
    for checkpointing in (False, True):
        conf = SMALL | OWN[name] | {"gradient_checkpointing": checkpointing}
        encoder = load_class(ENCODERS[name])(20, **conf).train()
        lengths = torch.full((2,), 101)
        measured = step_memory(encoder, torch.randn(2, 101, 20), lengths)
        predicted = predicted_memory(encoder.to("meta"), 2, 101, 20)
        assert predicted == pytest.approx(measured, rel=0.1)
        peaks.append(measured)
    assert peaks[1] < 0.8 * peaks[0] and backends.kernels is kernels
