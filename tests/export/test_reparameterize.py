"""A trained experiment in its inference form: same function, proven before it is written."""

import json

import pytest
import torch
import yaml

from espnet_spike.bin import reparameterize as command
from espnet_spike.errors import UserError
from espnet_spike.export.reparameterize import PROOF, Proof, reparameterize
from espnet_spike.tasks.loading import encoder_inputs
from tests.helpers.tiny_model import CONFIG, DIMENSION, TOKENS, make_texts, write_features

MODEL = "valid.cer_ctc.ave.pth"
ENCODER = {
    **{"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 2},
    **{"dropout_rate": 0.0, "positional_dropout_rate": 0.0, "conv_channels": 8, "T": 4},
}


def experiment(root, encoder="iml_spikeformer", **conf):
    """Write an untrained experiment of synthetic speech; return it and its features."""
    from espnet_spike.tasks.arguments import parse_espnet
    from espnet_spike.tasks.asr import SpikeASRTask

    exp = root / "exp"
    exp.mkdir()
    (root / "tokens.txt").write_text("\n".join(TOKENS) + "\n")
    words = ["--output_dir", str(exp), "--token_list", str(root / "tokens.txt")]
    words += ["--token_type", "char", "--input_size", str(DIMENSION), "--seed", "3"]
    encoder_conf = ENCODER | conf if encoder == "iml_spikeformer" else CONFIG["encoder_conf"]
    config = CONFIG | {"encoder": encoder, "encoder_conf": encoder_conf}
    args = parse_espnet(SpikeASRTask, config, words)
    torch.manual_seed(3)
    model = SpikeASRTask.build_model(args)
    torch.save(model.state_dict(), exp / MODEL)
    (exp / "config.yaml").write_text(yaml.safe_dump(vars(args)))
    return exp, write_features(root / "feats", make_texts(5, seed=2), seed=2)


def load(exp):
    from espnet_spike.tasks.asr import SpikeASRTask

    model, _ = SpikeASRTask.build_model_from_file(str(exp / "config.yaml"), str(exp / MODEL))
    return model.eval()


@pytest.mark.parametrize("conf", [{"qkv_bias": True}, {"qk_mode": "repconv"}, {"qk_mode": "ssa"}])
def test_the_written_experiment_is_the_same_model(tmp_path, conf):
    exp, data = experiment(tmp_path, **conf)
    words = ["--asr_exp", exp, "--data_dir", data, "--out", tmp_path / "out"]
    command.main([*map(str, words), "--fold_qk", "true", "--utterances", "3"])
    written = json.loads((tmp_path / "out" / PROOF).read_text())
    proof = Proof(**written)
    assert proof.holds and proof.utterances == 3
    assert proof.layer_fp32 < 1e-5 and proof.double < 1e-9 and proof.double_flips == 0
    trained, merged = load(exp), load(tmp_path / "out")
    assert set(trained.state_dict()) != set(merged.state_dict())
    # merged in float64, written in fp32
    by_hand = trained.encoder.double()
    by_hand.reparameterize()
    expected = by_hand.float().state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in merged.encoder.state_dict().items())
    for speech, lengths in encoder_inputs(merged, data, 3):
        assert merged.encoder(speech, lengths)[0].isfinite().all()
    config = yaml.safe_load((tmp_path / "out/config.yaml").read_text())
    assert config["encoder_conf"]["fold_qk"] and config["encoder_conf"]["reparameterized"]


def test_each_condition_is_needed():
    assert Proof(utterances=1).holds
    assert Proof(layer_fp32=1e-5, double=1e-9).holds
    for wrong in ({"layer_fp32": 2e-5}, {"double": 2e-9}, {"double_flips": 1}):
        assert not Proof(**wrong).holds
    assert Proof(layer_fp32=1.0).holds_in_double and Proof(fp32=1.0, fp32_flips=1.0).holds


@pytest.mark.parametrize("factor", [1.001, 1 + 1e-7])
def test_a_wrong_merge_is_not_written(tmp_path, monkeypatch, factor):
    from espnet_spike.nn.layers.spiking_attention import SpikingAttention

    exp, data = experiment(tmp_path)
    right = SpikingAttention.reparameterize

    def wrong(self, fold_qk):
        right(self, fold_qk)
        with torch.no_grad():
            self.folded.weight *= factor

    monkeypatch.setattr(SpikingAttention, "reparameterize", wrong)
    with pytest.raises(UserError, match="the inference form differs"):
        reparameterize(exp, None, data, tmp_path / "out", fold_qk=True, utterances=2)
    assert not (tmp_path / "out").exists()


def test_an_encoder_without_inference_form(tmp_path):
    exp, data = experiment(tmp_path, encoder="transformer")
    with pytest.raises(UserError, match="encoder: transformer has no inference form"):
        reparameterize(exp, None, data, tmp_path / "out", fold_qk=True, utterances=2)


def test_no_utterance_long_enough(tmp_path):
    exp, _ = experiment(tmp_path, input_layer="conv2d8")  # asks for 15 frames
    short = write_features(tmp_path / "short", {"utt": "a"}, seed=1)
    with pytest.raises(UserError, match="long enough"):
        reparameterize(exp, None, short, tmp_path / "out", fold_qk=True, utterances=2)
