"""Count the operations that a network carries out, while it runs on real input.

``with Counter(model) as counter: model.encode(...)`` sees every tensor operation and keeps running
sums only. Whatever does arithmetic and has no rule (``counting.operator_rules``) is named in
``uncovered``; nothing is dropped silently. Run one utterance at a time, unpadded (``count_batch``):
then everything that is counted belongs to it, and neither batch nor padding has a say.

How a layer knows that its input is spikes. A neuron (``nn.neurons.base.Neuron``) hands on its
spike counts times a unit, an ordinary tensor. The counter takes the counts where they are made: it
stands around the neuron's forward pass and remembers, for the storage of the output, a tensor of
counts laid out alike. A view of the output (a reshape, a split into heads) has the same storage, so
its counts are the same view of the counts. What moves values without computing (padding, masking,
concatenation) is done to the counts as well, a product of two spike tensors has the product of
their counts, and a number as factor changes the unit only. Any other operation makes a real value,
which has no counts. Binary execution (``SpikeTrain``) is seen slot by slot.

So nothing is fed in by hand, and the value of a tensor is never taken for proof: a product counts
as

* accumulates, if an operand is spikes: each spike costs one addition for every output it reaches;
  an integer count of m costs m, as its m binary spikes do. If both operands are spikes, one
  addition for each pair of spikes that meet;
* multiply-accumulates, if none is: for each pair of values that are not zero ("effective"), and
  for all pairs ("dense"). Weights count whatever their value.

Work on weights and lengths alone (merged weights, decay masks, positions) depends on no
activation, can be done ahead, and is not counted; nor is arithmetic on integers and truth values.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from espnet_spike.counting.costs import Cost, Costs
from espnet_spike.counting.ledger import Spikes, _key, counts_of, is_real_valued

FILLS = ("masked_fill", "constant_pad_nd", "pad", "fill")
"""Moves that put in a number of their own; spikes stay spikes only beside zeros."""


class Counter(TorchDispatchMode):
    """Counts what happens inside its context.

    Args:
        model: its modules name the layers, its parameters are the weights.
        name: put before the names of the layers.
        dense: take every value for one that is not zero; the values are not looked at, so the
            model may be on the meta device.

    Attributes:
        costs: running sums, (dotted name of the innermost module, kind) -> ``Cost``.
        uncovered: operation without a rule -> (calls, numbers it made).
        lost: operation that made real values of spikes -> calls; a hint at what a rule could add.
    """

    def __init__(self, model: nn.Module, name: str = "", dense: bool = False) -> None:
        super().__init__()
        self.model = model
        self.name = name
        self.dense = dense
        self.costs: Costs = defaultdict(Cost)
        self.uncovered: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
        self.lost: dict[str, int] = defaultdict(int)
        self.layers: list[tuple[str, nn.Module]] = [(name, model)]
        self._spikes: dict[int, tuple[StorageWeakRef, Spikes]] = {}
        self._constants: dict[int, StorageWeakRef] = {}
        self._parameters: set[int] = set()
        self.last_firing: tuple | None = None
        self._last: tuple[tuple[Tensor, float], ...] = ()
        self._full = 16  # look for tensors that are gone when so many are known
        self._cleanup = ExitStack()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the wrapper that this asks for costs more than most operations

    def reset(self) -> None:
        """Start new sums; forget what is known of tensors that are gone."""
        self.costs = defaultdict(Cost)
        self._spikes.clear()
        self._last = ()
        for key in [key for key, ref in self._constants.items() if ref.expired()]:
            del self._constants[key]

    def cost(self, kind: str) -> Cost:
        """Return the running sums of a kind of operator in the current layer."""
        return self.costs[self.layers[-1][0], kind]

    @property
    def module(self) -> nn.Module:
        """The module whose forward pass is running."""
        return self.layers[-1][1]

    def __enter__(self) -> "Counter":
        """Watch the model."""
        from espnet_spike.counting.module_rules import MODULE_RULES, patched
        from espnet_spike.counting.operator_rules import plan

        self._plan = plan
        tensors = [*self.model.parameters(), *self.model.buffers()]
        for tensor in tensors:
            self._parameters.add(_key(tensor))
            self.set_constant(tensor)
        for name, module in self.model.named_modules():
            for value in vars(module).values():  # encoded positions and the like
                if isinstance(value, Tensor):
                    self.set_constant(value)
            layer = f"{self.name}.{name}".strip(".")
            rule = next((r for cls, r in MODULE_RULES.items() if isinstance(module, cls)), None)
            self._cleanup.callback(_put_back, module, vars(module).get("forward"))
            module.forward = _named(self, layer, module, rule, module.forward)
        self._cleanup.enter_context(patched(self))
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        """Leave the model as it was."""
        super().__exit__(*error)
        self._cleanup.close()
        self._last = ()
        self._spikes.clear()
        self._constants.clear()

    # --- what is known of tensors

    def spikes(self, x: Tensor) -> Spikes | None:
        """Return the spikes that ``x`` or what it is a view of holds; None for real values."""
        found = self._spikes.get(_key(x)) if self._spikes else None
        return None if found is None else found[1]

    def counts(self, x: Tensor) -> Tensor | None:
        """Return the spike counts of ``x``, of its shape; None for real values."""
        found = self.spikes(x)
        return None if found is None else counts_of(x, found)

    def set_spikes(self, x: Tensor, spikes: Spikes) -> Spikes:
        """Note that ``x``, a tensor with a storage of its own, holds spikes."""
        if len(self._spikes) >= self._full:
            for key in [key for key, (ref, _) in self._spikes.items() if ref.expired()]:
                del self._spikes[key]
            self._full = 2 * len(self._spikes) + 16
        if spikes.counts is not None and spikes.counts.stride() != x.stride():
            laid_out = torch.empty_strided(x.shape, x.stride(), dtype=spikes.counts.dtype)
            spikes = replace(spikes, counts=laid_out.copy_(spikes.counts))
        self._spikes[_key(x)] = StorageWeakRef(x.untyped_storage()), spikes
        return spikes

    def drop_spikes(self, x: Tensor) -> None:
        """Note that ``x`` holds real values now."""
        self._spikes.pop(_key(x), None)

    def set_constant(self, x: Tensor) -> None:
        """Note that ``x`` depends on weights and lengths only."""
        self._constants[_key(x)] = StorageWeakRef(x.untyped_storage())

    def is_constant(self, x: object) -> bool:
        """Return whether ``x`` does not depend on activations; true of numbers and integers."""
        if not isinstance(x, Tensor) or not is_real_valued(x):
            return True
        return _key(x) in self._constants

    def nonzeros(self, x: Tensor) -> float:
        """Return how many values of ``x`` are not zero; of the same tensor again without a look."""
        if self.dense:
            return float(x.numel())
        for known, nonzeros in self._last:
            if known is x:
                return nonzeros
        nonzeros = float(torch.count_nonzero(x))
        self._last = (*self._last[-1:], (x, nonzeros))
        return nonzeros

    def is_parameter(self, x: Tensor) -> bool:
        """Return whether ``x`` is a parameter or buffer, or a view of one."""
        return _key(x) in self._parameters

    # --- what happens

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001
        """Run an operation and count it."""
        kwargs = kwargs or {}
        name, action, rule, in_place = self._plan(func)
        if action == "view":
            return func(*args, **kwargs)
        if action == "decompose":
            super().__enter__()
            try:
                return func.decompose(*args, **kwargs)
            finally:
                super().__exit__(None, None, None)
        out = func(*args, **kwargs)
        if action == "create":
            self.set_constant(out)
            return out
        result = out if isinstance(out, Tensor) else _first(out)
        if result is None:
            return out
        real = result.is_floating_point() or result.is_complex()
        constants = self._constants
        if all(
            _key(x) in constants
            for x in _tensors(args, kwargs)
            if x.is_floating_point() or x.is_complex()
        ):
            if real and not in_place:
                for x in (out,) if result is out else out:
                    self.set_constant(x)
            return out
        if in_place:
            constants.pop(_key(args[0]), None)
            self._last = ()
        if action == "move":
            self._move(name, func, args, kwargs, out, in_place)
        elif rule is not None:
            rule(self, args, kwargs, out)
            if in_place:
                self.drop_spikes(args[0])
        elif real:
            numbers = sum(x.numel() for x in _tensors((out,), {}))
            self.uncovered[name][0] += 1
            self.uncovered[name][1] += numbers
            if in_place:
                self.drop_spikes(args[0])
        return out

    def _move(self, name, func, args, kwargs, out, in_place) -> None:  # noqa: ANN001
        """Do to the counts of spikes what was done to the spikes."""
        if not self._spikes or not isinstance(out, Tensor):
            return
        known = [x for x in _tensors(args, kwargs) if self.spikes(x) is not None]
        if not known:
            return
        if not in_place and self.spikes(out) is not None:
            return  # no copy was made
        first = self.spikes(known[0])
        floats = [x for x in _tensors(args, kwargs) if x.is_floating_point()]
        mixed = any(self.spikes(x) is None and bool(x.any()) for x in floats)
        filled = name in FILLS and any(isinstance(x, int | float) and x for x in args[2:])
        if mixed or filled or (in_place and self.spikes(args[0]) is None):
            # spikes beside real values are real values
            self.lost[name] += 1
            self.drop_spikes(out)
            return

        def shadow(x: object) -> object:
            if isinstance(x, Tensor) and x.is_floating_point():
                counts = self.counts(x)
                return torch.zeros_like(x) if counts is None else counts
            return [shadow(y) for y in x] if isinstance(x, list | tuple) else x

        if all(self.spikes(x).counts is None for x in ([out] if in_place else known)):
            self.set_spikes(out, Spikes.of_itself(out, first.levels, first.scaled))
            return
        counts = func(*map(shadow, args), **kwargs)
        if in_place:
            first = self.spikes(out)
            counts = first.counts
        elif first.counts is not None:
            # a dtype asked for is that of the values, not of the counts
            counts = counts.to(first.counts.dtype)
        self.set_spikes(out, Spikes(counts, first.levels, first.scaled))


@torch.inference_mode()
def count_batch(module: nn.Module, xs_pad: Tensor, ilens: Tensor) -> list[Costs]:
    """Count each utterance of a padded batch as an encoder takes it, one by one without padding.

    Args:
        module: called as ``module(xs, lengths)``, in evaluation.
        xs_pad: ``(B, F, D)``.
        ilens: ``(B,)``; frames past them are not looked at.
    """
    found = []
    with Counter(module) as counter:
        for x, length in zip(xs_pad, ilens, strict=True):
            counter.reset()
            module(x[None, : int(length)], length[None])
            found.append(dict(counter.costs))
    return found


def _first(out: object) -> Tensor | None:
    """Return the first of several results, None where that is no tensor."""
    first = next(iter(out), None) if isinstance(out, tuple | list) else None
    return first if isinstance(first, Tensor) else None


def _tensors(args: tuple, kwargs: dict) -> Iterator[Tensor]:
    """Yield the tensors among the arguments of an operation."""
    for x in (*args, *kwargs.values()):
        if isinstance(x, Tensor):
            yield x
        elif isinstance(x, list | tuple):
            yield from (y for y in x if isinstance(y, Tensor))


def _named(
    counter: Counter, layer: str, module: nn.Module, rule: Callable | None, forward: Callable
) -> Callable:
    """Return a forward pass that says which layer runs; one with a rule is counted as a whole.

    In place of hooks, which cost several times as much.
    """
    layers, last = counter.layers, layer.rpartition(".")[2]

    def run(*args: object, **kwargs: object) -> object:
        inside = layers[-1][0]
        # a module that several layers share goes by the name of the one that calls it
        layers.append((layer if layer.startswith(inside) else f"{inside}.{last}", module))
        try:
            if rule is None:
                return forward(*args, **kwargs)
            with no_dispatch():
                out = forward(*args, **kwargs)
                rule(counter, module, args, kwargs, out)
            return out
        finally:
            layers.pop()

    return run


def _put_back(module: nn.Module, forward: Callable | None) -> None:
    if forward is None:
        del module.forward
    else:
        module.forward = forward
