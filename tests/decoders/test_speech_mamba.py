"""The Mamba decoder: sizes, causality, step by step as a whole, beams that move hypotheses."""

import math
from collections import Counter
from itertools import pairwise

import pytest
import torch
from espnet2.legacy.nets.batch_beam_search import BatchBeamSearch, _compact
from espnet2.legacy.nets.beam_search import BeamSearch
from espnet2.legacy.nets.scorer_interface import BatchScorerInterface
from espnet2.torch_utils.initialize import initialize
from torch import nn

from espnet_spike.counting.costs import PRODUCTS
from espnet_spike.counting.counter import Counter as OperationCounter
from espnet_spike.decoders.speech_mamba import SpeechMambaDecoder
from espnet_spike.encoders.speech_mamba import SpeechMambaEncoder, SpikingSpeechMambaEncoder
from espnet_spike.nn.layers.cross_attention import CrossAttention
from espnet_spike.nn.layers.fatrelu import named_fatrelus, sparsities
from espnet_spike.nn.neurons.base import firing_rates
from espnet_spike.nn.neurons.frame_lif import named_frame_lifs
from tests.helpers.norms import excited

VOCAB, DIM = 11, 16
SMALL = {"num_blocks": 2, "attention_heads": 2, "d_state": 5}
HLENS = torch.tensor([9, 6, 1])
YLENS = torch.tensor([7, 3, 5])
SOS = VOCAB - 1
LIMITS = {torch.float32: 1e-5, torch.float64: 1e-12}


def make(dtype=torch.float64, **conf):
    torch.manual_seed(0)
    decoder = SpeechMambaDecoder(VOCAB, DIM, **SMALL | conf)
    for parameter in decoder.parameters():  # far from what they start from, so that all matter
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.4)
    return excited(decoder.to(dtype)).eval() if conf.get("spiking") else decoder.to(dtype).eval()


def batch(dtype=torch.float64):
    g = torch.Generator().manual_seed(1)
    hs = torch.randn(3, 9, DIM, generator=g, dtype=torch.float64).to(dtype)
    ys = torch.randint(0, VOCAB, (3, 7), generator=g)
    ys[:, 0] = SOS
    return hs, ys


def close(a, b, dtype=torch.float64):
    torch.testing.assert_close(a, b, rtol=LIMITS[dtype], atol=LIMITS[dtype])


def count(*modules):
    return sum(p.numel() for m in modules for p in m.parameters())


def test_parameters_are_those_published():
    with torch.device("meta"):
        decoder = SpeechMambaDecoder(5000, 512)
        linear, ctc = nn.Linear(1280, 512), nn.Linear(512, 5000)
    block = decoder.decoders[0]
    assert count(block.mamba_in) == count(block.mamba_out) == 2_432_512
    assert count(block.attn.sublayer) == 1_050_624
    assert count(decoder.decoders, decoder.after_norm) == 17_749_504
    assert count(linear, decoder.embed, decoder.output_layer, ctc) == 8_345_872
    with torch.device("meta"):
        spiking = SpeechMambaDecoder(5000, 512, spiking=True)
        encoder = SpeechMambaEncoder(80, conv_skip=True)
        spiking_encoder = SpikingSpeechMambaEncoder(80, conv_skip=True)
    assert count(spiking) - count(decoder) == 55_296
    assert count(encoder, decoder, ctc) == 67_634_768
    assert count(encoder, decoder, ctc) - count(encoder.embed.skip) == 67_628_048
    assert count(spiking_encoder, spiking, ctc) == 67_634_768 + 184_320


@torch.no_grad()
def test_it_is_embedding_position_blocks_norm_and_output():
    decoder = make()
    hs, ys = batch()
    position = torch.arange(7)[:, None] / 10000 ** (torch.arange(0, DIM, 2) / DIM)
    x = decoder.embed.weight[ys] * math.sqrt(DIM)
    x = x + torch.stack([position.sin(), position.cos()], -1).flatten(1)
    for block in decoder.decoders:
        mamba, attn = block.mamba_in, block.attn
        x = x + mamba.sublayer(mamba.norm(x), torch.full((3,), 7))
        kept = attn.sublayer.keys_values(hs, HLENS)
        x = x + attn.sublayer(attn.norm(x), None, kept)
        mamba = block.mamba_out
        x = x + mamba.sublayer(mamba.norm(x), torch.full((3,), 7))
    norm = decoder.after_norm
    assert norm.eps == 1e-6
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
    want = decoder.output_layer(x * norm.weight + norm.bias)
    got, _ = decoder(hs, HLENS, ys, torch.full((3,), 7))
    # ESPnet computes the positions in float32
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


OPTIONS = {
    "dense": {},
    "points": {"fat_points": "optimized", "fat_threshold": 0.2},
    "spiking": {"spiking": True, "v_th": 0.5, "attn_v_th": 0.03, "learn_tau": True},
}


@pytest.mark.parametrize("conf", OPTIONS.values(), ids=OPTIONS)
@torch.no_grad()
def test_padding_does_not_matter(conf):
    decoder = make(**conf)
    hs, ys = batch()
    out, lens = decoder(hs, HLENS, ys, YLENS)
    assert out.shape == (3, 7, VOCAB) and lens is YLENS
    frames = torch.arange(9) < HLENS[:, None]
    tokens = torch.arange(7) < YLENS[:, None]
    dirty = hs.masked_fill(~frames[..., None], 1e3), HLENS, ys.masked_fill(~tokens, 4), YLENS
    active = {name: float(share) for name, share in activity(decoder).items()}
    close(decoder(*dirty)[0][tokens], out[tokens])
    assert {name: float(share) for name, share in activity(decoder).items()} == active
    for row, (n, m) in enumerate(zip(HLENS, YLENS, strict=True)):
        alone, _ = decoder(hs[row : row + 1, :n], n[None], ys[row : row + 1, :m], m[None])
        close(alone[0], out[row, :m])


@torch.no_grad()
def test_a_token_knows_none_after_it():
    decoder = make()
    hs, ys = batch()
    changed = ys.clone()
    changed[:, 4:] = (ys[:, 4:] + 1) % VOCAB
    a, b = (decoder(hs, HLENS, y, torch.full((3,), 7))[0] for y in (ys, changed))
    close(a[:, :4], b[:, :4])
    assert (a[:, 4:] != b[:, 4:]).any(-1).all()


STEPS = [
    (backend, option, dtype)
    for backend in ("numba", "torch", "ref")
    for option in OPTIONS
    for dtype in LIMITS
    # another order of a sum may make a spike of none, and one spike another network
    if (backend, option) == ("numba", "points") or option == "dense" or dtype == torch.float64
]


@pytest.mark.parametrize(("backend", "option", "dtype"), STEPS)
@torch.no_grad()
def test_token_by_token_is_the_whole(backend, option, dtype):
    decoder = make(dtype, scan_backend=backend, **OPTIONS[option])
    hs, ys = batch(dtype)
    whole = decoder(hs, HLENS, ys, torch.full((3,), 7))[0].log_softmax(-1)
    state = decoder.batch_init_state(hs, HLENS)
    states, mask = [state] * 3, (torch.arange(9) < HLENS[:, None])[:, None]
    unknown = [None] * 3  # a search that does not start with batch_init_state
    for n in range(7):
        scores, states = decoder.batch_score(ys[:, : n + 1], states, hs, xs_mask=mask)
        close(scores, whole[:, n], dtype)
        scores, unknown = decoder.batch_score(ys[:, : n + 1], unknown, hs, xs_mask=mask)
        close(scores, whole[:, n], dtype)
    for row, frames in enumerate(HLENS):  # one at a time
        x = hs[row, :frames]
        state = decoder.init_state(x)
        for n in range(7):
            scores, state = decoder.score(ys[row, : n + 1], state, x)
            close(scores, whole[row, n], dtype)


@torch.no_grad()
def test_hypotheses_may_change_places_and_be_repeated_within_and_across_utterances():
    decoder = make()
    hs, ys = batch()
    whole = decoder(hs, HLENS, ys, torch.full((3,), 7))[0].log_softmax(-1)
    states = [decoder.batch_init_state(hs, HLENS)] * 3
    _, states = decoder.batch_score(ys[:, :1], states, hs)
    _, states = decoder.batch_score(ys[:, :2], states, hs)
    for order in ([2, 0, 1], [1, 1, 0, 2, 2], [0], [0, 0, 1, 1, 2, 2], [1, 2]):
        scores, moved = decoder.batch_score(ys[order, :3], [states[i] for i in order], hs[order])
        close(scores, whole[order, 2])
        scores, _ = decoder.batch_score(ys[order, :4], moved, hs[order])
        close(scores, whole[order, 3])


class Whole(BatchScorerInterface):
    """Scores every prefix from its start: what a search with states has to equal."""

    def __init__(self, decoder):
        self.decoder = decoder

    def batch_score(self, ys, states, xs, *, xs_mask=None):
        lengths = torch.full((len(ys),), xs.shape[1]) if xs_mask is None else xs_mask[:, 0].sum(1)
        scores, _ = self.decoder(xs, lengths, ys, torch.full((len(ys),), ys.shape[1]))
        return scores[:, -1].log_softmax(-1), states

    def score(self, y, state, x):
        return self.batch_score(y[None], [state], x[None])[0][0], None


def search(scorer, cls, beam):
    conf = {"weights": {"decoder": 1.0}, "beam_size": beam, "vocab_size": VOCAB}
    return cls({"decoder": scorer}, sos=SOS, eos=SOS, **conf).eval()


def found(hypotheses):
    return [(h.yseq.tolist(), float(h.score)) for h in hypotheses]


SEARCHES = [*((beam, "dense") for beam in (1, 3, 10)), (3, "points"), (3, "spiking")]


@pytest.mark.parametrize(("beam", "option"), SEARCHES)
@torch.no_grad()
def test_a_search_finds_what_one_without_states_finds(beam, option, monkeypatch):
    decoder = make(**OPTIONS[option])
    hs, _ = batch()
    moves = []
    select = decoder.select_state

    def selected(state, i, new_id=None):
        moves.append(i)
        return select(state, i)

    monkeypatch.setattr(decoder, "select_state", selected)
    results = []
    for scorer in (decoder, Whole(decoder)):
        batched = search(scorer, BatchBeamSearch, beam)(hs, -6.0, 0.0, x_lengths=HLENS)
        single = [
            search(scorer, cls, beam)(hs[row, :frames], -6.0, 0.0)
            for cls in ((BatchBeamSearch, BeamSearch) if option == "dense" else (BatchBeamSearch,))
            for row, frames in enumerate(HLENS)
        ]
        results.append([found(one) for one in (*batched, *single)])
    for ours, theirs in zip(*results, strict=True):
        assert [y for y, _ in ours] == [y for y, _ in theirs] and ours
        assert [s for _, s in ours] == pytest.approx([s for _, s in theirs], rel=1e-12)
    # the same whether utterances are searched together or not
    for row in range(3):
        assert [y for y, _ in results[0][row]] == [y for y, _ in results[0][3 + row]]
    longest = max(len(y) for one in results[0] for y, _ in one)
    # hypotheses have changed places, up to <sos>, six tokens, <eos>
    assert beam == 1 or (any(a > b for a, b in pairwise(moves)) and longest == 8)


@torch.no_grad()
def test_a_step_costs_the_same_for_every_prefix(monkeypatch):
    decoder = make()
    hs, _ = batch()
    projections, shapes, sizes = [], [], []
    project = CrossAttention.keys_values
    monkeypatch.setattr(
        CrossAttention, "keys_values", lambda *a: projections.append(1) or project(*a)
    )
    score = decoder.batch_score

    def scored(ys, states, xs, **mask):
        scores, states = score(ys, states, xs, **mask)
        sizes.append(sum(x.nbytes for layer in states[0]["layers"] for x in layer.values()))
        return scores, states

    monkeypatch.setattr(decoder, "batch_score", scored)
    handle = decoder.decoders[0].register_forward_pre_hook(lambda m, a: shapes.append(a[0].shape))
    search(decoder, BatchBeamSearch, 4)(hs, -8.0, -8.0)
    handle.remove()
    assert len(projections) == 2  # one a layer, for all steps and hypotheses
    assert len(sizes) > 5 and set(sizes) == {4 * 8 * (3 * 2 * DIM + 2 * DIM * 5)}
    assert set(shapes) == {(12, 1, DIM)}


@pytest.mark.parametrize("conf", OPTIONS.values(), ids=OPTIONS)
def test_counted_as_a_whole_it_costs_what_its_steps_cost(conf):
    decoder = make(torch.float32, **conf)
    hs, ys = batch(torch.float32)
    x, y = hs[:1], ys[:1]
    products = []
    with torch.inference_mode(), OperationCounter(decoder) as counter:
        decoder(x, HLENS[:1], y, torch.tensor([7]))
        whole = {key: cost for key, cost in counter.costs.items() if key[1] in PRODUCTS}
        counter.reset()
        state = decoder.init_state(x[0])
        for n in range(7):
            _, state = decoder.score(y[0, : n + 1], state, x[0])
        steps = {key: cost for key, cost in counter.costs.items() if key[1] in PRODUCTS}
        assert not counter.uncovered and not counter.lost
    assert whole.keys() == steps.keys()
    for key, cost in whole.items():
        names = ("dense_macs", "macs", "acs")
        found = [[getattr(c, name) for name in names] for c in (cost, steps[key])]
        assert found[0] == pytest.approx(found[1]), key
        products.append(key[0])
    assert {"decoders.0.attn.sublayer.linear_k", "output_layer"} <= {*products}


@torch.no_grad()
def test_a_state_holds_only_its_own_hypothesis_once_espnet_has_released_it():
    decoder = make()
    hs, ys = batch()
    states = [decoder.batch_init_state(hs, HLENS)] * 3
    scores, states = decoder.batch_score(ys[:, :1], states, hs)
    kept = _compact(states[1])
    for layer in kept["layers"]:
        assert all(x.untyped_storage().nbytes() == x.nbytes for x in layer.values())
    assert kept["encoded"] is states[1]["encoded"]  # shared by all of the search
    scores, _ = decoder.batch_score(ys[:, :2], [states[0], kept, states[2]], hs)
    close(scores, decoder.batch_score(ys[:, :2], states, hs)[0])


@torch.no_grad()
def test_an_utterance_that_grows_is_seen_whole():
    decoder = make()
    hs, ys = batch()
    state = decoder.init_state(hs[0, :5])
    _, state = decoder.score(ys[0, :1], state, hs[0, :5])
    longer, _ = decoder.score(ys[0, :2], state, hs[0])
    again = {**decoder.init_state(hs[0]), "utterance": 0, "layers": state["layers"]}
    close(longer, decoder.score(ys[0, :2], again, hs[0])[0])
    assert not torch.allclose(longer, decoder.score(ys[0, :2], state, hs[0, :5])[0])


def activity(decoder):
    return {**sparsities(decoder), **firing_rates(decoder)}


@torch.no_grad()
def test_points_stand_at_attention_and_in_both_mamba_layers():
    decoder = make(**OPTIONS["points"])
    hs, ys = batch()
    decoder(hs, HLENS, ys, YLENS)
    found = Counter(layer.point for layer in named_fatrelus(decoder).values())
    assert found == {"F3": 2, "F4": 2} | dict.fromkeys(["F5", "F6", "F7", "F9", "F10"], 4) | {
        "F11": 8
    }
    shares = [float(share) for share in sparsities(decoder).values()]
    assert sum(0 < share < 1 for share in shares) > 0.8 * len(shares)
    found = Counter(layer.point for layer in named_fatrelus(make(fat_points="e")).values())
    assert found == {"F3": 2, "F4": 2, "F5": 4, "F6": 4, "F7": 4}
    assert not named_fatrelus(make()) and make().auxiliary_losses() == {}


def test_points_have_a_loss_that_trains_their_thresholds():
    decoder = make(fat_points=["F4", "F5"], fat_threshold=0.3, lambda_act=0.5, lambda_T=0.1).train()
    hs, ys = batch()
    decoder(hs, HLENS, ys, YLENS)
    losses = decoder.auxiliary_losses()
    layers = named_fatrelus(decoder).values()
    means = sum(float(layer.activation_mean.detach()) for layer in layers)
    assert losses["sparsity_activation"].item() == pytest.approx(0.5 * means)
    want = 0.1 * sum(float(layer.T.detach()) ** -2 for layer in layers)
    assert losses["sparsity_threshold"].item() == pytest.approx(want)
    sum(losses.values()).backward()
    assert all(layer.tau.grad is not None for layer in layers)


def test_neurons_fire_and_have_a_loss():
    rates = {"r_min": 0.2, "r_max": 0.3, "lambda_q": 0.5, "lambda_b": 2.0}
    decoder = make(**OPTIONS["spiking"], **rates)
    hs, ys = batch()
    decoder(hs, HLENS, ys, YLENS)
    neurons = named_frame_lifs(decoder)
    assert len(neurons) == 2 * (4 + 4 + 6)  # two Mamba layers and attention
    rates = {name: neuron.mean_rate.item() for name, neuron in neurons.items()}
    assert all(0 < rate < 1 for rate in rates.values())
    assert rates == pytest.approx({n: float(r) for n, r in firing_rates(decoder).items()})
    losses = decoder.auxiliary_losses()
    want = 0.5 * sum(max(0.0, 0.2 - rate) for rate in rates.values()) / len(rates)
    assert losses["quiet"].item() == pytest.approx(want) and want > 0
    assert set(losses) == {"quiet", "burst"}
    with pytest.raises(ValueError, match=r"r_min, r_max: 0\.5, 0\.3 must rise"):
        make(spiking=True, r_min=0.5)
    with pytest.raises(ValueError, match="fat_points: none, where spiking"):
        make(spiking=True, fat_points="e")


def test_what_it_starts_from_whatever_espnets_init_says():
    torch.manual_seed(0)
    for mode in ("mamba", "xavier_normal"):
        decoder = SpeechMambaDecoder(200, 64, init_mode=mode, **SMALL)
        for _ in range(2):
            variance = float(decoder.embed.weight.detach().var())
            xavier = mode == "xavier_normal"
            assert variance == pytest.approx(2 / 264 if xavier else 1 / 64, rel=0.05)
            ssm = decoder.decoders[1].mamba_out.sublayer.ssm
            assert ssm.A_log[0, 0].item() == 0 or xavier
            assert (ssm.A_log.detach().var(0) > 0).all() == xavier
            query = decoder.decoders[0].attn.sublayer.linear_q.weight.detach()
            assert not xavier or float(query.var()) == pytest.approx(2 / 128, rel=0.1)
            initialize(decoder, "xavier_uniform")
    with pytest.raises(ValueError, match=r"init_mode: .*did you mean 'mamba'"):
        make(init_mode="mmba")


BEFORE_NORM = ("conv.bias", "linear_q.bias", "linear_v.bias", "linear_out.bias")


@pytest.mark.parametrize("conf", OPTIONS.values(), ids=OPTIONS)
def test_every_parameter_learns(conf):
    decoder = make(**conf).train()
    hs, ys = batch()
    out, _ = decoder(hs.requires_grad_(), HLENS, ys, YLENS)
    valid = torch.arange(7) < YLENS[:, None]
    out[valid].log_softmax(-1)[:, 3].sum().backward()
    for name, parameter in decoder.named_parameters():
        # a bias of the keys shifts all scores of a query alike, which softmax does not see; a batch
        # norm takes any bias before it away
        unseen = name.endswith(("linear_k.bias", *(BEFORE_NORM if "spiking" in conf else ())))
        assert parameter.grad.abs().max() > 1e-12 or unseen, name
    assert hs.grad[0].any() and not hs.grad[1, 6:].any()


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"num_blocks": 0}, "num_blocks: 0"),
        (
            {"attention_heads": 3},
            "attention_heads: 3 does not divide the channels of the decoder, 16",
        ),
        ({"scan_backend": "nmba"}, "nmba"),
        ({"fat_points": ["F5", "F1", "F8"]}, "fat_points: F1, F8: a decoder has F3, F4, F5, F6, "),
        ({"fat_points": "f"}, "fat_points: .*known: none, e, optimized"),
    ],
)
def test_impossible_values_are_refused(conf, message):
    hs, ys = batch()
    with pytest.raises(ValueError, match=message):
        make(**conf)(hs, HLENS, ys, YLENS)
