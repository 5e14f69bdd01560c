"""Two trainings give the same weights to the bit, also when one was killed on the way."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from espnet_spike.bin import asr_train, collect_stats
from espnet_spike.data.ark import ArkReader, ArkWriter
from espnet_spike.errors import UserError
from espnet_spike.experiment import CHECKPOINT, read_epochs
from espnet_spike.tasks import determinism
from espnet_spike.utils.cli import run
from espnet_spike.utils.files import read_table
from tests.helpers.features import write_features, write_tokens
from tests.helpers.tiny_training import CONFIG

pytestmark = pytest.mark.usefixtures("one_thread")

SPECAUG = {
    **{"apply_time_warp": True, "time_warp_window": 2},
    **{"apply_freq_mask": True, "freq_mask_width_range": [0, 10], "num_freq_mask": 2},
    **{"apply_time_mask": True, "time_mask_width_range": [0, 5], "num_time_mask": 1},
}
AUGMENT = {
    **{"features": {"kind": "log_mel"}, "time_stretch": {}, "vtlp": {}, "noise": {}},
    "reverberation": {"probability": 0.5},
}
ENCODERS = {
    "iml_spikeformer": {"output_size": 16, "attention_heads": 2, "linear_units": 32},
    "event_speech_mamba": {"output_size": 16, "attention_heads": 2, "d_state": 4},
}
LETTERS = "abc"


def make(folder: Path, encoder: str) -> Path:
    """Write data, a configuration with everything random in it, and statistics."""
    texts = {f"u{n:02d}": "".join(LETTERS[(n * 7 + k) % 3] for k in range(3)) for n in range(12)}
    write_features(folder / "train", texts)
    write_features(folder / "dev", {"v1": "ba", "v2": "cb"}, seed=1)
    write_tokens(folder / "tokens.txt")
    conf = ENCODERS[encoder] | {"num_blocks": 1, "dropout_rate": 0.2}
    config = CONFIG | {"encoder": encoder, "encoder_conf": conf, "num_workers": 1}
    config |= {"specaug": "specaug", "specaug_conf": SPECAUG, "scheduler": "warmuplr"}
    config["model_conf"] = config["model_conf"] | {"augment": AUGMENT}
    config |= {
        "scheduler_conf": {"warmup_steps": 5},
        "best_model_criterion": [["valid", "acc", "max"]],
    }
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    collect_stats.main(["--asr_config", f"{folder}/c.yaml", *data(folder)])
    return folder


def data(folder: Path, train: str = "train", output: str = "stats") -> list[str]:
    words = ["--train_dir", f"{folder}/{train}", "--valid_dir", f"{folder}/dev"]
    words += ["--token_list", f"{folder}/tokens.txt", "--token_type", "char"]
    return [*words, "--output_dir", f"{folder}/{output}"]


def start(folder: Path, exp: str, train: str = "train") -> multiprocessing.Process:
    words = ["--config", f"{folder}/c.yaml", *data(folder, train, exp), "--deterministic"]
    words += ["--stats_dir", f"{folder}/stats", "--seed", "5", "--asr_args", "--max_epoch 3"]
    process = multiprocessing.get_context("fork").Process(target=run, args=(asr_train.main, words))
    process.start()
    return process


def finish(process: multiprocessing.Process) -> None:
    process.join(300)
    assert process.exitcode == 0


def state(folder: Path, exp: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / exp / "3epoch.pth", map_location="cpu", weights_only=True)


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def rewrite_ark(folder: Path) -> None:
    """Spread the features over two archives, as another number of processes does."""
    source, target = folder / "train", folder / "train2"
    target.mkdir()
    for name in ("text", "utt2spk", "feats_shape"):
        (target / name).write_text((source / name).read_text())
    lines = []
    entries = list(read_table(source / "feats.scp").items())
    with ArkReader() as reader:
        for number, part in enumerate((entries[:5], entries[5:])):
            ark = target / f"feats.{number}.ark"
            with ArkWriter(ark) as writer:
                lines += [f"{u} {ark}:{writer.write(u, reader.read(u, e))}\n" for u, e in part]
    (target / "feats.scp").write_text("".join(lines))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_two_runs_one_of_them_killed_in_an_epoch_are_equal(tmp_path, encoder):
    folder = make(tmp_path, encoder)
    rewrite_ark(folder)
    finish(start(folder, "whole", train="train2"))
    killed = start(folder, "killed")
    deadline = time.monotonic() + 120
    while len(read_epochs(folder / "killed")) < 1 and killed.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(0.05)  # into the next epoch
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    finish(start(folder, "killed"))
    assert same(state(folder, "whole"), state(folder, "killed"))
    assert json.loads((folder / "whole" / determinism.RECORD).read_text()) == {"threads": 1}


def test_the_number_of_threads_is_held(tmp_path, monkeypatch):
    monkeypatch.delenv(determinism.ASKED, raising=False)
    determinism.check(tmp_path)  # not asked for
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv(determinism.ASKED, "1")
    (tmp_path / CHECKPOINT).touch()
    with pytest.raises(UserError, match="begun without --deterministic"):
        determinism.check(tmp_path)
    (tmp_path / CHECKPOINT).unlink()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    determinism.check(tmp_path)
    (tmp_path / CHECKPOINT).touch()
    determinism.check(tmp_path)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(UserError, match="begun with 4 threads, here torch has 2") as caught:
        determinism.check(tmp_path)
    assert "OMP_NUM_THREADS=4" in caught.value.hint


def test_torch_is_set_up_only_when_asked(monkeypatch):
    def found() -> bool:
        code = "from espnet_spike.tasks import determinism; import torch; determinism.apply(); "
        code += "print(torch.are_deterministic_algorithms_enabled())"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        return run.stdout.strip() == "True"

    monkeypatch.delenv(determinism.ASKED, raising=False)
    assert not found()
    monkeypatch.setenv(determinism.ASKED, "1")
    assert found()
