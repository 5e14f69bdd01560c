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
which has no counts. Binary execution (``SpikeTrain``) is seen slot by slot. What no operation
shows, compiled kernels for one, the layers tell themselves (``nn.accounting``).

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

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from espnet_spike.counting.costs import Costs
from espnet_spike.counting.ledger import Ledger, is_real_valued
from espnet_spike.counting.operator_rules import plan
from espnet_spike.nn.accounting import Counted, Spikes, open_ledger, opened, unseen

FILLS = ("masked_fill", "constant_pad_nd", "pad", "fill")
"""Moves that put in a number of their own; spikes stay spikes only beside zeros."""


class Counter(TorchDispatchMode):
    """Counts what happens inside its context, in a ``Ledger``.

    Args:
        model: its modules name the layers, its parameters are the weights.
        name: put before the names of the layers.
        dense: take every value for one that is not zero; the values are not looked at, so the
            model may be on the meta device.

    Attributes:
        ledger: the running sums, and what is known of tensors.
    """

    def __init__(self, model: nn.Module, name: str = "", dense: bool = False) -> None:
        super().__init__()
        self.model = model
        self.name = name
        self.ledger = Ledger(name, model, dense)
        self._cleanup = ExitStack()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the wrapper that this asks for costs more than most operations

    @property
    def costs(self) -> Costs:
        """Running sums, (dotted name of the innermost module, kind) -> ``Cost``."""
        return self.ledger.costs

    @property
    def uncovered(self) -> dict[str, list[float]]:
        """Operation without a rule -> [calls, numbers it made]."""
        return self.ledger.uncovered

    @property
    def lost(self) -> dict[str, int]:
        """Operation that made real values of spikes -> calls."""
        return self.ledger.lost

    def reset(self) -> None:
        """Start new sums; forget what is known of tensors that are gone."""
        self.ledger.reset()

    def layer(self, name: str, module: nn.Module) -> AbstractContextManager[None]:
        """Name, within the context, a layer that runs without a forward pass of its own."""
        return self.ledger.layer(name, module)

    def __enter__(self) -> "Counter":
        """Watch the model."""
        ledger = self.ledger
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            ledger.set_parameter(tensor)
        for name, module in self.model.named_modules():
            for value in vars(module).values():  # encoded positions and the like
                if isinstance(value, Tensor):
                    ledger.set_constant(value)
            layer = f"{self.name}.{name}".strip(".")
            self._cleanup.callback(_put_back, module, vars(module).get("forward"))
            module.forward = _named(ledger, layer, module, module.forward)
        self._cleanup.enter_context(opened(ledger))
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        """Leave the model as it was."""
        super().__exit__(*error)
        self._cleanup.close()
        self.ledger.forget()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001
        """Run an operation and count it."""
        kwargs = kwargs or {}
        name, action, rule, in_place = plan(func)
        if action == "view":
            return func(*args, **kwargs)
        if action == "decompose":
            super().__enter__()
            try:
                return func.decompose(*args, **kwargs)
            finally:
                super().__exit__(None, None, None)
        out = func(*args, **kwargs)
        ledger = self.ledger
        if action == "create":
            ledger.set_constant(out)
            return out
        result = out if isinstance(out, Tensor) else _first(out)
        if result is None:
            return out
        real = is_real_valued(result)
        if ledger.all_constant(_tensors(args, kwargs)):
            if real and not in_place:
                for x in (out,) if result is out else out:
                    ledger.set_constant(x)
            return out
        if in_place:
            ledger.changed(args[0])
        if action == "move":
            _move(ledger, name, func, args, kwargs, out, in_place)
        elif rule is not None:
            rule(ledger, args, kwargs, out)
            if in_place:
                ledger.drop_spikes(args[0])
        elif real:
            ledger.uncover(name, sum(x.numel() for x in _tensors((out,), {})))
            if in_place:
                ledger.drop_spikes(args[0])
        return out


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


def _move(
    ledger: Ledger,
    name: str,
    func: Callable,
    args: tuple,
    kwargs: dict,
    out: object,
    in_place: bool,
) -> None:
    """Do to the counts of spikes what was done to the spikes."""
    if not ledger.knows_spikes or not isinstance(out, Tensor):
        return
    known = [found for x in _tensors(args, kwargs) if (found := ledger.spikes(x)) is not None]
    if not known:
        return
    before = ledger.spikes(out)
    if not in_place and before is not None:
        return  # no copy was made
    first = known[0]
    floats = [x for x in _tensors(args, kwargs) if x.is_floating_point()]
    mixed = any(ledger.spikes(x) is None and bool(x.any()) for x in floats)
    filled = name in FILLS and any(isinstance(x, int | float) and x for x in args[2:])
    if mixed or filled or (in_place and ledger.spikes(args[0]) is None):
        # spikes beside real values are real values
        ledger.lose(name)
        ledger.drop_spikes(out)
        return

    def shadow(x: object) -> object:
        if isinstance(x, Tensor) and x.is_floating_point():
            counts = ledger.counts(x)
            return torch.zeros_like(x) if counts is None else counts
        return [shadow(y) for y in x] if isinstance(x, list | tuple) else x

    if all(x.counts is None for x in ([before] if in_place and before is not None else known)):
        ledger.set_spikes(out, Spikes.of_itself(out, first.levels, first.scaled, first.per_channel))
        return
    counts = func(*map(shadow, args), **kwargs)
    if in_place and before is not None:
        first, counts = before, before.counts
    elif first.counts is not None:
        # a dtype asked for is that of the values, not of the counts
        counts = counts.to(first.counts.dtype)
    kept = {"levels": first.levels, "scaled": first.scaled, "per_channel": first.per_channel}
    ledger.set_spikes(out, Spikes(counts, **kept))


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


def _named(ledger: Ledger, layer: str, module: nn.Module, forward: Callable) -> Callable:
    """Return a forward pass that says which layer runs, and counts it as a whole if it is so.

    In place of hooks, which cost several times as much.
    """
    layers, last = ledger.layers, layer.rpartition(".")[2]
    whole = module if isinstance(module, Counted) else None

    def run(*args: object, **kwargs: object) -> object:
        if open_ledger() is not ledger:
            return forward(*args, **kwargs)  # a part of what is counted as a whole
        inside = layers[-1][0]
        # a module that several layers share goes by the name of the one that calls it
        layers.append((layer if layer.startswith(inside) else f"{inside}.{last}", module))
        try:
            if whole is None:
                return forward(*args, **kwargs)
            with unseen():
                out = forward(*args, **kwargs)
                whole.count(ledger, (*args, *kwargs.values()), out)
            return out
        finally:
            layers.pop()

    return run


def _put_back(module: nn.Module, forward: Callable | None) -> None:
    if forward is None:
        del module.forward
    else:
        module.forward = forward
