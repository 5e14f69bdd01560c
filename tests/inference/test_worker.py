"""What a decoding process measures and when it ends; `test_decode` decodes with it."""

import os
import re

import numpy as np
import pytest
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError

from espnet_spike.data.ark import ArkWriter
from espnet_spike.encoders.spike_options import SpikeOptions
from espnet_spike.errors import UserError
from espnet_spike.inference import worker
from espnet_spike.inference.batches import PARENT
from espnet_spike.inference.worker import MeteredSpeech2Text


@pytest.fixture
def metered(tmp_path, monkeypatch):
    """A recogniser without a model that writes its progress."""
    made = MeteredSpeech2Text.__new__(MeteredSpeech2Text)
    made.utterances, made.seconds, made._nested = 0, 0.0, False
    monkeypatch.setattr(MeteredSpeech2Text, "progress", tmp_path / "progress")
    return made


def lines(metered):
    return [line.split() for line in metered.progress.read_text().splitlines()]


def test_a_batch_is_a_line_although_one_decodes_by_the_other(metered):
    with metered._metered(3), metered._metered(1):
        pass
    with metered._metered(1):
        pass
    assert [int(count) for count, _ in lines(metered)] == [3, 1]
    assert metered.utterances == 4
    assert metered.seconds == pytest.approx(sum(float(s) for _, s in lines(metered)), abs=1e-5)


def test_utterances_of_a_batch_that_is_tried_again_count_once(metered):
    for utterances in (2, 1, 1):  # the second of the batch is too short
        try:
            with metered._metered(utterances):
                if utterances == 2 or metered.utterances == 1:
                    raise TooShortUttError("short", 1, 2)
        except TooShortUttError:
            pass
    assert [int(count) for count, _ in lines(metered)] == [0, 1, 1]
    assert metered.utterances == 2


def test_a_process_ends_when_the_decode_command_has_gone(monkeypatch):
    monkeypatch.setenv(PARENT, str(os.getppid()))
    worker._stop_without_parent()
    monkeypatch.setenv(PARENT, str(2**22 + 1))  # no process has such a number
    with pytest.raises(SystemExit, match="parent process exited"):
        worker.infer(["--output_dir", "x"])


def test_its_own_options_are_taken_out_of_espnets():
    words = ["--fingerprint", "abc", "--spike_mode", "binary", "--beam_size", "3", "--T", "2"]
    own, rest = worker.get_run_parser().parse_known_args(words)
    assert own.fingerprint == "abc" and own.log_file is None
    assert SpikeOptions.from_options(own) == SpikeOptions("binary", 2, None)
    assert rest == ["--beam_size", "3"]


def infer(folder, scp, kind="speech,kaldi_ark"):
    words = ["--output_dir", str(folder / "out"), "--key_file", str(scp), "--ngpu", "0"]
    words += ["--asr_train_config", "none.yaml", "--asr_model_file", "none.pth"]
    worker.infer([*words, "--data_path_and_name_and_type", f"{scp},{kind}"])


def test_damaged_features_name_utterance_and_file(tmp_path):
    ark, scp = tmp_path / "f.ark", tmp_path / "feats.scp"
    with ArkWriter(ark) as writer:
        places = {utt: writer.write(utt, np.ones((5, 4), np.float32)) for utt in ("a", "b", "c")}
    scp.write_text("".join(f"{utt} {ark}:{place}\n" for utt, place in places.items()))
    with pytest.raises(UserError, match=r"none\.yaml"):
        infer(tmp_path, scp)  # they are whole
    whole = ark.read_bytes()
    for damaged in (whole[:-5], whole[:-4] + np.float32(np.nan).tobytes()):
        ark.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"^c: .*{re.escape(str(ark))}"):
            infer(tmp_path, scp)


@pytest.mark.parametrize("kind", ["speech,sound", "speech,npy", "text,kaldi_ark", "speech,text"])
def test_other_kinds_of_data_are_refused(tmp_path, kind):
    with pytest.raises(UserError, match=f"x.scp,{kind}: not read here"):
        infer(tmp_path, "x.scp", kind)
