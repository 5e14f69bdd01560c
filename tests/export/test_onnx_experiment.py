"""Exports of experiments and packs: compared, scored, and refused where they differ."""

import json

import onnx
import pytest

from espnet_spike.bin import export_onnx
from espnet_spike.errors import UserError
from espnet_spike.export import onnx_check, onnx_experiment, pack
from espnet_spike.export.onnx_graph import OnnxCTC, export
from espnet_spike.inference.decode import read_settings
from tests.helpers.tiny_model import make_texts, tiny_experiment, write_features

pytestmark = pytest.mark.xdist_group("tiny_model")


@pytest.fixture(scope="module")
def check_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dump") / "test"
    return write_features(folder, make_texts(8, seed=5), seed=5)


def test_the_command_exports_checks_and_scores(check_dir, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--asr_exp", str(tiny_experiment()), "--out", str(out), "--int8"]
    with pytest.raises(UserError, match="nothing has been scored") as error:
        export_onnx.main([*arguments, "--check_dir", str(check_dir)])
    assert "--normalization" in error.value.hint
    export_onnx.main([*arguments, "--check_dir", str(check_dir), "--normalization", "none"])
    printed = capsys.readouterr().out
    assert "| test | 8 | 8 | – | – |" in printed and "from_zipformer_ctc" in printed
    assert "encoder and CTC; left out: decoder transformer" in printed
    report = json.loads((out / "export.json").read_text())
    assert report["left_out"] == ["decoder transformer"]
    figures = report["sets"]["test"]
    assert figures["same"] == figures["utterances"] == 8 and figures["largest"] < 1e-3
    errors = figures["errors"]
    assert errors["onnx"] == errors["torch"] and errors["onnx"]["wer"] < 20
    assert errors["int8"]["wer"] < 20
    texts = (out / "check/test/onnx/text").read_text()
    assert texts == (out / "check/test/torch/text").read_text()
    assert (out / "check/test/int8/score_ter/result.txt").is_file()
    assert report["bytes"]["onnx"] == (out / "model.onnx").stat().st_size
    assert {p.name for p in out.iterdir()} == {
        *("model.onnx", "model.int8.onnx", "tokens.txt", "export.json", "check")
    }
    kinds = {i.data_type for i in onnx.load(out / "model.int8.onnx").graph.initializer}
    assert onnx.TensorProto.INT8 in kinds
    metadata = [OnnxCTC(out / f"model{kind}.onnx").metadata for kind in ("", ".int8")]
    assert metadata[0].items() <= metadata[1].items()


def test_a_graph_that_differs_is_told(check_dir, tmp_path, monkeypatch):
    def export_something_else(graph, path, metadata):
        export(graph, path, metadata)
        if not graph.watched:
            model = onnx.load(path)
            for tensor in model.graph.initializer:
                if tensor.name.endswith("ctc_lo.bias"):
                    bias = onnx.numpy_helper.to_array(tensor).copy()
                    bias[3] += 100
                    tensor.CopyFrom(onnx.numpy_helper.from_array(bias, tensor.name))
            onnx.save(model, path)

    monkeypatch.setattr(onnx_experiment, "export", export_something_else)
    monkeypatch.setattr(onnx_check, "check_made_up", lambda *args: 0.0)
    arguments = ["--asr_exp", str(tiny_experiment()), "--out", str(tmp_path)]
    arguments += ["--normalization", "none"]
    with pytest.raises(UserError, match="does not agree with torch: test: 8 of 8"):
        export_onnx.main([*arguments, "--check_dir", str(check_dir)])


def test_a_pack_is_exported_as_its_experiment(tmp_path):
    settings = read_settings(None, "--ctc_weight 0.5")
    pack.pack(pack.Contents(tiny_experiment(), None, settings), tmp_path / "p.zip")
    graphs = []
    for model in (tiny_experiment(), tmp_path / "p.zip"):
        export_onnx.main(["--asr_exp", str(model), "--out", str(tmp_path / model.stem)])
        graphs.append((tmp_path / model.stem / "model.onnx").read_bytes())
    assert graphs[0] == graphs[1]
    with pytest.raises(UserError, match="no trained model"):
        export_onnx.main(["--asr_exp", str(tmp_path), "--out", str(tmp_path / "x")])
    with pytest.raises(UserError, match="no such folder"):
        arguments = ["--asr_exp", str(tiny_experiment()), "--out", str(tmp_path / "x")]
        export_onnx.main([*arguments, "--check_dir", str(tmp_path / "none")])
