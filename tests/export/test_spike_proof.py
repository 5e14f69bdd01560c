"""Three forms of an encoder are one function, two of them on spikes; and the proof can fail."""

import json
import types
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from espnet_spike.bin import prove_spikes as command
from espnet_spike.encoders.iml_spikeformer import IMLSpikeformerEncoder
from espnet_spike.encoders.speech_mamba import SpikingSpeechMambaEncoder
from espnet_spike.errors import UserError
from espnet_spike.export.spike_guard import guarded
from espnet_spike.export.spike_proof import SpikeProof, in_forms, prove, prove_spikes
from espnet_spike.nn.layers import spiking_attention, spiking_mamba
from espnet_spike.nn.layers.mamba import SelectiveSSM
from espnet_spike.nn.layers.spike_layers import SpikeConv1d, SpikeConv2d, SpikeLinear
from espnet_spike.nn.layers.spiking_attention import FoldedMap, SpikingAttention
from espnet_spike.nn.layers.spiking_mamba import SpikingMamba
from espnet_spike.nn.neurons import frame_lif
from espnet_spike.nn.neurons.factory import NormedNeuron
from espnet_spike.nn.neurons.frame_lif import FrameLIF
from espnet_spike.nn.neurons.imls import IMLS
from espnet_spike.nn.neurons.spike_train import FiredTrain, SpikeTrain, real_values
from espnet_spike.nn.norms import MaskedBatchNorm
from espnet_spike.nn.ops import imls
from tests.export.test_reparameterize import experiment

SMALL = {
    **{"output_size": 8, "attention_heads": 2, "linear_units": 12, "num_blocks": 1, "T": 3},
    **{"conv_channels": 4, "conv_module": True, "conv_module_kernel": 3, "qkv_bias": True},
}


def proof_of(frames=(40, 23), **conf):
    """Prove an untrained encoder on noise."""
    torch.manual_seed(1)
    encoder = IMLSpikeformerEncoder(10, **(SMALL | conf)).eval()
    for linear in encoder.modules():
        if isinstance(linear, SpikeLinear) and linear.bias is not None:
            torch.nn.init.normal_(linear.bias, std=0.1)  # so that what becomes of it shows
    inputs = [(torch.randn(1, n, 10), torch.tensor([n])) for n in frames]
    model = types.SimpleNamespace(encoder=encoder, ctc=None)
    return prove(model, in_forms(encoder), inputs)


@pytest.mark.parametrize(
    "conf",
    [
        {},
        {"inner_norm": True, "norm": "bn", "imls_stat": "fixed"},
        {"qk_mode": "repconv", "imls_stat": "utt"},
        {"qk_mode": "ssa", "imls_stat": "ema"},
        {"qk_mode": "sdsa"},
        {"qk_mode": "asym", "causal": True},
        {"neuron": "ilif"},
        {"neuron": "ilif", "neuron_conf": {"per_channel": True, "time_steps": 2}},
        {"neuron": "lif"},
        {"attention_form": "chunkwise"},
        {"attention_form": "chunkwise", "qk_mode": "ssa", "neuron": "lif"},
    ],
    ids=str,
)
def test_counts_slots_and_membranes_are_one_function(conf):
    proof = proof_of(**conf)
    assert proof.failures() == [] and proof.holds
    assert proof.products > 0 and proof.analog == ("embed.convs.0.weight",)
    assert (proof.utterances, proof.longest) == (2, 9)


def test_beyond_the_longest_map_spikes_stay_spikes(monkeypatch):
    """1100 frames behind the front end: counts go chunkwise, spikes some rows at a time."""
    seen = []
    right = spiking_attention.decay_attention
    monkeypatch.setattr(
        spiking_attention,
        "decay_attention",
        lambda *a, **more: seen.append(len(a)) or right(*a, **more),
    )
    proof = proof_of(frames=[1104], input_layer="conv2d1", conv_module=False, conv_channels=2)
    assert proof.longest == 1100 and proof.failures() == []
    assert len(seen) == 3  # of the form on counts: in float64, again at the end, and in fp32


def keep(monkeypatch, cls, name, change):
    """Put ``change(right, *arguments)`` in the place of a method or function."""
    right = getattr(cls, name)
    monkeypatch.setattr(cls, name, lambda *args: change(right, *args))


def reads_values(cls):
    """Return a mutant of a layer that multiplies its weights with V * counts."""

    def mutate(monkeypatch):
        keep(monkeypatch, cls, "forward", lambda right, layer, xs: right(layer, real_values(xs)))

    return mutate


def slots(change):
    """Return a mutant of the slots of trains that are cut from counts."""

    def mutate(monkeypatch):
        monkeypatch.setattr(SpikeTrain, "slot", change)

    return mutate


def membrane(charge=0.5, threshold=1.0, hard=False, fewer=0):
    """Return a mutant of the membrane."""

    def fire(x, v, levels):
        potential, found = x + charge * v, []
        for slot in range(levels):
            fires = potential >= threshold * v
            fires = fires & (slot < levels - fewer)
            potential = torch.where(fires, 0.0, potential) if hard else potential - fires * v
            found.append(fires.to(torch.uint8))
        return torch.stack(found)

    return lambda monkeypatch: monkeypatch.setattr(imls, "integrate_and_fire", fire)


def of_linear(change):
    """Return a mutant of what ``SpikeLinear`` makes of a train."""

    def mutate(monkeypatch):
        def forward(right, layer, xs):
            return change(layer, xs) if isinstance(xs, SpikeTrain) else right(layer, xs)

        keep(monkeypatch, SpikeLinear, "forward", forward)

    return mutate


def without_unit(layer, xs):
    total = sum(F.linear(xs.slot(t), layer.weight * xs.channel) for t in range(1, xs.levels + 1))
    return total if layer.bias is None else total + layer.bias


def bias_in_every_slot(layer, xs):
    weight = layer.weight * xs.channel
    slots = range(1, xs.levels + 1)
    out = xs.frame * sum(F.linear(xs.slot(t), weight) for t in slots)
    return out if layer.bias is None else out + xs.levels * layer.bias


def weights_by_elements(layer, xs):
    out = (xs.value()[..., None, :] * layer.weight).sum(-1)
    return out if layer.bias is None else out + layer.bias


def counts_in_fired_slot(monkeypatch):
    def slot(train, t):
        return train.counts * (t == 1)

    monkeypatch.setattr(FiredTrain, "slot", slot)


def value_by_counts(monkeypatch):
    def from_map(right, attn, map_of, value, *rest):
        return right(attn, map_of, real_values(value), *rest)

    keep(monkeypatch, SpikingAttention, "_from_map", from_map)


def map_of_values(monkeypatch):
    keep(monkeypatch, FoldedMap, "map_of", lambda right, fold, xs: right(fold, real_values(xs)))


def one_unit_for_all_frames(monkeypatch):
    monkeypatch.setattr(spiking_attention, "per_key", lambda scores, train: scores)


# each is one line that is wrong in a neuron or a layer; the last word says what must notice
MUTANTS = {
    "fractions in every slot": (slots(lambda s, t: s.counts / s.levels), "instead of 0 and 1"),
    "all counts in slot 1": (slots(lambda s, t: s.counts * (t == 1)), "instead of 0 and 1"),
    "all counts in the first fired slot": (counts_in_fired_slot, "instead of 0 and 1"),
    "a slot is for more than t spikes": (
        slots(lambda s, t: (s.counts > t).to(s.counts)),
        "binary: spikes give another result",
    ),
    "linear reads V s": (reads_values(SpikeLinear), "weight reads"),
    "conv2d reads V s": (reads_values(SpikeConv2d), "embed.convs.1.weight reads"),
    "conv1d reads V s": (reads_values(SpikeConv1d), "depthwise.weight reads"),
    "linear multiplies V s by elements": (of_linear(weights_by_elements), "mul of"),
    "the map is made of V s": (map_of_values, "folded.weight reads"),
    "attention multiplies the map with V s": (value_by_counts, "two real-valued operands"),
    "attention takes one unit for all frames": (one_unit_for_all_frames, "binary: spikes give"),
    "linear forgets the frame's unit": (of_linear(without_unit), "binary: spikes give"),
    "linear adds its bias in every slot": (of_linear(bias_in_every_slot), "binary: spikes give"),
    "no charge before the first slot": (membrane(charge=0.0), "fire: spikes give"),
    "half a threshold too little": (membrane(threshold=0.99), "fire: spikes give"),
    "hard reset": (membrane(hard=True), "fire: spikes give"),
    "a slot too few": (membrane(fewer=1), "fire: spikes give"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_breaks_the_proof(name, monkeypatch):
    mutate, notice = MUTANTS[name]
    mutate(monkeypatch)
    proof = proof_of(frames=[40])
    assert not proof.holds
    assert any(notice in line for line in proof.failures()), proof.failures()


def test_mutants_that_only_the_guard_can_see_give_the_same_result(monkeypatch):
    """Equal results alone would prove nothing."""
    slots(lambda s, t: s.counts * (t == 1))(monkeypatch)
    proof = proof_of(frames=[40])
    assert proof.holds_in_double and proof.violations and not proof.holds


def test_counts_that_the_output_hides_are_a_condition(monkeypatch):
    """An output of zeros is the same in every form, the counts are not."""
    norm = IMLSpikeformerEncoder.readout
    monkeypatch.setattr(IMLSpikeformerEncoder, "readout", lambda self, x: 0 * norm(self, x))
    with monkeypatch.context() as patch:
        membrane(charge=0.0)(patch)
        proof = proof_of(frames=[40])
    assert proof.fire == 0 == proof.double and proof.double_flips == 0
    assert proof.fire_flips > 0 and not proof.holds
    slots(lambda s, t: (s.counts > t).to(s.counts))(monkeypatch)
    proof = proof_of(frames=[40])
    assert proof.double == 0 == proof.fire and proof.fire_flips == 0
    assert proof.double_flips > 0 and not proof.holds


def test_each_condition_is_needed():
    right = SpikeProof(utterances=1, products=5, repeated=3)
    assert right.holds and right.failures() == []
    wrongs: tuple[dict[str, Any], ...]
    wrongs = (
        {"double": 1e-8},
        {"double_flips": 1},
        {"fire": 1e-8},
        {"fire_flips": 1},
        {"products": 0},
        {"violations": {"x": 1}},
        {"repeated": 0},
        {"changed": {"fire": 1}},
    )
    for wrong in wrongs:
        proof = replace(right, **wrong)
        assert not proof.holds and len(proof.failures()) == 1


def test_the_command_prints_and_writes_the_proof(tmp_path, capsys):
    exp, data = experiment(tmp_path)
    command.main(["--asr_exp", str(exp), "--json", str(tmp_path / "p.json"), f"test={data}"])
    printed = capsys.readouterr().out
    assert "| test | 5 | 23 | 0 | 0 | " in printed and "embed.convs.0.weight" in printed
    proof = json.loads((tmp_path / "p.json").read_text())["test"]
    assert proof["utterances"] == 5 and proof["double_flips"] == 0 == proof["fire_flips"]
    assert proof["double"] < 1e-9 and proof["same_ctc"] == 1.0 and proof["violations"] == {}


def test_a_part_of_a_set_can_be_proved(tmp_path, capsys):
    exp, data = experiment(tmp_path)
    command.main(["--asr_exp", str(exp), "--utterances", "2", f"test={data}"])
    assert "| test | 2 | " in capsys.readouterr().out


def test_what_does_not_hold_is_an_error(tmp_path, monkeypatch):
    exp, data = experiment(tmp_path)
    right = SpikeTrain.slot
    monkeypatch.setattr(SpikeTrain, "slot", lambda self, t: right(self, max(t, 2)))
    with pytest.raises(UserError, match="no proof on test: binary: spikes give another result"):
        prove_spikes(exp, None, {"test": data})


def test_a_twin_has_no_spikes_to_prove(tmp_path):
    exp, data = experiment(tmp_path, neuron="relu")
    with pytest.raises(UserError, match="ReLU"):
        prove_spikes(exp, None, {"test": data})


def test_posteriors_that_are_fed_back_are_refused(tmp_path):
    feedback = {"interctc_layer_idx": [1], "interctc_use_conditioning": True}
    exp, data = experiment(tmp_path, **feedback)
    with pytest.raises(UserError, match="interctc_use_conditioning"):
        prove_spikes(exp, None, {"test": data})


def test_the_guard_sees_posteriors_that_are_fed_back():
    """Were the CTC layer there, the proof would fail: weights would read probabilities."""

    class Whole(torch.nn.Module):
        def __init__(self, encoder):
            super().__init__()
            self.encoder, self.output = encoder, torch.nn.Linear(8, 5)

        def softmax(self, xs):
            return self.output(xs).softmax(-1)

        def forward(self, speech, lengths):
            return self.encoder(speech, lengths, ctc=self)

    conf = SMALL | {"num_blocks": 2, "interctc_layer_idx": [1], "interctc_use_conditioning": True}
    encoder = IMLSpikeformerEncoder(10, **conf).eval()
    encoder.conditioning_layer = torch.nn.Linear(5, 8)
    encoder.set_spike_mode("binary")
    _, guard = guarded(Whole(encoder), torch.randn(1, 40, 10), torch.tensor([40]))
    assert any("conditioning_layer.weight reads" in what for what in guard.violations)


def speech_mamba_proof(frames=(40, 23), **conf):
    """Prove an untrained spiking SpeechMamba on noise."""
    torch.manual_seed(1)
    small = {"output_size": 8, "attention_heads": 2, "num_blocks": 1, "d_state": 3, "v_th": 0.3}
    encoder = SpikingSpeechMambaEncoder(10, conv_channels=4, **(small | conf)).eval()
    inputs = [(2 * torch.randn(1, n, 10), torch.tensor([n])) for n in frames]
    model = types.SimpleNamespace(encoder=encoder, ctc=None)
    return prove(model, in_forms(encoder), inputs)


@pytest.mark.parametrize(
    "conf",
    [
        {},
        {"causal": True},
        {"block": "mhsa_mamba", "input_layer": "speechbrain", "conv_skip": True},
        {"learn_tau": True, "reset": "soft", "decay_input": False},
    ],
    ids=str,
)
def test_spikes_over_frames_are_proved_and_real_values_are_named(conf):
    proof = speech_mamba_proof(**conf)
    assert proof.failures() == [] and proof.holds
    assert (proof.utterances, proof.longest, proof.analog) == (2, 10, ("embed.convs.0.weight",))
    # in 2 forms of 2 utterances: a block has two Mambas in a row, or one of two directions
    assert proof.selects == 2 * 2 * 2
    assert {name.partition(".ssm")[2].partition(".")[2] for name in proof.real} == {
        *("conv.weight", "dt_proj.weight", "A_log")
    }


def real_scan(monkeypatch):
    """Let a scan read half of each spike, which x_proj does not show."""

    def forward(right, ssm, *args):
        spikes = type(ssm.activation).forward
        ssm.activation.forward = lambda x, mask: 0.5 * spikes(ssm.activation, x, mask)
        ssm.f9.forward = lambda x, mask: 2 * x
        return right(ssm, *args)

    keep(monkeypatch, SelectiveSSM, "forward", forward)


def hidden_scan(monkeypatch):
    """Let a scan read half of each spike, where the guard is not shown its input."""

    def forward(right, ssm, x, lengths, mask):
        u, *rest = ssm.inputs(x, mask)
        valid = None if mask is None else lengths
        return SelectiveSSM.scan(ssm, 0.5 * u, *rest, valid, None)[0].mT

    keep(monkeypatch, SelectiveSSM, "forward", forward)


def interpolates(monkeypatch):
    """Multiply with weights by an interpolation, behind a product with zeros."""

    def run(right, mamba, u, *args):
        def project(x):
            rows = torch.lerp(torch.zeros_like(layer.weight), layer.weight, 1.5 * x[..., None, :])
            return F.linear(0 * x, layer.weight) + rows.sum(-1)

        layer = mamba.in_proj
        layer.forward = project
        return right(mamba, u, *args)

    keep(monkeypatch, SpikingMamba, "forward", run)


def frame_membrane(**wrong):
    """Return a mutant of the membrane that is carried over frames."""

    def mutate(monkeypatch):
        right = frame_lif.fire_frames
        monkeypatch.setattr(
            frame_lif,
            "fire_frames",
            lambda x, v, lengths, dynamics, rate: right(
                x, v, lengths, replace(dynamics, **wrong), rate
            ),
        )

    return mutate


def forgets(monkeypatch):
    def fire(x, v, lengths, dynamics, rate):
        frames = [
            right(x[:, t : t + 1], v, lengths - t, dynamics, rate)[0] for t in range(len(x[0]))
        ]
        return torch.cat(frames, 1), v

    right = frame_lif.fire_frames
    monkeypatch.setattr(frame_lif, "fire_frames", fire)


def silent(point):
    """Return a mutant in which a neuron of each Mamba hands on its input."""

    def mutate(monkeypatch):
        def run(right, mamba, *args):
            getattr(mamba, point).neuron.forward = lambda x, mask=None: x
            return right(mamba, *args)

        keep(monkeypatch, SpikingMamba, "forward", run)

    return mutate


OVER_FRAMES = {
    "the scan reads half spikes": (real_scan, "the scan encoders.0.mamba_in.sublayer.ssm reads"),
    "the scan is not shown": (hidden_scan, "scan encoders.0.mamba_in.sublayer.ssm was not seen"),
    "in_proj interpolates": (interpolates, "lerp of encoders.0.mamba_in.sublayer.in_proj.weight"),
    "in_proj reads the norm": (silent("f5"), "in_proj.weight reads"),
    "out_proj reads the scan": (silent("f7"), "out_proj.weight reads"),
    "a layer less is named as real": (
        lambda monkeypatch: monkeypatch.setattr(spiking_mamba, "REAL_VALUED", ("A_log",)),
        "dt_proj.weight reads",
    ),
    "the membrane does not leak": (frame_membrane(tau=1e9), "fire: spikes give"),
    "a threshold too low": (frame_membrane(v_th=0.29), "fire: spikes give"),
    "soft reset for hard": (frame_membrane(reset="soft"), "fire: spikes give"),
    "the membrane is not carried": (forgets, "fire: spikes give"),
}


def around(cls, change):
    """Return a mutant of a layer's result: ``change(layer, input, output)``."""

    def mutate(monkeypatch):
        def forward(right, layer, x, *args):
            return change(layer, x, right(layer, x, *args))

        keep(monkeypatch, cls, "forward", forward)

    return mutate


def gated_before(change):
    """Return a mutant of the gate: ``change(y, z)`` stands before the neuron on y."""

    def mutate(monkeypatch):
        def gated(right, mamba, y, z, mask):
            return right(mamba, change(y, z), z, mask)

        keep(monkeypatch, SpikingMamba, "gated", gated)

    return mutate


def scan_with_weights(monkeypatch):
    """Let the scan multiply its output with a matrix."""

    def scan(right, ssm, u, *args):
        y, h = right(ssm, u, *args)
        return y + F.linear(y.mT, ssm.x_proj.weight.t() @ ssm.x_proj.weight).mT, h

    keep(monkeypatch, SelectiveSSM, "scan", scan)


def in_numpy(made):
    """Return a mutant whose out_proj multiplies in numpy, beside a product of zeros in torch."""

    def mutate(monkeypatch):
        def forward(right, mamba, u, *args):
            layer = mamba.out_proj

            def project(x):
                real = 0.5 * x.detach().numpy() @ layer.weight.detach().numpy().T
                return F.linear(0 * x, layer.weight) + made(real)

            layer.forward = project
            return right(mamba, u, *args)

        keep(monkeypatch, SpikingMamba, "forward", forward)

    return mutate


def filled(real):
    """Return a tensor that torch has made and numpy has filled."""
    made = torch.zeros(real.shape, dtype=torch.from_numpy(real).dtype)
    made.numpy()[:] = real
    return made


GATES = {  # what is multiplied where no weight is; most of it computes the same in all forms
    "out of the norm, by the input": (
        around(NormedNeuron, lambda layer, x, y: y * x),
        "weight reads",
    ),
    "of a Mamba's output, by its input": (
        around(SpikingMamba, lambda layer, x, y: y * x),
        "mul of two real-valued operands",
    ),
    "of the scan, as in the dense one": (
        gated_before(lambda y, z: y * torch.sigmoid(z)),
        "mul of two real-valued operands",
    ),
    "by a learnt gain": (
        around(SpikingMamba, lambda mamba, x, y: y * mamba.ssm.D[: y.shape[-1]]),
        "mul of encoders.0.mamba_in.sublayer.ssm.D with",
    ),
    "a matrix in the scan": (scan_with_weights, "x_proj.weight reads"),
    "a matrix in numpy": (in_numpy(torch.from_numpy), "of what no operation has made"),
    "a matrix on real values in numpy": (
        lambda monkeypatch: (silent("f7")(monkeypatch), in_numpy(filled)(monkeypatch)),
        "numpy of real values",
    ),
}


def unit_of_each(change):
    """Return a mutant of the units of IMLS neurons, alike in all forms but that of values."""

    def mutate(monkeypatch):
        def forward(right, neuron, x, *args):
            out = right(neuron, x, *args)
            return change(out, x) if isinstance(out, SpikeTrain) else out

        keep(monkeypatch, IMLS, "forward", forward)

    return mutate


def charge_dropped_at_borders(monkeypatch):
    right = imls.integrate_and_fire

    def fire(x, v, levels):
        drop = (torch.arange(x.shape[0] if x.dim() == 3 else 1) % 4 == 0).view(-1, 1, 1)
        return right(x - drop * 0.5 * v, v, levels)

    monkeypatch.setattr(imls, "integrate_and_fire", fire)


def chunks_without_carry(monkeypatch):
    def attend(query, key, value, *args, **more):
        half = query.shape[2] // 2
        pieces = []
        for rows in (slice(0, half), slice(half, None)):
            part = {n: x[..., rows] if n in ("mask", "row_scale") else x for n, x in more.items()}
            cut = (x[:, :, rows] for x in (query, key, value))
            pieces.append(right(*cut, *args, **part))
        return torch.cat(pieces, 2)

    right = spiking_attention.decay_attention
    monkeypatch.setattr(spiking_attention, "decay_attention", attend)


UNITS = {
    "of the frame before": (
        unit_of_each(lambda train, x: replace(train, frame=train.frame.roll(1, 1))),
        "binary: spikes give another result",
    ),
    "twice": (
        unit_of_each(lambda train, x: replace(train, channel=2 * train.channel)),
        "binary: spikes give another result",
    ),
    "spikes of the frame before": (
        slots(lambda train, t: (train.counts >= t).to(train.counts).roll(1, 1)),
        "binary: spikes give another result",
    ),
    "no charge in every fourth frame": (charge_dropped_at_borders, "fire: spikes give"),
    "chunks that know nothing of each other": (chunks_without_carry, "binary: spikes give"),
}


def test_a_gate_that_was_not_there_breaks_the_proof_of_the_other_encoder_too(monkeypatch):
    around(SpikeLinear, lambda layer, x, y: y * y)(monkeypatch)
    proof = proof_of(frames=[24])
    assert any("mul of two real-valued operands" in line for line in proof.failures())


@pytest.mark.parametrize("name", GATES)
def test_every_real_gate_breaks_the_proof(name, monkeypatch):
    mutate, notice = GATES[name]
    mutate(monkeypatch)
    proof = speech_mamba_proof(frames=[24])
    assert any(notice in line for line in proof.failures()), proof.failures()


@pytest.mark.parametrize("name", UNITS)
def test_every_wrong_unit_breaks_the_proof(name, monkeypatch):
    mutate, notice = UNITS[name]
    mutate(monkeypatch)
    proof = proof_of(frames=[40], attention_form="chunkwise")
    assert not proof.holds
    assert any(notice in line for line in proof.failures()), proof.failures()


def kept_by(cls, name, mix):
    """Return a mutant of a method that mixes what it returned before into what it returns."""

    def mutate(monkeypatch):
        def method(right, layer, x, *args):
            found = right(layer, x, *args)
            before = vars(layer).get("kept", found.detach())
            vars(layer)["kept"] = found.detach()
            return mix(found, before)

        keep(monkeypatch, cls, name, method)

    return mutate


def membrane_goes_on(monkeypatch):
    """Let a membrane start where the last utterance has left it."""

    def start(right, neuron, x):
        return vars(neuron).get("kept", right(neuron, x))

    def run(right, neuron, x, v, lengths):
        spikes, last, counts = right(neuron, x, v, lengths)
        vars(neuron)["kept"] = last.detach()
        return spikes, last, counts

    keep(monkeypatch, FrameLIF, "initial_state", start)
    keep(monkeypatch, FrameLIF, "_run", run)


def utterances_are_counted(monkeypatch):
    """Let an encoder hear the noise of a fan that turns on."""

    def forward(right, encoder, xs, lengths):
        vars(encoder)["heard"] = vars(encoder).get("heard", 0) + 1
        return right(encoder, xs + 0.1 * vars(encoder)["heard"], lengths)

    keep(monkeypatch, SpikingSpeechMambaEncoder, "forward", forward)


def level_goes_on(monkeypatch):
    """Let the first frame of an utterance have the unit of the last one's first frame."""

    def level(right, neuron, *args):
        found = right(neuron, *args)
        vars(neuron)["kept"], before = found[:, :1], vars(neuron).get("kept", found[:, :1])
        return torch.cat([before, found[:, 1:]], 1)

    keep(monkeypatch, IMLS, "frame_level", level)


KEPT = {
    "a level": (level_goes_on, proof_of),
    "what no count shows": (
        kept_by(IMLSpikeformerEncoder, "readout", lambda y, old: y + 0.1 * old.mean()),
        proof_of,
    ),
    "a norm": (
        kept_by(MaskedBatchNorm, "forward", lambda y, old: y + 0.5 * old.flatten(0, -2).mean(0)),
        speech_mamba_proof,
    ),
    "a number of utterances": (utterances_are_counted, speech_mamba_proof),
}


@pytest.mark.parametrize("frames", [[24], [24, 30], [24, 30, 28]], ids=str)
def test_an_utterance_that_depends_on_others_breaks_the_proof(frames, monkeypatch):
    """In all forms alike: nothing else is wrong with the proof."""
    membrane_goes_on(monkeypatch)
    proof = speech_mamba_proof(frames=frames)
    repeats = min(len(frames), 2)
    assert proof.double_flips == 0 == proof.fire_flips and not proof.violations
    unused = repeats > 1  # and once by a copy that has encoded nothing
    assert proof.repeated == 3 * repeats + unused
    assert proof.changed == dict.fromkeys(("integer", "binary", "fire"), repeats) | {
        "integer": repeats + unused
    }
    assert not proof.holds and len(proof.failures()) == 3


@pytest.mark.parametrize("name", KEPT)
def test_whatever_is_kept_breaks_the_proof(name, monkeypatch):
    mutate, prove_it = KEPT[name]
    mutate(monkeypatch)
    proof = prove_it(frames=[24, 30])
    assert proof.changed.keys() >= {"integer", "binary", "fire"}
    assert any("something is kept" in line for line in proof.failures())


def test_what_the_first_utterance_fixes_for_all_breaks_the_proof(monkeypatch):
    """Encoded again, each utterance meets what it met before."""

    def level(right, neuron, *args):
        found = right(neuron, *args)
        return torch.full_like(found, vars(neuron).setdefault("fixed", float(found.mean())))

    keep(monkeypatch, IMLS, "frame_level", level)
    proof = proof_of(frames=[24, 30])
    assert proof.changed == {"integer": 1} and not proof.violations
    assert not proof.holds and "something is kept" in proof.failures()[0]


def test_an_output_that_is_no_number_breaks_the_proof(monkeypatch):
    """In an utterance that is not encoded again, after a right one."""

    def readout(right, encoder, x):
        spikes = encoder.encoders[0].attn.neuron_in.spike_mode != "integer"
        return right(encoder, x) * (torch.nan if spikes and x.shape[1] > 9 else 1)

    keep(monkeypatch, IMLSpikeformerEncoder, "readout", readout)
    proof = proof_of(frames=[24, 30, 44])
    assert proof.double == torch.inf == proof.fire and not proof.holds


def test_neurons_that_do_not_round_yet_are_told_so():
    with pytest.raises(UserError, match="warm_start_steps"):
        proof_of(frames=[24], warm_start_steps=9)


@pytest.mark.parametrize("name", OVER_FRAMES)
def test_every_mutant_over_frames_breaks_the_proof(name, monkeypatch):
    mutate, notice = OVER_FRAMES[name]
    mutate(monkeypatch)
    proof = speech_mamba_proof(frames=[40])
    assert not proof.holds
    assert any(notice in line for line in proof.failures()), proof.failures()


def test_spikes_that_are_worth_something_have_no_proof_and_are_told_so():
    with pytest.raises(UserError, match=r"FrameLIF \(embed.f1.0\) does not emit 0/1 spikes"):
        speech_mamba_proof(per_channel=True)


def test_no_utterance_is_no_proof():
    encoder = IMLSpikeformerEncoder(10, **SMALL).eval()
    model = types.SimpleNamespace(encoder=encoder, ctc=None)
    with pytest.raises(UserError, match="long enough"):
        prove(model, in_forms(encoder), [])


def test_a_membrane_that_is_left_alone_is_the_neuron():
    """The mutants' membrane with nothing wrong is ours, and its spikes fill slot by slot."""
    torch.manual_seed(0)
    neuron = IMLS(5, T=4).double().eval()
    x = torch.randn(2, 7, 5).double() * 3
    neuron.set_spike_mode("fire")
    fired = neuron(x)
    assert isinstance(fired, FiredTrain) and fired.spikes.dtype == torch.uint8
    assert (fired.spikes[:-1] >= fired.spikes[1:]).all() and fired.spikes.any()
    neuron.set_spike_mode("binary")
    cut = neuron(x)
    assert isinstance(cut, SpikeTrain)
    assert torch.equal(fired.counts, cut.counts) and torch.equal(fired.frame, cut.frame)
    assert all(torch.equal(fired.slot(t), cut.slot(t)) for t in range(1, 5))
    mask = torch.arange(7) < torch.tensor([[7], [3]])
    assert torch.equal(fired.masked(mask).slot(1), cut.masked(mask).slot(1))
    assert torch.equal(fired.masked(mask).counts, cut.masked(mask).counts)
