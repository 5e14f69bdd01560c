"""The convolutional front end gives the same in overlapping pieces as in one go."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.encoders.iml_spikeformer import IMLSpikeformerEncoder
from espnet_spike.nn.layers.overlapping_chunks import (
    PIECE_FRAMES,
    PIECES_FROM,
    map_lengths,
    plan_pieces,
    receptive_field,
)
from espnet_spike.nn.layers.spiking_subsampling import INPUT_LAYERS, ConvSubsampling
from espnet_spike.nn.neurons.base import named_neurons
from espnet_spike.nn.neurons.factory import NEURONS, NeuronFactory
from tests.helpers.largest_tensor import LargestTensor

stacks = st.lists(
    st.integers(1, 3).flatmap(lambda s: st.tuples(st.integers(s, 6), st.just(s))),
    min_size=1,
    max_size=3,
)


@settings(deadline=None)
@given(stacks, st.integers(0, 200), st.integers(1, 120))
def test_plan_cuts_every_map_without_gap_or_overlap(layers, extra, size):
    field, factor = receptive_field(layers)
    length = field + extra
    totals = map_lengths(length, layers)
    pieces = plan_pieces(length, layers, size)
    for index, total in enumerate(totals):
        ends = [0] + [piece.own[index][1] for piece in pieces]
        assert [piece.own[index][0] for piece in pieces] == ends[:-1]
        assert ends[-1] == total
    assert pieces[-1].stop == length
    for piece in pieces:
        assert piece.start == piece.own[-1][0] * factor
        for index, made in enumerate(map_lengths(piece.stop - piece.start, layers)):
            first, last = piece.own[index]
            assert made >= last - first  # a piece makes all frames that it owns
        assert made == last - first  # and no output frame of another piece


@settings(deadline=None)
@given(stacks, st.integers(0, 100), st.integers(1, 60), st.data())
def test_masks_name_every_valid_frame_once(layers, extra, size, data):
    length = receptive_field(layers)[0] + extra
    ilens = torch.tensor(data.draw(st.lists(st.integers(0, length), min_size=1, max_size=3)))
    valid = map_lengths(ilens, layers)
    for index in range(len(layers)):
        seen = torch.zeros(len(ilens), map_lengths(length, layers)[index], dtype=torch.long)
        for piece in plan_pieces(length, layers, size):
            made = map_lengths(piece.stop - piece.start, layers)[index]
            first = piece.own[index][0]
            seen[:, first : first + made] += piece.mask(index, made, valid[index])
        expected = torch.arange(seen.shape[1]) < valid[index][:, None]
        assert torch.equal(seen, expected.long())


def test_size_beyond_the_length_is_one_piece():
    layers = INPUT_LAYERS["conv2d6"]
    (piece,) = plan_pieces(100, layers, 100)
    assert (piece.start, piece.stop) == (0, 100)
    assert piece.own == tuple((0, total) for total in map_lengths(100, layers))


def front_end(input_layer="conv2d6", neuron="imls", dtype=torch.double, size=24, **conf):
    torch.manual_seed(3)
    if neuron in ("lif", "ilif"):
        conf = {"v_th": 0.1} | conf  # an untrained network is silent with the usual threshold
    neurons = NeuronFactory(neuron, 1 if neuron == "relu" else 4, conf)
    module = ConvSubsampling(20, 6, neurons, input_layer).to(dtype).eval()
    module.pieces_from, module.piece_frames = 1, size
    return module


def whole_and_pieces(module, x, ilens):
    """Return (output, lengths, firing) of both ways."""
    results = []
    for pieces_from in (10**9, 1):
        module.pieces_from = pieces_from
        with torch.no_grad():
            y, olens = module(x, ilens)
        results.append((y, olens, {k: n.firing for k, n in named_neurons(module).items()}))
    return results


def assert_same(module, x, ilens):
    whole, pieces = whole_and_pieces(module, x, ilens)
    torch.testing.assert_close(pieces[0], whole[0], rtol=1e-9, atol=1e-9)
    assert torch.equal(pieces[1], whole[1])
    for name, firing in whole[2].items():
        assert pieces[2][name].count_sum == firing.count_sum > 0, name
        assert pieces[2][name].numel == firing.numel > 0, name
        assert pieces[2][name].levels == firing.levels


@pytest.mark.parametrize("input_layer", INPUT_LAYERS)
@pytest.mark.parametrize("neuron", NEURONS)
def test_seams_are_exact(input_layer, neuron):
    """Every spike count is the same; sizes that divide the length and that do not."""
    x = torch.randn(3, 131, 20, dtype=torch.double)
    ilens = torch.tensor([131, 60, 17])
    for size in (1, 24, 50):
        assert_same(front_end(input_layer, neuron, size=size), x, ilens)


@pytest.mark.parametrize("stat", ["token", "utt", "max", "ema", "fixed"])
@pytest.mark.parametrize("mode", ["integer", "binary"])
def test_every_statistic_and_spike_mode(stat, mode):
    """``utt`` looks at the whole utterance, beyond the piece at hand."""
    module = front_end(stat=stat)
    for neuron in named_neurons(module).values():
        neuron.spike_mode = mode
    x = torch.randn(2, 140, 20, dtype=torch.double) * torch.linspace(0.1, 3, 140)[:, None]
    assert_same(module, x, torch.tensor([140, 77]))


def test_utterance_statistic_behind_a_batch_norm():
    neurons = NeuronFactory("imls", 4, {"stat": "utt"}, norm=True)
    module = ConvSubsampling(20, 6, neurons, "conv2d6").double().eval()
    module.piece_frames = 24
    for neuron in module.neurons:
        torch.nn.init.normal_(neuron.norm.running_mean)
    x = torch.randn(2, 140, 20, dtype=torch.double)
    assert_same(module, x, torch.tensor([140, 77]))


def test_utterance_level_is_not_kept():
    module = front_end(stat="utt")
    loud = torch.randn(1, 100, 20, dtype=torch.double)
    ilens = torch.tensor([100])
    assert_same(module, loud, ilens)
    assert_same(module, loud / 10, ilens)


@settings(deadline=None, max_examples=20)
@given(st.integers(11, 120), st.integers(1, 130), st.sampled_from(sorted(INPUT_LAYERS)))
def test_any_length_and_piece_size(length, size, input_layer):
    module = front_end(input_layer, size=size)
    length = max(length, module.min_length)
    x = torch.randn(1, length, 20, dtype=torch.double)
    assert_same(module, x, torch.tensor([length]))


def test_maps_agree_in_fp32():
    """Before a neuron rounds, fp32 pieces and the whole differ by rounding errors at most."""
    module = front_end(dtype=torch.float)
    x, ilens = torch.randn(1, 200, 20), torch.tensor([200])
    lengths = map_lengths(ilens, module.layers)
    (whole,) = plan_pieces(200, module.layers, 200)
    with torch.no_grad():
        expected, _ = module.conv_map(x, whole, lengths, 0)
        for piece in plan_pieces(200, module.layers, 30):
            got, _ = module.conv_map(x, piece, lengths, 0)
            first = piece.own[0][0]
            torch.testing.assert_close(
                got, expected[:, first : first + got.shape[1]], rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize(("training", "grad"), [(True, False), (True, True), (False, True)])
def test_training_and_gradients_take_the_whole(training, grad):
    module = front_end().train(training)
    calls = []
    module.convs[0].register_forward_hook(lambda *_: calls.append(1))
    with torch.set_grad_enabled(grad):
        module(torch.randn(1, 100, 20, dtype=torch.double), torch.tensor([100]))
    assert len(calls) == 1


def test_pieces_are_chosen_by_length():
    module = front_end()
    module.pieces_from, module.piece_frames = PIECES_FROM, PIECE_FRAMES
    lengths = []
    module.convs[0].register_forward_hook(lambda m, args, y: lengths.append(args[0].shape[1]))
    with torch.no_grad():
        for length in (PIECES_FROM - 1, PIECES_FROM):
            module(torch.randn(1, length, 20, dtype=torch.double), torch.tensor([length]))
    overlap = module.min_length - module.factor
    assert lengths[0] == PIECES_FROM - 1
    assert len(lengths) > 2
    assert max(lengths[1:]) <= PIECE_FRAMES + overlap


def test_no_map_of_the_whole_input_is_made():
    module = front_end(dtype=torch.float, size=100)
    x = torch.randn(1, 4000, 20)
    with torch.no_grad(), LargestTensor() as largest:
        y, _ = module(x, torch.tensor([4000]))
    assert largest.elements <= max(y.numel(), 55 * 9 * 6)
    module.pieces_from = 10**9
    with torch.no_grad(), LargestTensor() as largest:
        module(x, torch.tensor([4000]))
    assert largest.elements >= 1999 * 9 * 6


@pytest.mark.parametrize("causal", [False, True])
def test_encoder_is_the_same_in_both_long_forms(causal):
    """Pieces and chunks together, end to end in float64: every count, every output."""
    torch.manual_seed(0)
    encoder = IMLSpikeformerEncoder(
        20, 8, 2, 16, num_blocks=3, input_layer="conv2d", qkv_bias=True, causal=causal
    )
    encoder = encoder.double().eval()
    x, ilens = torch.randn(2, 700, 20, dtype=torch.double), torch.tensor([700, 333])
    results = []
    for form, pieces_from in (("quadratic", 10**9), ("chunkwise", 1)):
        for block in encoder.encoders:
            block.attn.form = form
        encoder.embed.pieces_from, encoder.embed.piece_frames = pieces_from, 64
        with torch.no_grad():
            y, olens, _ = encoder(x, ilens)
        counts = {k: n.firing.count_sum for k, n in named_neurons(encoder).items()}
        results.append((y, olens, counts))
    (whole, olens, counts), (long, olens_long, counts_long) = results
    assert torch.equal(olens, olens_long)
    assert counts == counts_long
    for n, a, b in zip(olens, whole, long, strict=True):
        torch.testing.assert_close(b[:n], a[:n], rtol=1e-9, atol=1e-9)
