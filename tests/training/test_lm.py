import logging
import re
import shutil

import numpy as np
import pytest
import torch
import yaml

from espnet_spike.bin import lm_train
from espnet_spike.errors import UserError
from espnet_spike.experiment import best_checkpoint, read_epochs
from espnet_spike.training.lm import Texts
from espnet_spike.utils.files import read_table
from tests.helpers.features import write_tokens

CONFIG = {
    "lm": "transformer",
    "lm_conf": {"embed_unit": 8, "att_unit": 16, "head": 2, "unit": 16, "layer": 1},
    "optim": "adam",
    "optim_conf": {"lr": 0.002},
    "batch_type": "numel",
    "batch_bins": 200,
    "num_workers": 0,
    "num_att_plot": 0,
    "use_matplotlib": False,
    "use_tensorboard": False,
    "max_epoch": 2,
    "best_model_criterion": [["valid", "loss", "min"]],
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train").write_text("".join(f"u{i} ab c{'ba' * i}\n" for i in range(6)))
    (tmp_path / "valid").write_text("v1 ab\nv2 cab\n")
    (tmp_path / "lm.yaml").write_text(yaml.safe_dump(CONFIG))
    write_tokens(tmp_path / "tokens.txt")
    return tmp_path


def train(folder, extra=""):
    options = (
        f"--lm_config {folder}/lm.yaml --train_text {folder}/train --valid_text {folder}/valid "
        f"--token_list {folder}/tokens.txt --token_type char --stats_dir {folder}/stats "
        f"--output_dir {folder}/lm"
    )
    lm_train.main([*options.split(), "--lm_args", extra])
    return folder / "lm"


def test_statistics_and_training(folder, monkeypatch, capfd, caplog):
    caplog.set_level(logging.INFO)
    lm = train(folder)
    losses = [epoch["valid"]["loss"] for epoch in read_epochs(lm)]
    shown = re.findall(r"epoch \d/2 .* perplexity ([\d.]+)", capfd.readouterr().out)
    assert [float(each) for each in shown] == pytest.approx(np.exp(losses), rel=1e-3)
    assert f"perplexity {np.exp(min(losses)):.4g} a token in the best epoch" in caplog.text
    assert 1 < float(shown[-1]) < 2 * len((folder / "tokens.txt").read_text().split())
    shapes = read_table(folder / "stats" / "train" / "text_shape.char")
    assert shapes["u2"] == "8,7" and len(shapes) == 6
    assert best_checkpoint(lm).name == "valid.loss.ave.pth"
    assert torch.load(best_checkpoint(lm), weights_only=True)
    assert len(read_epochs(lm)) == 2
    # more epochs go on, from the statistics that are there
    monkeypatch.setattr("espnet_spike.training.lm.write_lines", None)
    train(folder, "--max_epoch 3")
    assert [e["epoch"] for e in read_epochs(lm)] == [1, 2, 3]
    train(folder, "--max_epoch 3")


def test_new_text_is_counted_anew(folder):
    train(folder)
    (folder / "train").write_text("w1 ab c\nw2\nw3 ba\n")
    shutil.rmtree(folder / "lm")
    train(folder)
    shapes = read_table(folder / "stats" / "train" / "text_shape.char")
    assert shapes == {"w1": "4,7", "w3": "2,7"}  # ESPnet would stop at the empty line


def test_nothing_learnt(folder):
    with pytest.raises(UserError, match="no parameter changed"):
        train(folder, "--optim_conf lr=1.0e-50")


def test_a_changed_configuration(folder):
    train(folder)
    with pytest.raises(UserError, match=r"lm_conf.layer: 1 -> 2"):
        train(folder, "--lm_conf layer=2")
    (folder / "train").write_text("w1 ab c\nw3 ba\n")
    with pytest.raises(UserError, match="data: text 1"):
        train(folder)


def test_what_is_wrong_is_named(folder):
    with pytest.raises(UserError, match="lm_conf: unknown key layers"):
        train(folder, "--lm_conf layers=2")
    (folder / "valid").write_text("v1\n")
    with pytest.raises(UserError, match="holds no text, only keys"):
        train(folder)
    (folder / "valid").unlink()
    with pytest.raises(UserError, match="no such text"):
        train(folder)


def test_what_is_read_of_the_texts(tmp_path):
    one, two, valid = (tmp_path / name for name in ("one", "two", "valid"))
    one.write_text("u1 ab\nu2\n")
    two.write_text("u3 c  d \n")
    valid.write_text("v1 a\n")
    texts = Texts((one, two), valid, tmp_path / "stats", "char")
    assert list(texts.files()) == ["text 1", "text 2", "text 3"]
    texts.check()
    train, dev = texts.parts
    assert (train.path, train.empty) == (tmp_path / "stats/train/text", 1)
    assert (dev.path, dev.empty) == (valid, 0)
    assert not train.path.exists()  # a check writes nothing
    assert f"{valid},text,text" in texts.words(tmp_path / "exp")
    valid.write_text("v1\n")
    with pytest.raises(UserError, match="valid holds no text, only keys"):
        Texts((one,), valid, tmp_path / "stats", "char").check()
    valid.write_text("")
    with pytest.raises(UserError, match="valid is empty"):
        Texts((one,), valid, tmp_path / "stats", "char").check()
    comma = tmp_path / "a,b"
    comma.write_text("v1 a\n")
    with pytest.raises(UserError, match="holds a comma"):
        Texts((one,), comma, tmp_path / "stats", "char").check()


def test_every_text_holds_something(folder):
    (folder / "more").write_text("")
    texts = Texts((folder / "train", folder / "more"), folder / "valid", folder / "stats", "char")
    with pytest.raises(UserError, match=r"more is empty"):
        texts.check()
    (folder / "more").write_bytes(b"u9 a\xff\n")
    with pytest.raises(UserError, match=r"more, line 1: not UTF-8"):
        texts.check()


def test_a_byte_order_mark_is_no_part_of_a_key(folder):
    (folder / "train").write_bytes(b"\xef\xbb\xbf" + (folder / "train").read_bytes())
    train(folder)
    assert next(iter(read_table(folder / "stats/train/text_shape.char"))) == "u0"
    assert (folder / "stats/train/text").read_bytes().startswith(b"u0 ")


@pytest.mark.parametrize("name", ["content", "train/text_shape.char"])
def test_damaged_lengths_are_counted_anew(folder, name):
    """An utterance without a length would not be trained on, without a word."""
    train(folder, "--max_epoch 1")
    path = folder / "stats" / name
    whole = path.read_bytes()
    path.write_bytes(b"\xff" + whole if name == "content" else whole[whole.index(b"\n") + 1 :])
    train(folder, "--max_epoch 2")
    assert path.read_bytes() == whole
