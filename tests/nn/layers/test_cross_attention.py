import pytest
import torch

from espnet_spike.nn.layers.cross_attention import CrossAttention, SpikingCrossAttention
from espnet_spike.nn.layers.fatrelu import FatPoints, named_fatrelus
from tests.helpers.norms import excited

LENGTHS = torch.tensor([6, 4])


def make(**conf):
    torch.manual_seed(0)
    return CrossAttention(8, 2, **conf).double().eval()


def inputs(rows=2):
    g = torch.Generator().manual_seed(1)
    frames = torch.randn(2, 6, 8, generator=g, dtype=torch.float64)
    return frames, torch.randn(rows, 3, 8, generator=g, dtype=torch.float64)


@torch.no_grad()
def test_attention_is_that_of_espnet():
    from espnet2.legacy.nets.pytorch_backend.transformer.attention import MultiHeadedAttention

    theirs, ours = MultiHeadedAttention(2, 8, 0.0).double(), make()
    ours.load_state_dict(theirs.state_dict())
    frames, x = inputs()
    mask = (torch.arange(6) < LENGTHS[:, None])[:, None]
    got = ours(x, None, ours.keys_values(frames, LENGTHS))
    torch.testing.assert_close(got, theirs(x, frames, frames, mask))


@torch.no_grad()
def test_hypotheses_of_an_utterance_share_its_keys():
    attention = make()
    frames, x = inputs(rows=6)
    kept = attention.keys_values(frames, LENGTHS)
    rows = torch.tensor([0, 0, 0, 1, 1, 1])
    got, want = attention(x, None, kept), attention(x, None, kept.select(rows))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(got, attention(x, None, kept.select(1 - rows)))


@torch.no_grad()
def test_an_utterance_without_frames_is_finite():
    attention = make()
    frames, x = inputs()
    assert attention(x, None, attention.keys_values(frames, torch.tensor([6, 0]))).isfinite().all()


@torch.no_grad()
def test_points_stand_before_the_queries_and_behind_the_context():
    attention = make(points=FatPoints(["F3", "F4"], T=0.3))
    frames, x = inputs()
    mask = torch.tensor([[True, True, True], [True, False, False]])
    kept = attention.keys_values(frames, LENGTHS)
    attention(x, mask, kept)
    points = named_fatrelus(attention)
    assert set(points) == {"f3", "f4"}
    assert {layer.macs for layer in points.values()} == {8.0}
    assert {int(layer.sparsity.numel) for layer in points.values()} == {4 * 8}
    want = int((x[mask] < attention.f3.T).sum())
    assert int(points["f3"].sparsity.zeros) == want > 0
    # keys and values are those of a layer without points
    plain = make()
    plain.load_state_dict(attention.state_dict(), strict=False)
    torch.testing.assert_close(plain.keys_values(frames, LENGTHS).keys, kept.keys)


def test_heads_have_to_divide_the_channels():
    with pytest.raises(ValueError, match="3 does not divide the channels of the decoder, 8"):
        CrossAttention(8, 3)


def spiking():
    torch.manual_seed(0)
    lif = {"v_th": 0.3}
    return excited(SpikingCrossAttention(8, 2, lif, v_th=0.2).double()).eval()


@torch.no_grad()
def test_spiking_attention_is_that_of_its_equations():
    attention = spiking()
    frames, x = inputs()
    mask = torch.arange(6) < LENGTHS[:, None]
    s = attention.neuron_encoded(frames, mask)
    k, v = (
        attention.neuron_k(attention.linear_k(s), mask),
        attention.neuron_v(attention.linear_v(s), mask),
    )
    q = attention.neuron_q(attention.linear_q(attention.neuron_in(x)))
    context = torch.zeros_like(x)
    for row in range(2):
        for head in (slice(0, 4), slice(4, 8)):
            for frame in range(int(LENGTHS[row])):
                weight = q[row, :, head] @ k[row, frame, head]
                context[row, :, head] += 0.125 * weight[:, None] * v[row, frame, head]
    out = attention.norm_out(attention.linear_out(attention.neuron_out(context)))
    assert {*q.unique().tolist(), *k.unique().tolist()} == {0.0, 1.0} and context.any()
    torch.testing.assert_close(attention(x, None, attention.keys_values(frames, LENGTHS)), out)


@torch.no_grad()
def test_spiking_attention_knows_no_padding_and_shares_utterances():
    attention = spiking()
    frames, x = inputs(rows=6)
    kept = attention.keys_values(frames, LENGTHS)
    dirty = frames.clone()
    dirty[1, 4:] = 1e3
    assert torch.equal(attention.keys_values(dirty, LENGTHS).products, kept.products)
    got = attention(x, None, kept)
    assert torch.equal(got, attention(x, None, kept.select(torch.tensor([0, 0, 0, 1, 1, 1]))))
    with pytest.raises(ValueError, match="3 does not divide the channels of the decoder, 8"):
        SpikingCrossAttention(8, 3, {})
