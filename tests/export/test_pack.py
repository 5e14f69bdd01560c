import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet_spike.bin import pack
from espnet_spike.errors import UserError
from espnet_spike.experiment import VERDICT
from espnet_spike.export import pack as pack_module
from espnet_spike.inference import decode
from espnet_spike.tasks.loading import unpack_pack
from tests.helpers.tiny_model import DIMENSION, tiny_experiment

pytestmark = pytest.mark.xdist_group("tiny_model")


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe folder with a trained model; it is the working directory."""
    root = tmp_path / "my recipe"
    exp = root / "exp" / "asr_tiny"
    shutil.copytree(tiny_experiment(), exp)
    config = yaml.safe_load((exp / "config.yaml").read_text())
    config |= {
        "train_data_path_and_name_and_type": [[f"{root}/dump/train/feats.scp", "speech", "x"]],
        "output_dir": str(exp),
        "normalize": "global_mvn",
        "normalize_conf": {"stats_file": "exp/stats/feats_stats.npz"},
    }
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    (root / "exp" / "stats").mkdir()
    np.savez(
        root / "exp" / "stats" / "feats_stats.npz",
        count=10,
        sum=np.zeros(DIMENSION),
        sum_square=np.full(DIMENSION, 10.0),
    )
    best = exp / "valid.cer_ctc.ave.pth"
    state = torch.load(best, weights_only=True)
    state |= {"normalize.mean": torch.zeros(DIMENSION), "normalize.std": torch.ones(DIMENSION)}
    torch.save(state, best)
    (root / "conf").mkdir()
    (root / "conf" / "fbank.yaml").write_text(f"num_mel_bins: {DIMENSION}\n")
    (root / "conf" / "decode.yaml").write_text("beam_size: 3\nctc_weight: 0.4\nbatch_size: 8\n")
    (root / "exp" / "RESULTS.md").write_text("# Results\n")
    (exp / "results.json").write_text("{}")
    monkeypatch.chdir(root)
    return root


def run_pack(*more):
    arguments = ["--asr_exp", "exp/asr_tiny", "--inference_config", "conf/decode.yaml"]
    pack.main([*arguments, "--out", "exp/asr_tiny/pack.zip", *more])
    return Path("exp/asr_tiny/pack.zip")


def test_pack_holds_all_and_nothing_of_this_machine(recipe):
    archive = zipfile.ZipFile(run_pack("--fbank_config", "conf/fbank.yaml"))
    names = set(archive.namelist())
    assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_DEFLATED}
    assert not [name for name in names if name.endswith(".png")]  # ESPnet would pack its curves
    folder = "exp/asr_tiny"
    assert names == {
        *("meta.yaml", "README.md", "SHA256SUMS", "exp/RESULTS.md"),
        *(f"{folder}/{name}" for name in ("config.yaml", "valid.cer_ctc.ave.pth", "results.json")),
        *(f"{folder}/{name}" for name in ("inference.yaml", "fbank.yaml", "feats_stats.npz")),
    }
    for name in names - {f"{folder}/valid.cer_ctc.ave.pth", f"{folder}/feats_stats.npz"}:
        assert str(recipe) not in archive.read(name).decode()
    config = yaml.safe_load(archive.read(f"{folder}/config.yaml"))
    assert config["normalize_conf"]["stats_file"] == f"{folder}/feats_stats.npz"
    assert config["train_data_path_and_name_and_type"] == []
    assert config["token_list"][0] == "<blank>"
    search = yaml.safe_load(archive.read(f"{folder}/inference.yaml"))
    assert (search["beam_size"], search["ctc_weight"]) == (3, 0.4)
    assert not list(Path("exp/asr_tiny").glob(".pack*"))


def test_a_killed_pack_leaves_nothing_behind(tmp_path):
    out = tmp_path / "pack.zip"
    left = [tmp_path / ".pack.zip.packing", tmp_path / ".packab12_xyz"]
    for folder in left:  # as after SIGKILL
        folder.mkdir()
        (folder / "x").touch()
    with pytest.raises(KeyboardInterrupt), pack_module._staging(out) as folder:
        assert not (folder / "x").exists() and not left[1].exists()
        (folder / "y").touch()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert not list(tmp_path.iterdir())


def with_intermediate_ctc(exp):
    """Give the model a second block, untrained, and a CTC loss after the first."""
    from espnet_spike.tasks.espnet import ASRTask

    config = yaml.safe_load((exp / "config.yaml").read_text())
    config["encoder_conf"] |= {"num_blocks": 2, "interctc_layer_idx": [1]}
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    trained = torch.load(exp / "valid.cer_ctc.ave.pth", weights_only=True)
    torch.manual_seed(0)
    drawn = ASRTask.build_model(argparse.Namespace(**config)).state_dict()
    torch.save(drawn | trained, exp / "valid.cer_ctc.ave.pth")


@pytest.mark.parametrize("intermediate", [False, True])
def test_the_readme_is_true(recipe, tmp_path, intermediate):
    """Its code, run as it stands in an empty folder elsewhere, writes what the original writes."""
    from espnet2.bin.asr_inference import Speech2Text

    from espnet_spike.data.fbank import Fbank, load_config

    if intermediate:
        with_intermediate_ctc(recipe / "exp" / "asr_tiny")
    archive = run_pack("--fbank_config", "conf/fbank.yaml", "--fs", "16000")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    wave = (np.random.default_rng(0).normal(size=16000) * 3000).astype(np.int16)
    soundfile.write(elsewhere / "speech.wav", wave, 16000)
    features = Fbank(load_config(Path("conf/fbank.yaml")), 16000)(wave.astype(np.float32))
    original = Speech2Text(
        "exp/asr_tiny/config.yaml",
        "exp/asr_tiny/valid.cer_ctc.ave.pth",
        **{"beam_size": 3, "ctc_weight": 0.4, "ctc_window_margin": 100},
    )
    found = original(features)
    assert isinstance(found, tuple) is intermediate
    expected = (found[0] if intermediate else found)[0][2]
    assert expected
    shutil.move(archive, elsewhere / "pack.zip")
    shutil.move(recipe, tmp_path / "gone")
    readme = zipfile.ZipFile(elsewhere / "pack.zip").read("README.md").decode()
    (code,) = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    run = subprocess.run(
        [sys.executable, "-c", code + "\nprint(ids)"],
        cwd=elsewhere,
        env=dict(os.environ, PYTHONPATH=str(Path(pack_module.__file__).parents[2])),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == expected


def test_espnet_model_zoo_opens_the_pack(recipe, tmp_path):
    from espnet2.bin.asr_inference import Speech2Text
    from espnet_model_zoo.downloader import ModelDownloader

    archive = run_pack()
    files = ModelDownloader(str(tmp_path / "cache")).unpack_local_file(str(archive))
    speech2text = Speech2Text(**files, beam_size=2, maxlenratio=-5.0)
    features = np.zeros((100, DIMENSION), np.float32)
    assert len(speech2text(features)[0][2]) <= 5


def test_a_pack_that_differs_is_not_written(recipe, monkeypatch):
    import torch

    real = pack_module._place

    def damage(source, target):
        if source.suffix != ".pth":
            return real(source, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        state = torch.load(source)
        state["ctc.ctc_lo.bias"] += torch.arange(len(state["ctc.ctc_lo.bias"]))
        return torch.save(state, target)

    monkeypatch.setattr(pack_module, "_place", damage)
    with pytest.raises(UserError, match="decodes otherwise"):
        run_pack()
    assert not Path("exp/asr_tiny/pack.zip").exists()


def test_a_pack_that_lacks_a_file_is_not_written(recipe, monkeypatch):
    real = pack_module._place
    monkeypatch.setattr(
        pack_module,
        "_place",
        lambda source, target: source.suffix == ".npz" or real(source, target),
    )
    with pytest.raises(UserError, match=r"espnet2\.bin\.pack failed"):
        run_pack()


def test_a_pack_without_a_model_is_refused(recipe):
    Path("exp/asr_tiny/valid.cer_ctc.ave.pth").unlink()
    with pytest.raises(UserError, match="no trained model"):
        run_pack()
    with pytest.raises(UserError, match="unknown kind of archive"):
        run_pack("--out", "pack.rar")


def test_a_model_that_has_learnt_nothing_says_so_from_its_pack_as_well(recipe, tmp_path):
    verdict = {"learnt": False, "line": "no better than silence"}
    Path("exp/asr_tiny", VERDICT).write_text(json.dumps(verdict))
    run_pack("--out", "pack.zip")
    unpack_pack("pack.zip", tmp_path / "whole")
    assert json.loads((tmp_path / "whole/exp/asr_tiny" / VERDICT).read_text()) == verdict


@pytest.mark.parametrize("name", ["pack.zip", "pack.tar"])
def test_a_pack_knows_its_members_by_their_digests(recipe, tmp_path, name):
    """A tar has no checksum of what is in it."""
    run_pack("--out", name)
    packed = Path(name).read_bytes()
    unpack_pack(name, tmp_path / "whole")
    sums = (tmp_path / "whole/SHA256SUMS").read_text().splitlines()
    assert len(sums) == len(list((tmp_path / "whole").rglob("*.*"))) - 1  # all but meta.yaml
    with tarfile.open("changed.tar", "w") as archive:
        for path in sorted((tmp_path / "whole").rglob("*")):
            if path.name.endswith(".pth"):
                data = bytearray(path.read_bytes())
                data[len(data) // 2] ^= 1
                path.write_bytes(data)
            archive.add(path, path.relative_to(tmp_path / "whole"), recursive=False)
    with pytest.raises(UserError, match=r"changed\.tar: .* is not what was packed"):
        unpack_pack("changed.tar", tmp_path / "again")
    assert Path(name).read_bytes() == packed and not (tmp_path / "again").exists()


@pytest.mark.parametrize("option", ["--fbank_config", "--token_list"])
def test_a_file_that_is_asked_for_is_not_left_out_in_silence(recipe, option):
    with pytest.raises(UserError, match="none"):
        run_pack(option, "conf/none")
    Path("exp/asr_tiny/features.yaml").write_text("fs: [\n")
    with pytest.raises(UserError, match=r"features\.yaml"):
        run_pack()


def test_what_is_given_of_the_features_is_what_the_model_has(recipe):
    from espnet_spike.data.fbank import FbankConfig
    from espnet_spike.data.feature_extractor import FeatureExtractor

    FeatureExtractor(16000, FbankConfig(num_mel_bins=77)).write(Path("exp/asr_tiny"))
    for given, key in (("--fbank_config conf/fbank.yaml", "num_mel_bins"), ("--fs 8000", "16000")):
        with pytest.raises(UserError, match=key):
            run_pack(*given.split())
    assert not Path("exp/asr_tiny/pack.zip").exists()


def test_files_of_one_name_do_not_meet_in_the_pack(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text(folder)
    files = {}
    config = {
        "one": str(tmp_path / "a" / "x.txt"),
        "conf": {"two": [str(tmp_path / "b" / "x.txt"), str(tmp_path / "a" / "x.txt")]},
        "token_list": [str(tmp_path / "a" / "x.txt")],
        "output_dir": "exp/asr_x",
    }
    found = pack_module.portable_config(config, Path("exp/asr_x"), files)
    assert found["one"] == "exp/asr_x/x.txt"
    assert found["conf"]["two"] == ["exp/asr_x/_x.txt", "exp/asr_x/x.txt"]
    assert found["token_list"] == config["token_list"]
    assert found["output_dir"] is None
    assert [copy.name for copy in files.values()] == ["x.txt", "_x.txt"]


def test_what_is_packed_of_the_search_is_what_speech2text_takes():
    import inspect

    from espnet2.bin.asr_inference import Speech2Text

    assert set(decode.SEARCH_KEYS) <= set(inspect.signature(Speech2Text.__init__).parameters)
