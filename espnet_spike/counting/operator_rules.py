"""What each tensor operation costs, for ``espnet_spike.counting.counter``.

A rule is called as ``rule(ledger, args, kwargs, out)`` after the operation and adds to the sums of
the current layer. Prices of composite operations, a number of the result each:

==============  ==========================================================================
LayerNorm       3 multiplications, 4 additions; one root a frame
batch norm      1 multiplication, 1 addition (with running statistics)
softmax         3 additions (largest, difference, sum), 1 exponential, 1 multiplication
sigmoid, tanh   1 special function; SiLU and GLU one multiplication more
real FFT of N   log2 N multiplications, 1.5 log2 N additions for each of the N (radix 2, halved)
==============  ==========================================================================

Linear layers and convolutions add the bias once a result. A selection (masking, dropout in
evaluation) and a change of sign are free.
"""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from espnet_spike.counting.ledger import Ledger, counts_of
from espnet_spike.counting.product_rules import (
    addmm,
    aten_convolution,
    convolution,
    events_of,
    linear,
    matmul,
    scaled_dot_product,
    softmax_cost,
)
from espnet_spike.nn.accounting import Cost, Spikes, count_activation

Rule = Callable[[Ledger, tuple, dict, Any], None]

# they give back the same storage, or a copy of it, or no numbers at all
VIEWS = frozenset(
    "view _unsafe_view transpose permute t numpy_T mT matrix_H adjoint detach alias unsqueeze"
    " squeeze expand expand_as select slice narrow split split_with_sizes chunk unbind unfold"
    " as_strided diagonal movedim swapaxes view_as tensor_split hsplit vsplit dsplit"
    " lift_fresh lift resolve_conj resolve_neg item _local_scalar_dense is_nonzero size sym_size"
    " unflatten is_same_size requires_grad equal allclose view_as_real view_as_complex".split()
)
# what they make depends on no value
CREATES = frozenset(
    "empty_like zeros_like ones_like full_like new_empty new_zeros new_ones new_full".split()
)
# they may copy: values move and are not changed
MOVES = frozenset(
    "clone contiguous to _to_copy type_as reshape flatten ravel constant_pad_nd pad cat concat"
    " stack hstack vstack masked_fill index_select index flip roll repeat tile repeat_interleave"
    " gather copy masked_select dropout feature_dropout alpha_dropout take_along_dim pad_sequence"
    " pixel_shuffle fill zero float double half to_dense".split()
)

# multiplications, additions, special functions for a number of the result
ELEMENTWISE: dict[str, tuple[float, float, float]] = {
    **dict.fromkeys(("sub", "rsub", "maximum", "minimum", "fmax", "fmin", "lerp"), (0, 1, 0)),
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max", "hardtanh", "round", "floor"), (0, 1, 0)),
    **dict.fromkeys(("abs", "neg", "sign", "where"), (0, 0, 0)),
    **dict.fromkeys(("exp", "log", "sqrt", "rsqrt", "reciprocal", "sigmoid", "tanh"), (0, 0, 1)),
    **dict.fromkeys(("expm1", "log1p", "exp2", "softplus", "log_sigmoid", "erf", "pow"), (0, 0, 1)),
    **dict.fromkeys(("sin", "cos", "elu", "mish", "gelu"), (0, 0, 1)),
    **dict.fromkeys(("silu", "glu"), (1, 0, 1)),
    **dict.fromkeys(("square", "hardswish"), (1, 0, 0)),
    "addcmul": (1, 1, 0),
    "addcdiv": (0, 1, 1),
    "leaky_relu": (1, 1, 0),
    "prelu": (1, 1, 0),
}
COMPARISONS = frozenset("eq ne lt le gt ge isnan isfinite isinf argmax argmin topk any all".split())


@functools.cache
def plan(func: torch._ops.OpOverload) -> tuple[str, str, Rule | None, bool]:
    """Return what to do with an operation: its name, action, rule, and whether it is in place.

    The action is ``view``, ``create``, ``move``, ``decompose`` (made of others) or ``count``.
    """
    name = func._schema.name.split("::")[1]
    in_place = name.endswith("_") and not name.endswith("__")
    base = name.rstrip("_") if in_place else name
    if base in RULES:
        return base, "count", RULES[base], in_place
    if base in VIEWS:
        return base, "view", None, in_place
    if base in CREATES:
        return base, "create", None, in_place
    if base in MOVES:
        return base, "move", None, in_place
    if base in ELEMENTWISE:
        rule = functools.partial(_elementwise, base, ELEMENTWISE[base])
        return base, "count", rule, in_place
    if base in COMPARISONS:
        return base, "count", _comparison, in_place
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key):
        return base, "decompose", None, in_place
    return base, "count", None, in_place


def _traffic(ledger: Ledger, cost: Cost, operands: Iterable[object], out: Tensor) -> None:
    for x in operands:
        if isinstance(x, Tensor) and x.is_floating_point():
            found = ledger.spikes(x)
            if found is None:
                ledger.read_values(cost, x)
            else:
                cost.spike_bits_read += x.numel() * found.bits
                cost.event_bits_read += events_of(x, found) * found.event_bits(x.shape[-1])
    ledger.write(cost, out)


def _lose(ledger: Ledger, name: str, operands: Iterable[object]) -> None:
    if ledger.knows_spikes and any(
        isinstance(x, Tensor) and ledger.spikes(x) is not None for x in operands
    ):
        ledger.lose(name)


def _elementwise(
    name: str, price: tuple, ledger: Ledger, args: tuple, kwargs: dict, out: Any
) -> None:
    out = out if isinstance(out, Tensor) else out[0]
    _lose(ledger, name, args)
    cost = ledger.cost("elementwise")
    multiplies, additions, special = price
    cost.multiplies += multiplies * out.numel()
    cost.additions += additions * out.numel()
    cost.special += special * out.numel()
    _traffic(ledger, cost, args, out)


def _comparison(ledger: Ledger, args: tuple, kwargs: dict, out: Any) -> None:
    if isinstance(args[0], Tensor) and args[0].is_floating_point():
        ledger.cost("elementwise").additions += args[0].numel()


def _add(ledger: Ledger, args: tuple, kwargs: dict, out: Tensor) -> None:
    other = args[1]
    if not out.is_floating_point() or (not isinstance(other, Tensor) and other == 0):
        if ledger.are_partial(args[:1]):
            ledger.hold(out)
        return
    cost = ledger.cost("elementwise")
    cost.additions += out.numel()
    if isinstance(other, Tensor) and ledger.are_partial((args[0], other)):
        cost.partial_additions += out.numel()
    if kwargs.get("alpha", 1) not in (1, -1):
        cost.multiplies += out.numel()
    _lose(ledger, "add", args)
    _traffic(ledger, cost, args, out)


def _mul(ledger: Ledger, args: tuple, kwargs: dict, out: Tensor) -> None:
    """Count a product of values: of two activations where neither is zero."""
    if not out.is_floating_point():
        return
    a, b = (x if isinstance(x, Tensor) else None for x in args[:2])
    tensors = [x for x in (a, b) if x is not None and x.is_floating_point() and x.dim()]
    if _scaled_spikes(ledger, a, b, out):
        return
    if len(tensors) < sum(x is not None and x.dim() > 0 for x in (a, b)):
        return  # a mask of truth values
    _lose(ledger, "mul", tensors)
    constants = [x for x in tensors if ledger.is_constant(x)]
    gated = len(tensors) == 2 and not constants and tensors[0].shape == tensors[1].shape
    kind = "gate" if gated else _kind_of_scaling(ledger, constants)
    cost = ledger.cost(kind)
    if gated:
        both = out.numel() if ledger.dense else torch.count_nonzero(torch.logical_and(*tensors))
        cost.multiplies += float(both)
    else:
        cost.multiplies += out.numel()
    _traffic(ledger, cost, tensors, out)


def _scaled_spikes(ledger: Ledger, a: Tensor | None, b: Tensor | None, out: Tensor) -> bool:
    """Count a product that is spikes again; return whether it is.

    Spikes times spikes fire where both do: an AND of binary spikes, a product of levels. A mask
    silences. A number or constant changes the unit: what is the same for all frames goes into
    weights, anything else is a multiplication for each spiking value.
    """
    first, second = (None if x is None else ledger.spikes(x) for x in (a, b))
    if a is not None and first is not None and b is not None and second is not None:
        levels, scaled = first.levels * second.levels, first.scaled or second.scaled
        counts = counts_of(a, first) * counts_of(b, second)
        per_channel = first.per_channel or second.per_channel
        made = ledger.set_spikes(out, Spikes(counts, levels, scaled, per_channel=per_channel))
        cost = ledger.cost("gate")
        cost.multiplies += made.nonzeros
        _traffic(ledger, cost, (a, b), out)
        return True
    x, found, other = (a, first, b) if first is not None else (b, second, a)
    if x is None or found is None:
        return False
    if isinstance(other, Tensor) and not ledger.is_constant(other) and other.dtype != torch.bool:
        return False
    shown = counts_of(x, found)
    if isinstance(other, Tensor) and other.dtype == torch.bool:
        shown = shown * other
    elif isinstance(other, Tensor) and other.dim() > 1:
        cost = ledger.cost(_kind_of_scaling(ledger, [other]))
        cost.multiplies += found.nonzeros
    kept = {"levels": found.levels, "scaled": found.scaled, "per_channel": found.per_channel}
    ledger.set_spikes(out, Spikes(shown.expand(out.shape), **kept))
    return True


def _kind_of_scaling(ledger: Ledger, constants: Iterable[Tensor]) -> str:
    """Return the kind of a product with constants; one for each pair of frames has three axes."""
    if any(x.dim() > 2 for x in constants):
        return getattr(ledger.module, "pairwise_scaling", "elementwise")
    return "elementwise"


def _div(ledger: Ledger, args: tuple, kwargs: dict, out: Tensor) -> None:
    """Count a division; by a number or by a constant it is a multiplication."""
    if not out.is_floating_point():
        return
    cost = ledger.cost("elementwise")
    if ledger.is_constant(args[1]):
        cost.multiplies += out.numel()
    else:
        cost.special += out.numel()
    _lose(ledger, "div", args)
    _traffic(ledger, cost, args, out)


def _activation(ledger: Ledger, args: tuple, kwargs: dict, out: Tensor) -> None:
    """Count a rectifier: one comparison, and what it leaves."""
    count_activation(ledger, args[0], out)


def _layer_norm(ledger: Ledger, args: tuple, kwargs: dict, out: Any) -> None:
    out = out if isinstance(out, Tensor) else out[0]
    _norm(ledger, args[0], out, 3, 4, out.numel() / math.prod(args[1]))


def _rms_norm(ledger: Ledger, args: tuple, kwargs: dict, out: Any) -> None:
    out = out if isinstance(out, Tensor) else out[0]
    _norm(ledger, args[0], out, 3, 1, out.numel() / math.prod(args[1]))


def _group_norm(ledger: Ledger, args: tuple, kwargs: dict, out: Any) -> None:
    out = out if isinstance(out, Tensor) else out[0]
    _norm(ledger, args[0], out, 3, 4, args[0].shape[0])


def _batch_norm(ledger: Ledger, args: tuple, kwargs: dict, out: Any) -> None:
    out = out if isinstance(out, Tensor) else out[0]
    _norm(ledger, args[0], out, 1, 1, 0)


def _norm(
    ledger: Ledger, x: Tensor, out: Tensor, multiplies: int, additions: int, roots: float
) -> None:
    cost = ledger.cost("norm")
    cost.multiplies += multiplies * out.numel()
    cost.additions += additions * out.numel()
    cost.special += roots
    _traffic(ledger, cost, (x,), out)


def _softmax(ledger: Ledger, args: tuple, kwargs: dict, out: Tensor) -> None:
    cost = ledger.cost("softmax")
    axis = args[1] if len(args) > 1 else kwargs["dim"]
    softmax_cost(cost, out.numel(), out.numel() / out.shape[axis])
    _traffic(ledger, cost, args[:1], out)


def _sum(ledger: Ledger, args: tuple, kwargs: dict, out: Any) -> None:
    _reduction(ledger, args, out, 0)


def _mean(ledger: Ledger, args: tuple, kwargs: dict, out: Any) -> None:
    _reduction(ledger, args, out, 1)


def _norm_of_vector(ledger: Ledger, args: tuple, kwargs: dict, out: Any) -> None:
    ledger.cost("elementwise").multiplies += args[0].numel()
    _reduction(ledger, args, out, 1)


def _variance(ledger: Ledger, args: tuple, kwargs: dict, out: Any) -> None:
    cost = ledger.cost("elementwise")
    cost.multiplies += args[0].numel()
    cost.additions += 2 * args[0].numel()
    _reduction(ledger, args, out, 1)


def _reduction(ledger: Ledger, args: tuple, out: Any, multiplies: int) -> None:
    out = out if isinstance(out, Tensor) else out[0]
    if not args[0].is_floating_point():
        return
    cost = ledger.cost("elementwise")
    cost.additions += max(0, args[0].numel() - out.numel())
    cost.multiplies += multiplies * out.numel()
    _traffic(ledger, cost, args[:1], out)


def _cumsum(ledger: Ledger, args: tuple, kwargs: dict, out: Tensor) -> None:
    cost = ledger.cost("elementwise")
    cost.additions += out.numel()
    _traffic(ledger, cost, args[:1], out)


def _pool(ledger: Ledger, args: tuple, kwargs: dict, out: Any) -> None:
    out = out if isinstance(out, Tensor) else out[0]
    kernel = args[1] if isinstance(args[1], list | tuple) else [args[1]]
    cost = ledger.cost("elementwise")
    cost.additions += out.numel() * math.prod(kernel)
    _traffic(ledger, cost, args[:1], out)


def _real_fft(ledger: Ledger, args: tuple, kwargs: dict, out: Tensor) -> None:
    """Count the Fourier transform of frames (Cooley and Tukey, 1965), as half of a complex one."""
    size = math.prod(args[0].shape[axis] for axis in args[1])
    cost = ledger.cost("elementwise")
    cost.multiplies += args[0].numel() * math.log2(size)
    cost.additions += 1.5 * args[0].numel() * math.log2(size)
    _lose(ledger, "_fft_r2c", args[:1])
    _traffic(ledger, cost, args[:1], torch.view_as_real(out))


def _embedding(ledger: Ledger, args: tuple, kwargs: dict, out: Tensor) -> None:
    cost = ledger.cost("embedding")
    cost.values_read += out.numel()
    ledger.write(cost, out)


RULES: dict[str, Rule] = {
    "linear": linear,
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot"), matmul),
    **dict.fromkeys(("addmm", "baddbmm"), addmm),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), convolution),
    "convolution": aten_convolution,
    "scaled_dot_product_attention": scaled_dot_product,
    "add": _add,
    "mul": _mul,
    "div": _div,
    "relu": _activation,
    "threshold": _activation,
    **dict.fromkeys(("layer_norm", "native_layer_norm"), _layer_norm),
    **dict.fromkeys(("rms_norm", "_fused_rms_norm"), _rms_norm),
    **dict.fromkeys(("group_norm", "native_group_norm"), _group_norm),
    **dict.fromkeys(
        ("batch_norm", "native_batch_norm", "_native_batch_norm_legit_no_training"), _batch_norm
    ),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax"), _softmax),
    "sum": _sum,
    "mean": _mean,
    **dict.fromkeys(("amax", "amin", "max", "min", "logsumexp"), _sum),
    **dict.fromkeys(("var", "std", "var_mean"), _variance),
    **dict.fromkeys(("linalg_vector_norm", "norm"), _norm_of_vector),
    "cumsum": _cumsum,
    "_fft_r2c": _real_fft,
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "max_pool1d", "max_pool2d"), _pool),
    "embedding": _embedding,
}
