"""Watch every product of a network that claims to compute with 0/1 spikes.

Equal results prove nothing on how they came about: T slots may hold fractions, the first slot all
counts, or a layer may multiply its weights with real values. So the guard looks at the operands of
each product while it runs:

* of a product with weights, the operand that comes from the input holds nothing but 0 and 1;
* of a product of two operands that come from the input (an attention map), one of them does;
* no tensor of weights is multiplied, element by element, with real values that come from the input;
* each tensor of weights was seen in a product, so that none is read behind the guard's back, and
  so was the input of each scan.

Weights are what is made of parameters of two dimensions or more, norms apart. There are two
exceptions, and both are named: the layer that reads the features, whose weights run first
(`SpikeGuard.analog`), and what a layer says meets real values by design, by a method
``real_valued`` that names the weights (`SpikeGuard.real`; the scan of a spiking Mamba block). A
scan is claimed to select by its input, so that has to be 0 and 1 as well.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from espnet_spike.nn.layers.mamba import SelectiveSSM

PRODUCTS = {  # operation -> places of its two operands
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "vdot", "matmul", "linear"), (0, 1)),
    **dict.fromkeys(("addmm", "addbmm", "baddbmm", "addmv"), (1, 2)),
    **dict.fromkeys(("convolution", "_convolution", "mkldnn_convolution"), (0, 1)),
    **dict.fromkeys(("conv1d", "conv2d", "mkldnn_linear"), (0, 1)),
}
SCALINGS = (
    *("mul", "mul_", "addcmul", "addcmul_", "div", "div_", "addcdiv", "addcdiv_"),
    *("lerp", "lerp_", "addr"),
)
INPUT = "the input"


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
        norms = _norms(network)
        weights = {
            name: p.dim() > 1 and name not in norms for name, p in network.named_parameters()
        }
        self._weights = [name for name, is_weight in weights.items() if is_weight]
        self._met: set[str] = set()
        self._last = "the first layer"
        for name, parameter in network.named_parameters():
            self._origin[parameter] = frozenset([name] if weights[name] else [])
        for buffer in network.buffers():
            self._origin[buffer] = frozenset()
        for module in network.modules():
            for value in vars(module).values():  # encoded positions and the like
                if isinstance(value, Tensor):
                    self._origin[value] = frozenset()

    def watch(self, features: Tensor) -> Tensor:
        """Name the network's input; return it."""
        self._origin[features] = frozenset([INPUT])
        return features

    def unseen(self) -> list[str]:
        """Return the weights that no product has met so far."""
        return [name for name in self._weights if name not in self._met | self._by_design]

    def unseen_scans(self) -> list[str]:
        """Return the scans whose input was not shown so far."""
        return sorted(self._scans)

    def select(self, name: str, u: Tensor) -> None:
        """Look at the input of a scan."""
        self._scans.discard(name)
        if is_binary(u):
            self.selects += 1
            # a compiled scan shows none of its operations; its state is real-valued in any case
            self.real.add(f"{name}.A_log")
        else:
            self._report(f"the scan {name} reads {describe(u)}")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001
        """Run an operation; look at its operands before."""
        kwargs = kwargs or {}
        name = func.__name__.partition(".")[0]
        if name in PRODUCTS:
            self._product(name, *(args[place] for place in PRODUCTS[name]))
        elif name.startswith(("_scaled_dot_product", "_trilinear", "thnn_conv", "einsum")):
            self._report(f"{name} after {self._last}")
        elif name in SCALINGS:
            self._scaling(name, [x for x in args if isinstance(x, Tensor)])
        found = frozenset[str]().union(*map(self._made_of, _tensors((args, kwargs))))
        out = func(*args, **kwargs)
        # what comes from the input is no weight any more
        found = frozenset([INPUT]) if INPUT in found else found
        for x in _tensors(out):
            self._origin[x] = found
        return out

    def _made_of(self, x: Tensor) -> frozenset[str]:
        found: frozenset[str] | None = self._origin.get(x)
        return frozenset() if found is None else found

    def _report(self, what: str) -> None:
        self.violations[what] = self.violations.get(what, 0) + 1

    def _product(self, name: str, a: Tensor, b: Tensor) -> None:
        sides = {side: self._made_of(side) for side in (a, b)}
        from_input = [side for side, origin in sides.items() if INPUT in origin]
        weights = frozenset[str]().union(*(o for o in sides.values() if INPUT not in o))
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

    def _scaling(self, name: str, operands: list[Tensor]) -> None:
        origins = [(x, self._made_of(x)) for x in operands]
        weights = frozenset[str]().union(*(o for _, o in origins if INPUT not in o))
        real = [x for x, o in origins if INPUT in o and not is_binary(x)]
        if weights and real and weights <= self._by_design:
            self.real |= weights
        elif weights and real:
            shown = ", ".join(sorted(weights))
            self._report(f"{name} of {shown} with {describe(real[0])}")


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


@contextmanager
def watching_scans(network: nn.Module, guard: SpikeGuard) -> Iterator[None]:
    """Show a guard the input of every scan, within the context."""

    def watched(name: str, scan: Any) -> Any:
        def run(u: Tensor, *rest: Any) -> Any:
            guard.select(name, u)
            return scan(u, *rest)

        return run

    with ExitStack() as stack:
        for name, ssm in network.named_modules():
            if isinstance(ssm, SelectiveSSM):
                vars(ssm)["scan"] = watched(name, ssm.scan)
                stack.callback(vars(ssm).pop, "scan")
        yield


def is_binary(x: Tensor) -> bool:
    """Tell whether a tensor holds nothing but 0 and 1."""
    return not bool(((x != 0) & (x != 1)).any())


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


@torch.no_grad()
def guarded(network: nn.Module, features: Tensor, lengths: Tensor) -> tuple[Any, SpikeGuard]:
    """Return the network's output for features ``(1, F, D)``, and the guard that watched."""
    guard = SpikeGuard(network)
    guard.watch(features)
    with watching_scans(network, guard), guard:
        out = network(features, lengths)
    for name in guard.unseen():
        guard.violations[f"{name} was seen in no product"] = 1
    for name in guard.unseen_scans():
        guard.violations[f"the input of the scan {name} was not seen"] = 1
    return out, guard
