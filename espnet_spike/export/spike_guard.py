"""Watch every product of a network that claims to compute with 0/1 spikes.

Equal results prove nothing on how they came about: T slots may hold fractions, the first slot all
counts, or a layer may multiply its weights with real values. So the guard looks at the operands of
each operation while it runs:

* of a product with weights, the operand that comes from the input holds nothing but 0 and 1;
* of a product of two operands that come from the input (an attention map), one of them does;
* element by element, real values that come from the input are multiplied with constants, 0/1 spikes
  and units of spike trains alone: with no weights, no other parameter, and not with one another, so
  that there is no real-valued gate. Beside that they are added, moved and summed; any other
  operation is named;
* each tensor of weights was seen in a product, so that none is read behind the guard's back, and
  so was the input of each scan; values are not read by other code than torch's, and none is made
  by it.

What is written into a tensor counts as the input's in every view of it. Real values are neither
places in a table nor cut to whole numbers.

Weights are what is made of parameters of two dimensions or more, norms apart. Where real values are
by design, nothing is looked at but products with weights: in neurons, up to their spikes
(a unit has one factor a frame, and one a channel that does not depend on the input), in norms, and
in scans. There are two more exceptions, and both are named: the layer that reads the features,
whose weights run first (`SpikeGuard.analog`), and what a layer says meets real values by design, by
a method ``real_valued`` that names the parameters (`SpikeGuard.real`; the scan of a spiking Mamba
block, a decay that is learnt). A scan is claimed to select by its input, so that has to be 0 and 1
as well.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from espnet_spike.nn.layers.mamba import SelectiveSSM
from espnet_spike.nn.neurons.base import Neuron
from espnet_spike.nn.neurons.spike_train import SpikeTrain
from espnet_spike.nn.norms import DyT, MaskedBatchNorm

PRODUCTS = {  # operation -> places of its two operands
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "vdot", "matmul", "linear"), (0, 1)),
    **dict.fromkeys(("addmm", "addbmm", "baddbmm", "addmv"), (1, 2)),
    **dict.fromkeys(("convolution", "_convolution", "mkldnn_convolution"), (0, 1)),
    **dict.fromkeys(("conv1d", "conv2d", "mkldnn_linear"), (0, 1)),
}
SCALINGS = ("mul", "addcmul", "div", "addcdiv", "lerp", "addr")
MOVES = (  # of which each value of the result is one of the input's
    *("alias", "as_strided", "clone", "contiguous", "constant_pad_nd", "detach", "expand", "flip"),
    *("gather", "index", "index_select", "lift_fresh", "permute", "repeat", "reshape", "select"),
    *("slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold"),
    *("_reshape_alias", "_to_copy", "_unsafe_view", "unsqueeze", "view"),
)
SUMS = (  # what may be done with real values, beside moving and scaling them
    *("add", "cat", "copy", "cumsum", "mean", "masked_fill", "neg", "rsub", "stack", "sub", "sum"),
    *("empty_like", "full_like", "new_empty", "new_empty_strided", "new_full", "new_ones"),
    *("new_zeros", "ones_like", "zeros_like", "is_same_size"),
    "leaky_relu",  # of ``conv_skip``: times one of two constants
)
LOOKUPS = ("gather", "index", "index_select")
READS = {  # what shows values to code that the guard does not see
    method: method.__name__
    for method in (
        *(Tensor.numpy, Tensor.__array__, Tensor.__dlpack__, Tensor.tolist, Tensor.data_ptr),
        *(Tensor.apply_, Tensor.map_),
    )
}
INPUT = "the input"
BY_DESIGN = (Neuron, nn.LayerNorm, nn.RMSNorm, MaskedBatchNorm, DyT)


class SpikeGuard(TorchDispatchMode):
    """Collects what is no product of spikes within its context, see the module.

    Args:
        network: its parameters are the weights; call it within the context, without gradients.

    Attributes:
        violations: what was wrong -> how often.
        products: parameter -> products in which it met 0/1 spikes alone.
        pairs: products of two operands that come from the input.
        analog: parameters that met the features.
        real: parameters that meet real values by design, and do so here.
        selects: scans whose input was 0 and 1.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.violations: dict[str, int] = {}
        self.products: dict[str, int] = {}
        self.pairs = 0
        self.analog: tuple[str, ...] = ()
        self.real: set[str] = set()
        self.selects = 0
        self._scans = {
            name for name, module in network.named_modules() if isinstance(module, SelectiveSSM)
        }
        self._by_design = real_by_design(network)
        self._origin: WeakIdKeyDictionary = WeakIdKeyDictionary()  # tensor -> what it is made of
        self._units: WeakIdKeyDictionary = WeakIdKeyDictionary()  # units of trains, or 0
        # memory that the input was written into, whatever made it; held, so that none has its name
        self._written: dict[int, StorageWeakRef] = {}
        self._running: list[nn.Module] = []
        self._free = 0  # how deep it runs where real values are by design
        norms = _norms(network)
        self._weights = [
            name for name, p in network.named_parameters() if p.dim() > 1 and name not in norms
        ]
        self._met: set[str] = set()
        self._last = "the first layer"
        for name, parameter in network.named_parameters():
            self._origin[parameter] = frozenset([name])
        for buffer in network.buffers():
            self._origin[buffer] = frozenset()
        for module in network.modules():
            for value in vars(module).values():  # encoded positions and the like
                if isinstance(value, Tensor):
                    self._origin[value] = frozenset()

    def watch(self, features: Tensor, lengths: Tensor) -> None:
        """Name the network's input ``(1, F, D)`` and its length."""
        self._origin[features] = frozenset([INPUT])
        self._origin[lengths] = frozenset()

    def unseen(self) -> list[str]:
        """Return the weights that no product has met so far."""
        return [name for name in self._weights if name not in self._met | self._by_design]

    def unseen_scans(self) -> list[str]:
        """Return the scans whose input was not shown so far."""
        return sorted(self._scans)

    @contextmanager
    def by_design(self) -> Iterator[None]:
        """Let real values be multiplied with one another, within the context."""
        self._free += 1
        try:
            yield
        finally:
            self._free -= 1

    def select(self, name: str, u: Tensor) -> None:
        """Look at the input of a scan."""
        self._scans.discard(name)
        with self.by_design():
            if is_binary(u):
                self.selects += 1
                # a compiled scan shows none of its operations; its state is real in any case
                self.real.add(f"{name}.A_log")
            else:
                self._report(f"the scan {name} reads {describe(u)}")

    def read(self, name: str, x: Tensor) -> None:
        """Look at what is read behind the guard's back."""
        if not self._free and INPUT in self._made_of(x):
            with self.by_design():
                if not is_binary(x):
                    self._report(f"{name} of real values after {self._last}")

    def enter(self, module: nn.Module) -> None:
        """Note that a module runs."""
        self._running.append(module)
        self._free += isinstance(module, BY_DESIGN)

    def leave(self, name: str, module: nn.Module, inputs: Any, out: Any) -> None:
        """Note that it has run, and what it makes of its inputs."""
        self._running.pop()
        self._free -= isinstance(module, BY_DESIGN)
        train = isinstance(out, SpikeTrain)
        if any(INPUT in self._made_of(x) for x in _tensors(inputs)):
            # whatever has computed it
            for x in _tensors([out.counts, out.frame] if train else out):
                if x.is_floating_point():  # no lengths, no masks
                    self._origin[x] = frozenset([INPUT])
        if train:
            self._take_units(name, out)

    def _take_units(self, name: str, train: SpikeTrain) -> None:
        """Let the units of a train scale real values, if they are no gates."""
        shared = train.frame.numel() == 1 or train.frame.shape[2:].numel() == 1
        fixed = train.channel.dim() == 1 and INPUT not in self._made_of(train.channel)
        if shared and fixed:
            self._units[train.frame] = self._units[train.channel] = True
        else:
            self._report(f"the unit of {name} is more than a factor a frame and one a channel")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001
        """Run an operation; look at its operands before."""
        kwargs = kwargs or {}
        name = func.__name__.partition(".")[0]
        plain = name if name.startswith("_") else name.rstrip("_")
        operands = list(_tensors((args, kwargs)))
        unit = False
        if not self._free:
            self._strangers(name, operands)
        if name in PRODUCTS:
            self._product(name, *(args[place] for place in PRODUCTS[name]))
        elif name.startswith(("_scaled_dot_product", "_trilinear", "thnn_conv", "einsum")):
            self._report(f"{name} after {self._last}")
        elif plain in SCALINGS:
            unit = self._scaling(plain, operands)
        elif plain in MOVES:
            unit = operands[0] in self._units
            if plain in LOOKUPS and not self._free and any(map(self._is_real, operands[1:])):
                self._report(f"{name} by real values after {self._last}")
        elif not self._free and plain not in SUMS and any(map(self._is_real, operands)):
            self._unknown(name, operands[0])
        found = frozenset[str]().union(*map(self._made_of, operands))
        out = func(*args, **kwargs)
        if not self._free and plain in MOVES + SUMS:
            self._cuts(name, operands, out)
        # what comes from the input is no weight any more
        found = frozenset([INPUT]) if INPUT in found else found
        for x in _tensors(out):
            self._origin[x] = found
            if INPUT in found and any(x is operand for operand in operands):
                memory = StorageWeakRef(x.untyped_storage())
                self._written[memory.cdata] = memory
            if unit:
                self._units[x] = True
            else:
                self._units.pop(x, None)
        return out

    def _strangers(self, name: str, operands: list[Tensor]) -> None:
        """Report tensors that no operation has made."""
        if any(x not in self._origin and x.is_floating_point() for x in operands):
            self._report(f"{name} of what no operation has made after {self._last}")

    def _cuts(self, name: str, operands: list[Tensor], out: Any) -> None:
        """Report real values that have become whole numbers or masks."""
        whole = [x.dtype for x in _tensors(out) if not x.is_floating_point()]
        if whole and any(x.is_floating_point() and self._has_parts(x) for x in operands):
            self._report(f"{name} of real values to {whole[0]} after {self._last}")

    def _made_of(self, x: Tensor) -> frozenset[str]:
        """Return the parameters and the input in a tensor; of what was never seen, the input."""
        found: frozenset[str] | None = self._origin.get(x)
        if found is None or x.untyped_storage()._cdata in self._written:
            return frozenset([INPUT])
        return found

    def _is_real(self, x: Tensor) -> bool:
        """Tell whether a tensor comes from the input and is neither spikes nor their unit."""
        return INPUT in self._made_of(x) and x not in self._units and not is_binary(x)

    def _has_parts(self, x: Tensor) -> bool:
        """Tell whether a tensor comes from the input and holds other than whole numbers."""
        return self._is_real(x) and not _is_whole(x)

    def _unknown(self, name: str, x: Tensor) -> None:
        """Report an operation that real values are not for."""
        step_size = self._running and isinstance(self._running[-1], SelectiveSSM)
        if name == "softplus" and step_size:
            return
        if name == "ge" and _is_whole(x):
            return  # counts that are cut into slots
        self._report(f"{name} of real values after {self._last}")

    def _report(self, what: str) -> None:
        self.violations[what] = self.violations.get(what, 0) + 1

    def _product(self, name: str, a: Tensor, b: Tensor) -> None:
        sides = {side: self._made_of(side) for side in (a, b)}
        from_input = [side for side, origin in sides.items() if INPUT in origin]
        weights = frozenset[str]().union(*(o for o in sides.values() if INPUT not in o))
        weights &= frozenset(self._weights)
        if not from_input:
            return  # weights are prepared
        if len(from_input) == 2:
            self.pairs += 1
            if not any(map(is_binary, from_input)):
                self._report(f"{name} of two real-valued operands after {self._last}")
            return
        self._met |= weights
        shown = ", ".join(sorted(weights)) or "a constant"
        if is_binary(from_input[0]):
            for weight in weights:
                self.products[weight] = self.products.get(weight, 0) + 1
        elif weights and self._is_first_layer(weights):
            self.analog = tuple(sorted(weights))
        elif weights and weights <= self._by_design:
            self.real |= weights
        else:
            self._report(f"{name} of {shown} reads {describe(from_input[0])}")
        self._last = shown

    def _is_first_layer(self, weights: frozenset[str]) -> bool:
        return weights == set(self.analog) or not (self.products or self.analog)

    def _scaling(self, name: str, factors: list[Tensor]) -> bool:
        """Look at factors, element by element; tell whether their product is a unit again."""
        made = frozenset[str]().union(
            *(self._made_of(x) for x in factors if x not in self._units)
        ) - {INPUT}
        if self._free:
            made &= frozenset(self._weights)
        real = [x for x in factors if self._is_real(x)] if made or not self._free else []
        if made and real and made <= self._by_design:
            self.real |= made
        elif made and real:
            self._report(f"{name} of {', '.join(sorted(made))} with {describe(real[0])}")
        elif len(real) > 1 and not self._free:
            self._report(f"{name} of two real-valued operands after {self._last}")
        elif name in ("div", "addcdiv") and real and real[-1] is factors[-1] and not self._free:
            self._report(f"{name} by real values after {self._last}")
        if name != "mul" or not any(x in self._units for x in factors):
            return False
        return all(x in self._units or not self._is_real(x) for x in factors)


def real_by_design(network: nn.Module) -> set[str]:
    """Return the weights of which their layers say that they meet real values."""
    found = set()
    for prefix, module in network.named_modules():
        claimed = getattr(module, "real_valued", None)
        if claimed is not None:
            found |= {f"{prefix}.{name}".lstrip(".") for name in claimed()}
    return found


def _norms(network: nn.Module) -> set[str]:
    return {
        f"{prefix}.{name}"
        for prefix, module in network.named_modules()
        if isinstance(module, nn.LayerNorm | nn.RMSNorm)
        for name, _ in module.named_parameters(recurse=False)
    }


class _Reads(TorchFunctionMode):
    """Shows a guard which tensors are read by other code than torch's."""

    def __init__(self, guard: SpikeGuard) -> None:
        super().__init__()
        self.guard = guard

    def __torch_function__(self, func, types, args=(), kwargs=None):  # noqa: ANN001
        if func in READS:
            for x in _tensors(args):
                self.guard.read(READS[func], x)
        return func(*args, **(kwargs or {}))


@contextmanager
def watching_modules(network: nn.Module, guard: SpikeGuard) -> Iterator[None]:
    """Tell a guard which module runs, and show it the input of every scan, within the context."""

    def watched(name: str, scan: Any) -> Any:
        def run(u: Tensor, *rest: Any) -> Any:
            guard.select(name, u)
            with guard.by_design():
                return scan(u, *rest)

        return run

    def after(name: str) -> Any:
        # returned, it would take the place of the output
        def hook(module: nn.Module, args: tuple, kwargs: dict, out: Any) -> None:
            guard.leave(name, module, (args, kwargs), out)

        return hook

    def before(module: nn.Module, args: tuple) -> None:
        guard.enter(module)

    with ExitStack() as stack:
        for name, module in network.named_modules():
            stack.callback(module.register_forward_pre_hook(before).remove)
            stack.callback(module.register_forward_hook(after(name), with_kwargs=True).remove)
            if isinstance(module, SelectiveSSM):
                vars(module)["scan"] = watched(name, module.scan)
                stack.callback(vars(module).pop, "scan")
        yield


def is_binary(x: Tensor) -> bool:
    """Tell whether a tensor holds nothing but 0 and 1."""
    return not bool(((x != 0) & (x != 1)).any())


def _is_whole(x: Tensor) -> bool:
    return bool((x == x.floor()).all())


def describe(x: Tensor) -> str:
    """Return what values a tensor holds, apart from 0 and 1."""
    other = x[(x != 0) & (x != 1)]
    first = ", ".join(f"{float(value):g}" for value in other[:3])
    return f"{first} and the like instead of 0 and 1"


def _tensors(x: Any) -> Iterator[Tensor]:
    """Yield the tensors in arguments or results, however deep."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, dict):
        yield from _tensors(list(x.values()))
    elif isinstance(x, list | tuple):
        for y in x:
            yield from _tensors(y)
    elif isinstance(x, SpikeTrain):
        yield from _tensors(list(vars(x).values()))


@torch.no_grad()
def guarded(network: nn.Module, features: Tensor, lengths: Tensor) -> tuple[Any, SpikeGuard]:
    """Return the network's output for features ``(1, F, D)``, and the guard that watched."""
    guard = SpikeGuard(network)
    guard.watch(features, lengths)
    with watching_modules(network, guard), guard, _Reads(guard):
        out = network(features, lengths)
    for name in guard.unseen():
        guard.violations[f"{name} was seen in no product"] = 1
    for name in guard.unseen_scans():
        guard.violations[f"the input of the scan {name} was not seen"] = 1
    return out, guard
