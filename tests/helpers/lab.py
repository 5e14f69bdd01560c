"""A checkout on tiny data in which what the documentation prints can be typed."""

import contextlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import yaml

RATE = 8000
WORDS = "zero one two three four five six seven eight nine".split()
MARK = r"<!-- (?:not run|run only (?P<only>.+?)): (?P<why>.+?) -->\n"
BLOCK = re.compile(rf"({MARK})?^```bash\n(?P<code>.*?)^```", re.M | re.S)
OURS = re.compile(r"^(?:\S*/)?python3?$")


class Block(NamedTuple):
    """A shell block of a page.

    Attributes:
        code: what is in it.
        why: it is not run, or only in part; None: it is run.
        only: parts of words by which the commands that are run are known.
    """

    code: str
    why: str | None = None
    only: tuple[str, ...] = ()

    def is_run(self, words: list[str]) -> bool:
        """Return whether a command of it is run."""
        return self.why is None or any(part in word for part in self.only for word in words)


class Command(NamedTuple):
    """A line of a page: words, where it is typed, and whether it is a command of ours."""

    words: list[str]
    folder: Path

    @property
    def module(self) -> str | None:
        """The command's module; None of a program."""
        if not OURS.match(self.words[0]) or self.words[1:2] != ["-m"]:
            return None
        return self.words[2]


def blocks(text: str) -> list[Block]:
    """Return the shell blocks of a page, with the marks that stand in front of them."""
    return [
        Block(b["code"], b["why"], tuple(b["only"].split(", ")) if b["only"] else ())
        for b in BLOCK.finditer(text)
    ]


def commands(code: str, root: Path) -> Iterator[Command]:
    """Yield the commands of a block, which begins in the root of the checkout."""
    folder, values = root, {}
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            if words[0] == "cd":
                folder, words = folder / words[1], words[3:] if words[2:3] == ["&&"] else words[2:]
            elif found := re.fullmatch(r"(\w+)=(.*)", words[0]):
                values[f"${found[1]}"], words = found[2], words[1:]
            else:
                yield Command([values.get(word, word) for word in words], folder)
                break


class Lab:
    """The checkout.

    Args:
        source: the checkout that it is a copy of.
        root: where to make it.
    """

    def __init__(self, source: Path, root: Path) -> None:
        self.root = root
        self.done: set[tuple[str, ...]] = set()
        # a trial of one update; recipes go into this checkout, not into that of the package
        self.more = {"new_recipe": ["--trial_updates", "1", "--egs", str(root / "egs")]}
        tracked = ["conf", "docs", "egs", "local", "run.sh", "README.md"]
        listed = subprocess.run(
            ["git", "ls-files", *tracked], cwd=source, capture_output=True, text=True, check=True
        )
        for name in listed.stdout.splitlines():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, root / name)
        (root / "espnet_spike").symlink_to(source / "espnet_spike")
        self.recipe = root / "egs/fsdd"
        self._shrink()
        self._write_audio()
        self._prepare()

    def call(self, module: str, line: str, folder: Path | None = None) -> None:
        """Run a command of ours in this process, which has imported what it needs."""
        with contextlib.chdir(folder or self.recipe):
            import_module(f"espnet_spike.bin.{module}").main(shlex.split(line))

    def run(self, command: Command) -> None:
        """Run a command of a page, once.

        Raises:
            AssertionError: it failed.
        """
        key = (str(command.folder), *command.words)
        if key in self.done:
            return
        self.done.add(key)
        module, words = command.module, command.words[3:]
        if module == "espnet_spike":
            module, words = f"espnet_spike.bin.{words[0]}", words[1:]
        if module is not None:
            name = module.removeprefix("espnet_spike.bin.")
            try:
                self.call(name, shlex.join([*words, *self.more.get(name, [])]), command.folder)
            except SystemExit as error:  # of --help
                assert not error.code, shlex.join(command.words)
            return
        words = list(command.words)
        if words[0].endswith("run.sh"):
            words += ["--env", sys.prefix]  # the tests' environment in place of .venv
        done = subprocess.run(words, cwd=command.folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{shlex.join(command.words)}\n{done.stdout}{done.stderr}"

    def choose(self, model: str) -> None:
        """Let ``exp/asr_X`` be the experiment of a model; remove what another page has made."""
        shutil.rmtree(self.root / "egs/mine", ignore_errors=True)
        place = self.recipe / "exp/asr_X"
        place.unlink(missing_ok=True)
        place.symlink_to(f"asr_{model}")

    def _shrink(self) -> None:
        """Make networks and trainings of the recipe small."""
        small = {"output_size": 16, "attention_heads": 2, "num_blocks": 1, "conv_channels": 8}
        for name in ("event_speech_mamba", "iml_spikeformer"):
            path = self.recipe / f"conf/train_{name}.yaml"
            config = yaml.safe_load(path.read_text())
            own = {"d_state": 4} if name == "event_speech_mamba" else {"linear_units": 24}
            config["encoder_conf"] |= small | own
            config |= {"max_epoch": 1, "num_iters_per_epoch": 2, "scheduler": None}
            config |= {"scheduler_conf": {}, "num_workers": 0, "keep_nbest_models": 1}
            config["use_tensorboard"] = config["use_matplotlib"] = False
            if sparsify := config["spike_meta"].get("sparsify"):
                sparsify["utterances"] = 3
                # causal, with fixed statistics: it streams as well
                config["encoder_conf"]["causal"] = True
                config["normalize"] = "global_mvn"
            path.write_text(yaml.safe_dump(config))
        (self.recipe / "conf/decode_asr.yaml").write_text(
            "beam_size: 2\nctc_weight: 1.0\nmaxlenratio: 0.2\n"  # nothing has been learnt
        )

    def _say(self, path: Path, words: list[str], rate: int = RATE) -> Path:
        """Write audio in which every word is a chord."""
        time = np.arange(rate // 4) / rate
        chords = [
            np.sin(2 * np.pi * (200 + 60 * WORDS.index(word)) * time)
            + np.sin(2 * np.pi * (1500 + 90 * WORDS.index(word)) * time)
            for word in words
        ]
        wave = 0.2 * np.concatenate(chords)
        wave += 0.01 * np.random.default_rng(len(words)).standard_normal(len(wave))
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = None if path.suffix else "WAV"
        soundfile.write(path, wave, rate, format=kind)
        return path

    def _write_audio(self) -> None:
        """Write data directories of the recipe, and the files that pages name."""
        rng = np.random.default_rng(1)
        for name, count in (("train", 10), ("dev", 3), ("test", 3)):
            tables: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": []}
            for number in range(count):
                words = [str(word) for word in rng.permutation(WORDS)[:5]]
                utt = f"s{number % 2}-{name}-{number:02d}"
                path = self._say(self.root / f"audio/{utt}.wav", words)
                tables["wav.scp"].append(f"{utt} {path}")
                tables["text"].append(f"{utt} {' '.join(words)}")
                tables["utt2spk"].append(f"{utt} s{number % 2}")
            folders = [self.recipe / "data" / name, self.root / "egs/speechocean762/data" / name]
            for folder in [*folders, *([self.root / "data/test"] if name == "test" else [])]:
                folder.mkdir(parents=True)
                for table, lines in tables.items():
                    text = "".join(f"{line}\n" for line in sorted(lines))
                    (folder / table).write_text(text)
            rows = [
                line.replace(" ", ",", 1)
                for line in (f"{w.split()[1]} {t.partition(' ')[2]}" for w, t in
                             zip(tables["wav.scp"], tables["text"], strict=True))
            ]  # fmt: skip
            (self.root / f"{name}.csv").write_text("\n".join(["audio,text", *rows]) + "\n")
        for name in ("a.wav", "b.flac", "talks/c.wav", "talk.mp3", "egs/fsdd/WAV"):
            self._say(self.root / name, WORDS[:4])

    def _prepare(self) -> None:
        """Make features, tokens, statistics, two trained models, a decoding and a pack."""
        data = "--train_dir dump/fbank/train --valid_dir dump/fbank/dev --token_type bpe "
        tokens = "data/token_list/bpe_unigram30"
        data += f"--token_list {tokens}/tokens.txt --bpemodel {tokens}/bpe.model"
        pairs = " ".join(f"data/{name} dump/fbank/{name}" for name in ("train", "dev", "test"))
        self.call("fbank", f"--fbank_config ../../conf/fbank.yaml {pairs}")
        self.call("tokenize", f"--text data/train/text --nbpe 30 --out {tokens}")
        stats = "exp/asr_stats_fbank_bpe_unigram30"
        config = "conf/train_{}.yaml".format
        self.call(
            "collect_stats", f"--asr_config {config('iml_spikeformer')} {data} --output_dir {stats}"
        )
        for model in ("event_speech_mamba", "iml_spikeformer"):
            self.call(
                "asr_train",
                f"--asr_config {config(model)} {data} --stats_dir {stats} "
                f"--output_dir exp/asr_{model}",
            )
        self.choose("iml_spikeformer")
        exp = "exp/asr_iml_spikeformer"
        self.call(
            "decode",
            f"--asr_exp {exp} --inference_config conf/decode_asr.yaml --inference_nj 1 "
            f"--output_dir {exp}/decode_asr test=dump/fbank/test",
        )
        self.call(
            "score",
            f"--token_list {tokens}/tokens.txt --token_type bpe --bpemodel {tokens}/bpe.model "
            f"--out {exp}/decode_asr test=dump/fbank/test",
        )
        self.call("report", "--expdir exp --corpus fsdd --out exp/RESULTS.md")
        self.call(
            "pack",
            f"--asr_exp {exp} --inference_config conf/decode_asr.yaml --out {self.root}/pack.zip",
        )
        for name in ("asr_Y", "asr_Z"):
            shutil.copytree(self.recipe / exp, self.recipe / "exp" / name)
        (self.recipe / "exp/asr_TAG").symlink_to("asr_event_speech_mamba")
