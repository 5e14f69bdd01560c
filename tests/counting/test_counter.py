"""Counts against brute force, against torch's own counter, and what must not change them."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from espnet_spike.counting.costs import PRODUCTS, total
from espnet_spike.counting.counter import Counter, count_batch
from espnet_spike.encoders.iml_spikeformer import IMLSpikeformerEncoder
from espnet_spike.encoders.speech_mamba import (
    EventSpeechMambaEncoder,
    SpeechMambaEncoder,
    SpikingSpeechMambaEncoder,
)
from espnet_spike.nn.accounting import COLUMNS
from espnet_spike.nn.layers.fatrelu import FATReLU
from espnet_spike.nn.layers.mamba import SelectiveSSM
from espnet_spike.nn.layers.spike_layers import SpikeConv1d, SpikeConv2d, SpikeLinear
from espnet_spike.nn.neurons.base import named_neurons, set_spike_mode
from espnet_spike.nn.neurons.factory import NormedNeuron
from espnet_spike.nn.neurons.frame_lif import FrameLIF
from espnet_spike.nn.neurons.imls import IMLS
from espnet_spike.nn.neurons.lif import ILIF
from espnet_spike.nn.neurons.ternary import TernaryMomentum, ternary_digits
from espnet_spike.nn.ops.selective_scan import selective_scan

SMALL = {
    **{"output_size": 8, "attention_heads": 2, "linear_units": 12, "num_blocks": 2},
    "conv_channels": 4,
}


def count(model, *args, run=None, **kwargs):
    with torch.inference_mode(), Counter(model) as counter:
        (run or model)(*args, **kwargs)
    return counter


def kinds(counter):
    found = {}
    for (_, kind), cost in counter.costs.items():
        found.setdefault(kind, []).append(cost)
    return {kind: total(costs) for kind, costs in found.items()}


def products(costs):
    return total(cost for (_, kind), cost in costs.items() if kind in PRODUCTS)


def encoder(**conf):
    torch.manual_seed(0)
    return IMLSpikeformerEncoder(20, **(SMALL | conf)).eval()


def speech(frames=41, dim=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, frames, dim, generator=generator), torch.tensor([frames])


class Chain(nn.Module):
    def __init__(self, neuron, layer):
        super().__init__()
        self.neuron, self.layer = neuron, layer

    def forward(self, x):
        return self.layer(self.neuron(x))


def spikes_of(neuron, x):
    """The spikes of each activation, from the neuron's definition."""
    with torch.inference_mode():
        if isinstance(neuron, TernaryMomentum):
            unit = neuron.frame_level(x, None)[..., None] * neuron.channel_scale(x, None)
            return sum(d.abs() for d in ternary_digits(x / unit, neuron.slots)).numpy()
        if isinstance(neuron, IMLS):
            return neuron.spike_train(x).counts.numpy()
        y = neuron(x)
        return (y / neuron.unit if isinstance(neuron, ILIF) else y).numpy()


NEURONS = {
    "imls": lambda dim: IMLS(dim),
    "utt": lambda dim: IMLS(dim, stat="utt"),
    "fixed": lambda dim: IMLS(dim, stat="fixed", rounding="even"),
    "ternary": lambda dim: TernaryMomentum(dim, T=3),
    "ilif": lambda dim: ILIF(dim, divide=True),
    "frame_lif": lambda dim: FrameLIF(dim, v_th=0.3),
}


@pytest.mark.parametrize("name", NEURONS)
def test_linear_equals_a_loop_over_all_weights(name):
    torch.manual_seed(1)
    neuron = NEURONS[name](6)
    model = Chain(neuron, SpikeLinear(6, 5)).eval()
    x = torch.randn(1, 7, 6)
    counts = spikes_of(neuron, x)
    accumulates = 0
    for frame in range(7):
        for channel in range(6):
            for _spike in range(int(counts[0, frame, channel])):
                accumulates += 5  # one addition into each output
    found = kinds(count(model, x))
    assert found["linear"].acs == accumulates > 0
    assert found["linear"].macs == 0
    assert found["linear"].dense_macs == 7 * 6 * 5
    assert found["neuron"].updates == 7 * 6
    assert found["neuron"].spikes == counts.sum()
    assert found["neuron"].nonzeros == (counts != 0).sum()


def staircase(levels=3, **options):
    """A neuron of threshold 0.5, whatever the input."""
    neuron = IMLS(4, T=levels, alpha_init=0.5, stat="fixed", **options)
    return neuron.eval()


# counts 2 0 1 3, then 0 0 0 1; the last input is beyond the largest count
PAPER = torch.tensor([[[1.0, -1.0, 0.5, 9.0], [0.0, 0.1, 0.2, 0.6]]])


def test_a_network_counted_on_paper():
    model = Chain(staircase(), SpikeLinear(4, 2)).eval()
    found = kinds(count(model, PAPER))
    neuron, linear = found["neuron"], found["linear"]
    assert (linear.dense_macs, linear.macs) == (2 * 4 * 2, 0)
    assert linear.acs == (2 + 1 + 3 + 1) * 2
    assert linear.event_macs == 4 * 2  # four events, each into two outputs
    assert linear.additions == 2 * 2  # the bias, once a result
    assert (linear.values_read, linear.weights_read) == (4 * 2 + 2, 4 * 2 + 2)
    assert (linear.values_written, linear.partial_written) == (2 * 2, 0)
    assert linear.events_read == 4
    # two bits name a channel, two hold a count of up to 3
    assert linear.event_bits_read == neuron.event_bits_written == 4 * (2 + 2)
    assert linear.spike_bits_read == neuron.spike_bits_written == 8 * 2
    assert (neuron.updates, neuron.multiplies, neuron.additions) == (8, 8, 2 * 8)
    assert (neuron.unit_multiplies, neuron.statistic_read) == (0, 0)
    assert (linear.weight_size, linear.input_size, linear.output_size) == (8, 4, 2)


def test_a_threshold_that_follows_its_input_costs_a_read_and_a_multiplication_more():
    model = Chain(IMLS(4, T=3), SpikeLinear(4, 2)).eval()
    neuron = kinds(count(model, PAPER))["neuron"]
    assert (neuron.unit_multiplies, neuron.statistic_read) == (8, 8)
    assert (neuron.multiplies, neuron.additions, neuron.special) == (8, 3 * 8, 2)


def test_sums_over_slots_stay_in_accumulators():
    model = Chain(staircase(), SpikeLinear(4, 2)).eval()
    integer = kinds(count(model, PAPER))
    model.neuron.set_spike_mode("binary")
    counter = count(model, PAPER)
    found = total(cost for (_, kind), cost in counter.costs.items() if kind != "neuron")
    linear = integer["linear"]
    assert (found.acs, found.macs) == (linear.acs, 0)
    assert found.event_macs == found.acs  # each slot's spike is an event
    assert (found.dense_macs, found.repeated_macs) == (3 * 16, 2 * 16)  # the weights stay
    assert linear.repeated_macs == 0
    # three slots of 2 x 2 sums, two additions of slots, the unit, the bias
    assert found.values_written == 4 * (3 + 2 + 1 + 1)
    assert found.values_written - found.partial_written == linear.values_written == 4
    assert found.additions - found.partial_additions == linear.additions == 4
    assert found.values_read - found.partial_read == linear.values_read + 1  # the unit
    assert found.weights_read == linear.weights_read
    assert found.event_bits_read == found.acs / 2 * 2  # a channel; there is but one level


@pytest.mark.parametrize("conf", [{}, {"qk_mode": "asym"}, {"conv_module": True}], ids=str)
@pytest.mark.parametrize("fold", [False, True])
def test_binary_execution_writes_what_integer_counts_write(conf, fold):
    model = encoder(conv_module_kernel=3, **conf)
    model.reparameterize(fold_qk=fold)
    integer = products(count(model, *speech()).costs)
    set_spike_mode(model, "binary")  # that of the encoder merges W_Q and W_K
    binary = products(count(model, *speech()).costs)
    # in a convolution over frames each result has a factor for each frame; that is the only other
    written = [cost.values_written - cost.partial_written for cost in (integer, binary)]
    assert written[1] <= written[0] < binary.values_written
    assert binary.dense_macs - binary.repeated_macs == integer.dense_macs


def test_the_unit_of_v_is_a_multiplication_behind_the_map():
    block = encoder().encoders[1]
    mask, lengths = torch.ones(1, 6, dtype=torch.bool), torch.tensor([6])
    costs = count(block, torch.randn(1, 6, 8), mask, lengths).costs
    assert costs["attn", "attention"].channel_multiplies == 6 * 8
    assert sum(cost.channel_multiplies for cost in costs.values()) == 6 * 8


def test_an_event_of_a_convolution_is_one_for_each_output_it_reaches():
    torch.manual_seed(3)
    neuron = IMLS(6)
    model = Chain(neuron, SpikeConv1d(6, 4, 3)).eval()
    x = torch.randn(1, 8, 6)
    events = (spikes_of(neuron, x)[0] != 0).sum(1)
    # frames at the edges reach two of the three taps
    expected = 4 * (3 * events.sum() - events[0] - events[-1])
    found = kinds(count(model, x))["conv"]
    assert found.event_macs == expected < found.acs
    assert found.weights_read == 6 * 4 * 3 + 4


def test_the_scan_of_spikes_makes_delta_b_for_each_event():
    from espnet_spike.nn.layers.mamba import SelectiveSSM

    torch.manual_seed(5)
    ssm = SelectiveSSM(4, 3, 2, 2, activation=NormedNeuron(FrameLIF(4, v_th=0.3))).eval()
    x = torch.randn(1, 6, 4)
    with torch.inference_mode():
        frames = int(ssm.activation(ssm.conv(x)).any(-1).sum())  # in the others C is zero
    counter = count(ssm, x, torch.tensor([6]), None)
    scan = counter.costs["", "scan"]
    (events,) = (cost.spikes for (_, kind), cost in counter.costs.items() if kind == "neuron")
    assert scan.state_multiplies == 3 * events > 0  # three states, none of B is zero
    assert scan.acs == scan.event_macs == 3 * events + events
    assert scan.multiplies == 2 * 6 * 4 * 3  # Delta A and exp(Delta A) h
    assert (scan.macs, scan.dense_macs) == (frames * 4 * 3, 6 * 4 * (2 * 3 + 1))


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 3), (3, 1)])
def test_conv2d_equals_a_loop_over_all_weights(kernel, stride):
    torch.manual_seed(2)
    neuron = IMLS(3)
    model = Chain(neuron, SpikeConv2d(3, 4, kernel, stride)).eval()
    x = torch.randn(1, 11, 9, 3)
    counts = spikes_of(neuron, x)[0]
    rows, columns = ((size - kernel) // stride + 1 for size in (11, 9))
    accumulates = 0
    for _out, r, c, i, j, channel in itertools.product(
        range(4), range(rows), range(columns), range(kernel), range(kernel), range(3)
    ):
        accumulates += int(counts[r * stride + i, c * stride + j, channel])
    found = kinds(count(model, x))
    assert found["conv"].acs == accumulates > 0
    assert found["conv"].dense_macs == 4 * rows * columns * kernel**2 * 3
    # the unit of a frame goes to each tap, before taps of other frames are added
    assert found["rescale"].multiplies == rows * columns * 4 * kernel


@pytest.mark.parametrize("groups", [1, 6])
def test_padded_conv1d_counts_no_padding(groups):
    torch.manual_seed(3)
    neuron = IMLS(6)
    model = Chain(neuron, SpikeConv1d(6, 6, 5, groups=groups)).eval()
    x = torch.randn(1, 8, 6)
    counts = spikes_of(neuron, x)[0]
    accumulates = 0
    for out, t, tap, channel in itertools.product(range(6), range(8), range(5), range(6)):
        source = t + tap - 2
        if 0 <= source < 8 and (groups == 1 or channel == out):
            accumulates += int(counts[source, channel])
    found = kinds(count(model, x))["conv" if groups == 1 else "depthwise_conv"]
    assert found.acs == accumulates > 0
    assert found.dense_macs == 8 * 5 * 6 * (6 if groups == 1 else 1)


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (3, 2), (4, 1), (2, 3)])
def test_same_padding_counts_as_torch_pads(kernel, dilation):
    torch.manual_seed(3)
    layer = nn.Conv1d(3, 4, kernel, padding="same", dilation=dilation)
    x = torch.randn(1, 3, 9)
    values = torch.relu(x)[0]
    # how many inputs that are not zero each output sees: a convolution of ones by torch itself
    ones = torch.ones(1, 3, kernel)
    seen = nn.functional.conv1d(values.ne(0).float()[None], ones, padding="same", dilation=dilation)
    found = kinds(count(nn.Sequential(nn.ReLU(), layer), x))["conv"]
    assert found.macs == 4 * seen.sum() > 0
    assert found.dense_macs == 9 * 4 * 3 * kernel


def test_real_input_counts_macs_of_values_that_are_not_zero():
    torch.manual_seed(4)
    model = nn.Sequential(FATReLU(0.4, learn=False), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    x = torch.randn(1, 7, 6)
    with torch.inference_mode():
        hidden = model[0](x)
        second = model[2](model[1](hidden))
    found = count(model, x)
    first, last = found.costs["1", "linear"], found.costs["3", "linear"]
    assert first.macs == 5 * np.count_nonzero(hidden) and first.acs == 0
    assert last.macs == 3 * np.count_nonzero(second)
    assert found.costs["0", "activation"].nonzeros == np.count_nonzero(hidden)


def attention_reference(block, x):
    """Products of one attention, quadratic and unfolded, element by element."""
    attn = block.attn
    frames = x.shape[1]
    lengths, mask = torch.tensor([frames]), torch.ones(1, frames, dtype=torch.bool)
    with torch.inference_mode():
        normed = block.norm_attn(x, mask)
        s_in = spikes_of(attn.neuron_in, normed)[0]
        xs = attn.neuron_in(normed, mask)
        s_v = spikes_of(attn.neuron_v, attn.linear_v(xs))[0]
        s_out = spikes_of(attn.neuron_out, attn.context(xs, mask, lengths))[0]
    dim, heads = attn.dim, attn.heads
    acs = {"linear_q": 0, "linear_k": 0, "linear_v": 0, "linear_out": 0, "map_v": 0}
    macs = 0
    for n, c in itertools.product(range(frames), range(dim)):
        for name in ("linear_q", "linear_k", "linear_v"):
            acs[name] += dim * int(s_in[n, c])
        acs["linear_out"] += dim * int(s_out[n, c])
        for _query in range(frames):
            acs["map_v"] += int(s_v[n, c])
    for _head, _query, _key, _channel in itertools.product(
        range(heads), range(frames), range(frames), range(dim // heads)
    ):
        macs += 1  # real times real
    return acs, macs


def test_attention_equals_a_loop_over_its_products():
    block = encoder().encoders[1]
    x = torch.randn(1, 6, 8)
    acs, macs = attention_reference(block, x)
    mask, lengths = torch.ones(1, 6, dtype=torch.bool), torch.tensor([6])
    costs = count(block, x, mask, lengths).costs
    for name in ("linear_q", "linear_k", "linear_v", "linear_out"):
        assert costs[f"attn.{name}", "linear"].acs == acs[name] > 0
    assert costs["attn", "attention"].acs == acs["map_v"] > 0
    assert costs["attn", "attention"].macs == macs
    # the mask meets every entry of the two maps; their rows' factors, a constant of the length,
    # every value of the context
    assert costs["attn", "decay_mask"].multiplies == 2 * 6 * 6 + 6 * 8


MODES = ("bilinear", "asym", "repconv", "ssa", "sdsa")


@pytest.mark.parametrize("form", ["quadratic", "chunkwise"])
@pytest.mark.parametrize("qk_mode", MODES)
@pytest.mark.parametrize("neuron", ["imls", "ilif", "lif", "ternary", "relu"])
def test_every_form_of_the_encoder_is_covered(qk_mode, neuron, form):
    conf = {"T": 2, "conv_module": True, "conv_module_kernel": 3, "norm": "bn"}
    model = encoder(qk_mode=qk_mode, neuron=neuron, attention_form=form, **conf)
    counter = count(model, *speech())
    assert not counter.uncovered and not counter.lost
    found = products(counter.costs)
    first = counter.costs["embed.convs.0", "conv"]
    taps = torch.ones(4, 1, 3, 3, dtype=torch.double)  # analog input: all that is not zero
    shown = nn.functional.conv2d((speech()[0][:, None] != 0).double(), taps, stride=2)
    assert (first.macs, first.acs) == (shown.sum(), 0)
    assert (found.acs == 0) == (neuron == "relu")
    if neuron != "relu" and qk_mode in ("ssa", "sdsa", "asym") and form == "quadratic":
        # nothing else is real times real
        assert found.macs == first.macs
    with torch.inference_mode(), FlopCounterMode(display=False) as flops:
        model(*speech())
    assert 2 * found.dense_macs == flops.get_total_flops()


@pytest.mark.parametrize("qk_mode", MODES)
@pytest.mark.parametrize(
    ("neuron", "stat"), [("imls", "token"), ("imls", "utt"), ("ilif", "token")]
)
def test_integer_counts_cost_what_their_binary_spikes_cost(qk_mode, neuron, stat):
    model = encoder(qk_mode=qk_mode, neuron=neuron, imls_stat=stat, conv_module=True).double()
    x, lengths = speech()
    model.reparameterize()
    integer = count(model, x.double(), lengths)
    model.set_spike_mode("binary")
    binary = count(model, x.double(), lengths)
    assert not binary.uncovered and not binary.lost
    for key, cost in integer.costs.items():
        if key[1] in PRODUCTS:
            assert (binary.costs[key].acs, binary.costs[key].macs) == (cost.acs, cost.macs), key
    for index, block in enumerate(model.encoders):
        spikes = float(block.ffn.neuron_hidden.firing.count_sum)
        assert integer.costs[f"encoders.{index}.ffn.linear_out", "linear"].acs == 8 * spikes > 0


def test_folding_trades_macs_for_accumulates():
    unfolded, folded = encoder(), encoder()
    folded.reparameterize()
    before, after = (products(count(m, *speech()).costs) for m in (unfolded, folded))
    conv = count(folded, *speech()).costs["embed.convs.0", "conv"].macs
    assert after.macs == conv < before.macs
    assert after.acs > before.acs


@given(st.lists(st.integers(12, 40), min_size=1, max_size=4), st.integers(0, 9))
@settings(max_examples=8, deadline=None)
def test_neither_batch_nor_padding_changes_a_count(frames, padding):
    model = encoder()
    generator = torch.Generator().manual_seed(sum(frames))
    xs = [torch.randn(n, 20, generator=generator) for n in frames]
    batch = torch.full((len(xs), max(frames) + padding, 20), 7.0)  # padding is not even zero
    for row, x in zip(batch, xs, strict=True):
        row[: len(x)] = x
    together = count_batch(model, batch, torch.tensor(frames))
    for x, found in zip(xs, together, strict=True):
        alone = count(model, x[None], torch.tensor([len(x)])).costs
        assert {key: cost for key, cost in alone.items()} == found


MAMBA = {
    **{"output_size": 8, "attention_heads": 2, "linear_units": 12, "num_blocks": 1},
    **{"d_state": 3, "d_conv": 2},
}


class Scanned(list):
    """Products that each scan did: input into state, input past it, state into output."""

    dense = 0.0


def scan_products(model):
    """Collect the products of scans, one by one, from what they read."""
    found = Scanned()

    def watched(scan):
        def run(u, delta, B, C, *rest):
            into = (u != 0)[:, :, None] & (B != 0)[:, None]
            out = (u == u)[:, :, None] & (C != 0)[:, None]
            found.extend(float(x.sum()) for x in (into, u != 0, out))
            found.dense += 2 * into.numel() + u.numel()
            return scan(u, delta, B, C, *rest)

        return run

    for module in model.modules():
        if isinstance(module, SelectiveSSM):
            vars(module)["scan"] = watched(module.scan)
    return found


@pytest.mark.parametrize("block", ["mamba_mhsa_mamba", "mhsa_mamba", "conmamba", "mamba_ffn"])
@pytest.mark.parametrize(
    "make",
    [
        SpeechMambaEncoder,
        lambda dim, **conf: EventSpeechMambaEncoder(
            dim, fat_points="optimized", fat_threshold=0.1, **conf
        ),
    ],
)
def test_speech_mamba_is_covered(make, block):
    torch.manual_seed(0)
    model = make(20, block=block, conv_kernel=3, **MAMBA).eval()
    scanned = scan_products(model)
    counter = count(model, *speech())
    assert not counter.uncovered and not counter.lost
    found = kinds(counter)
    assert (found["scan"].macs, found["scan"].dense_macs) == (sum(scanned), scanned.dense)
    assert products(counter.costs).acs == 0
    with torch.inference_mode(), FlopCounterMode(display=False) as flops:
        model(*speech())
    # torch sees neither the scan nor, on a CPU, attention with softmax
    seen = ("linear", "conv", "depthwise_conv")
    seen = sum(found[kind].dense_macs for kind in seen if kind in found)
    assert 2 * seen == flops.get_total_flops()


def test_spiking_speech_mamba_reads_spikes():
    torch.manual_seed(0)
    conf = MAMBA | {"conv_skip": True}
    model = SpikingSpeechMambaEncoder(20, v_th=0.1, attn_v_th=0.1, **conf).eval()
    scanned = scan_products(model)
    counter = count(model, *speech())
    assert not counter.uncovered and not counter.lost
    frames = model(*speech())[0].shape[1]
    for layer in ("linear_q", "linear_k", "linear_v", "linear_out"):
        cost = counter.costs[f"encoders.0.attn.sublayer.{layer}", "linear"]
        assert (cost.macs, cost.dense_macs) == (0, frames * 8 * 8)
    for mamba in ("encoders.0.mamba_in.sublayer", "encoders.0.mamba_out.sublayer"):
        spikes = float(model.get_submodule(mamba).f5.neuron.firing.count_sum)
        assert counter.costs[f"{mamba}.in_proj", "linear"].acs == 32 * spikes > 0
        assert counter.costs[f"{mamba}.in_proj", "linear"].macs == 0
        assert counter.costs[f"{mamba}.out_proj", "linear"].macs == 0
        # one where both fire, which is what out_proj reads
        passed = counter.costs[f"{mamba}.out_proj", "linear"].nonzeros
        assert counter.costs[mamba, "gate"].multiplies == passed > 0
    # a spike adds its column of Delta B to the state, and D; C meets the state in any case
    past = len(scanned) // 2
    into, skip, out = (sum(scanned[:past][part::3]) for part in range(3))
    scan = kinds(counter)["scan"]
    assert (scan.acs, scan.macs, scan.event_macs) == (into + skip, out, into + skip)
    assert into > 0


@pytest.mark.parametrize("per_channel", [False, True])
def test_integer_neurons_of_spiking_speech_mamba_cost_an_addition_a_spike(per_channel):
    torch.manual_seed(0)
    conf = MAMBA | {"conv_skip": True, "neuron": "ilif", "T": 3, "per_channel": per_channel}
    model = SpikingSpeechMambaEncoder(20, v_th=0.3, attn_v_th=0.1, **conf).eval()
    for neuron in named_neurons(model).values():
        if per_channel:
            nn.init.uniform_(neuron.u, -0.2, 0.2)  # what a spike is worth is no count
    seen = {}
    hooks = [
        neuron.register_forward_hook(
            lambda n, x, y, name=name: seen.update({name: (y / n.worth()).round()})
        )
        for name, neuron in named_neurons(model).items()
    ]
    with torch.inference_mode():
        model(*speech())
    for hook in hooks:
        hook.remove()
    counter = count(model, *speech())
    assert not counter.uncovered and not counter.lost
    block = "encoders.0"
    read = seen[f"{block}.attn.sublayer.neuron_in"]
    assert read.max() > 1
    for layer in ("linear_q", "linear_k", "linear_v"):
        cost = counter.costs[f"{block}.attn.sublayer.{layer}", "linear"]
        assert (cost.acs, cost.macs) == (8 * read.sum(), 0)
    for mamba in (f"{block}.mamba_in.sublayer", f"{block}.mamba_out.sublayer"):
        gated = seen[f"{mamba}.f7.neuron"] * seen[f"{mamba}.f6.neuron"]
        assert seen[f"{mamba}.f6.neuron"].max() == 1
        assert counter.costs[f"{mamba}.out_proj", "linear"].acs == 8 * gated.sum() > 0
        assert counter.costs[mamba, "gate"].multiplies == (gated != 0).sum()


@pytest.mark.parametrize("backend", ["numba", "torch", "ref"])
def test_scan_equals_a_loop_over_states(backend, monkeypatch):
    from espnet_spike.nn.layers import mamba

    torch.manual_seed(5)
    ssm = mamba.SelectiveSSM(4, 3, 2, 2, scan_backend=backend).eval()
    x = torch.randn(1, 6, 4)
    seen = {}

    def watch(u, delta, A, B, C, *args, **kwargs):
        u[u.abs() < 0.1] = 0  # some zeros
        C[..., :2] = 0
        seen.update(u=u.clone(), B=B.clone(), C=C.clone())
        return selective_scan(u, delta, A, B, C, *args, **kwargs)

    monkeypatch.setattr(mamba, "selective_scan", watch)
    found = count(ssm, x, torch.tensor([6]), None).costs["", "scan"]
    macs = multiplies = special = dense = 0
    u, B, C = (seen[name][0].numpy() for name in "uBC")
    for t, d in itertools.product(range(6), range(4)):
        dense += 1
        macs += u[d, t] != 0  # D u
        multiplies += u[d, t] != 0  # delta u
        for n in range(3):
            multiplies += 2  # delta A, decay h
            special += 1  # exp
            dense += 2
            macs += int(u[d, t] != 0 and B[n, t] != 0) + int(C[n, t] != 0)
    assert (found.macs, found.multiplies) == (macs, multiplies)
    assert (found.special, found.dense_macs) == (special, dense)


@pytest.mark.parametrize("name", ["transformer", "conformer", "e_branchformer"])
def test_espnet_encoders_are_covered(name):
    import espnet_spike.task as task

    choices = {c.name: c for c in task.SpikeASRTask.class_choices_list}["encoder"]
    conf = {"output_size": 8, "attention_heads": 2, "num_blocks": 2}
    if name == "conformer":
        conf |= {"rel_pos_type": "latest", "macaron_style": True}
        conf |= {"pos_enc_layer_type": "rel_pos", "selfattention_layer_type": "rel_selfattn"}
    model = choices.get_class(name)(input_size=20, **conf).eval()
    counter = count(model, *speech())
    assert not counter.uncovered and not counter.lost
    found = products(counter.costs)
    assert found.acs == 0 and 0 < found.macs <= found.dense_macs
    with torch.inference_mode(), FlopCounterMode(display=False, depth=9) as flops:
        model(*speech())
    # projections of positions depend on the length alone: torch counts them, we do not
    ahead = sum(
        sum(by_op.values())
        for layer, by_op in flops.get_flop_counts().items()
        if layer.endswith("linear_pos")
    )
    assert 2 * found.dense_macs == flops.get_total_flops() - ahead


def test_masked_attention_counts_visible_keys():
    model = SpeechMambaEncoder(20, attention_window=(2, 1), **MAMBA).eval()
    found = count(model, *speech()).costs["encoders.0.attn.sublayer", "attention"]
    frames = 11
    visible = sum(-2 <= j - i <= 1 for i in range(frames) for j in range(frames))
    assert found.macs == 2 * visible * 8
    assert found.dense_macs == 2 * frames**2 * 8


class Odd(nn.Module):
    """Operations that no rule knows, and spikes that become real values."""

    def __init__(self):
        super().__init__()
        self.neuron, self.linear = IMLS(4), nn.Linear(4, 2)

    def forward(self, x):
        y = torch.fft.fft(torch.complex(x, x)).real
        return self.linear(self.neuron(x) + 1.0) + self.linear(y)


def test_nothing_is_dropped_silently():
    counter = count(Odd(), torch.randn(1, 3, 4))
    assert any("fft" in name for name in counter.uncovered)
    assert all(calls == 1 and numbers > 0 for calls, numbers in counter.uncovered.values())
    assert dict(counter.lost) == {"add": 1}
    assert counter.costs["linear", "linear"].acs == 0  # real values now


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("rsub", lambda x: 1.0 - x),
        ("neg", lambda x: -x),
        ("clamp", lambda x: x.clamp(max=1.0)),
        ("where", lambda x: torch.where(x > 0.5, x, torch.zeros_like(x))),
        ("exp", lambda x: x.clone().exp_()),
    ],
)
def test_spikes_that_become_real_element_by_element_are_named(name, change):
    class Changed(nn.Module):
        def __init__(self):
            super().__init__()
            self.neuron, self.linear = IMLS(4), nn.Linear(4, 2)

        def forward(self, x):
            return self.linear(change(self.neuron(x)))

    counter = count(Changed(), torch.randn(1, 3, 4))
    assert dict(counter.lost) == {name: 1}
    assert counter.costs["linear", "linear"].acs == 0


class Moves(nn.Module):
    def __init__(self):
        super().__init__()
        self.neuron, self.linear = IMLS(4), nn.Linear(8, 3, bias=False)

    def forward(self, x):
        y = self.neuron(x)
        padded = nn.functional.pad(y * 0.5, (0, 0, 2, 1))
        joined = torch.cat([padded, padded.flip(1)], -1)
        keep = torch.arange(joined.shape[1]) != 3
        return self.linear(joined.masked_fill(~keep[:, None], 0.0).transpose(0, 1).clone())


def test_spikes_are_followed_through_moves():
    torch.manual_seed(6)
    model, x = Moves(), torch.randn(1, 5, 4)
    counts = np.pad(spikes_of(model.neuron, x)[0], ((2, 1), (0, 0)))
    joined = np.concatenate([counts, counts[::-1]], -1)
    joined[3] = 0
    counter = count(model, x)
    assert counter.costs["linear", "linear"].acs == 3 * joined.sum() > 0
    assert counter.costs["linear", "linear"].macs == 0 and not counter.lost


def test_two_spiking_operands_cost_where_both_fire():
    class Meet(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k = IMLS(4), IMLS(4, T=1)

        def forward(self, x):
            return self.q(x) @ self.k(-x).transpose(1, 2)

    torch.manual_seed(7)
    model, x = Meet(), torch.randn(1, 5, 4)
    q, k = spikes_of(model.q, x)[0], spikes_of(model.k, -x)[0]
    expected = sum(
        int(q[i, c]) * int(k[j, c]) for i, j, c in itertools.product(range(5), range(5), range(4))
    )
    assert count(model, x).costs["", "attention"].acs == expected > 0


def test_the_model_is_left_as_it_was():
    model = encoder()
    before = model(*speech())[0]
    counter = count(model, *speech())
    assert all("forward" not in vars(module) for module in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(model(*speech())[0], before)
    assert not counter.ledger.knows_spikes and not counter.ledger._constants


def test_weights_prepared_ahead_cost_nothing():
    class Prepared(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.scale = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.ones(4))

        def forward(self, x):
            return x @ (self.weight * self.scale.exp()).t()

    found = kinds(count(Prepared(), torch.randn(2, 4)))
    assert set(found) == {"linear"}
    assert found["linear"].macs == 2 * 3 * 4


def test_every_column_is_a_running_sum():
    model = encoder()
    x, lengths = speech()
    with torch.inference_mode(), Counter(model) as counter:
        model(x, lengths)
        once = {key: {c: getattr(cost, c) for c in COLUMNS} for key, cost in counter.costs.items()}
        model(x, lengths)
    for key, cost in counter.costs.items():
        for column in COLUMNS:
            assert getattr(cost, column) == 2 * once[key][column], (key, column)


@pytest.mark.parametrize(
    ("layer", "x", "weights"),
    [
        (lambda: SpikeConv2d(4, 5, 3, 2), (1, 9, 7, 4), 5 * 4 * 3 * 3),
        (lambda: SpikeConv1d(4, 6, 5), (1, 9, 4), 6 * 4 * 5),
        (lambda: SpikeConv1d(4, 4, 5, groups=4), (1, 9, 4), 4 * 5),
        (lambda: SpikeLinear(4, 6), (1, 9, 4), 6 * 4),
    ],
)
def test_a_layer_holds_all_its_weights_in_every_form(layer, x, weights):
    """A machine that takes tap after tap needs all of them for the next frame."""
    torch.manual_seed(4)
    model = Chain(IMLS(4), layer()).eval()
    for mode in ("integer", "binary"):
        set_spike_mode(model, mode)
        counter = count(model, torch.randn(x))
        held = [c.weight_size for (name, _), c in counter.costs.items() if name == "layer"]
        assert max(held) == weights, mode


def test_the_merged_map_holds_the_matrices_of_all_heads():
    model = encoder(num_blocks=1)
    model.reparameterize(fold_qk=True)
    for mode in ("integer", "binary"):
        set_spike_mode(model, mode)
        costs = count(model, *speech()).costs
        held = [
            c.weight_size
            for (name, kind), c in costs.items()
            if name.startswith("encoders.0.attn") and kind == "linear"
        ]
        assert max(held) == 2 * 8 * 8, mode


def test_every_form_holds_the_same_weights():
    """Layer by layer; Q K^T and A V are products of activations."""
    held = {}
    for mode in ("integer", "binary"):
        model = encoder()
        model.reparameterize(fold_qk=False)
        set_spike_mode(model, mode)
        costs = count(model, *speech()).costs
        weighted = ("linear", "conv", "depthwise_conv")
        held[mode] = {key: c.weight_size for key, c in costs.items() if key[1] in weighted}
    assert held["integer"] == held["binary"]
    assert held["integer"]["embed.convs.1", "conv"] == 4 * 4 * 3 * 3
