import numpy as np
import onnx
import pytest
import soundfile
import torch
from torch import nn

from espnet_spike.bin import decode_sherpa, export_onnx
from espnet_spike.data.fbank import FbankConfig, extractor
from espnet_spike.data.feature_extractor import FeatureExtractor
from espnet_spike.errors import UserError
from espnet_spike.export import onnx_graph, sherpa
from espnet_spike.export.onnx_graph import LEVEL_OFFSET, CTCGraph, export
from espnet_spike.inference.ctc import best_path
from espnet_spike.utils.files import read_table, write_table
from tests.helpers.exportable import METADATA, MODELS
from tests.helpers.untrained import TOKENS, untrained_experiment

pytestmark = pytest.mark.xdist_group("tiny_model")


def test_tokens_in_the_form_of_sherpa():
    assert sherpa.token_lines(["<blank>", "<unk>", "\u2581a", "b", "<sos/eos>"], "bpe") == [
        *("<blk> 0", "<unk> 1", "\u2581a 2", "b 3", "<sos/eos> 4")
    ]
    assert sherpa.token_lines(["<blank>", "<space>", "a"], "char")[1:] == ["\u2581 1", "a 2"]
    assert sherpa.token_lines(["<blank>", "<unk>", "one"], "word")[2] == "\u2581one 2"


class Teller(nn.Module):
    """Says its features as tokens, rounded to 0.02: one token a value, blanks between."""

    low, step, size = -20.0, 0.02, 2002

    def forward(self, x, x_lens):
        tokens = ((x - self.low) / self.step).round().clamp(0, self.size - 2).long() + 1
        tokens = torch.stack([tokens, torch.zeros_like(tokens)], -1).flatten(1)
        return 10 * nn.functional.one_hot(tokens, self.size).float(), x_lens * 160


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """A real utterance at 16 kHz, int16: the shortest of mini_an4."""
    from espnet_spike.corpora import mini_an4
    from espnet_spike.corpora.download import extract

    folder = tmp_path_factory.mktemp("an4")
    extract(mini_an4.find_archive(), folder, members="downloads/an4/", strip=1)
    waves = [soundfile.read(path, dtype="int16") for path in sorted(folder.rglob("*.sph"))]
    assert all(rate == 16000 for _, rate in waves)
    return min((wave for wave, _ in waves), key=len)


def recognise(model, tokens, wave):
    import sherpa_onnx

    recognizer = sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(str(model), str(tokens))
    stream = recognizer.create_stream()
    stream.accept_waveform(16000, wave.astype(np.float32) / 32768)
    recognizer.decode_stream(stream)
    return stream.result


def test_features_of_sherpa_are_ours_with_its_settings(speech, tmp_path):
    path, wave = tmp_path / "teller.onnx", speech[:8000].copy()
    wave[3000:5000] = 0  # digital silence
    torch.onnx.export(
        Teller(),
        (torch.zeros(1, 9, 80), torch.tensor([9])),
        path,
        input_names=["x", "x_lens"],
        output_names=["log_probs", "log_probs_len"],
        dynamic_axes={"x": {1: "T"}, "log_probs": {1: "L"}},
        opset_version=onnx_graph.OPSET,
        dynamo=False,
    )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, METADATA)
    onnx.save(model, path)
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("<blk> 0\n" + "".join(f"{n} {n}\n" for n in range(1, Teller.size)))
    said = recognise(path, tokens, wave).tokens
    heard = np.array([int(token) - 1 for token in said]) * Teller.step + Teller.low
    heard = heard.reshape(-1, 80)
    same = extractor(sherpa.FBANK, 16000)(wave.astype(np.float32)) - LEVEL_OFFSET
    assert same.min() == np.log(np.float32(128)) - np.float32(LEVEL_OFFSET)
    np.testing.assert_allclose(heard, same, atol=0.011)
    ours = extractor(FbankConfig(), 16000)(wave.astype(np.float32)) - LEVEL_OFFSET
    assert len(heard) == len(ours) + 2
    assert np.abs(heard[1 : 1 + len(ours)] - ours).mean() > 0.1  # which is why FBANK is told


@torch.no_grad()
def export_talkative(name, speech, folder):
    """Export an untrained model that says several tokens to the speech; return it and features."""
    model = untrained_experiment(folder, *MODELS[name])
    x = extractor(sherpa.FBANK, 16000)(speech.astype(np.float32))[None] - np.float32(LEVEL_OFFSET)
    encoded, _ = model.encode(torch.from_numpy(x + LEVEL_OFFSET), torch.tensor([x.shape[1]]))
    ctc = model.ctc.ctc_lo
    ctc.bias.copy_(-ctc.weight @ encoded[0].mean(0))  # or one token were the best everywhere
    ctc.bias[[1, -1]] = -1e3  # neither <unk> nor <sos/eos>
    graph = CTCGraph(model, 80).eval()
    export(graph, folder / "model.onnx", METADATA)
    lines = sherpa.token_lines(TOKENS, "char")
    (folder / "tokens.txt").write_text("\n".join(lines) + "\n")
    return graph, x


@pytest.mark.parametrize("name", ["relu", "imls", "spiking"])
@torch.no_grad()
def test_sherpa_says_what_greedy_ctc_says(speech, tmp_path, name):
    graph, x = export_talkative(name, speech, tmp_path)
    result = recognise(tmp_path / "model.onnx", tmp_path / "tokens.txt", speech)
    log_probs, olens = graph(torch.from_numpy(x.copy()), torch.tensor([x.shape[1]]))
    ids = best_path(log_probs[0, : int(olens[0])].numpy())
    text = "".join(TOKENS[i] for i in ids).replace("<space>", " ")
    assert len(set(ids)) > 3
    assert result.text.strip() == text.strip()


def test_a_set_decoded_by_sherpa_is_compared_with_stage_10(speech, tmp_path, capsys):
    export_talkative("relu", speech, tmp_path)
    FeatureExtractor(16000, sherpa.FBANK).write(tmp_path)
    soundfile.write(tmp_path / "a.wav", speech, 16000)
    soundfile.write(tmp_path / "b.wav", np.repeat(speech[8000:], 2), 32000)
    stereo = np.stack([speech, np.zeros_like(speech)], 1)
    soundfile.write(tmp_path / "c.flac", stereo, 16000)
    data = {
        "wav.scp": {name: str(tmp_path / file) for name, file in
                    zip("xyz", ("a.wav", "b.wav", "c.flac"), strict=True)},
        "segments": {"u1": "x 0 0.6", "u2": "x 0.6 -1", "u3": "y 0 -1", "u4": "z 0 0.6"},
        "text": {"u1": "a b", "u2": "c d", "u3": "e", "u4": "f"},
        "utt2spk": dict.fromkeys(("u1", "u2", "u3", "u4"), "s"),
    }  # fmt: skip
    other = tmp_path / "decoded"
    for folder in (tmp_path / "data", other):
        folder.mkdir()
    for name, table in data.items():
        write_table(tmp_path / "data" / name, table)
    arguments = ["--onnx", str(tmp_path), "--data_dir", str(tmp_path / "data")]
    decode_sherpa.main([*arguments, "--out", str(tmp_path / "said"), "--normalization", "none"])
    texts = read_table(tmp_path / "said/text")
    stretches = {"u1": speech[:9600], "u2": speech[9600:], "u4": speech[:9600] / 2}
    for utt, wave in stretches.items():
        result = recognise(tmp_path / "model.onnx", tmp_path / "tokens.txt", wave)
        assert texts[utt] == result.text.strip()
    assert texts["u3"] and texts["u1"] != texts["u2"]
    write_table(other / "text", texts | {"u2": "something else"})
    (other / "result.json").write_text('{"normalization": "lower"}')
    capsys.readouterr()
    again = [*arguments, "--decode_dir", str(other), "--out", str(tmp_path / "again")]
    decode_sherpa.main(again)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("| normalization lower |")
    assert printed[2].endswith("| 4 of 4 |") and printed[3].endswith("| 3 of 4 |")
    write_table(other / "text", {"u1": "a"})
    with pytest.raises(UserError, match="3 without a hypothesis: u2"):
        decode_sherpa.main(again)
    with pytest.raises(UserError, match=r"model\.int8\.onnx: missing"):
        decode_sherpa.main([*again, "--int8"])


def test_differences_of_features_are_told():
    assert not sherpa.feature_differences(FeatureExtractor(16000, sherpa.FBANK))
    told = sherpa.feature_differences(FeatureExtractor(16000, FbankConfig()))
    assert len(told) == 3 and "high_freq is -400.0 in sherpa-onnx, 0.0 in training" in told
    from espnet_spike.data.fbank import load_config

    root = export_onnx.Path(__file__).resolve().parents[2]
    assert load_config(root / "conf/fbank_sherpa.yaml") == sherpa.FBANK
