"""Exported graphs: what onnxruntime and sherpa-onnx compute with them is what torch computes."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from espnet_spike.data.fbank import FbankConfig, extractor
from espnet_spike.errors import UserError
from espnet_spike.export import onnx_check
from espnet_spike.export.onnx_graph import LEVEL_OFFSET, CTCGraph, OnnxCTC, export
from espnet_spike.inference.ctc import best_path
from espnet_spike.nn.norms import MaskedBatchNorm
from espnet_spike.utils.install import how_to_install
from tests.helpers.exportable import METADATA, MODELS
from tests.helpers.untrained import untrained_experiment

pytestmark = pytest.mark.xdist_group("tiny_model")
WITH_LAYERS = ("imls", "ternary", "lif", "conmamba", "event", "spiking", "conformer")


def features(frames, seed=0):
    """Unit-range features of a batch, with what is not to be seen after their ends."""
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(len(frames), max(frames), 80, generator=generator)
    return x + 12 - LEVEL_OFFSET, torch.tensor(frames)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return a function that makes a model by its name in MODELS, once."""
    made = {}

    def make(name):
        if name not in made:
            encoder, conf, *normalize = MODELS[name]
            changes = {"normalize": normalize[0]} if normalize else {}
            folder = tmp_path_factory.mktemp("exp")
            model = untrained_experiment(folder, encoder, conf, **changes)
            model.ctc.ctc_lo.bias.data[[1, -1]] = -1e3  # neither <unk> nor <sos/eos>
            for norm in model.modules():
                if isinstance(norm, MaskedBatchNorm):
                    nn.init.constant_(norm.bias, 0.5)  # so that every layer fires
            made[name] = model
        return made[name]

    return make


@pytest.fixture(scope="module")
def exported(models, tmp_path_factory):
    """Return a function that makes a graph and its export, once."""
    made = {}

    def make(name, layers=False):
        if (name, layers) not in made:
            graph = CTCGraph(models(name), 80, layers).eval()
            path = tmp_path_factory.mktemp("graph") / "model.onnx"
            export(graph, path, METADATA)
            made[name, layers] = graph, OnnxCTC(path)
        return made[name, layers]

    return make


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_onnxruntime_gives_what_torch_gives(exported, name):
    graph, session = exported(name)
    onnx_check.check_made_up(graph, session)
    for frames in ([37], [150, 90, 40, 3], [23, 61]):
        x, lengths = features(frames)
        expected, olens = graph(x.clone(), lengths)
        found, found_olens = session(x.numpy(), frames)
        assert found.shape == expected.shape and found_olens.tolist() == olens.tolist()
        for n, length in enumerate(found_olens):
            # a spike that flips changes a part, but not most
            close = np.abs(found[n, :length] - expected[n, :length].numpy()) < 1e-3
            assert close.mean() > 0.9 if length else frames[n] == 3
            assert best_path(found[n, :length]) == best_path(expected[n, :length].numpy())


@pytest.mark.parametrize("name", WITH_LAYERS)
@torch.no_grad()
def test_layers_are_equal(exported, name):
    graph, session = exported(name, layers=True)
    x, lengths = features([83], seed=1)
    _, _, *expected = graph(x.clone(), lengths)
    _, _, *found = session(x.numpy(), [83])
    names = graph.layer_names
    assert "block 0" in names
    spiking = [n for n in names if n.startswith("spikes")]
    assert bool(spiking) == (name not in ("conmamba", "conformer"))
    flips = count = 0
    for layer, ours, theirs in zip(names, expected, found, strict=True):
        assert ours.shape == theirs.shape
        if layer in spiking:
            assert ours.any(), f"{layer} is silent"
            flips += int((ours.numpy() != theirs).sum())
            count += theirs.size
        else:
            assert (np.abs(ours.numpy() - theirs) < 1e-3).mean() > 0.9
    assert flips <= onnx_check.MAX_FLIPS * count
    if name == "imls":  # where nothing can have flipped before
        first = names.index("spikes embed.neurons.0")
        assert np.array_equal(expected[first].numpy(), found[first])


def test_padding_and_company_have_no_say(exported):
    _, session = exported("relu")
    x, lengths = features([150, 90, 41])
    together, olens = session(x.numpy(), lengths.tolist())
    for n, length in enumerate(lengths.tolist()):
        (alone, (olen,)) = session(x.numpy()[n : n + 1, :length], [length])
        assert olen == olens[n] == alone.shape[1]
        np.testing.assert_allclose(together[n, :olen], alone[0], atol=1e-3)


def test_what_is_too_short_is_blank(exported):
    graph, session = exported("imls")
    assert graph.min_frames == 7
    for frames in (1, 6):
        assert session(features([frames])[0].numpy(), [frames])[1].tolist() == [0]
    assert session(features([7])[0].numpy(), [7])[1].tolist() == [1]


@pytest.mark.parametrize("name", ["relu", "mamba", "utterance_mvn"])
@torch.no_grad()
def test_the_graph_takes_unit_range_features(models, exported, name):
    wave = (3000 * np.random.default_rng(0).standard_normal(16000)).astype(np.float32)
    ours = torch.from_numpy(extractor(FbankConfig(), 16000)(wave))[None]
    theirs = extractor(FbankConfig(), 16000)(wave / 32768)[None]
    model, lengths = models(name), torch.tensor([ours.shape[1]])
    encoded, olens = model.encode(ours.clone(), lengths)
    encoded = encoded[0] if isinstance(encoded, tuple) else encoded
    _, session = exported(name)
    found, found_olens = session(theirs, lengths.tolist())
    assert found_olens.tolist() == olens.tolist()
    np.testing.assert_allclose(found, model.ctc.log_softmax(encoded).numpy(), atol=5e-3)


def test_binary_spikes_and_other_levels_can_be_exported(models, exported, tmp_path):
    _, counts = exported("imls")
    model = untrained_experiment(tmp_path, *MODELS["imls"])
    model.load_state_dict(models("imls").state_dict())
    x, _ = features([77])
    expected = counts(x.numpy(), [77])[0]
    model.encoder.set_levels(2)
    export(CTCGraph(model, 80).eval(), tmp_path / "two.onnx", METADATA)
    assert np.abs(OnnxCTC(tmp_path / "two.onnx")(x.numpy(), [77])[0] - expected).max() > 0.1
    model.encoder.set_levels(6)
    model.encoder.set_spike_mode("binary")
    export(CTCGraph(model, 80).eval(), tmp_path / "binary.onnx", METADATA)
    binary = OnnxCTC(tmp_path / "binary.onnx")(x.numpy(), [77])[0]
    assert (np.abs(binary - expected) < 1e-3).mean() > 0.9


def test_the_file_says_what_it_is(exported, tmp_path):
    _, session = exported("imls")
    assert session.metadata == METADATA
    assert METADATA["model_type"] == "zipformer2_ctc" and METADATA["comment"] == "a test"
    assert set(METADATA) == {"model_type", "version", "model_author", "comment"}
    assert [i.name for i in session.session.get_inputs()] == ["x", "x_lens"]
    assert [i.shape for i in session.session.get_inputs()] == [["N", "T", 80], ["N"]]
    assert [o.name for o in session.session.get_outputs()] == ["log_probs", "log_probs_len"]


class Fixed(nn.Module):
    """An encoder whose frames are counted in Python, so that a trace holds their number."""

    def forward(self, xs, ilens):
        return torch.stack([xs[:, t, :16] for t in range(xs.shape[1])], 1), ilens, None


def fake_model(encoder):
    module = nn.Module()
    module.encoder = encoder
    module.ctc = nn.Module()
    module.ctc.log_softmax = lambda x: x.log_softmax(-1)
    module.preencoder = module.postencoder = None
    module.encode = lambda x, lengths: encoder(x, lengths)[:2]
    return module


def test_what_cannot_be_exported_is_refused_by_name(models, tmp_path, monkeypatch):
    graph = CTCGraph(fake_model(Fixed()), 80).eval()
    export(graph, tmp_path / "fixed.onnx", METADATA)
    with pytest.raises(UserError, match="Fixed cannot be exported"):
        onnx_check.check_made_up(graph, OnnxCTC(tmp_path / "fixed.onnx"))

    class Odd(Fixed):
        def forward(self, xs, ilens):
            return torch.special.bessel_j0(xs), ilens, None

    with pytest.raises(UserError, match=r"Odd cannot be exported.*bessel_j0"):
        export(CTCGraph(fake_model(Odd()), 80).eval(), tmp_path / "odd.onnx", METADATA)
    assert not (tmp_path / "odd.onnx").exists()
    without = SimpleNamespace(ctc=None)
    with pytest.raises(UserError, match="no CTC"):
        CTCGraph(without, 80)
    with pytest.raises(UserError, match="reads audio by Linear"):
        CTCGraph(SimpleNamespace(ctc=1, frontend=nn.Linear(1, 1)), 80)
    with pytest.raises(ValueError, match="evaluation mode"):
        export(CTCGraph(models("relu"), 80).train(), tmp_path / "x.onnx", METADATA)
    models("relu").eval()
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(UserError, match="needs the package onnx") as error:
        OnnxCTC(tmp_path / "x.onnx")
    assert error.value.hint == how_to_install("onnx")


def test_a_failed_export_leaves_no_file_behind(tmp_path, monkeypatch):
    model = untrained_experiment(tmp_path, *MODELS["relu"])

    def refuse(path):
        raise onnx.checker.ValidationError("not valid")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(onnx.checker.ValidationError):
        export(CTCGraph(model, 80).eval(), out / "model.onnx", METADATA)
    assert list(out.iterdir()) == []
