"""A package of somebody else that adds encoders to espnet_spike."""

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder


class MeanEncoder(AbsEncoder):
    """Projects the mean of each pair of frames."""

    def __init__(self, input_size: int, output_size: int = 16):
        super().__init__()
        self.linear = torch.nn.Linear(input_size, output_size)

    def output_size(self) -> int:
        return self.linear.out_features

    def forward(self, xs_pad, ilens, prev_states=None):
        pairs = xs_pad[:, : xs_pad.shape[1] // 2 * 2].unflatten(1, (-1, 2)).mean(2)
        return self.linear(pairs), ilens // 2, None


class NoEncoder:
    """Not an AbsEncoder."""
