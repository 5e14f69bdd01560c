"""Drivers of what trains, and of what a training has left."""

import json
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.robustness.drivers import (
    DRIVERS,
    MODEL,
    Driver,
    Input,
    build_manifests,
    build_model,
    call,
    run_report,
    sha,
    write,
)

# N-grams


def build_texts() -> None:
    from tests.helpers.features import write_tokens

    write("train", "".join(f"u{n} {'abc'[n % 3 :]} c{'ba' * n}\n" for n in range(6)))
    write("valid", "v1 ab\nv2 cab\n")
    write_tokens(Path("tokens.txt"))


def run_ngram() -> dict[str, Any]:
    words = ["--token_type", "char", "--token_list", "tokens.txt", "--ngram_order", "3"]
    call("ngram_train", "--train_text", "train", "valid", *words, "--out", "o/ngram.arpa")
    return {"ngram": Path("o/ngram.arpa").read_text(encoding="utf-8")}


LIST = Input("list")
DRIVERS["ngram_train"] = Driver(
    build_texts, run_ngram, {"train": LIST, "tokens.txt": Input("tokens")}, 2, local=False
)


def build_queried() -> None:
    build_texts()
    run_ngram()


def run_query() -> dict[str, Any]:
    """Read an n-gram as decoding does, and score with it."""
    import kenlm

    from espnet_spike.inference.decode import check_ngram, read_settings
    from tests.helpers.features import TOKENS
    from tests.robustness.drivers import call_function

    write("exp/config.yaml", yaml.safe_dump({"token_list": TOKENS}))
    path = Path("o/ngram.arpa")
    call_function(lambda: check_ngram(path, Path("exp"), read_settings(None)))
    model = kenlm.LanguageModel(str(path))
    found = {text: model.score(text) for text in ("a b", "c b a", "<unk>", "b <space> a")}
    assert np.isfinite(list(found.values())).all(), found
    return found


DRIVERS["ngram"] = Driver(build_queried, run_query, {"o/ngram.arpa": Input("arpa")}, 2, local=False)


# New recipes, and reports of what was counted


def run_new_recipe(source: str) -> Callable[[], dict[str, Any]]:
    def run() -> dict[str, Any]:
        sets = ["--train", source, "--test", f"test={source}", "--trial_updates", "0"]
        call("new_recipe", "mine", *sets, "--egs", "egs")
        here = str(Path.cwd())
        files = sorted(path for path in Path("egs/mine").rglob("*") if path.is_file())
        return {str(path): path.read_text().replace(here, ".") for path in files}

    return run


for _name, _kind in (("one.csv", "csv"), ("cuts.jsonl.gz", "gz")):
    DRIVERS[f"new_recipe {_kind}"] = Driver(
        build_manifests, run_new_recipe(_name), {_name: Input(_kind)}, 2, local=False
    )


def build_counted() -> None:
    from tests.helpers.experiments import make_experiment
    from tests.results.test_markdown import count_of

    for seed in range(2):
        exp = make_experiment(Path(), f"x_seed{seed}", {}, encoder="iml_spikeformer", seed=seed)
        count = count_of([1.0] * 30, [4.0 + seed] * 30)
        (exp / "decode/test/count.json").write_text(json.dumps(count))
    run_report()


COUNTED = {
    "exp/asr_x_seed0/decode/test/count.json": Input("json", optional=True),
    "exp/asr_x_seed1/results.json": Input("json", optional=True, heals=True),
}
DRIVERS["report counts"] = Driver(build_counted, run_report, COUNTED, 3, in_place=True, local=False)


# Statistics and training


def build_data() -> None:
    from tests.helpers import tiny_training  # with torch, which most drivers do without

    folder = Path()
    tiny_training.write_data(folder)
    tiny_training.write_config(folder, keep_nbest_models=1, normalize="global_mvn")


def build_begun() -> None:
    """Train the first epoch."""
    build_data()
    call("collect_stats", *STATS_WORDS)
    train(1)


DATA_WORDS = "--train_dir train --valid_dir dev --token_list tokens.txt --token_type char".split()
STATS_WORDS = ["--asr_config", "c.yaml", *DATA_WORDS, "--output_dir", "stats"]


def train(epochs: int) -> None:
    """Train up to an epoch; how the epochs went does not belong to what comes out."""
    words = ["--config", "c.yaml", *DATA_WORDS, "--stats_dir", "stats", "--output_dir", "exp"]
    call("asr_train", *words, "--asr_args", f"--max_epoch {epochs}")


def contents(folder: str, *patterns: str) -> dict[str, str]:
    """Return the digests of files."""
    paths = sorted(path for pattern in patterns for path in Path(folder).glob(pattern))
    return {str(path): sha(path.read_bytes()) for path in paths if path.is_file()}


def run_stats() -> dict[str, Any]:
    call("collect_stats", *STATS_WORDS)
    found = contents("stats", "*/*shape*")
    for path in sorted(Path("stats").glob("*/feats_stats.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            found |= {f"{path} {key}": sha(arrays[key].tobytes()) for key in arrays}
    return found


def tensors(*paths: Path) -> dict[str, str]:
    """Return the digests of parameters; they must be finite."""
    import torch

    found = {}
    for path in paths:
        state = torch.load(path, weights_only=True)
        assert all(bool(torch.isfinite(value).all()) for value in state.values()), path
        found |= {f"{path} {k}": sha(v.contiguous().numpy().tobytes()) for k, v in state.items()}
    return found


def run_resume() -> dict[str, Any]:
    """Go on with the second epoch, from whatever the first one left."""
    train(2)
    return tensors(Path("exp/2epoch.pth"), *sorted(Path("exp").glob("*.ave.pth")))


SETS = {
    "train/feats.scp": Input("feats", ordered=True, ours=True),
    "train/data/feats.1.ark": Input("ark"),
    "train/text": Input("text", ordered=True, ours=True),
    "train/feats_shape": Input("numbers", ordered=True, ours=True),
    "dev/text": Input("text", ordered=True, ours=True),
    "tokens.txt": Input("tokens"),
    "c.yaml": Input("yaml"),
}
DRIVERS["collect_stats"] = Driver(build_data, run_stats, SETS, 2, local=False)
LEFT = {
    "exp/checkpoint.pth": Input("checkpoint", heals=True),
    "exp/1epoch.pth": Input("pth", heals=True),
    "exp/epochs.jsonl": Input("jsonlines", heals=True),
    "exp/spike_config.json": Input("json", heals=True),
    "exp/spike_finished.json": Input("json", heals=True),
    "exp/config.yaml": Input("yaml", heals=True, sparse=True),
    "exp/train_config.yaml": Input("yaml", heals=True, sparse=True),
    "stats/train/feats_stats.npz": Input("npz", heals=True),
    "stats/train/speech_shape": Input("numbers", heals=True),
    "stats/valid/text_shape.char": Input("numbers", heals=True),
}
DRIVERS["resume"] = Driver(build_begun, run_resume, LEFT, 2, in_place=True, local=False)


# Language models


def build_lm() -> None:
    from tests.training.test_lm import CONFIG

    build_texts()
    write("lm.yaml", yaml.safe_dump(CONFIG | {"max_epoch": 1}))
    train_lm(1)


def train_lm(epochs: int) -> None:
    words = ["--lm_config", "lm.yaml", "--train_text", "train", "--valid_text", "valid"]
    words += ["--token_list", "tokens.txt", "--token_type", "char", "--stats_dir", "stats"]
    call("lm_train", *words, "--output_dir", "lm", "--lm_args", f"--max_epoch {epochs}")


def run_lm() -> dict[str, Any]:
    train_lm(2)
    return tensors(Path("lm/2epoch.pth"), *sorted(Path("lm").glob("*.ave.pth")))


DRIVERS["lm_train"] = Driver(
    build_lm,
    run_lm,
    {
        "train": Input("list", heals=True),  # another text is another training
        "tokens.txt": Input("tokens", heals=True),
        "lm.yaml": Input("yaml"),
        "lm/checkpoint.pth": Input("checkpoint", heals=True),
        "lm/epochs.jsonl": Input("jsonlines", heals=True),
        "stats/train/text_shape.char": Input("numbers", heals=True),
        "stats/content": Input("list", heals=True),
    },
    2,
    in_place=True,
    local=False,
)


# Packs


def run_pack() -> dict[str, Any]:
    """Pack; ESPnet's program runs here instead of in a process of its own."""
    from espnet_spike.export import pack

    vars(pack)["subprocess"] = ESPNETS_PACK
    call("pack", "--asr_exp", "exp/asr_tiny", "--fbank_config", "fbank.yaml", "--out", "o.zip")
    with zipfile.ZipFile("o.zip") as archive:
        return {"members": sorted(archive.namelist())}  # which the command itself has compared


def _here(command: list[str], cwd: Path, **_: Any) -> Any:
    import contextlib
    import subprocess

    from espnet2.bin import pack

    with contextlib.chdir(cwd):
        pack.main(command[3:])
    return subprocess.CompletedProcess(command, 0)


ESPNETS_PACK = types.SimpleNamespace(run=_here)


def build_packed() -> None:
    from tests.conftest import ROOT

    build_model()
    write("fbank.yaml", (ROOT / "conf" / "fbank.yaml").read_text())


PACKED = {
    "exp/asr_tiny/features.yaml": Input("yaml", optional=True),
    "fbank.yaml": Input("yaml"),
}
DRIVERS["pack"] = Driver(build_packed, run_pack, MODEL | PACKED, 1, local=False)
