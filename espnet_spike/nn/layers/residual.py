"""The residual form that the sublayers of a block share."""

from torch import Tensor, nn

from espnet_spike.nn.layers.dropout import Dropout


class PreNormResidual(nn.Module):
    """x + dropout(sublayer(norm(x))), the pre-norm form of Speech-Mamba (Gao and Chen, 2024).

    Args:
        norm: of the sublayer's input, ``(B, L, D)`` to the same.
        sublayer: a layer such as ``Mamba`` or ``SelfAttention``; called with the normed input and
            whatever else ``forward`` is given.
        dropout_rate: of the sublayer's output.
    """

    def __init__(self, norm: nn.Module, sublayer: nn.Module, dropout_rate: float) -> None:
        super().__init__()
        self.norm = norm
        self.sublayer = sublayer
        self.dropout = Dropout(dropout_rate)

    def forward(self, x: Tensor, *inputs: object) -> Tensor:
        """Add the sublayer's output to ``x`` ``(B, L, D)``; ``inputs`` go to the sublayer."""
        return x + self.dropout(self.sublayer(self.norm(x), *inputs))
