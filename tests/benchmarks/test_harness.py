import argparse
import json
import re
import sys
import time

import pytest
import torch

from benchmarks import bench_count, bench_fbank, bench_full_size, bench_train_step
from benchmarks.harness import Timing, add_out, compare, machine, markdown_table, write_report
from espnet_spike.errors import UserError
from tests.helpers.corpora import corpus_dir


def test_cases_take_turns_and_warmups_do_not_count():
    calls = []
    cases = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    timings = compare(cases, peer="b", repeats=3, warmups=2)
    assert calls == ["a", "b"] * 5
    assert all(len(timing.wall) == len(timing.cpu) == 3 for timing in timings.values())
    assert timings["b"].ratio == 1


def test_the_ratio_is_taken_round_by_round():
    timing = Timing("x", wall=(1.0, 10.0, 2.0), cpu=(1.0, 1.0, 1.0), peer_wall=(2.0, 30.0, 4.0))
    assert timing.ratio == 2.0
    assert timing.median == 2.0


def test_waiting_is_wall_clock_and_not_processor_time():
    timing = compare({"sleep": lambda: time.sleep(0.05)}, peer="sleep", repeats=2)["sleep"]
    assert timing.median >= 0.05
    assert timing.cpu_median < 0.04


def test_a_report_is_a_table_and_the_same_as_json(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", bench_fbank)
    monkeypatch.setattr(sys, "argv", ["bench_fbank.py", "--wav_dir", "my audio"])
    rows = [{"case": "a", "seconds": 0.0123456}, {"case": "b", "seconds": 1234.5}]
    text = write_report(
        tmp_path / "new" / "x", "Title", rows, machine(["numpy", "no-such"]), ["So."]
    )
    assert markdown_table(rows) in text
    assert "| a | 0.0123 |" in text
    assert "| b | 1234 |" in text
    assert "So." in text
    assert "no-such absent" in text
    assert (tmp_path / "new/x.md").read_text() == text
    record = json.loads((tmp_path / "new/x.json").read_text())
    assert record["rows"] == rows
    assert record["command"] == ".venv/bin/python -m benchmarks.bench_fbank --wav_dir 'my audio'"
    assert f"Made by `{record['command']}`." in text


def test_without_out_a_report_is_printed_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    add_out(parser)
    stem = parser.parse_args([]).out
    assert "| a |" in write_report(stem, "Title", [{"case": "a"}], {}) and not list(
        tmp_path.iterdir()
    )


def test_no_benchmark_replaces_a_table_unless_told_to(root):
    sources = {p.name: p.read_text() for p in (root / "benchmarks").glob("*.py")}
    writing = {
        name for name, text in sources.items() if "print(write_report(" in text.replace("\n", "")
    }
    assert len(writing) > 12
    for name, text in sources.items():
        assert "benchmarks/results" not in text, name
        if "write_report(" in text and name != "harness.py":
            assert "add_out(parser)" in text and "write_report(args.out," in re.sub(
                r"\(\s+", "(", text
            ), name


def test_the_fbank_benchmark_runs(tmp_path, capsys):
    options = ["--hours", "0.003", "--repeats", "1", "--out", str(tmp_path / "fbank")]
    bench_fbank.main(options)
    rows = json.loads((tmp_path / "fbank.json").read_text())["rows"]
    assert len(rows) == 5
    assert all(row["x real time (wall)"] > 0 for row in rows)
    with pytest.raises(UserError, match="below 1000000000"):
        bench_fbank.main([*options, "--floor", "1e9"])


@pytest.mark.parametrize("T", [4, 6])
def test_spikingjelly_in_our_encoder_does_the_work_of_our_lif(T):
    sizes = {"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 2}
    ours = bench_train_step.make_encoder(f"LIF, T = {T}", sizes)
    peer = bench_train_step.make_encoder(f"spikingjelly's LIF, T = {T}", sizes)
    peer.load_state_dict(ours.state_dict())
    features, lengths = torch.randn(2, 63, 80), torch.tensor([63, 50])
    for train in (True, False):
        outputs = []
        for encoder in (ours, peer):
            torch.manual_seed(0)  # of dropout
            outputs.append(encoder.train(train)(features, lengths)[0])
        assert torch.equal(*outputs)
        assert outputs[0].abs().sum() > 0
    for output in outputs:
        output.square().mean().backward()
    for parameter, twin in zip(ours.parameters(), peer.parameters(), strict=True):
        assert torch.allclose(parameter.grad, twin.grad, rtol=1e-4, atol=1e-7)


def test_the_train_step_benchmark_runs(tmp_path):
    options = "--batch 1 --frames 20 --dim 64 --blocks 1 --repeats 1 --cases IMLS".split()
    options += ["--out", str(tmp_path / "step")]
    bench_train_step.main(options)
    rows = json.loads((tmp_path / "step.json").read_text())["rows"]
    assert len(rows) == 3 and rows[0]["time / twin"] == 1
    assert all(row["peak MiB"] > 0 for row in rows)
    assert "takes" in (tmp_path / "step.md").read_text()


def test_the_count_benchmark_runs(tmp_path):
    config = bench_count.ROOT / "egs/mini_an4/conf/train_iml_spikeformer.yaml"
    options = ["--configs", str(config), "--utterances", "2", "--repeats", "1"]
    options += ["--out", str(tmp_path / "count")]
    bench_count.main(options)
    rows = json.loads((tmp_path / "count.json").read_text())["rows"]
    assert [row["case"] for row in rows] == ["encode", "count", "encode in batches"]
    with pytest.raises(UserError, match="takes above"):
        bench_count.main([*options, "--most", "0.001"])


def test_two_steps_on_real_speech_are_measured_once(tmp_path, capsys):
    config = bench_full_size.ROOT / "egs/mini_an4/conf/train_iml_spikeformer.yaml"
    corpus = corpus_dir("LibriSpeech")
    options = ["--corpus_dir", str(corpus), "--configs", str(config), "--batch", "1", "--resume"]
    options += ["--out", str(tmp_path / "full")]
    bench_full_size.main(options)
    (row,) = json.loads((tmp_path / "full.json").read_text())["rows"]
    assert 0 < row["model [GiB]"] < row["peak [GiB]"] and row["step [core s]"] > 0
    assert 5 < row["speech [s]"] < 20 and row["GFLOP / s of speech"] > 0
    first, second = map(float, row["losses"].split(", "))
    assert first != second
    bench_full_size.main(options)  # nothing to do
    assert json.loads((tmp_path / "full.json").read_text())["rows"] == [row]


def test_hours_grow_with_the_corpus_and_the_epochs():
    row = {"GFLOP / s of speech": 10.0}
    names = [path.stem.removeprefix("train_") for path in bench_full_size.find_configs()]
    hours = {n: bench_full_size.expected_hours(row | {"config": n}) for n in names}
    large, small = hours["speech_mamba_librispeech960"], hours["speech_mamba_librispeech100"]
    assert large["GPU hours"] / small["GPU hours"] == pytest.approx(
        9.6 * large["epochs"] / small["epochs"]
    )
    event = hours["event_speech_mamba_librispeech960"]
    assert event["epochs"] == 80  # 60 and 20 of fine-tuning
    assert large["GPU hours"] == pytest.approx(960 * 3 * 100 * 10e9 / 20e12)
