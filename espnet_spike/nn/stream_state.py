"""What a layer carries from chunk to chunk of a stream.

A layer that looks back in time is ``Stateful``: it keeps what it needs of the past in ``carry``, a
dictionary that belongs to a stream, not to the layer, so that one network serves several streams
at once. Without one (``carry`` is None) the layer sees whole utterances.
"""

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn


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

    def nbytes(self) -> int:
        """Return the memory of the states."""
        return sum(x.nbytes for _, state in self.states for x in state.values())
