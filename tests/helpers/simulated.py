"""Small encoders that can be simulated, recorded on noise."""

import numpy as np
import torch

from espnet_spike.encoders.iml_spikeformer import IMLSpikeformerEncoder
from espnet_spike.encoders.speech_mamba import (
    EventSpeechMambaEncoder,
    SpeechMambaEncoder,
    SpikingSpeechMambaEncoder,
)
from espnet_spike.nn.norms import MaskedBatchNorm
from espnet_spike.simulator.kernels import expected
from espnet_spike.simulator.record import record_encoder

MAMBA = {"output_size": 16, "attention_heads": 2, "num_blocks": 1, "d_state": 4}
MAMBA |= {"block": "mhsa_mamba", "input_layer": "conmamba", "conv_channels": 6}
PUBLISHED = MAMBA | {"block": "mamba_mhsa_mamba", "input_layer": "speechbrain"}


IML = {"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 1}
IML |= {"conv_channels": 4}


NORMED = {"neuron_norm": True, "conv_module": True, "conv_module_kernel": 5}


def with_statistics(encoder):
    """Give the batch norms of an encoder running statistics and factors that are not those of new
    ones."""
    for module in encoder.modules():
        if isinstance(module, MaskedBatchNorm):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    return encoder


TWO_SIDED = [f"F{number}" for number in range(1, 8)]


ENCODERS = {
    "iml": lambda: IMLSpikeformerEncoder(20, **IML),
    "iml_options": lambda: IMLSpikeformerEncoder(
        20, T=1, qkv_bias=True, inner_norm=True, imls_stat="ema", hdm=False, decay_norm=False, **IML
    ),
    "iml_normed": lambda: with_statistics(IMLSpikeformerEncoder(20, **IML | NORMED)),
    "iml_normed_fixed": lambda: with_statistics(
        IMLSpikeformerEncoder(20, imls_stat="ema", **IML | NORMED)
    ),
    "twin_normed": lambda: with_statistics(
        IMLSpikeformerEncoder(20, neuron="relu", **IML | NORMED)
    ),
    "ilif": lambda: IMLSpikeformerEncoder(20, neuron="ilif", **IML),
    "twin": lambda: IMLSpikeformerEncoder(20, neuron="relu", **IML),
    "dense": lambda: SpeechMambaEncoder(12, conv_skip=True, **PUBLISHED),
    "event": lambda: EventSpeechMambaEncoder(
        12, fat_points="optimized", fat_threshold=0.2, **MAMBA | {"block": "mamba_ffn"}
    ),
    "two_sided": lambda: EventSpeechMambaEncoder(
        12, fat_points=TWO_SIDED, fat_two_sided=TWO_SIDED, fat_threshold=0.2, **MAMBA
    ),
    "spiking": lambda: SpikingSpeechMambaEncoder(12, **PUBLISHED),
    "spiking_ours": lambda: SpikingSpeechMambaEncoder(12, **MAMBA),
}


def record(name):
    torch.manual_seed(0)
    encoder = ENCODERS[name]()
    size = 20 if name.startswith(("iml", "ilif", "twin")) else 12
    utterances = [(2 * torch.randn(1, n, size), torch.tensor([n])) for n in (45, 31)]
    return encoder, utterances, record_encoder(encoder, utterances)


def float_error(sample):
    """Return how far a kernel's result is from the float layer's, relative to it; or None."""
    squares = sample.squares(expected(sample.call))
    if squares is None:
        return None
    off, size = squares
    return float(np.sqrt(off / size)) if size else 0.0
