"""What a layer carries from chunk to chunk of a stream.

A layer that looks back in time is ``Stateful``: it keeps what it needs of the past in ``carry``, a
dictionary that belongs to a stream, not to the layer, so that one network serves several streams
at once. Without one (``carry`` is None) the layer sees whole utterances. A beam search takes a
batch's states apart into rows and puts those of the hypotheses that go on together again.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

# the states of all layers of a network for one row of a batch, in the order of its layers
Row = list[dict[str, Tensor]]


class Stateful:
    """A layer that can go on where the chunk before ended.

    Attributes:
        carry: None for whole utterances; in a stream the state after the chunk before, empty at
            its start. All frames of a chunk are valid.
    """

    carry: dict[str, Tensor] | None = None


class Carries:
    """The states of all layers of a network in one stream."""

    def __init__(self, network: nn.Module) -> None:
        layers = [layer for layer in network.modules() if isinstance(layer, Stateful)]
        self.states: list[tuple[Stateful, dict[str, Tensor]]] = [(x, {}) for x in layers]

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Let the network go on from this stream's states."""
        for layer, state in self.states:
            layer.carry = state
        try:
            yield
        finally:
            for layer, _ in self.states:
                layer.carry = None

    def rows(self) -> list[Row]:
        """Return the states of each row of the batch, as views without the batch axis."""
        apart = [{k: x.unbind() for k, x in state.items()} for _, state in self.states]
        count = max((len(xs) for state in apart for xs in state.values()), default=0)
        return [
            [{k: xs[row] for k, xs in state.items()} for state in apart] for row in range(count)
        ]

    @classmethod
    def of_rows(cls, network: nn.Module, rows: Sequence[Row]) -> "Carries":
        """Return the states of a batch whose rows come from ``rows``, in any order and number.

        Args:
            network: that the rows are of.
            rows: of ``rows()``, each as often as it is wanted.
        """
        carries = cls(network)
        for number, (_, state) in enumerate(carries.states):
            for name in rows[0][number]:
                state[name] = _stack([row[number][name] for row in rows])
        return carries

    def nbytes(self) -> int:
        """Return the memory of the states."""
        return sum(x.nbytes for _, state in self.states for x in state.values())


def _stack(rows: list[Tensor]) -> Tensor:
    """Stack tensors as they lie in memory: a scan keeps its state transposed."""
    if rows[0].dim() > 1 and not rows[0].is_contiguous() and rows[0].mT.is_contiguous():
        return torch.stack([row.mT for row in rows]).mT
    return torch.stack(rows)
