import pytest
import torch

from espnet_spike.nn.layers.attention_modes import QK_MODES
from tests.helpers.attention import DIM, HEADS, batch, make, run

FORMS = [
    (qk_mode, decay, form)
    for qk_mode in QK_MODES
    for decay in ({}, {"mode": "none"}, {"norm": False}, {"causal": True})
    for form in ("quadratic", "chunkwise")
    if qk_mode != "sdsa" or (decay, form) == ({}, "quadratic")
]


@pytest.mark.parametrize(("qk_mode", "decay", "form"), FORMS)
def test_inference_forms_equal_training_form(qk_mode, decay, form):
    """Re-parameterised and on binary spikes; counts equal."""
    attn = make(qk_mode, decay=decay, form=form)
    data = batch()
    expected = run(attn, *data)
    counts = spikes(attn)
    attn.reparameterize(fold_qk=True)
    assert torch.allclose(run(attn, *data), expected, rtol=1e-9, atol=1e-9)
    assert spikes(attn) == counts
    for module in attn.modules():
        if hasattr(module, "spike_mode"):
            module.spike_mode = "binary"
    assert torch.allclose(run(attn, *data), expected, rtol=1e-9, atol=1e-9)
    assert spikes(attn) == counts


def spikes(attn):
    return {n: m.firing.count_sum.item() for n, m in attn.named_modules() if hasattr(m, "firing")}


@pytest.mark.parametrize("qk_mode", QK_MODES)
def test_every_parameter_gets_a_gradient(qk_mode):
    attn = make(qk_mode, torch.float).train()
    attn(*batch(torch.float)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in attn.parameters())


def test_training_modes_cost_what_they_should():
    sizes = {mode: sum(p.numel() for p in make(mode).parameters()) for mode in QK_MODES}
    base = sizes["bilinear"]
    assert sizes["asym"] == base + DIM  # one more threshold
    # per projection: one more matrix and a depthwise kernel of 3, two norms; two more neurons
    assert sizes["repconv"] == base + 3 * (DIM * DIM + 3 * DIM + 4 * DIM) + 2 * DIM
    folded = make("bilinear")
    folded.reparameterize(fold_qk=True)
    grown = HEADS * DIM * DIM - 2 * DIM * DIM
    assert sum(p.numel() for p in folded.parameters()) == base + grown


def test_spikformer_keeps_lif_threshold():
    attn = make("ssa", neuron="lif")
    assert attn.neuron_out.v_th == 0.5 and attn.neuron_q.v_th == 1.0
    assert make("ssa").neuron_q.T == 1 and make("ssa").neuron_v.T == 4
    assert make("ssa").scale == 0.125


@torch.no_grad()
def test_ssa_is_the_product_of_binary_maps():
    attn, (x, mask, lengths) = make("ssa", decay={"mode": "none", "norm": False}), batch()
    q, k, v = attn.project(attn.neuron_in(x, mask), mask)
    for binary in (q, k):  # one level: all that spikes of a channel has one size in a frame
        assert ((binary > 0) | (binary == 0)).all() and (binary > 0).any()
    heads = [slice(4 * h, 4 * h + 4) for h in range(HEADS)]
    v = v * mask[..., None]
    want = torch.cat([0.125 * (q[..., h] @ k[..., h].mT) @ v[..., h] for h in heads], -1)
    got = attn.context(attn.neuron_in(x, mask), mask, lengths)
    assert torch.allclose(got[mask], want[mask])


@torch.no_grad()
def test_sdsa_gates_whole_channels():
    attn, (x, mask, lengths) = make("sdsa"), batch()
    q, k, v = attn.project(attn.neuron_in(x, mask), mask)
    seen = {}
    attn.linear_out.register_forward_pre_hook(lambda _, args: seen.update(context=args[0]))
    attn(x, mask, lengths)
    gate = attn.neuron_gate((q * k * mask[..., None]).sum(1, keepdim=True), mask.any(1, True))
    assert torch.equal(seen["context"], gate * v)
    closed = gate[:, 0] == 0
    assert closed.any() and not closed.all()
    assert not seen["context"].transpose(1, 2)[closed].any()


@torch.no_grad()
def test_asym_keeps_real_queries_and_repconv_spikes_on_all():
    x, mask, _ = batch()
    for mode, real in (("asym", [True, False, False]), ("repconv", [False] * 3)):
        attn = make(mode, neuron="ilif")
        found = [bool((y < 0).any()) for y in attn.project(attn.neuron_in(x, mask), mask)]
        assert found == real, mode  # spikes of these neurons are not negative
