import pytest
import torch

from espnet_spike.nn.layers.spikformer_attention import SpikformerAttention
from espnet_spike.nn.stream_state import Carries
from tests.helpers.norms import excited


@torch.no_grad()
def test_spikformer_attention_by_its_equation():
    torch.manual_seed(0)
    attention = excited(SpikformerAttention(8, 2, {"v_th": 0.3})).double().eval()
    x = torch.randn(2, 7, 8, dtype=torch.float64)
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    spikes = attention.neuron_in(x, mask)
    q, k, v = (
        getattr(attention, f"neuron_{n}")(getattr(attention, f"linear_{n}")(spikes), mask)
        for n in "qkv"
    )
    heads = []
    for h in range(2):
        part = slice(4 * h, 4 * h + 4)
        scores = q[..., part] @ k[..., part].mT
        assert scores.any()
        heads.append(scores @ v[..., part] * 0.125)
    context = attention.neuron_out(torch.cat(heads, -1), mask)
    want = attention.norm_out(attention.linear_out(context), mask)
    assert torch.equal(attention(x, mask)[mask], want[mask])


@torch.no_grad()
def test_causal_attention_in_chunks_is_the_sum_over_earlier_frames():
    torch.manual_seed(0)
    attention = excited(SpikformerAttention(8, 2, {"v_th": 0.3}, decay=(1.0, 2.0))).double().eval()
    x = torch.randn(1, 9, 8, dtype=torch.float64)
    heads = {}
    attention.neuron_out.register_forward_pre_hook(lambda _, args: heads.update(context=args[0]))
    whole = attention(x)
    spikes = attention.neuron_in(x)
    q, k, v = (
        getattr(attention, f"neuron_{n}")(getattr(attention, f"linear_{n}")(spikes)) for n in "qkv"
    )
    want = torch.zeros(1, 9, 8, dtype=torch.float64)
    for i in range(9):
        for j in range(i + 1):
            for h, gamma in enumerate((1 - 2**-1.0, 1 - 2**-2.0)):
                part = slice(4 * h, 4 * h + 4)
                score = (q[0, i, part] @ k[0, j, part]) * gamma ** (i - j)
                want[0, i, part] += 0.125 * score * v[0, j, part]
    assert want.any()
    attention(x)
    torch.testing.assert_close(heads["context"], want)
    with Carries(attention).active():
        parts = [attention(part) for part in x.split([1, 5, 3], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole)


class Spikes(torch.nn.Module):
    def forward(self, x, mask=None):
        return torch.ones_like(x)


@torch.no_grad()
@pytest.mark.parametrize("decay", [None, (30.0, 30.0)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_of_more_spikes_than_half_precision_holds(dtype, decay):
    attention = SpikformerAttention(128, 1, {}, decay=decay)
    attention.neuron_q = attention.neuron_k = attention.neuron_v = Spikes()
    context = []
    attention.neuron_out.register_forward_pre_hook(lambda _, args: context.append(args[0]))
    with torch.autocast("cpu", dtype):
        attention(torch.randn(1, 601, 128))
        if decay is not None:
            with Carries(attention).active():
                attention(torch.randn(1, 601, 128))
    for found in context:  # 0.125 times 128 spikes of Q with each of 601 frames
        assert found[0, -1].unique().tolist() == pytest.approx([9616.0])


def test_a_stream_needs_the_causal_form_and_heads_divide():
    attention = SpikformerAttention(8, 2, {})
    with Carries(attention).active(), pytest.raises(ValueError, match="causal: true"):
        attention(torch.zeros(1, 2, 8))
    with pytest.raises(ValueError, match="3 does not divide output_size 8"):
        SpikformerAttention(8, 3, {})
