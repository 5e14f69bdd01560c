"""Products and convolutions, each against a loop or a sum by hand."""

import itertools

import pytest
import torch
from torch import nn

from espnet_spike.counting import product_rules as rules
from espnet_spike.counting.ledger import Ledger, Spikes


def ledger(dense=False):
    return Ledger("", nn.Module(), dense)


def spiking(made, counts, levels=3, scaled=False):
    """Return counts as a tensor of which the ledger knows that it holds spikes."""
    x = torch.tensor(counts, dtype=torch.float)
    made.set_spikes(x, Spikes.of_itself(x, levels, scaled))
    return x


def weights(made, *shape):
    w = torch.ones(shape)
    made.set_parameter(w)
    return w


def test_a_linear_layer_multiplies_values_and_adds_spikes():
    made = ledger()
    weight, bias = weights(made, 4, 3), weights(made, 4)
    x = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 3.0]])
    rules.linear(made, (x, weight, bias), {}, x @ weight.t())
    cost = made.cost("linear")
    assert (cost.dense_macs, cost.macs, cost.acs) == (2 * 3 * 4, 3 * 4, 0)
    assert (cost.inputs, cost.nonzeros, cost.additions) == (6, 3, 8)  # the bias of 8 outputs
    assert (cost.values_read, cost.values_written) == (6 + 12 + 4, 8)
    made = ledger()
    weight, s = weights(made, 4, 3), spiking(made, [[2, 0, 1], [0, 0, 3]])
    rules.linear(made, (s, weight), {}, s @ weight.t())
    cost = made.cost("linear")
    assert (cost.macs, cost.acs, cost.spikes, cost.slots) == (0, 6 * 4, 6, 6 * 3)
    assert cost.spike_bits_read == 6 * 2  # counts up to 3 take two bits
    assert (cost.weight_size, cost.input_size, cost.output_size) == (12, 3, 4)


def test_a_unit_that_differs_from_frame_to_frame_multiplies_each_sum():
    made = ledger()
    weight, s = weights(made, 4, 3), spiking(made, [[2, 0, 1], [0, 0, 3]], scaled=True)
    rules.linear(made, (s, weight), {}, s @ weight.t())
    assert made.cost("rescale").multiplies == 2 * 4


def test_two_spiking_operands_add_where_both_fire():
    made = ledger()
    a, b = spiking(made, [[2, 0, 1], [0, 0, 3]]), spiking(made, [[1, 2], [3, 0], [0, 1]])
    rules.matmul(made, (a, b), {}, a @ b)
    assert made.cost("attention").acs == float((a @ b).sum()) == 2 * 3 + 1 + 3


def test_two_real_operands_multiply_where_neither_is_zero():
    a = torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    b = torch.tensor([[0.5, 0.0], [1.0, 4.0]])
    for dense, macs in ((False, 1 + 1 + 2), (True, 8)):
        made = ledger(dense)
        rules.matmul(made, (a, b), {}, a @ b)
        assert made.cost("attention").macs == macs
        assert made.cost("attention").dense_macs == 8


@pytest.mark.parametrize(
    ("options", "visible"),
    [
        ({}, 5 * 5),
        ({"is_causal": True}, 1 + 2 + 3 + 4 + 5),
        ({"attn_mask": torch.ones(5, 5).tril(1).bool()}, 2 + 3 + 4 + 5 + 5),
    ],
)
def test_attention_counts_the_keys_that_a_query_sees(options, visible):
    made, heads, dim = ledger(), 2, 4
    q, k, v = torch.ones(3, 1, heads, 5, dim)
    out = nn.functional.scaled_dot_product_attention(q, k, v, **options)
    rules.scaled_dot_product(made, (q, k, v), options, out)
    assert made.cost("attention").macs == 2 * dim * heads * visible
    assert made.cost("attention").dense_macs == 2 * dim * heads * 25
    softmax = made.cost("softmax")
    assert (softmax.additions, softmax.special) == (3 * heads * visible, heads * (visible + 5))


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [(1, 0, 1, 1), (2, 1, 1, 1), (1, 2, 2, 1), (2, 1, 1, 4), (1, "same", 1, 1)],
)
def test_a_convolution_equals_a_loop_over_its_taps(stride, padding, dilation, groups):
    torch.manual_seed(0)
    made = ledger()
    counts = torch.randint(0, 3, (1, 4, 9)).tolist()
    x, weight = spiking(made, counts), weights(made, 4, 4 // groups, 3)
    out = nn.functional.conv1d(x, weight, None, stride, padding, dilation, groups)
    rules.convolution(made, (x, weight, None, stride, padding, dilation, groups), {}, out)
    before = 1 if padding == "same" else padding
    added = 0
    for o, t, tap, c in itertools.product(range(4), range(out.shape[2]), range(3), range(4)):
        place = t * stride + tap * dilation - before
        if 0 <= place < 9 and (groups == 1 or c == o):
            added += counts[0][c][place]
    cost = made.cost("depthwise_conv" if groups > 1 else "conv")
    assert cost.acs == added > 0 and cost.macs == 0
    assert cost.dense_macs == out.numel() * 3 * 4 / groups


def test_each_position_reaches_the_outputs_that_read_it():
    # 5 positions, kernel 3, stride 2, one zero before: outputs start at -1, 1, 3
    assert rules.covering(5, 3, 3, 2, 1, 1).tolist() == [1, 2, 1, 2, 1]


def test_a_transposed_convolution_is_not_covered():
    made = ledger()
    x = torch.ones(1, 2, 3)
    args = x, torch.ones(2, 2, 3), None, [1], [0], [1], True, [0], 1
    rules.aten_convolution(made, args, {}, torch.ones(1, 2, 5))
    assert made.uncovered == {"transposed convolution": [1, 10]} and not made.costs
