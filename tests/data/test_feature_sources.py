"""Features of audio, and given features: what comes out, and what is refused."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import omniio.tools.kaldi
import pytest
import soundfile

from espnet_spike.bin import copy_feats, fbank
from espnet_spike.data.ark import ArkReader, ArkWriter
from espnet_spike.data.audio import change_rate
from espnet_spike.data.fbank import Fbank, FbankConfig
from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.data.feature_sources import plan_copy, plan_extraction
from espnet_spike.data.kaldi_dir import DataDir, Segment
from espnet_spike.data.speed_perturbation import perturb_dir
from espnet_spike.errors import UserError
from tests.helpers.data_dirs import make_data_dir, tone

LENGTHS = {"a": 1.0, "b": 0.5, "c": 0.2, "d": 0.3, "e": 0.7}


@pytest.fixture
def config(root):
    return root / "conf" / "fbank.yaml"


def features(path):
    data = FeatureDir.read(path)
    with ArkReader() as reader:
        return {utt: reader.read(utt, entry) for utt, entry in data.feats.items()}


def run_fbank(config, *options):
    fbank.main(["--config", str(config), *map(str, options)])


def test_the_stage_gives_what_the_extractor_gives(tmp_path, config):
    data = make_data_dir(tmp_path / "d", LENGTHS)
    run_fbank(config, tmp_path / "d", tmp_path / "f")
    made = FeatureDir.read(tmp_path / "f")
    assert made.text == data.text
    assert made.utt2spk == data.utt2spk
    got = features(tmp_path / "f")
    for number, (utt, seconds) in enumerate(LENGTHS.items()):
        wave = tone(seconds, seed=number).astype(np.float32)
        np.testing.assert_array_equal(got[utt], Fbank(FbankConfig(), 16000)(wave))
        assert made.shapes[utt] == got[utt].shape
        assert made.durations[utt] == pytest.approx(seconds)


def test_what_comes_out_does_not_depend_on_the_number_of_processes(tmp_path, config):
    make_data_dir(tmp_path / "d", LENGTHS)
    for nj in (1, 2, 3, 20):
        run_fbank(config, "--nj", nj, tmp_path / "d", tmp_path / str(nj))
    expected = features(tmp_path / "1")
    for nj in (2, 3, 20):
        got = features(tmp_path / str(nj))
        assert list(got) == list(expected)
        for utt, matrix in got.items():
            np.testing.assert_array_equal(matrix, expected[utt])
        for name in ("feats_shape", "utt2dur", "text", "utt2spk", "spk2utt"):
            same = (tmp_path / "1" / name).read_bytes()
            assert (tmp_path / str(nj) / name).read_bytes() == same


def test_relative_paths_stay_relative_and_espnets_reader_follows_them(
    tmp_path, config, monkeypatch
):
    recipe = tmp_path / "a recipe"
    make_data_dir(recipe / "data" / "train", LENGTHS)
    monkeypatch.chdir(recipe)
    run_fbank(config, "--nj", 2, "data/train", "dump/fbank set/train")
    entries = FeatureDir.read(recipe / "dump/fbank set/train").feats
    assert all(entry.startswith("dump/fbank set/train/data/feats.") for entry in entries.values())
    theirs = omniio.tools.kaldi.load_scp("dump/fbank set/train/feats.scp")
    for utt, matrix in features(recipe / "dump/fbank set/train").items():
        np.testing.assert_array_equal(theirs[utt], matrix)


def test_a_second_run_with_fewer_processes_leaves_no_old_arks(tmp_path, config):
    make_data_dir(tmp_path / "d", LENGTHS)
    run_fbank(config, "--nj", 3, tmp_path / "d", tmp_path / "f")
    run_fbank(config, "--nj", 1, tmp_path / "d", tmp_path / "f")
    assert [file.name for file in (tmp_path / "f/data").iterdir()] == ["feats.1.ark"]
    assert set(features(tmp_path / "f")) == set(LENGTHS)


def test_utterances_shorter_than_a_frame_are_dropped_counted_and_listed(tmp_path, config, caplog):
    caplog.set_level("INFO")
    make_data_dir(tmp_path / "d", {"a": 0.5, "tiny": 0.024, "just": 0.025})
    run_fbank(config, tmp_path / "d", tmp_path / "f")
    assert set(FeatureDir.read(tmp_path / "f").text) == {"a", "just"}
    assert (tmp_path / "f/dropped.txt").read_text() == "tiny shorter than one frame\n"
    assert "2 utterances, 1 dropped as shorter than one frame" in caplog.text


def test_nothing_but_too_short_utterances_is_an_error(tmp_path, config):
    make_data_dir(tmp_path / "d", {"tiny": 0.01})
    with pytest.raises(UserError, match=r"no utterance is left"):
        run_fbank(config, tmp_path / "d", tmp_path / "f")
    assert not (tmp_path / "f/feats.scp").exists()


@pytest.mark.parametrize("nj", [1, 2])
def test_audio_that_is_not_finite_names_the_utterance_and_leaves_no_set(tmp_path, config, nj):
    data = make_data_dir(tmp_path / "d", LENGTHS)
    run_fbank(config, tmp_path / "d", tmp_path / "f")
    wave = np.zeros(16000, np.float32)
    wave[100] = np.nan
    soundfile.write(data.wav["b"], wave, 16000, "FLOAT")
    with pytest.raises(UserError, match=r"b: .*not finite"):
        run_fbank(config, "--nj", nj, tmp_path / "d", tmp_path / "f")
    assert not (tmp_path / "f/feats.scp").exists()
    assert all(".tmp" not in file.name for file in (tmp_path / "f/data").iterdir())


def test_rates_must_agree_over_all_sets_or_be_chosen(tmp_path, config):
    make_data_dir(tmp_path / "high", {"a": 0.5}, 16000)
    make_data_dir(tmp_path / "low", {"b": 0.5}, 8000)
    pairs = [tmp_path / "high", tmp_path / "fh", tmp_path / "low", tmp_path / "fl"]
    with pytest.raises(UserError) as caught:
        run_fbank(config, *pairs)
    assert "8000 Hz (b in" in caught.value.message
    assert "16000 Hz (a in" in caught.value.message
    assert "--fs" in caught.value.hint
    run_fbank(config, "--fs", 8000, *pairs)
    resampled = change_rate(tone(0.5).astype(np.float32), 16000, 8000)
    expected = Fbank(FbankConfig(), 8000)(resampled)
    np.testing.assert_array_equal(features(tmp_path / "fh")["a"], expected)


def test_segments_are_cut_from_their_recording(tmp_path, config):
    data = make_data_dir(tmp_path / "d", {"rec": 2.0})
    data.segments = {"s1": Segment("rec", 0.5, 1.25), "s2": Segment("rec", 1.0, -1.0)}
    data.text = {"s1": "ONE", "s2": "TWO"}
    data.utt2spk = {"s1": "s", "s2": "s"}
    data.write(tmp_path / "d")
    run_fbank(config, tmp_path / "d", tmp_path / "f")
    got, wave = features(tmp_path / "f"), tone(2.0).astype(np.float32)
    extractor = Fbank(FbankConfig(), 16000)
    np.testing.assert_array_equal(got["s1"], extractor(wave[8000:20000]))
    np.testing.assert_array_equal(got["s2"], extractor(wave[16000:]))
    assert FeatureDir.read(tmp_path / "f").durations == {"s1": 0.75, "s2": 1.0}


def test_perturbed_utterances_are_resampled(tmp_path, config):
    make_data_dir(tmp_path / "d", {"a": 1.0, "b": 0.5})
    perturb_dir(tmp_path / "d", tmp_path / "sp", [0.9, 1.0, 1.1])
    run_fbank(config, tmp_path / "sp", tmp_path / "f")
    got = features(tmp_path / "f")
    assert set(got) == {"a", "b", "sp0.9-a", "sp0.9-b", "sp1.1-a", "sp1.1-b"}
    wave, extractor = tone(1.0).astype(np.float32), Fbank(FbankConfig(), 16000)
    np.testing.assert_array_equal(got["a"], extractor(wave))
    slow = extractor(change_rate(wave, 16000, 16000, 0.9))
    np.testing.assert_array_equal(got["sp0.9-a"], slow)
    durations = FeatureDir.read(tmp_path / "f").durations
    assert durations["sp0.9-a"] == pytest.approx(1 / 0.9, abs=1e-3)
    assert durations["sp1.1-b"] == pytest.approx(0.5 / 1.1, abs=1e-3)


def test_given_features_are_copied_and_checked(tmp_path, config):
    make_data_dir(tmp_path / "d", LENGTHS)
    run_fbank(config, tmp_path / "d", tmp_path / "f")
    copy_feats.main(["--nj", "2", str(tmp_path / "f"), str(tmp_path / "copy")])
    old, new = features(tmp_path / "f"), features(tmp_path / "copy")
    for utt, matrix in old.items():
        np.testing.assert_array_equal(new[utt], matrix)
    one, other = FeatureDir.read(tmp_path / "f"), FeatureDir.read(tmp_path / "copy")
    assert (one.shapes, one.durations) == (other.shapes, other.durations)


def given_features(path, matrices):
    path.mkdir()
    data = DataDir()
    with ArkWriter(path / "raw.ark") as writer:
        for utt, matrix in matrices.items():
            data.feats[utt] = f"{path}/raw.ark:{writer.write(utt, matrix)}"
            data.text[utt], data.utt2spk[utt] = "ONE", "s"
    data.write(path)


def test_given_features_without_durations_are_timed_by_the_frame_shift(tmp_path):
    given_features(tmp_path / "d", {"a": np.ones((50, 40))})
    copy_feats.main(["--frame_shift", "20", str(tmp_path / "d"), str(tmp_path / "f")])
    made = FeatureDir.read(tmp_path / "f")
    assert made.durations == {"a": 1.0}
    assert made.shapes == {"a": (50, 40)}
    assert features(tmp_path / "f")["a"].dtype == np.float32


@pytest.mark.parametrize(
    ("matrices", "message"),
    [
        ({"a": np.ones((5, 40)), "b": np.full((5, 40), np.nan)}, "b: .*not finite"),
        ({"a": np.ones((5, 40)), "b": np.ones((5, 41))}, "different width: 40 in a, 41 in b"),
        ({"a": np.full((5, 40), 1e300)}, "a: .*beyond single precision"),
    ],
)
def test_unusable_given_features_are_an_error(tmp_path, matrices, message):
    given_features(tmp_path / "d", matrices)
    with pytest.raises(UserError, match=message):
        copy_feats.main([str(tmp_path / "d"), str(tmp_path / "f")])
    assert not (tmp_path / "f/feats.scp").exists()


def test_a_truncated_given_ark_names_the_utterance(tmp_path):
    given_features(tmp_path / "d", {"a": np.ones((5, 40)), "b": np.ones((5, 40))})
    with open(tmp_path / "d/raw.ark", "r+b") as file:
        file.truncate(2000)
    with pytest.raises(UserError, match=r"b: .*damaged"):
        copy_feats.main([str(tmp_path / "d"), str(tmp_path / "f")])


def test_ctrl_c_stops_and_the_same_command_again_completes(tmp_path, config, root):
    data = make_data_dir(tmp_path / "d", {"a": 0.5, "b": 0.5})
    # looked at, each file is there at once; read after that, it takes long until "go" is there
    for utt, file in data.wav.items():
        seen, go = tmp_path / f"seen-{utt}", tmp_path / "go"
        slow = f"if [ -e '{seen}' ] && [ ! -e '{go}' ]; then sleep 60; fi"
        data.wav[utt] = f"{slow}; touch '{seen}'; cat '{file}' |"
    data.write(tmp_path / "d")
    command = [sys.executable, "-m", "espnet_spike.bin.fbank", "--config", str(config)]
    command += ["--nj", "2", "--allow_pipes", "true", str(tmp_path / "d"), str(tmp_path / "f")]
    process = subprocess.Popen(
        command, cwd=root, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("f/data/.feats.*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "f/feats.scp").exists()
    assert not list(tmp_path.glob("f/data/.feats.*"))
    (tmp_path / "go").touch()
    done = subprocess.run(command, cwd=root, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(FeatureDir.read(tmp_path / "f").feats) == {"a", "b"}


def test_a_task_costs_the_seconds_that_come_out(tmp_path):
    make_data_dir(tmp_path / "d", {"a": 1.0, "b": 0.5})
    (tmp_path / "d/segments").write_text("a a 0.25 0.75\nb b 0.1 -1\n")
    (tmp_path / "d/utt2speed").write_text("a 2.0\n")
    (task,), rate = plan_extraction([(tmp_path / "d", tmp_path / "f")], FbankConfig())
    assert rate == 16000 and task.target == tmp_path / "f"
    assert task.costs == {"a": pytest.approx(0.25), "b": pytest.approx(0.4)}
    with pytest.raises(UserError, match="no feats"):
        plan_copy(tmp_path / "d", tmp_path / "f")
