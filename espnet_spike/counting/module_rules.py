"""What our own modules cost whose work no tensor operation shows, for the ledger.

The neurons and the selective scan run in compiled kernels; their cost follows from their formulas:

==========================  ======================================================================
IMLS, I-LIF, ternary        an update an activation: one multiplication (by the inverse
                            threshold), two comparisons; where the threshold follows the input one
                            addition more, and one division a frame
LIF (time steps or frames)  an update a step: one multiplication (leak), three additions (charge,
                            compare, reset); the potential is read and written
FATReLU                     one comparison
batch norm                  one multiplication and addition; merged weights are ready
selective scan              for a state: exp(delta A), decay times state, two products (input
                            into the state, state into the output); the state is read and written
==========================  ======================================================================

The alternative readings of a product (real or spikes) are those of ``counting.counter``.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn
from torch.utils._mode_utils import no_dispatch

from espnet_spike.counting.costs import Cost
from espnet_spike.counting.ledger import Ledger, Spikes, replaced
from espnet_spike.counting.operator_rules import activation
from espnet_spike.counting.product_rules import read, write
from espnet_spike.nn.layers import mamba
from espnet_spike.nn.layers.decay_mask import DecayMask
from espnet_spike.nn.layers.fatrelu import FATReLU
from espnet_spike.nn.neurons.base import Neuron
from espnet_spike.nn.neurons.frame_lif import FrameLIF
from espnet_spike.nn.neurons.imls import IMLS
from espnet_spike.nn.neurons.lif import ILIF, LIF
from espnet_spike.nn.neurons.spike_train import SpikeTrain
from espnet_spike.nn.neurons.ternary import TernaryMomentum
from espnet_spike.nn.norms import MaskedBatchNorm
from espnet_spike.nn.ops import imls

FOLLOWS_INPUT = ("token", "utt", "max")


def imls_spikes(ledger: Ledger, neuron: IMLS, x: Tensor) -> Spikes:
    """Return the spikes that an IMLS layer has just made of ``x``."""
    scaled = neuron.stat in FOLLOWS_INPUT
    rows, level, scale, y, total = ledger.last_firing
    ledger.last_firing = None
    if isinstance(neuron, TernaryMomentum):
        counts = sum(digit.abs() for digit in neuron.digits(rows, level, scale))
        return Spikes(counts.view(x.shape), neuron.slots, scaled)
    counts, nonzeros = imls.recount(y, level, scale)
    return Spikes(counts.view(x.shape), neuron.slots, scaled, total, nonzeros)


def _neuron(ledger: Ledger, neuron: Neuron, args: tuple, kwargs: dict, out: object) -> None:
    """Count a layer of neurons and note the spikes that it emits."""
    x = args[0]
    cost = ledger.cost("neuron")
    numel, frames = x.numel(), x.numel() / x.shape[-1]
    cost.updates += numel
    cost.values_read += numel
    if isinstance(neuron, LIF | FrameLIF):
        cost.multiplies += numel
        cost.additions += 3 * numel
        cost.values_read += numel
        cost.values_written += numel
    elif isinstance(neuron, IMLS | ILIF):
        cost.multiplies += numel
        cost.additions += 2 * numel
        if isinstance(neuron, IMLS) and neuron.stat in FOLLOWS_INPUT:
            cost.additions += numel
            cost.special += frames
        if isinstance(neuron, ILIF) and neuron.time_steps > 1:
            cost.values_read += numel
            cost.values_written += numel
    else:
        ledger.uncover(f"neuron {type(neuron).__name__}", numel)
        return
    if isinstance(neuron, IMLS) and neuron.warm:
        ledger.lose("neuron without rounding")
        return
    values = out
    if isinstance(out, SpikeTrain):
        ledger.set_constant(out.channel)
        scaled = isinstance(neuron, IMLS) and neuron.stat in FOLLOWS_INPUT
        found, values = Spikes.of_itself(out.counts, out.levels, scaled), out.counts
    elif isinstance(neuron, IMLS):
        found = imls_spikes(ledger, neuron, x)
    elif isinstance(neuron, ILIF):
        found = Spikes(out / neuron.unit, neuron.T, False)
    else:
        found = Spikes.of_itself(out, 1)
    found = ledger.set_spikes(values, found)
    cost.spike_bits_written += numel * found.bits
    cost.inputs += numel
    cost.nonzeros += found.nonzeros
    cost.spikes += found.total
    cost.slots += numel * found.levels
    cost.sizes(0, x.shape[-1], x.shape[-1])


def _fatrelu(ledger: Ledger, layer: FATReLU, args: tuple, kwargs: dict, out: Tensor) -> None:
    activation(ledger, args[0], out)
    if layer.activation is not None:  # the two-sided form keeps the dense activation, SiLU
        ledger.cost("activation").special += out.numel()
        ledger.cost("activation").multiplies += out.numel()


def _batch_norm(
    ledger: Ledger, norm: MaskedBatchNorm, args: tuple, kwargs: dict, out: Tensor
) -> None:
    cost = ledger.cost("norm")
    cost.multiplies += out.numel()
    cost.additions += out.numel()
    cost.values_read += out.numel()
    write(cost, out)


MODULE_RULES: dict[type[nn.Module], Callable] = {
    Neuron: _neuron,
    FATReLU: _fatrelu,
    MaskedBatchNorm: _batch_norm,
}
"""Class -> rule(ledger, module, args, kwargs, out) that counts its forward pass as a whole."""


def count_scan(ledger: Ledger, u: Tensor, delta: Tensor, B: Tensor, C: Tensor, y: Tensor) -> None:
    """Count a selective scan.

    Args:
        ledger: takes the counts.
        u: input ``(B, E, L)``.
        delta: step sizes ``(B, E, L)``.
        B: ``(B, N, L)``.
        C: ``(B, N, L)``.
        y: output ``(B, E, L)``.
    """
    cost = ledger.cost("scan")
    states = u.numel() * B.shape[1]
    cost.dense_macs += 2 * states + u.numel()
    counts = ledger.counts(u)
    if ledger.dense:
        cost.macs += 2 * states + u.numel()
        cost.multiplies += u.numel()
    else:
        _scan_products(cost, counts, u, B, C)
    cost.multiplies += 2 * states
    cost.special += states
    for x in (u, delta, B, C):
        read(ledger, cost, x)
    cost.values_read += states
    cost.values_written += states
    write(cost, y)
    cost.sizes(u.shape[1] * B.shape[1], u.shape[1], u.shape[1])


def _scan_products(cost: Cost, counts: Tensor | None, u: Tensor, B: Tensor, C: Tensor) -> None:
    inputs = (u != 0).sum(1).double() if counts is None else counts.sum(1).double()
    into_state = float((inputs * (B != 0).sum(1)).sum())
    skip = float(inputs.sum())
    if counts is None:
        cost.macs += into_state + skip
        cost.multiplies += skip  # delta u
    else:
        # delta B of the channels that fire is selected and added; so is D
        cost.acs += into_state + skip
    cost.macs += float((C != 0).sum()) * u.shape[1]


@contextmanager
def patched(ledger: Ledger) -> Iterator[None]:
    """Let the ledger know, within the context, what is no tensor operation."""
    scan, kernel = mamba.selective_scan, imls.forward
    slot, value, masked = SpikeTrain.slot, SpikeTrain.value, SpikeTrain.masked
    matrix, row_scale = DecayMask.matrix, DecayMask.row_scale

    def counting_kernel(x, level, scale, *args):  # noqa: ANN001
        y, count = kernel(x, level, scale, *args)
        ledger.last_firing = x, level, scale, y, float(count)
        return y, count

    def counting_scan(u, delta, A, B, C, *args, **kwargs):  # noqa: ANN001
        with no_dispatch():
            out = scan(u, delta, A, B, C, *args, **kwargs)
            y = out[0] if isinstance(out, tuple) else out
            count_scan(ledger, u, delta, B, C, y)
        return out

    def counting_slot(train: SpikeTrain, t: int) -> Tensor:
        with no_dispatch():
            out = slot(train, t)
            ledger.set_spikes(out, Spikes.of_itself(out, 1))
        return out

    def counting_value(train: SpikeTrain) -> Tensor:
        with no_dispatch():
            out = value(train)
            scaled = train.frame.numel() > 1
            ledger.set_spikes(out, Spikes(train.counts.clone(), train.levels, scaled))
        return out

    def counting_masked(train: SpikeTrain, mask: Tensor) -> SpikeTrain:
        with no_dispatch():
            return masked(train, mask)

    def ahead(make):  # noqa: ANN001
        def made_ahead(decay: DecayMask, *args: object) -> Tensor | None:
            with no_dispatch():
                out = make(decay, *args)
                if out is not None:
                    ledger.set_constant(out)
            return out

        return made_ahead

    with ExitStack() as stack:
        stack.enter_context(replaced(DecayMask, "matrix", ahead(matrix)))
        stack.enter_context(replaced(DecayMask, "row_scale", ahead(row_scale)))
        stack.enter_context(replaced(mamba, "selective_scan", counting_scan))
        stack.enter_context(replaced(imls, "forward", counting_kernel))
        for name, function in (
            ("slot", counting_slot),
            ("value", counting_value),
            ("masked", counting_masked),
        ):
            stack.enter_context(replaced(SpikeTrain, name, function))
        yield
