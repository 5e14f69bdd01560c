"""The blocks of SpeechMamba by their equations."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from espnet_spike.encoders.mamba_blocks import (
    BLOCKS,
    BlockConfig,
    ConvModule,
    FeedForward,
    Frames,
)
from espnet_spike.nn.layers.softmax_attention import attention_mask

CONF = BlockConfig(8, 2, 12, 3, 0.5, 0.5, mamba={"d_state": 2})
LENGTHS = torch.tensor([7, 4])
FRAMES = Frames(LENGTHS, torch.arange(7) < LENGTHS[:, None], attention_mask(LENGTHS, 7))


def made(cls):
    torch.manual_seed(0)
    return cls(CONF).double().eval()


def speech():
    return torch.randn(2, 7, 8, generator=torch.Generator().manual_seed(1), dtype=torch.double)


@torch.no_grad()
def test_a_feed_forward_module_is_two_layers_with_silu():
    ffn, x = made(FeedForward), speech()
    torch.testing.assert_close(ffn(x, FRAMES), ffn.linear_out(F.silu(ffn.linear_in(x))))


@torch.no_grad()
def test_a_convolution_module_mixes_neighbours_and_takes_padding_for_zeros():
    conv, x = made(ConvModule), speech()
    gated = F.glu(conv.pointwise_in(x), -1)
    got = conv(x, FRAMES)
    weight, bias = conv.depthwise.weight[:, 0], conv.depthwise.bias
    for row, length in enumerate(LENGTHS):
        for t in range(length):
            mixed = bias.clone()
            for tap in range(3):
                if 0 <= t + tap - 1 < length:
                    mixed += weight[:, tap] * gated[row, t + tap - 1]
            want = conv.pointwise_out(F.silu(conv.norm(mixed)))
            torch.testing.assert_close(got[row, t], want)


@torch.no_grad()
def test_each_block_adds_its_branches_to_the_input():
    x, mask = speech(), FRAMES.mask
    block = made(BLOCKS["mamba_mhsa_mamba"])
    mamba_in, attn, mamba_out = (
        lambda y, *inputs, part=part: y + part.sublayer(part.norm(y), *inputs)
        for part in (block.mamba_in, block.attn, block.mamba_out)
    )
    y = attn(mamba_in(x, LENGTHS, mask), mask, FRAMES.visible)
    torch.testing.assert_close(block(x, FRAMES), mamba_out(y, LENGTHS, mask))
    block = made(BLOCKS["mhsa_mamba"])
    y = x + block.attn(block.norm_attn(x), mask, FRAMES.visible)
    y = y + block.mamba(block.norm_mamba(y), LENGTHS, mask)
    torch.testing.assert_close(block(x, FRAMES), y)
    block = made(BLOCKS["mamba_ffn"])
    y = x + block.mamba(block.norm_mamba(x), LENGTHS, mask)
    y = y + block.ffn(block.norm_ffn(y), FRAMES)
    torch.testing.assert_close(block(x, FRAMES), y)
    block = made(BLOCKS["conmamba"])
    y = x + block.ffn_in(block.norm_ffn_in(x), FRAMES) / 2
    y = y + block.mamba(block.norm_mamba(y), LENGTHS, mask)
    y = y + block.conv(block.norm_conv(y), FRAMES)
    y = block.norm(y + block.ffn_out(block.norm_ffn_out(y), FRAMES) / 2)
    torch.testing.assert_close(block(x, FRAMES), y)


@pytest.mark.parametrize("name", BLOCKS)
def test_the_branches_alone_are_dropped(name):
    block, x = made(BLOCKS[name]).train(), speech()
    for module in block.modules():
        if isinstance(module, nn.Dropout):
            module.p = 1.0
    want = block.norm(x) if name == "conmamba" else x
    torch.testing.assert_close(block(x, FRAMES), want)
