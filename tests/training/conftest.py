"""One finished training that the tests of this folder share."""

import shutil
from pathlib import Path

import pytest
import torch

from espnet_spike.bin import asr_train, collect_stats
from tests.helpers.tiny_training import write_config, write_data


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Data, statistics and a finished training of two epochs, by one thread; not to be changed."""
    folder = write_data(tmp_path_factory.mktemp("data dir"))
    write_config(folder)
    # the paths hold a space, so no string splitting here
    common = ["--train_dir", f"{folder}/train", "--valid_dir", f"{folder}/dev"]
    common += ["--token_list", f"{folder}/tokens.txt", "--token_type", "char"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    collect_stats.main(
        ["--asr_config", f"{folder}/c.yaml", *common, "--output_dir", f"{folder}/stats"]
    )
    words = ["--stats_dir", f"{folder}/stats", "--output_dir", f"{folder}/exp"]
    asr_train.main(["--config", f"{folder}/c.yaml", *common, *words])
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def work(data, tmp_path, monkeypatch):
    """A folder of its own with the data, relative paths and no experiment."""
    folder = Path("work")
    monkeypatch.chdir(tmp_path)
    folder.mkdir()
    for name in ("dev", "train"):
        shutil.copytree(data / name, folder / name)
        scp = folder / name / "feats.scp"
        scp.write_text(scp.read_text().replace(str(data), str(folder)))
    for name in ("tokens.txt", "c.yaml"):
        shutil.copy(data / name, folder / name)
    shutil.copytree(data / "stats", folder / "stats")
    return folder
