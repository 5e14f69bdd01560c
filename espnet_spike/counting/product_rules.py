"""What matrix products and convolutions cost, for ``espnet_spike.counting.counter``."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from espnet_spike.counting.ledger import Ledger, counts_of, is_whole
from espnet_spike.nn.accounting import Cost, Spikes, count_sum


def product(
    ledger: Ledger,
    kind: str,
    a: Tensor,
    b: Tensor,
    out: Tensor,
    bias: Tensor | None = None,
) -> Cost:
    """Count a product of matrices, ``a`` ``(..., I, K)`` times ``b`` ``(..., K, J)``."""
    cost = ledger.cost(kind)
    sides, spikes = (a, b), (ledger.spikes(a), ledger.spikes(b))
    cost.dense_macs += out.numel() * a.shape[-1]
    # how often each operand is used again: by the other's rows or columns, and by broadcasting
    uses = [
        out.numel() / (math.prod(x.shape[:-2]) * x.shape[axis] or 1)
        for x, axis in zip(sides, (-2, -1), strict=True)
    ]
    if spikes[0] is not None and spikes[1] is not None:
        counts = counts_of(a, spikes[0]), counts_of(b, spikes[1])
        cost.acs += _meeting(*counts)
        cost.event_macs += _meeting(*((x != 0).to(torch.float32) for x in counts))
    elif spikes[0] is not None:
        cost.acs += _amount(a, spikes[0]) * uses[0]
        cost.event_macs += events_of(a, spikes[0]) * uses[0]
    elif spikes[1] is not None:
        cost.acs += _amount(b, spikes[1]) * uses[1]
        cost.event_macs += events_of(b, spikes[1]) * uses[1]
    elif ledger.is_constant(a):
        cost.macs += ledger.nonzeros(b) * uses[1]
    elif ledger.is_constant(b):
        cost.macs += ledger.nonzeros(a) * uses[0]
    elif all(ledger.nonzeros(x) == x.numel() for x in sides):
        cost.macs += out.numel() * a.shape[-1]
    else:
        cost.macs += _meeting(*((x != 0).to(torch.float32) for x in sides))
    real = [x for x, found in zip(sides, spikes, strict=True) if found is None]
    if len(real) == 1 and ledger.again(real[0]):
        cost.repeated_macs += out.numel() * a.shape[-1]
    for x, other, found in ((a, b, spikes[0]), (b, a, spikes[1])):
        ledger.read_as(cost, x, found)
        if found is not None and found.scaled and other.numel():
            # a unit a frame: into the sums where frames are rows, into the other operand where
            # the sum runs over frames
            by_row = x is a or ledger.is_parameter(other)
            ledger.cost("rescale").multiplies += (out if by_row else other).numel()
    found = spikes[1]
    if found is not None and found.per_channel and not ledger.is_constant(a):
        # frames are summed here, so a unit per channel has no weights to go into
        cost.channel_multiplies += out.numel()
    ledger.write(cost, out)
    if bias is not None:
        cost.additions += out.numel()
        ledger.read_values(cost, bias)
    held: float = b.shape[-1] * b.shape[-2]  # of activations those of one head
    if kind == "linear":
        held = ledger.weights_held(cost, b if ledger.is_constant(b) else a)
    cost.sizes(held, a.shape[-1], out.shape[-1])
    return cost


def _amount(x: Tensor, found: Spikes) -> float:
    """Return the number of spikes in ``x``."""
    return found.total if is_whole(x, found) else count_sum(counts_of(x, found))


def events_of(x: Tensor, found: Spikes) -> float:
    """Return the number of values of ``x`` that spike."""
    if is_whole(x, found):
        return found.nonzeros
    return float(torch.count_nonzero(counts_of(x, found)))


def _meeting(a: Tensor, b: Tensor) -> float:
    """Return the sum of all of a @ b, without the product."""
    return float((a.sum(-2).double() * b.sum(-1).double()).sum())


def linear(ledger: Ledger, args: tuple, kwargs: dict, out: Tensor) -> None:
    """Count a linear layer."""
    x, weight = args[:2]
    bias = args[2] if len(args) > 2 else kwargs.get("bias")
    if x.dim() == 1:
        x = x[None]
    rows = x.flatten(0, -2) if x.is_contiguous() or x.dim() == 2 else x
    product(ledger, product_kind(ledger, weight), rows, weight.t(), out, bias)


def product_kind(ledger: Ledger, *operands: Tensor) -> str:
    """Return ``linear`` for a product with weights, ``attention`` for one of activations.

    Weights may have been prepared (scaled, merged); encoded positions, one matrix a head and
    utterance, belong to attention.
    """
    weights = (ledger.is_constant(x) and x.dim() <= 3 for x in operands)
    return "linear" if any(weights) else "attention"


def matmul(ledger: Ledger, args: tuple, kwargs: dict, out: Tensor) -> None:
    """Count a product of matrices."""
    a, b = args[:2]
    a = a[None] if a.dim() == 1 else a
    b = b[:, None] if b.dim() == 1 else b
    product(ledger, product_kind(ledger, a, b), a, b, out)


def addmm(ledger: Ledger, args: tuple, kwargs: dict, out: Tensor) -> None:
    """Count a product of matrices with something added."""
    product(ledger, product_kind(ledger, *args[1:3]), args[1], args[2], out, args[0])


def scaled_dot_product(ledger: Ledger, args: tuple, kwargs: dict, out: Any) -> None:
    """Count attention with softmax: two products over the keys that a query may see."""
    query, key, value = args[:3]
    mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
    causal = args[5] if len(args) > 5 else kwargs.get("is_causal", False)
    rows, columns = query.shape[-2], key.shape[-2]
    heads = query.numel() / (rows * query.shape[-1])
    pairs = heads * rows * columns
    if isinstance(mask, Tensor) and not ledger.dense:
        seen = mask if mask.dtype == torch.bool else mask > -torch.inf
        shape = (*query.shape[:-1], columns)
        visible = float(torch.count_nonzero(seen)) * math.prod(shape) / seen.numel()
    elif causal:
        visible = heads * sum(min(row + 1, columns) for row in range(rows))
    else:
        visible = pairs
    cost = ledger.cost("attention")
    cost.dense_macs += pairs * (query.shape[-1] + value.shape[-1])
    cost.macs += visible * (query.shape[-1] + value.shape[-1])
    for x in (query, key, value):
        ledger.read(cost, x)
        if ledger.spikes(x) is not None:
            ledger.lose("scaled_dot_product_attention")
    ledger.write(cost, out if isinstance(out, Tensor) else out[0])
    cost.sizes(key.shape[-1] * columns, query.shape[-1], value.shape[-1])
    ledger.cost("elementwise").multiplies += visible  # the scale
    softmax_cost(ledger.cost("softmax"), visible, heads * rows)


def convolution(ledger: Ledger, args: tuple, kwargs: dict, out: Tensor) -> None:
    """Count ``conv1d``, ``conv2d``, ``conv3d``: the same first arguments as ``convolution``."""
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = dict(zip(names, args, strict=False)) | kwargs
    count_convolution(ledger, given, out)


def aten_convolution(ledger: Ledger, args: tuple, kwargs: dict, out: Tensor) -> None:
    """Count a convolution by its lowest name."""
    names = (
        "input",
        "weight",
        "bias",
        "stride",
        "padding",
        "dilation",
        "transposed",
        "_",
        "groups",
    )
    given = dict(zip(names, args, strict=False)) | kwargs
    if given["transposed"]:
        ledger.uncover("transposed convolution", out.numel())
        return
    count_convolution(ledger, given, out)


def count_convolution(ledger: Ledger, given: dict, out: Tensor) -> None:
    """Count a convolution whose arguments are given by name."""
    x, weight, bias = given["input"], given["weight"], given.get("bias")
    groups, dims = given.get("groups", 1), weight.dim() - 2
    kernel = weight.shape[2:]
    depthwise = groups > 1 and weight.shape[1] == 1
    cost = ledger.cost("depthwise_conv" if depthwise else "conv")
    fan_in = weight[0].numel()
    cost.dense_macs += out.numel() * fan_in
    found = ledger.spikes(x)
    counts = None if found is None else counts_of(x, found)
    if ledger.dense:
        amount = out.numel() * fan_in
    else:
        amount = _reach(x, counts, weight, given, out) / groups
    if counts is None:
        cost.macs += amount
    else:
        cost.acs += amount
        events = (counts != 0).to(counts.dtype)
        cost.event_macs += _reach(x, events, weight, given, out) / groups
        if found is not None and found.scaled:
            ledger.cost("rescale").multiplies += out.numel() * kernel[0]
    if found is not None and ledger.again(weight):
        cost.repeated_macs += out.numel() * fan_in
    channels = x.numel() / x.shape[-dims]
    ledger.read_as(cost, x, found, channels)
    ledger.read_values(cost, weight)
    ledger.write(cost, out)
    if bias is not None:
        cost.additions += out.numel()
        ledger.read_values(cost, bias)
    frames = out.shape[-dims]
    cost.sizes(ledger.weights_held(cost, weight), channels, out.numel() / frames)


def _reach(x: Tensor, counts: Tensor | None, weight: Tensor, given: dict, out: Tensor) -> float:
    """Return how many products the spikes, or values that are not zero, of ``x`` take part in.

    As if each input channel reached every output channel.
    """
    values = (x != 0).to(torch.float32) if counts is None else counts
    dims, kernel = weight.dim() - 2, weight.shape[2:]
    # channels first: exact in single precision, and small afterwards
    rest = values.sum(1 if x.dim() == dims + 2 else 0).double()
    for axis in range(dims - 1, -1, -1):
        stride, dilation = (_of_axis(given.get(name, 1), axis) for name in ("stride", "dilation"))
        padding = given.get("padding", 0)
        if padding == "same":  # as torch: of an odd number of zeros the larger half follows
            before = dilation * (kernel[axis] - 1) // 2
        else:
            before = 0 if padding == "valid" else _of_axis(padding, axis)
        sizes = x.shape[axis - dims], out.shape[axis - dims]
        rest = rest @ covering(*sizes, kernel[axis], stride, before, dilation).to(rest)
    return float(rest.sum()) * out.shape[-dims - 1]


def _of_axis(value: int | Sequence[int], axis: int) -> int:
    if isinstance(value, int):
        return value
    return value[axis] if len(value) > 1 else value[0]


@functools.lru_cache(maxsize=4096)
def covering(
    size: int, outputs: int, kernel: int, stride: int, before: int, dilation: int
) -> Tensor:
    """Return how many outputs of a convolution each of ``size`` positions reaches, ``(size,)``.

    ``before`` is the number of zeros put before the first position.
    """
    starts = torch.arange(outputs)[:, None] * stride - before
    places = (starts + torch.arange(kernel) * dilation).flatten()
    places = places[(places >= 0) & (places < size)]
    return torch.bincount(places, minlength=size).double()


def softmax_cost(cost: Cost, numbers: float, rows: float) -> None:
    """Add a softmax over that many numbers in that many rows."""
    cost.additions += 3 * numbers
    cost.special += numbers + rows
    cost.multiplies += numbers
