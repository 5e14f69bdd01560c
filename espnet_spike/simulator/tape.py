"""What a layer did, written down while the network runs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from espnet_spike.encoders.monitor import watching
from espnet_spike.errors import UserError
from espnet_spike.simulator.attention_sites import Keys
from espnet_spike.simulator.operations import Array


class Tape:
    """Inputs and outputs of every module of an encoder, utterance after utterance.

    Attributes:
        lengths: frames of each utterance.
    """

    def __init__(self, encoder: nn.Module) -> None:
        # what an encoder and its modules have depends on their class: lowerings know theirs
        self.encoder: Any = encoder
        self.modules: dict[str, Any] = dict(encoder.named_modules())
        self.lengths: list[int] = []
        self._inputs: dict[str, list[Array]] = {}
        self._outputs: dict[str, list[Array]] = {}

    @torch.no_grad()
    def record(self, utterances: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Encode utterances, one a batch; ``(1, F, D)`` and its length.

        Raises:
            UserError: none is long enough, or a module has numbers that are not finite.
        """
        inside = {name: module for name, module in self.modules.items() if name}
        with watching(inside, self._keep):
            for speech, lengths in utterances:
                xs = self.encoder(speech, lengths)[0]
                self.lengths.append((xs[0] if isinstance(xs, tuple) else xs).shape[1])
        if not self.lengths:
            raise UserError("no utterance is long enough for the encoder")

    def _keep(self, name: str, _module: nn.Module, args: tuple, out: object) -> None:
        out = out[0] if isinstance(out, tuple) else out
        if args and isinstance(args[0], Tensor) and isinstance(out, Tensor):
            if not (args[0].isfinite().all() and out.isfinite().all()):
                raise UserError(
                    f"{name} of the encoder has numbers that are not finite on utterance "
                    f"{len(self.lengths) + 1}",
                    "its features are damaged, or far from those of the training: make them again",
                )
            self._inputs.setdefault(name, []).append(args[0][0].float().numpy())
            self._outputs.setdefault(name, []).append(out[0].float().numpy())

    def input(self, name: str) -> Array:
        """Return the input of a module over all frames ``(frames, ...)``, in double precision."""
        return np.concatenate(self._inputs[name]).astype(np.float64)

    def output(self, name: str) -> Array:
        """Return its output likewise."""
        return np.concatenate(self._outputs[name]).astype(np.float64)

    def inputs(self, name: str) -> list[Array]:
        """Return the input of a module for each utterance."""
        return self._inputs[name]

    def outputs(self, name: str) -> list[Array]:
        """Return its output likewise."""
        return self._outputs[name]

    def keys(self) -> Keys:
        """Return which frame belongs to which utterance."""
        return Keys(self.lengths)

    def parameter(self, name: str) -> Array:
        """Return a parameter or buffer by its dotted name."""
        place, _, leaf = name.rpartition(".")
        return getattr(self.modules[place], leaf).detach().double().numpy()

    def bias(self, name: str) -> Array | None:
        """Return the bias of a module; None where it has none."""
        given = getattr(self.modules[name], "bias", None) is not None
        return self.parameter(f"{name}.bias") if given else None


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run torch on that many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def unsupported(what: str) -> UserError:
    """Return the error for an option that has no kernels."""
    return UserError(f"{what} cannot be simulated", "no kernel stands for it")


def windows(maps: list[Array], taps: int, stride: int, before: int, side: int) -> Array:
    """Return what each output frame of a convolution over time reads, from padded maps.

    Args:
        maps: of each utterance ``(T, bins, channels)``.
        taps: of the kernel over time.
        stride: over time.
        before: zero frames put before each utterance; as many as needed follow.
        side: zero bins put on each side.

    Returns:
        ``(frames, taps, bins, channels)``; without ``before`` only whole windows.
    """
    found = []
    for x in maps:
        after = taps - 1 - before if before else 0
        padded = np.pad(x.astype(np.float64), ((before, after), (side, side), (0, 0)))
        count = (len(padded) - taps) // stride + 1
        found += [padded[n * stride : n * stride + taps] for n in range(count)]
    return np.stack(found)
