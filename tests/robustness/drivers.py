"""Commands with small inputs, and what each makes of them.

A driver writes its inputs into the current folder, then runs its commands there; what it returns
is compared with what the same commands returned for inputs that were not mutated.
"""

import gzip
import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from tests.conftest import ROOT
from tests.robustness import binary

RATE = 16000
UTTS = {"a1": "ab c", "a2": "c ba", "b1": "abc", "b2": "b a c"}
STORED = ROOT / "tests" / "stored_models" / "iml" / "pack.zip"


class Refused(Exception):
    """A command ended with a status that is not 0, by itself."""


@dataclass(frozen=True)
class Input:
    """A file that may be mutated.

    Attributes:
        kind: its format.
        touched: utterances that depend on it, for a file of one; empty: it is a table, or all.
        optional: the commands do without it.
        ordered: a table of ours, whose lines are sorted.
        ours: no one else writes it: what is written otherwise may be refused.
        heals: it is made again where it is not what it was, or else refused.
        sparse: a record of which some keys are read; others may be there.
        inert: a value that cannot be is refused, or changes nothing.
    """

    kind: str
    touched: str = ""
    optional: bool = False
    ordered: bool = False
    ours: bool = False
    heals: bool = False
    sparse: bool = False
    inert: bool = False


@dataclass(frozen=True)
class Driver:
    """Commands under test.

    Attributes:
        build: writes the inputs into the current folder.
        run: calls the commands there; returns utterance or other key -> what came out.
        files: the inputs.
        weight: how often it is drawn.
        in_place: it may change its inputs.
        local: an utterance depends on its own lines only.
        owners: recording -> its utterances, where tables have lines of recordings.
        loads: a module to import before the process is copied, so that it is imported once.
    """

    build: Callable[[], None]
    run: Callable[[], dict[str, Any]]
    files: Mapping[str, Input]
    weight: int = 4
    in_place: bool = False
    local: bool = True
    owners: Mapping[str, str] = field(default_factory=dict)
    loads: str = ""


DRIVERS: dict[str, Driver] = {}


def call(command: str, *words: object, module: str = "espnet_spike.bin") -> None:
    """Run a command as its own process would.

    Raises:
        Refused: it ended with another status than 0.
    """
    from espnet_spike.utils.cli import run

    try:
        run(import_module(f"{module}.{command}").main, [str(word) for word in words])
    except SystemExit as left:
        if left.code not in (0, None):
            raise Refused(f"{command}: status {left.code}") from None


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def matrices(folder: str) -> dict[str, str]:
    """Return utterance -> digest of its features, of a feature directory; they must be finite."""
    from espnet_spike.data.ark import ArkReader
    from espnet_spike.data.feature_dir import FeatureDir

    data = FeatureDir.read(Path(folder))
    found = {}
    with ArkReader() as reader:
        for utt, entry in data.feats.items():
            matrix = reader.read(utt, entry)
            assert np.isfinite(matrix).all() and matrix.shape == data.shapes[utt]
            found[utt] = f"{matrix.shape} {sha(matrix.tobytes())} {data.durations[utt]:.3f}"
            found[utt] += f" {data.text[utt]} {data.utt2spk[utt]}"
    return found


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")


def write_table(path: str, rows: Mapping[str, object]) -> None:
    write(path, "".join(f"{key} {value}\n" for key, value in rows.items()))


def wave(seconds: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    return (3000 * np.sin(1200 * time) + 500 * rng.standard_normal(len(time))).astype(np.int16)


def sound(path: str, seconds: float, seed: int) -> None:
    import soundfile

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave(seconds, seed), RATE)


# Data directories


def build_audio() -> None:
    sound("wav/a1.wav", 0.25, 1)
    sound("wav/a2.flac", 0.3, 2)
    sound("wav/b1.mp3", 0.3, 3)
    sound("wav/b2.wav", 0.2, 4)
    names = {"a1": "a1.wav", "a2": "a2.flac", "b1": "b1.mp3", "b2": "b2.wav"}
    write_table("data/wav.scp", {utt: f"wav/{name}" for utt, name in names.items()})
    write_table("data/text", UTTS)
    write_table("data/utt2spk", {utt: utt[0] for utt in UTTS})
    shutil.copy(ROOT / "conf" / "fbank.yaml", "fbank.yaml")


def build_segments() -> None:
    sound("wav/r1.wav", 0.6, 1)
    sound("wav/r2.flac", 0.5, 2)
    write_table("data/wav.scp", {"r1": "wav/r1.wav", "r2": "wav/r2.flac"})
    times = {"a1": "r1 0.0 0.25", "a2": "r1 0.3 0.6", "b1": "r2 0.1 0.3", "b2": "r2 0.25 0.5"}
    write_table("data/segments", times)
    write_table("data/text", UTTS)
    write_table("data/utt2spk", {utt: utt[0] for utt in UTTS})
    write_table("data/utt2speed", dict.fromkeys(UTTS, 1.0))
    shutil.copy(ROOT / "conf" / "fbank.yaml", "fbank.yaml")


def run_prepare() -> dict[str, Any]:
    from espnet_spike.data.kaldi_dir import DataDir

    call("prepare_data_dir", "data")
    data = DataDir.read(Path("data"))
    return {
        utt: f"{data.source(utt)} {text} {data.utt2spk[utt]} {data.utt2speed.get(utt)}"
        for utt, text in data.text.items()
    }


def run_fbank() -> dict[str, Any]:
    call("prepare_data_dir", "data")
    call("fbank", "--fbank_config", "fbank.yaml", "data", "feats")
    return matrices("feats")


def run_fbank_alone() -> dict[str, Any]:
    """Extract from tables that nobody has checked."""
    call("fbank", "--fbank_config", "fbank.yaml", "data", "feats")
    return matrices("feats")


AUDIO = {
    "wav/a1.wav": Input("wav", "a1"),
    "wav/a2.flac": Input("flac", "a2"),
    "wav/b1.mp3": Input("mp3", "b1"),
}
PLAIN = {
    "data/wav.scp": Input("scp"),
    "data/text": Input("text"),
    "data/utt2spk": Input("words", optional=True),
}
CUT = {
    "data/wav.scp": Input("scp"),
    "data/segments": Input("segments"),
    "data/utt2speed": Input("numbers", optional=True),
    "wav/r1.wav": Input("wav", "a1 a2"),
    "wav/r2.flac": Input("flac", "b1 b2"),
}
DRIVERS["prepare"] = Driver(build_audio, run_prepare, PLAIN | AUDIO, 8, in_place=True)
OWNERS = {"r1": "a1 a2", "r2": "b1 b2"}
DRIVERS["prepare segments"] = Driver(
    build_segments, run_prepare, CUT, 6, in_place=True, owners=OWNERS
)
DRIVERS["fbank"] = Driver(
    build_audio, run_fbank, PLAIN | AUDIO | {"fbank.yaml": Input("yaml")}, 6, in_place=True
)
DRIVERS["fbank alone"] = Driver(build_audio, run_fbank_alone, PLAIN, 2, in_place=True)
DRIVERS["fbank segments"] = Driver(build_segments, run_fbank, CUT, 4, in_place=True, owners=OWNERS)


# Feature directories


def build_feats(folder: str = "feats", size: int = 8, utts: Mapping[str, str] = UTTS) -> None:
    from espnet_spike.data.ark import ArkWriter
    from espnet_spike.data.feature_dir import FeatureDir

    rng = np.random.default_rng(5)
    data = FeatureDir(text=dict(utts), utt2spk={utt: utt[0] for utt in utts})
    Path(folder).mkdir(parents=True)
    ark = f"{folder}/feats.ark"
    with ArkWriter(Path(ark)) as writer:
        for number, utt in enumerate(utts):
            matrix = rng.standard_normal((40 + number, size)).astype(np.float32)
            data.feats[utt] = f"{ark}:{writer.write(utt, matrix)}"
            data.shapes[utt] = matrix.shape
            data.durations[utt] = len(matrix) / 100
    data.write(Path(folder))


def run_copy() -> dict[str, Any]:
    call("copy_feats", "feats", "copy")
    return matrices("copy")


def run_filter() -> dict[str, Any]:
    """Filter by the tables alone: no matrix is read."""
    from espnet_spike.data.feature_dir import FeatureDir

    call("filter_utts", "--min_frames", "5", "--max_frames", "1000", "feats", "kept")
    data = FeatureDir.read(Path("kept"))
    return {
        utt: f"{data.feats[utt]} {data.shapes[utt]} {data.durations[utt]} {text} "
        f"{data.utt2spk[utt]}"
        for utt, text in data.text.items()
    }


FEATS = {
    "feats/feats.scp": Input("feats"),
    "feats/feats.ark": Input("ark"),
    "feats/text": Input("text"),
}
COPIED = {"feats/utt2dur": Input("numbers", optional=True)}
ORDERED = {
    "feats/feats.scp": Input("words", ordered=True),
    "feats/text": Input("text", ordered=True),
    "feats/utt2spk": Input("words", ordered=True),
    "feats/feats_shape": Input("numbers", ordered=True),
    "feats/utt2dur": Input("numbers", ordered=True),
}
DRIVERS["copy_feats"] = Driver(build_feats, run_copy, FEATS | COPIED, 6)
DRIVERS["filter_utts"] = Driver(
    build_feats,
    run_filter,
    ORDERED,
    4,
)


# Tokens and scores


def build_text() -> None:
    words = {f"u{n:02d}": "one two three four five"[n % 9 :] for n in range(20)}
    write_table("text", words)
    write_table("oov", {"x": "one six"})


def run_tokenize() -> dict[str, Any]:
    call("tokenize", "--token_type", "char", "--text", "text", "--oov_texts", "oov", "--out", "o")
    return {"tokens": Path("o/tokens.txt").read_text(encoding="utf-8")}


def run_bpe() -> dict[str, Any]:
    call("tokenize", "--nbpe", "20", "--text", "text", "--out", "o")
    return {"tokens": Path("o/tokens.txt").read_text(encoding="utf-8")}


WORDS = {"text": Input("list")}  # in any order, with any names
DRIVERS["tokenize"] = Driver(build_text, run_tokenize, WORDS, 3, local=False)
DRIVERS["tokenize bpe"] = Driver(build_text, run_bpe, WORDS, 3, local=False)


def build_decoded() -> None:
    build_text()
    call("tokenize", "--nbpe", "20", "--text", "text", "--out", "tokens")
    refs = dict(line.split(" ", 1) for line in Path("text").read_text().splitlines()[:8])
    write_table("data/text", refs)
    write_table("data/utt2spk", {utt: utt[-1] for utt in refs})
    write_table("exp/asr_x/decode/test/text", {u: t.replace("two", "too") for u, t in refs.items()})


def run_score() -> dict[str, Any]:
    words = ["--token_type", "bpe", "--bpemodel", "tokens/bpe.model", "--token_list"]
    call("score", *words, "tokens/tokens.txt", "--out", "exp/asr_x/decode", "test=data")
    result = json.loads(Path("exp/asr_x/decode/test/result.json").read_text())
    for rate in ("wer", "cer", "ter"):
        assert np.isfinite(result[rate]["err"]), result
    return {key: result[key] for key in ("utterances", "wer", "cer", "ter", "blank_hypotheses")}


DRIVERS["score"] = Driver(
    build_decoded,
    run_score,
    {
        "data/text": Input("text"),
        "data/utt2spk": Input("words"),
        "exp/asr_x/decode/test/text": Input("text"),
        "tokens/tokens.txt": Input("list"),
        "tokens/bpe.model": Input("bpe"),
    },
    8,
    local=False,
)


# Manifests


def build_manifests() -> None:
    for number, name in enumerate(("a1", "a2", "b1", "b2")):
        sound(f"wav/{name}.wav", 0.2, number)
    names = {name: f"wav/{name}.wav" for name in UTTS}
    rows = [["audio", "text", "speaker", "start", "end"]]
    rows += [[names[u], UTTS[u], u[0], "0.05", "0.15"] for u in UTTS]
    Path("one.csv").write_bytes(binary_csv(rows))
    lines = [
        {"audio": names[u], "text": UTTS[u], "id": u, "speaker": u[0], "start": 0.05, "end": 0.15}
        for u in UTTS
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write("two.jsonl", text)
    cuts = [
        {
            **{"id": u, "start": 0.0, "duration": 0.2, "channel": 0, "type": "MonoCut"},
            "supervisions": [
                {
                    **{"id": u, "recording_id": u, "start": 0.0, "duration": 0.2, "channel": 0},
                    **{"text": UTTS[u], "speaker": u[0]},
                }
            ],
            "recording": {
                **{"id": u, "sampling_rate": RATE, "num_samples": 3200, "duration": 0.2},
                "sources": [{"type": "file", "channels": [0], "source": names[u]}],
            },
        }
        for u in UTTS
    ]
    lines = "".join(json.dumps(cut) + "\n" for cut in cuts).encode()
    Path("cuts.jsonl.gz").write_bytes(gzip.compress(lines, mtime=0))


def binary_csv(rows: list[list[str]]) -> bytes:
    return "".join(",".join(row) + "\n" for row in rows).encode()


def run_own(source: str) -> Callable[[], dict[str, Any]]:
    def run() -> dict[str, Any]:
        from espnet_spike.data.kaldi_dir import DataDir

        call("own", "--set", f"test={source}", module="espnet_spike.corpora")
        call("prepare_data_dir", "data/test")  # which knows how long the audio is
        data = DataDir.read(Path("data/test"))
        here = str(Path.cwd())
        return {
            utt: f"{data.source(utt)} {text} {data.utt2spk[utt]}".replace(here, ".")
            for utt, text in data.text.items()
        }

    return run


for _name, _kind in (("one.csv", "csv"), ("two.jsonl", "jsonl"), ("cuts.jsonl.gz", "gz")):
    DRIVERS[f"own {_kind}"] = Driver(
        build_manifests, run_own(_name), {_name: Input(_kind)}, 6, local=False
    )


KALDI = {
    "data/segments": Input("segments"),
    "data/utt2speed": Input("numbers", optional=True),
    "data/text": Input("text"),
}
DRIVERS["own kaldi"] = Driver(build_segments, run_own("data"), KALDI, 3, local=False)


# Archives


def build_archives() -> None:
    files = {f"corpus/{name}": name.encode() * 50 for name in ("a.txt", "b/c.txt", "b/d.wav")}
    plain = binary.tar_bytes(files, [], True)
    Path("one.tar").write_bytes(plain)
    Path("two.tar.gz").write_bytes(gzip.compress(plain, mtime=0))
    Path("three.zip").write_bytes(binary.zip_bytes(files, compression=zipfile.ZIP_DEFLATED))


def run_extract(name: str) -> Callable[[], dict[str, Any]]:
    def run() -> dict[str, Any]:
        from espnet_spike.corpora.download import extract

        call_function(lambda: extract(Path(name), Path("corpus")))
        files = {p.relative_to("corpus"): p for p in Path("corpus").rglob("*") if p.is_file()}
        return {
            str(inside): sha(path.read_bytes())
            for inside, path in sorted(files.items())
            if not inside.name.startswith(".done-")
        }

    return run


def call_function(function: Callable[[], object]) -> None:
    """Call a function as a command does."""
    from espnet_spike.utils.cli import run

    try:
        run(lambda argv: function() and None)
    except SystemExit as left:
        if left.code not in (0, None):
            raise Refused(f"status {left.code}") from None


for _name, _kind in (("one.tar", "tar"), ("two.tar.gz", "tgz"), ("three.zip", "zip")):
    DRIVERS[f"extract {_kind}"] = Driver(
        build_archives, run_extract(_name), {_name: Input(_kind)}, 4, local=False
    )


# Reports on what was done


def build_results() -> None:
    from tests.helpers.experiments import make_experiment

    make_experiment(Path(), "x", {"u01": "one two"}, seed=0)
    make_experiment(Path(), "x_seed2", {"u02": "one two"}, seed=2)


def run_report() -> dict[str, Any]:
    call("report", "--expdir", "exp", "--corpus", "test", "--out", "exp/RESULTS.md")
    lines = Path("exp/RESULTS.md").read_text(encoding="utf-8").splitlines()
    # the minute in which it is made
    return {"report": "\n".join(line for line in lines if not line.startswith("Report of "))}


def run_compare() -> dict[str, Any]:
    call("report", "--expdir", "exp", "--corpus", "test", "--out", "exp/RESULTS.md")
    call("compare", "exp/asr_x", "exp/asr_x_seed2", "--csv", "o.csv", "--html", "o.html")
    call("compare_decodes", "exp/asr_x/decode", "exp/asr_x_seed2/decode", "--json", "o.json")
    return {"csv": Path("o.csv").read_text(), "json": json.loads(Path("o.json").read_text())}


REPORTED = {
    "exp/asr_x/config.yaml": Input("yaml", sparse=True),
    "exp/asr_x/epochs.jsonl": Input("jsonlines", optional=True),
    "exp/asr_x/decode/test/result.json": Input("json", optional=True),
    "exp/asr_x/decode/test/decode.json": Input("json", optional=True),
}
DRIVERS["report"] = Driver(build_results, run_report, REPORTED, 5, local=False)
DRIVERS["compare"] = Driver(build_results, run_compare, REPORTED, 3, local=False)


# Configurations


def build_configs() -> None:
    shutil.copy(ROOT / "egs/mini_an4/conf/train_iml_spikeformer.yaml", "train.yaml")
    shutil.copy(ROOT / "conf/decode_asr.yaml", "decode.yaml")
    shutil.copy(ROOT / "conf/fbank.yaml", "fbank.yaml")
    shutil.copy(ROOT / "conf/cluster/slurm.yaml", "cluster.yaml")
    shutil.copy(ROOT / "conf/energy/horowitz45_fp32.yaml", "energy.yaml")
    shutil.copy(ROOT / "conf/hardware/small.yaml", "hardware.yaml")
    shutil.copy(ROOT / "conf/hardware/grid.yaml", "grid.yaml")


def run_check() -> dict[str, Any]:
    call(
        "check_config",
        *("--asr_config", "train.yaml", "--inference_config", "decode.yaml"),
        *("--fbank_config", "fbank.yaml", "--cluster", "cluster.yaml"),
    )
    return {}


def run_describe() -> dict[str, Any]:
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        call("describe", "--asr_config", "train.yaml", "--json")
    return {"model": json.loads(out.getvalue())}


def run_prices() -> dict[str, Any]:
    from dataclasses import asdict

    from espnet_spike.counting.energy import read_cost_model
    from espnet_spike.simulator.hardware import read_grid, read_hardware

    found: dict[str, Any] = {}

    def read() -> None:
        found["energy"] = asdict(read_cost_model("energy.yaml"))
        found["hardware"] = asdict(read_hardware(Path("hardware.yaml")))
        # points of a grid come in the order of its keys
        points = [asdict(hardware) for hardware in read_grid(Path("grid.yaml"))]
        found["grid"] = sorted(points, key=str)

    call_function(read)
    return found


YAML = Input("yaml")
ESPNET = "espnet_spike.task"
CHECKED = {name: YAML for name in ("train.yaml", "decode.yaml", "fbank.yaml", "cluster.yaml")}
PRICES = {name: YAML for name in ("energy.yaml", "hardware.yaml", "grid.yaml")}
DRIVERS["check_config"] = Driver(build_configs, run_check, CHECKED, 3, local=False, loads=ESPNET)
DRIVERS["describe"] = Driver(build_configs, run_describe, {"train.yaml": YAML}, 2, local=False)
DRIVERS["prices"] = Driver(build_configs, run_prices, PRICES, 6, local=False)


# A trained model


def build_model() -> None:
    with zipfile.ZipFile(STORED) as archive:
        archive.extractall()
    shutil.copy(STORED, "pack.zip")
    sound("a1.wav", 0.4, 1)
    build_feats("dump/test", 80, {"a1": "ab", "b1": "ba"})


def run_transcribe(model: str) -> Callable[[], dict[str, Any]]:
    def run() -> dict[str, Any]:
        words = ["--inference_args", "--beam_size 1", "--format", "json", "--out", "o"]
        call("transcribe", "--model", model, *words, "a1.wav")
        return {"a1": json.loads(Path("o/a1.json").read_text(encoding="utf-8"))}

    return run


def run_decode() -> dict[str, Any]:
    """Decode; the job runs here instead of in a process of its own."""
    from espnet_spike.inference import decode

    def here(name: str, jobs: Any, poll: Any) -> None:
        for job in jobs:
            call("asr_inference", *job.command[3:])

    words = ["--asr_exp", "exp/asr_tiny", "--inference_args", "--beam_size 1 --maxlenratio 0.2"]
    with mock.patch.object(decode, "run_jobs", here):
        call("decode", *words, "--output_dir", "exp/asr_tiny/decode", "test=dump/test")
    folder = Path("exp/asr_tiny/decode/test")
    scores = dict(line.split(" ", 1) for line in (folder / "score").read_text().splitlines())
    text = (folder / "text").read_text(encoding="utf-8").splitlines()
    texts = {line.split(" ")[0]: line for line in text}
    return {utt: f"{texts[utt]} {scores[utt]}" for utt in scores}


def run_count() -> dict[str, Any]:
    words = ["--asr_exp", "exp/asr_tiny", "--energy_model", "horowitz45_fp32"]
    call("count", *words, "--output_dir", "exp/asr_tiny/decode", "test=dump/test")
    found = json.loads(Path("exp/asr_tiny/decode/test/count.json").read_text())
    return {
        "count": {
            key: found[key]
            for key in sorted(found)
            if "time" not in key
            and "second" not in key
            # the digest is of the file: the same weights saved anew have another
            and key not in ("finished", "checkpoint_sha256")
        }
    }


MODEL = {
    "exp/asr_tiny/config.yaml": Input("yaml", inert=True),
    "exp/asr_tiny/train.loss.ave.pth": Input("pth"),
}
DUMP = {
    "dump/test/feats.scp": Input("feats"),
    "dump/test/feats.ark": Input("ark"),
    "dump/test/feats_shape": Input("numbers"),
    "dump/test/utt2dur": Input("numbers"),
}
EXTRA = {
    "exp/asr_tiny/inference.yaml": Input("yaml"),
    "exp/asr_tiny/features.yaml": Input("yaml"),
    "a1.wav": Input("wav", "a1"),
}
DRIVERS["transcribe"] = Driver(
    build_model, run_transcribe("exp/asr_tiny"), MODEL | EXTRA, 3, local=False
)
DRIVERS["transcribe pack"] = Driver(
    build_model, run_transcribe("pack.zip"), {"pack.zip": Input("pack")}, 2, local=False
)
DRIVERS["decode"] = Driver(build_model, run_decode, MODEL | DUMP, 2, local=False)
DRIVERS["count"] = Driver(build_model, run_count, MODEL | DUMP, 1, local=False)
