"""Small spiking attention, and a batch for it."""

import torch
from torch import nn

from espnet_spike.nn.layers.attention_modes import build_attention
from espnet_spike.nn.layers.decay_mask import DecayMask
from espnet_spike.nn.neurons.factory import NeuronFactory
from tests.helpers.norms import trained

DIM, HEADS = 8, 2
LENGTHS = torch.tensor([9, 5, 1])


def make(qk_mode="bilinear", dtype=torch.double, neuron="imls", decay=None, seed=0, **conf):
    torch.manual_seed(seed)
    mask = DecayMask(1, 2, HEADS, **(decay or {}))
    attn = build_attention(qk_mode, DIM, HEADS, NeuronFactory(neuron, 4), mask, **conf)
    for name, p in attn.named_parameters():
        if "bias" in name:
            nn.init.normal_(p)
    return trained(attn).to(dtype)


def batch(dtype=torch.double, seed=1, lengths=LENGTHS):
    torch.manual_seed(seed)
    length = int(lengths.max())
    mask = torch.arange(length) < lengths[:, None]
    return torch.randn(len(lengths), length, DIM, dtype=dtype), mask, lengths


def run(attn, x, mask, lengths):
    with torch.no_grad():
        return attn(x, mask, lengths)[mask]
