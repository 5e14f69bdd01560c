"""What of ESPnet reads files is asked through here, and takes nothing that does not fit."""

import argparse
import logging
import pathlib
import sys

import pytest
import torch

from espnet_spike.errors import UserError
from espnet_spike.tasks import espnet
from espnet_spike.tasks.asr import SpikeASRTask


def test_names_are_those_of_espnet():
    from espnet2.bin import asr_inference
    from espnet2.tasks.asr import ASRTask

    assert espnet.ASRTask is ASRTask
    assert espnet.asr_inference is asr_inference
    assert "asr_inference" not in vars(espnet)  # imported when it is asked for
    with pytest.raises(AttributeError, match="no attribute 'asr_training'"):
        _ = espnet.asr_training


def test_espnet_reads_model_files_by_our_reader(tmp_path, monkeypatch):
    import espnet2.bin.asr_inference  # noqa: F401  with all that it imports
    from espnet2.main_funcs import average_nbest_models  # noqa: F401
    from espnet2.tasks import abs_task

    readers = {
        vars(module)["safe_torch_load"]
        for name, module in list(sys.modules.items())
        if name.startswith("espnet2.") and "safe_torch_load" in vars(module)
    }
    assert readers == {espnet._load}
    monkeypatch.setenv("ESPNET_ALLOW_UNSAFE_TORCH_LOAD", "1")
    torch.save([pathlib.PurePosixPath("x")], tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth is damaged, or holds more than tensors"):
        abs_task.safe_torch_load(tmp_path / "a.pth", map_location="cpu")


def test_without_a_model_file_nothing_is_built(tmp_path):
    for task in (espnet.ASRTask, espnet.LMTask):
        with pytest.raises(UserError, match="parameters would be random"):
            task.build_model_from_file(tmp_path / "config.yaml")


def net():
    return torch.nn.ModuleDict({"encoder": torch.nn.Linear(2, 2), "ctc": torch.nn.Linear(2, 3)})


def load(model, init_param, ignore=False):
    from espnet2.tasks import abs_task

    abs_task.load_pretrained_model(
        model=model, init_param=init_param, ignore_init_mismatch=ignore, map_location="cpu"
    )


def test_a_training_starts_from_parameters_that_fit(tmp_path):
    source, path = net(), tmp_path / "a.pth"
    torch.save(source.state_dict(), path)
    for words in ("", ":encoder:encoder", ":::ctc", ":encoder:encoder:encoder.bias"):
        model = net()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        load(model, f"{path}{words}")
        for name, value in model.state_dict().items():
            kept = name.startswith("ctc") if words else False
            kept |= name == "encoder.bias" and words.endswith("bias")
            wanted = before if kept else source.state_dict()
            assert torch.equal(value, wanted[name]), (words, name)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (":encodr:encoder", "it lacks weight, bias"),
        (":encoder:encodr", "the model has no encodr"),
        (":encoder", "it lacks encoder.weight"),
        (":ctc:encoder", r"weight \(3, 2\) for \(2, 2\)"),
        ("::encoder", "the model lacks encoder.weight"),
        ("::::", "too many colons"),
    ],
)
def test_a_training_does_not_start_from_parameters_that_do_not(tmp_path, words, message):
    torch.save(net().state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match=f"init_param .*a.pth{words}.*{message}"):
        load(net(), f"{tmp_path / 'a.pth'}{words}")


def test_a_mismatch_that_is_ignored_is_told(tmp_path, caplog):
    path = tmp_path / "a.pth"
    source, model = net(), net()
    torch.save({**source.state_dict(), "ctc.bias": torch.ones(4), "more": torch.ones(1)}, path)
    load(model, str(path), ignore=True)
    assert torch.equal(model["encoder"].weight, source["encoder"].weight)
    assert not torch.equal(model["ctc"].bias, source["ctc"].bias)
    told = {record.getMessage().split()[-4] for record in caplog.records}
    assert told == {"ctc.bias", "more"}
    with pytest.raises(UserError, match="nothing in it is of this model"):
        load(model, f"{path}:encodr", ignore=True)


def test_only_epochs_of_one_model_are_averaged(tmp_path):
    from espnet2.main_funcs.average_nbest_models import average_nbest_models
    from espnet2.train.reporter import Reporter

    reporter = Reporter()
    for epoch in (1, 2):
        reporter.set_epoch(epoch)
        with reporter.observe("valid") as sub:
            sub.register({"acc": epoch / 3})
            sub.next()
        torch.save(net().state_dict(), tmp_path / f"{epoch}epoch.pth")
    with espnet.epochs_of(net()):
        average_nbest_models(tmp_path, reporter, [("valid", "acc", "max")], 2)
    assert (tmp_path / "valid.acc.ave.pth").is_file()
    state = net().state_dict() | {"ctc.bias": torch.ones(1)}  # which torch adds to three
    torch.save(state, tmp_path / "1epoch.pth")
    with (
        espnet.epochs_of(net()),
        pytest.raises(UserError, match=r"1epoch\.pth is not of this model: .*ctc.bias \(1,\)"),
    ):
        average_nbest_models(tmp_path, reporter, [("valid", "acc", "max")], 2)


def test_a_key_that_no_training_writes_is_refused():
    """It would leave the option that is meant at its default."""
    args = argparse.Namespace(version=espnet.espnet_version, required=[], encodr_conf={})
    with pytest.raises(UserError, match=r"unknown key: encodr_conf \(did you mean 'encoder_conf'"):
        espnet.build_filled(SpikeASRTask, args, "exp/x.pth")
    del args.version
    with pytest.raises(UserError, match="unknown key: encodr_conf"):
        espnet.build_filled(SpikeASRTask, args, "exp/x.pth")


def test_keys_of_another_release_are_warned_of(caplog):
    args = argparse.Namespace(version="209901", an_option_of_then=1)
    with pytest.raises(UserError, match="builds no model"):
        espnet.build_filled(SpikeASRTask, args, "exp/x.pth")
    assert "written by ESPnet 209901" in caplog.text and "an_option_of_then" in caplog.text


def test_ctc_alone_is_no_news_of_the_decoder(caplog):
    logging.warning("Set decoder to none as ctc_weight==1.0")
    logging.warning("another note of ESPnet")
    assert caplog.messages == ["another note of ESPnet"]
