"""Processes that load batches: how many, and what becomes of one that dies or is stuck."""

import os
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from espnet_spike.errors import UserError
from espnet_spike.tasks import loaders
from espnet_spike.tasks.loaders import bound, explained, fitting, largest_batch


def shapes(folder, **lengths):
    folder.mkdir(exist_ok=True)
    speech, text = folder / "speech_shape", folder / "text_shape"
    speech.write_text("".join(f"{utt} {n},80\n" for utt, n in lengths.items()))
    text.write_text("".join(f"{utt} {n // 10},5000\n" for utt, n in lengths.items()))
    return [speech, text]


def test_the_largest_batch_is_that_of_its_padded_parts(tmp_path):
    files = shapes(tmp_path, a=100, b=20, c=60, d=50)
    # float32: 2 x 100 x 80 against 2 x 60 x 80; int64: 2 x 10 against 2 x 6
    assert largest_batch([["a", "b"], ["c", "d"]], files) == 2 * (4 * 8000 + 8 * 10)
    assert largest_batch([["b", "c", "d"]], files) == 3 * (4 * 4800 + 8 * 6)
    assert largest_batch([], files) == 0


@pytest.mark.parametrize(
    ("workers", "batch", "free", "expected"),
    [
        (4, 100, None, 4),
        (4, 0, 0, 4),
        (4, 100, 10_000, 4),
        (4, 100, 1125, 4),  # 0.8 x 1125: nine batches, two for each of four and one on its way
        (4, 100, 1124, 3),
        (1, 100, 375, 1),
        (1, 100, 374, 0),
        (2, 100, 0, 0),
    ],
)
def test_each_process_needs_room_for_two_batches_and_one_is_on_its_way(
    workers, batch, free, expected
):
    assert fitting(workers, batch, free) == expected


class Slow(Dataset):
    """Gives nothing while ``seconds`` pass, or ends its process."""

    def __init__(self, seconds=0.0, dies=False):
        self.seconds, self.dies = seconds, dies

    def __len__(self):
        return 2

    def __getitem__(self, index):
        if self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        return torch.zeros(1)


def factory(tmp_path, workers, dataset):
    made = SimpleNamespace(
        num_workers=workers,
        sampler=[["a", "b"]],
        shape_files=shapes(tmp_path, a=100, b=20),
    )
    made.build_iter = lambda: DataLoader(dataset, num_workers=made.num_workers)
    return made


def test_small_shared_memory_is_told_and_loads_in_the_training(tmp_path, caplog):
    made = factory(tmp_path, 2, Slow())
    bound(made, free=65_536)
    assert made.num_workers == 0
    assert "0.1 MB free" in caplog.text and "0 of 2 processes" in caplog.text
    assert len(list(made.build_iter())) == 2


@pytest.mark.parametrize("trouble", [{"seconds": 30.0}, {"dies": True}], ids=str)
def test_a_process_that_gives_nothing_ends_the_run(tmp_path, monkeypatch, trouble):
    monkeypatch.setattr(loaders, "TIMEOUT", 1)
    made = factory(tmp_path, 1, Slow(**trouble))
    bound(made, free=None)
    start = time.monotonic()
    with pytest.raises(UserError, match="loads batches died, or gave none") as found, explained():
        list(made.build_iter())
    assert "num_workers: 0" in found.value.hint
    assert time.monotonic() - start < 20


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes differ"), explained():
        raise RuntimeError("shapes differ")
