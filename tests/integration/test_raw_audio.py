"""A model with a front end of its own: trained on audio, decoded, counted, packed, refused."""

import json

import numpy as np
import pytest
import soundfile
import torch

from espnet_spike.bin import (
    asr_train,
    collect_stats,
    count,
    decode,
    describe,
    export_onnx,
    filter_utts,
    format_audio,
    pack,
    score,
    stream,
    transcribe,
)
from espnet_spike.data.feature_extractor import FeatureExtractor
from espnet_spike.data.kaldi_dir import DataDir
from espnet_spike.errors import UserError
from espnet_spike.experiment import read_config
from espnet_spike.tasks.loading import load_model
from espnet_spike.utils.files import read_table
from tests.helpers.features import write_tokens
from tests.helpers.tiny_training import DEV, TRAIN, write_config

RATE = 8000
FRONT = {"fs": RATE, "n_fft": 256, "hop_length": 80, "n_mels": 20}
SPIKES = {
    **{"encoder": "iml_spikeformer", "frontend": "default", "frontend_conf": FRONT},
    "encoder_conf": {"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 1},
    **{"model": "spike_asr", "normalize": "global_mvn", "max_epoch": 1},
}


def speak(text, seed):
    """Return samples in which every letter is a tone."""
    time = np.arange(RATE // 5) / RATE
    tones = [np.sin(2 * np.pi * 20 * ord(c) * time) for c in text]
    wave = 8000 * np.concatenate(tones)
    return (wave + 100 * np.random.default_rng(seed).standard_normal(len(wave))).astype(np.int16)


def write_audio(folder, name, texts):
    data = DataDir()
    for seed, (utt, text) in enumerate(texts.items()):
        path = folder / f"{utt}.wav"
        soundfile.write(path, speak(text, seed), RATE)
        data.wav[utt], data.text[utt], data.utt2spk[utt] = str(path), text, "s"
    data.write(folder / f"data_{name}")
    format_audio.main([f"{folder}/data_{name}", f"{folder}/org/{name}"])
    filter_utts.main([f"{folder}/org/{name}", f"{folder}/{name}"])


def words(folder, line):
    return line.format(
        f=folder,
        data=f"--train_dir {folder}/train --valid_dir {folder}/dev "
        f"--token_list {folder}/tokens.txt --token_type char",
    ).split()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A trained model; ``exp`` is its experiment."""
    folder = tmp_path_factory.mktemp("raw")
    write_tokens(folder / "tokens.txt")
    # long enough for one model, too short for its transcript in another: see `drop_short`
    write_audio(folder, "train", TRAIN | {"u6": "a"})
    write_audio(folder, "dev", DEV)
    write_config(folder, **SPIKES)
    collect_stats.main(words(folder, "--asr_config {f}/c.yaml {data} --output_dir {f}/stats"))
    asr_train.main(
        words(folder, "--asr_config {f}/c.yaml {data} --stats_dir {f}/stats --output_dir {f}/exp")
    )
    return folder


def test_it_is_trained_on_samples(work):
    config = read_config(work / "exp")
    assert (config["frontend"], config["input_size"]) == ("default", None)
    assert FeatureExtractor.find(work / "exp") == FeatureExtractor(RATE, None)
    shapes = read_table(work / "exp/shapes/train/speech_shape")
    assert shapes["u1"] == str(2 * RATE // 5)  # "ab", in samples
    model = load_model(work / "exp").model
    wave = torch.from_numpy(speak("abc", 0).astype(np.float32) / 32768)[None]
    features, _ = model._extract_feats(wave, torch.tensor([wave.shape[1]]))
    assert features.shape == (1, 1 + wave.shape[1] // 80, 20)
    statistics = np.load(work / "stats/train/feats_stats.npz")
    assert statistics["sum"].shape == (20,)  # of what the front end makes


def test_it_decodes_counts_and_transcribes_alike(work, capsys):
    (work / "d.yaml").write_text("ctc_weight: 1.0\nmaxlenratio: 0.3\nbeam_size: 2\n")
    bounds = ["--inference_args", "--beam_size 2 --maxlenratio 0.3"]  # nothing has been learnt
    line = "--asr_exp {f}/exp --inference_config {f}/d.yaml --out {f}/exp/dec dev={f}/dev"
    decode.main([*words(work, line), *bounds])
    score.main(
        words(work, "--token_list {f}/tokens.txt --token_type char --out {f}/exp/dec dev={f}/dev")
    )
    count.main(words(work, "--asr_exp {f}/exp --out {f}/exp/dec dev={f}/dev"))
    found = json.loads((work / "exp/dec/dev/count.json").read_text())
    assert found["uncovered"] == {}
    assert found["utts"]["v1"]["frames"] == 1 + 2 * RATE // 5 // 80  # of features
    fft = next(x for x in found["layers"] if x["layer"] == "frontend.stft")
    frames = sum(utt["frames"] for utt in found["utts"].values())
    assert fft["additions"] == 1.5 * frames * 256 * 8
    twin = found["utts"]["v1"]["energy"]["horowitz45_fp32"]["twin"]["total"]
    assert twin > found["utts"]["v1"]["energy"]["horowitz45_fp32"]["ctc"]["total"]
    pack.main(words(work, "--asr_exp {f}/exp --inference_config {f}/d.yaml --out {f}/m.zip"))
    capsys.readouterr()
    transcribe.main(words(work, "--asr_exp {f}/m.zip --format text {f}/v1.wav {f}/v2.wav"))
    said = dict(line.partition("\t")[::2] for line in capsys.readouterr().out.splitlines())
    assert said == read_table(work / "exp/dec/dev/text")


def test_what_is_too_short_for_the_front_end_is_as_too_short_for_the_encoder(work):
    from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError

    model = load_model(work / "exp").model
    with pytest.raises(TooShortUttError, match="100 samples: too few"):
        model.encode(torch.zeros(1, 100), torch.tensor([100]))


def test_rate_and_statistics_of_another_front_end_are_refused(work):
    line = "--asr_config {f}/o.yaml {data} --stats_dir {f}/stats --output_dir {f}/other"
    for change, said in (
        ({"frontend_conf": FRONT | {"fs": "16k"}}, "fs: 16000 Hz, but the audio .* has 8000 Hz"),
        ({"frontend_conf": {"n_mels": 20}}, "16000 Hz, ESPnet's default"),
        ({"frontend_conf": FRONT | {"n_fft": 512}}, "statistics of another front end"),
        ({"frontend": ..., "frontend_conf": ...}, "null, but the data are raw audio"),
    ):
        write_config(work, **SPIKES | change)
        (work / "c.yaml").rename(work / "o.yaml")
        with pytest.raises(UserError, match=said):
            asr_train.main(words(work, line))
    assert not (work / "other").exists()
    write_config(work, **SPIKES)


def test_what_needs_features_says_so(work):
    with pytest.raises(UserError, match="stream: the model was trained on raw audio"):
        stream.main(words(work, "--asr_exp {f}/exp {f}/v1.wav"))
    with pytest.raises(UserError, match="the model reads audio by DefaultFrontend"):
        export_onnx.main(words(work, "--asr_exp {f}/exp --out {f}/onnx"))


def test_it_is_described(work, capsys):
    describe.main(words(work, "--asr_config {f}/c.yaml"))
    assert "features 20" in capsys.readouterr().out
