"""Transcribing files is decoding them; cutting loses and repeats nothing."""

import importlib
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.bin import decode, fbank, pack, transcribe
from espnet_spike.data.feature_extractor import FEATURES, hand_on
from espnet_spike.data.kaldi_dir import DataDir
from espnet_spike.errors import UserError
from espnet_spike.export import pack as pack_module
from espnet_spike.inference.recognizer import Recognizer, linear_masks, warn_of_unlearnt
from espnet_spike.utils.files import read_table
from tests.helpers.tiny_model import DIMENSION, tiny_experiment

pytestmark = pytest.mark.xdist_group("tiny_model")
RATE = 8000


def babble(seconds: float, seed: int) -> np.ndarray:
    """Return noise whose colour changes eight times a second, int16."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(round(seconds * 8)):
        tone = np.sin(2 * np.pi * rng.uniform(200, 3500) * np.arange(RATE // 8) / RATE)
        parts.append(8000 * tone + 500 * rng.standard_normal(RATE // 8))
    return np.concatenate(parts).astype(np.int16)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe folder with a trained model that has decoded five files."""
    root = tmp_path_factory.mktemp("my recipe")
    shutil.copytree(tiny_experiment(), root / "exp" / "asr_tiny")
    (root / "audio").mkdir()
    data = DataDir()
    for number, seconds in enumerate((2.0, 1.0, 3.0, 0.125, 2.5)):
        utt = f"u{number}"
        soundfile.write(root / "audio" / f"{utt}.wav", babble(seconds, number), RATE)
        data.wav[utt], data.text[utt] = str(root / "audio" / f"{utt}.wav"), "a"
        data.utt2spk[utt] = "s"
    previous = Path.cwd()
    os.chdir(root)
    try:
        data.write(Path("data/test"))
        Path("fbank.yaml").write_text(f"num_mel_bins: {DIMENSION}\n")
        fbank.main(["--config", "fbank.yaml", "data/test", "dump/test"])
        hand_on(Path("dump/test"), Path("exp/asr_tiny"))
        Path("decode.yaml").write_text("beam_size: 3\nctc_weight: 0.5\nbatch_size: 2\n")
        arguments = ["--asr_exp", "exp/asr_tiny", "--inference_config", "decode.yaml"]
        decode.main([*arguments, "--out", "exp/asr_tiny/decode", "test=dump/test"])
    finally:
        os.chdir(previous)
    return root


@pytest.fixture(scope="module")
def recognizer(recipe):
    return Recognizer(recipe / "exp/asr_tiny")


def run_transcribe(capsys, *arguments):
    transcribe.main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def test_it_writes_what_stage_10_writes(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # the model's files are found from anywhere
    out = run_transcribe(capsys, "--model", recipe / "exp/asr_tiny", recipe / "audio")
    found = dict(line.split("\t") for line in out.splitlines())
    expected = read_table(recipe / "exp/asr_tiny/decode/test/text")
    assert found == expected and any(expected.values())
    scores = read_table(recipe / "exp/asr_tiny/decode/test/score")
    out = run_transcribe(
        capsys, "--model", recipe / "exp/asr_tiny", recipe / "audio", "--format", "json"
    )
    for line in out.splitlines():
        transcript = json.loads(line)
        (piece,) = transcript["pieces"]
        assert f"{piece['score']:.3f}" in f"{float(scores[transcript['name']][7:-1]):.3f}"


def test_a_list_and_standard_input_give_the_same(recipe, monkeypatch, capsys):
    monkeypatch.chdir(recipe)
    model = ("--model", "exp/asr_tiny")
    scp = recipe / "data/test/wav.scp"
    assert run_transcribe(capsys, *model, scp) == run_transcribe(capsys, *model, "audio")
    audio = recipe / "audio/u2.wav"
    (text,) = dict(
        line.split("\t") for line in run_transcribe(capsys, *model, audio).splitlines()
    ).values()
    piped = types.SimpleNamespace(isatty=lambda: False, buffer=io.BytesIO(audio.read_bytes()))
    monkeypatch.setattr(sys, "stdin", piped)
    found = json.loads(run_transcribe(capsys, *model, "-", "--format", "json"))
    assert (found["name"], found["text"], found["seconds"]) == ("stdin", text, 3.0)


@pytest.mark.parametrize("letter", ["a", "語"])
def test_no_transcript_is_lost_to_a_long_name(recipe, tmp_path, capsys, letter):
    stem = (251 // len(letter.encode())) * letter
    shutil.copy(recipe / "audio/u1.wav", tmp_path / f"{stem}.wav")
    arguments = ("--model", recipe / "exp/asr_tiny", tmp_path / f"{stem}.wav", "--format", "json")
    run_transcribe(capsys, *arguments, "--output_dir", tmp_path / "out")
    (path,) = (tmp_path / "out").iterdir()
    assert json.loads(path.read_text())["name"] == stem and path.suffix == ".json"


def test_a_pack_gives_the_same_elsewhere(recipe, tmp_path, capsys):
    shutil.copytree(recipe, tmp_path / "moved")
    previous = Path.cwd()
    os.chdir(tmp_path / "moved")
    try:
        pack.main(
            ["--asr_exp", "exp/asr_tiny", "--inference_config", "decode.yaml", "--out", "p.zip"]
        )
    finally:
        os.chdir(previous)
    shutil.move(tmp_path / "moved/p.zip", tmp_path / "p.zip")
    shutil.rmtree(tmp_path / "moved")
    command = [sys.executable, "-m", "espnet_spike", "transcribe", "--model", "p.zip"]
    run = subprocess.run(
        [*command, str(recipe / "audio"), "--inference_args", "--batch_size 2"],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(Path(pack_module.__file__).parents[2])),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    capsys.readouterr()
    expected = run_transcribe(capsys, "--model", recipe / "exp/asr_tiny", recipe / "audio")
    assert run.stdout == expected


def test_files_are_written_in_every_format(recipe, tmp_path, capsys):
    for kind, ending in (("srt", ".srt"), ("ctm", ".ctm"), ("text", ".txt"), ("json", ".json")):
        arguments = ("--model", recipe / "exp/asr_tiny", recipe / "audio/u2.wav", "--format", kind)
        run_transcribe(capsys, *arguments, "--out", tmp_path / "out")
        assert (tmp_path / "out" / f"u2{ending}").is_file()
    text = (tmp_path / "out/u2.txt").read_text().strip("\n").split("\t")[1]
    ctm = [line.split() for line in (tmp_path / "out/u2.ctm").read_text().splitlines()]
    assert [line[4] for line in ctm] == text.split()
    starts = [float(line[2]) for line in ctm]
    assert starts == sorted(starts) and starts[0] >= 0
    assert float(ctm[-1][2]) + float(ctm[-1][3]) <= 3.0 + 0.001
    assert " --> " in (tmp_path / "out/u2.srt").read_text()


def test_a_long_file_is_the_sum_of_its_pieces(recipe, recognizer, tmp_path):
    wave = np.concatenate([babble(9.0, 7), np.zeros(RATE, np.int16), babble(5.0, 8)])
    soundfile.write(tmp_path / "long.wav", wave, RATE)
    (transcript,) = recognizer.transcribe({"long": tmp_path / "long.wav"}, True, max_seconds=4.0)
    pieces = transcript.pieces
    assert pieces[0].start == 0 and pieces[-1].end == pytest.approx(15.0)
    for first, second in itertools.pairwise(pieces):
        assert first.end == second.start
    assert all(0 < piece.end - piece.start <= 4.0 for piece in pieces)
    assert transcript.text == " ".join(piece.text for piece in pieces if piece.text)
    for number, piece in enumerate(pieces):
        place = slice(round(piece.start * RATE), round(piece.end * RATE))
        soundfile.write(tmp_path / f"p{number}.wav", wave[place], RATE)
        assert all(piece.start <= w.start <= w.end <= piece.end + 1e-3 for w in piece.words)
    single = {f"p{n}": tmp_path / f"p{n}.wav" for n in range(len(pieces))}
    alone = {t.name: t.text for t in recognizer.transcribe(single, max_seconds=4.0)}
    same = [alone[f"p{n}"] == piece.text for n, piece in enumerate(pieces)]
    assert sum(same) >= len(same) - 1  # another batch may tip a near tie


def test_a_greedy_search_hears_the_whole_in_one_pass(recipe, recognizer, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "long.wav", babble(40.0, 7), RATE)
    files = {"long": tmp_path / "long.wav"}
    features = recognizer.feature_extractor(recognizer.audio(files["long"], "long"))
    posteriors = recognizer.log_posteriors(features)
    best = posteriors.argmax(axis=1)
    expected = [int(k) for k, _ in itertools.groupby(best) if k != 0]

    monkeypatch.setattr("espnet_spike.inference.recognizer.CTC_FRAMES", 7)
    ids, spans, frames, score = recognizer.greedy(features)
    assert ids == expected and frames == len(posteriors)
    assert score == pytest.approx(posteriors.max(axis=1).sum(), rel=1e-5)
    assert all((best[a:b] == token).all() for token, (a, b) in zip(ids, spans, strict=True))
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans))

    (transcript,) = recognizer.transcribe(files, True, max_seconds=4.0, search="greedy")
    (piece,) = transcript.pieces
    assert (piece.start, piece.end) == (0, 40.0)
    assert piece.text.split() == [word.word for word in piece.words] and piece.words

    soundfile.write(tmp_path / "short.wav", babble(9.0, 7)[:480], RATE)  # no frame behind
    files = {"short": tmp_path / "short.wav"}
    (transcript,) = recognizer.transcribe(files, True, search="greedy")
    assert [(piece.text, piece.words) for piece in transcript.pieces] == [("", ())]


@pytest.mark.parametrize("name", ["global_mvn", "utterance_mvn"])
def test_masks_that_are_linear_are_those_of_espnet(name):
    module = importlib.import_module(f"espnet2.layers.{name}")
    lengths, xs = torch.tensor([3, 7, 1]), torch.zeros(3, 7, 2)
    theirs = module.make_pad_mask
    with linear_masks():
        assert module.make_pad_mask is not theirs
        mask = module.make_pad_mask(lengths, xs, 1)
    assert module.make_pad_mask is theirs
    assert torch.equal(mask, theirs(lengths, xs, 1).expand_as(xs))


class Hearing(Recognizer):
    """Finds blank where the audio is silent, ten frames a second."""

    def __init__(self):
        self.feature_extractor = self

    fs = 100

    def __call__(self, wave):
        return wave

    def log_posteriors(self, wave):
        frames = np.abs(wave[: len(wave) // 10 * 10].reshape(-1, 10)).mean(axis=1)
        return np.log(np.stack([1 / (1 + frames), frames / (1 + frames) + 1e-9], axis=1))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(20, 900), st.integers(20, 200)), min_size=1, max_size=12),
    st.floats(5.0, 30.0),
)
def test_cuts_lie_in_silence_and_lose_nothing(stretches, max_seconds):
    wave = np.concatenate(
        [np.concatenate([np.full(loud, 50.0), np.zeros(quiet)]) for loud, quiet in stretches]
    )
    cuts = Hearing().cut(wave, max_seconds)
    assert cuts[0][0] == 0 and cuts[-1][1] == len(wave)
    for (_, end), (start, _) in itertools.pairwise(cuts):
        assert end == start
    window = int(max_seconds * 100)
    for start, end in cuts:
        assert 0 < end - start <= window
    for start, end in cuts[:-1]:
        later = wave[start + window // 2 + 20 : start + window - 20]
        if (np.convolve(later == 0, np.ones(40)) == 40).any():
            assert wave[end] == 0


@pytest.mark.parametrize("search", ["beam", "greedy"])
def test_one_bad_file_among_many_is_reported_and_the_rest_is_done(recipe, tmp_path, capsys, search):
    folder = tmp_path / "talks"
    shutil.copytree(recipe / "audio", folder)
    (folder / "empty.wav").touch()
    (folder / "damaged.flac").write_bytes(b"no audio")
    (folder / "video.mp4").touch()
    arguments = ["--model", str(recipe / "exp/asr_tiny"), "--search", search]
    capsys.readouterr()
    with pytest.raises(UserError, match=r"3 of 8 files could not be transcribed: .*video\.mp4"):
        transcribe.main([*arguments, str(folder), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert all(name in said for name in ("empty.wav is empty", "damaged.flac is no", "video.mp4"))
    assert sorted(path.stem for path in (tmp_path / "out").iterdir()) == [f"u{n}" for n in range(5)]
    with pytest.raises(UserError, match=r"damaged\.flac is no audio"):
        transcribe.main([*arguments, str(folder / "damaged.flac")])


@pytest.mark.parametrize("search", ["beam", "greedy"])
def test_audio_that_gives_no_features_is_an_error(recipe, tmp_path, capsys, search):
    soundfile.write(tmp_path / "loud.wav", np.float32(1e30) * babble(1.0, 0), RATE, "FLOAT")
    soundfile.write(tmp_path / "short.wav", np.zeros(1, np.int16), 44100)
    for name, said in {
        "loud.wav": "loud gives features that are not finite",
        "short.wav": "short is shorter than one sample at 8000 Hz",
        "\udcff.wav": "the name of this file is not UTF-8",
    }.items():
        if not (tmp_path / name).exists():
            shutil.copy(recipe / "audio/u0.wav", tmp_path / name)
        words = ["--model", str(recipe / "exp/asr_tiny"), "--search", search]
        with pytest.raises(UserError, match=said):
            transcribe.main([*words, str(tmp_path / name)])
        assert capsys.readouterr().out == ""


def test_a_model_that_learnt_nothing_is_warned_of(tmp_path, caplog):
    for verdict in (None, {"learnt": True}):
        if verdict:
            (tmp_path / "verdict.json").write_text(json.dumps(verdict))
        warn_of_unlearnt(tmp_path)
        assert not caplog.text
    (tmp_path / "verdict.json").write_text('{"learnt": false}')
    warn_of_unlearnt(tmp_path)
    assert f"{tmp_path} has learnt nothing, see verdict.json" in caplog.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--search", "greedy", "--inference_args", "--beam_size 2"], "--beam_size would change"),
        (["--search", "greedy", "--lm_exp", "exp/lm"], "--lm_exp would change nothing"),
        (["--inference_args", "--inference_lm x"], "inference_lm x without --lm_exp"),
    ],
)
def test_options_that_would_be_ignored_are_refused(recipe, capsys, words, said):
    with pytest.raises(SystemExit) as left:
        transcribe.main(["--model", str(recipe / "exp/asr_tiny"), *words, "x.wav"])
    assert left.value.code == 2 and said in capsys.readouterr().err


def test_a_damaged_sentencepiece_model_is_named(recipe, tmp_path):
    exp = tmp_path / "exp/asr_tiny"
    shutil.copytree(recipe / "exp/asr_tiny", exp)
    config = yaml.safe_load((exp / "config.yaml").read_text())
    changes = {"token_type": "bpe", "bpemodel": str(exp / "bpe.model")}
    (exp / "config.yaml").write_text(yaml.safe_dump(config | changes))
    (exp / "bpe.model").write_text("x")
    with pytest.raises(UserError, match=r"bpe\.model is damaged, or no SentencePiece model"):
        Recognizer(exp)


def test_what_is_not_known_is_asked_for(recipe, tmp_path):
    exp = tmp_path / "exp/asr_tiny"
    shutil.copytree(recipe / "exp/asr_tiny", exp)
    (exp / FEATURES).unlink()
    with pytest.raises(UserError, match=r"no features\.yaml") as caught:
        Recognizer(exp)
    assert "--fbank_config" in caught.value.hint
    with pytest.raises(UserError, match="sampling rate is not known"):
        Recognizer(exp, fbank_config=recipe / "fbank.yaml")
    for decoding in exp.glob("*/inference.yaml"):  # other tests decode with the same model
        shutil.rmtree(decoding.parent)
    with pytest.raises(UserError, match="nothing has been decoded"):
        Recognizer(exp)
    with pytest.raises(UserError, match="no trained model"):
        Recognizer(tmp_path)
    (tmp_path / "p.zip").write_bytes(b"no zip")
    with pytest.raises(UserError, match="no packed model"):
        Recognizer(tmp_path / "p.zip")
