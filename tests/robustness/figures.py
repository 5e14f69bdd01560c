"""Drivers of what figures are made of: perturbed speech, simulated cycles, pages, counts."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from tests.conftest import ROOT
from tests.robustness.drivers import (
    AUDIO,
    CUT,
    DRIVERS,
    DUMP,
    KALDI,
    MODEL,
    OWNERS,
    PLAIN,
    Driver,
    Input,
    build_audio,
    build_manifests,
    build_model,
    build_results,
    build_segments,
    call,
    run_compare,
    run_decode,
    run_own,
    sha,
)

# Other speeds


def run_perturb() -> dict[str, Any]:
    """Perturb, and prepare what came of it, which opens the audio."""
    from espnet_spike.data.kaldi_dir import DataDir

    call("perturb_data_dir", "--factors", "0.9 1.0", "data", "sp")
    call("prepare_data_dir", "sp")
    data = DataDir.read(Path("sp"))
    found: dict[str, str] = {}
    for name, text in data.text.items():
        line = f"{name} {data.source(name)} {text} {data.utt2spk[name]} {data.utt2speed[name]}; "
        utt = name.removeprefix("sp0.9-")
        found[utt] = found.get(utt, "") + line
    return found


def build_unperturbed() -> None:
    build_segments()
    Path("data/utt2speed").unlink()


SPED = {name: entry for name, entry in (CUT | KALDI).items() if name != "data/utt2speed"}
DRIVERS["perturb"] = Driver(build_audio, run_perturb, PLAIN | AUDIO, 2, in_place=True)
DRIVERS["perturb segments"] = Driver(
    build_unperturbed, run_perturb, SPED, 2, in_place=True, owners=OWNERS
)


# Tables with tabs


def build_tabbed() -> None:
    build_manifests()
    lines = Path("one.csv").read_text().splitlines()
    Path("four.tsv").write_text("".join(line.replace(",", "\t") + "\n" for line in lines))


DRIVERS["own tsv"] = Driver(
    build_tabbed, run_own("four.tsv"), {"four.tsv": Input("tsv")}, 4, local=False
)
COUNTS = {
    f"exp/{exp}/decode/test/score_wer/counts.tsv": Input("counts")
    for exp in ("asr_x", "asr_x_seed2")
}
DRIVERS["compare counts"] = Driver(build_results, run_compare, COUNTS, 3, local=False)


# Cycles


class Core:
    """Stands for a simulated core: the kernels' models in numpy, and a count made of the call."""

    def __init__(self, hardware: Any, compiler: str) -> None:
        self.core = SimpleNamespace(record={"key": "core", "rtl": "none", "verilator": "none"})
        self.firmware = SimpleNamespace(
            record={"key": "firmware", "compiler": compiler, "flags": []}
        )
        self.record = {
            "hardware": hardware.as_dict(),
            "core": self.core.record,
            "firmware": self.firmware.record,
        }

    def run(self, calls: Sequence[Any]) -> list[Any]:
        """Return what came of calls."""
        from espnet_spike.simulator.kernels import expected
        from espnet_spike.simulator.machine import COUNTERS, Counters, Result
        from espnet_spike.simulator.replay import call_key

        found = []
        for one in calls:
            start = int(call_key(one)[:4], 16)
            counters = Counters(*(start + number for number in range(len(COUNTERS))))
            found.append(Result(counters, list(expected(one))))
        return found


def run_simulate() -> dict[str, Any]:
    from espnet_spike.simulator import simulate, toolchain

    with (
        mock.patch.object(simulate, "Machine", Core),
        mock.patch.object(simulate, "plot", lambda *_: None),
        mock.patch.object(toolchain, "available", lambda compiler: ""),
    ):
        words = ["--asr_exp", "exp/asr_tiny", "--data_dir", "dump/test", "--utterances", "2"]
        call("simulate", *words, "--hardware", "core.yaml", "--nj", "1")
    figures = json.loads(Path("exp/asr_tiny/simulate/core.json").read_text())
    names = "utterances frames simulated codings parts weight_layers fit costs".split()
    return {name: figures[name] for name in names}


def build_simulated() -> None:
    build_model()
    shutil.copy(ROOT / "conf/hardware/small.yaml", "core.yaml")
    run_simulate()


SIMULATED = {
    "dump/test/feats.scp": Input("feats", ordered=True),  # they are recorded in this order
    "core.yaml": Input("yaml"),
    "exp/asr_tiny/simulate/calls.jsonl": Input("jsonlines", heals=True),
    "exp/asr_tiny/results.json": Input("json", heals=True),
}
DRIVERS["simulate"] = Driver(
    build_simulated, run_simulate, MODEL | DUMP | SIMULATED, 2, in_place=True, local=False
)


# Pages


def build_page() -> None:
    build_model()
    run_decode()
    words = ["--token_type", "char", "--token_list", "exp/asr_tiny/tokens.txt"]
    call("score", *words, "--out", "exp/asr_tiny/decode", "test=dump/test")
    run_page()


def run_page() -> dict[str, Any]:
    from espnet_spike.utils.archives import load_arrays

    words = ["--asr_exp", "exp/asr_tiny", "--inference_tag", "decode"]
    call("html_report", *words, "--out", "o.html", "test=dump/test")
    page = re.sub(r"\d{4}-\d\d-\d\d[T ][\d:+]*", "", Path("o.html").read_text(encoding="utf-8"))
    arrays = load_arrays(Path("exp/asr_tiny/decode/test/recording.npz"))
    return {"recording": sha(arrays["check"].tobytes()), "page": sha(page.encode())}


SHOWN = {
    "exp/asr_tiny/decode/test/recording.npz": Input("npz", heals=True),
    "exp/asr_tiny/decode/test/token_int": Input("words"),
    "exp/asr_tiny/decode/test/decode.json": Input("json"),
}
DRIVERS["html_report"] = Driver(build_page, run_page, SHOWN, 1, in_place=True, local=False)
