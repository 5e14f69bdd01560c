"""Processor seconds of every command on next to nothing: what it costs to start.

    .venv/bin/python -m benchmarks.bench_startup [--peer CHECKOUT] [--only NAME ...]

A dozen synthetic utterances go through all stages of a recipe, one process a command. With
``--peer``, each command also runs in another checkout, in turn with ours, on data of its own.
Bytecode is compiled before (by runs that do not count), as an installation does.
"""

import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import add_out, commit_of, machine, write_report
from espnet_spike.errors import UserError
from espnet_spike.utils.cli import COUNT, Parser, run

ROOT = Path(__file__).resolve().parents[1]
RATE = 8000
LETTERS = "abcdef"
BINS = 24

LIGHT = "no network"
DRAWS = "draws figures"
BUILDS = "builds a model"
TRAINS = "trains"
AUDIO = "data"

FBANK = f"{{num_mel_bins: {BINS}, dither: 0.0}}\n"
TRAINING = """
model: spike_asr
normalize: utterance_mvn
batch_type: unsorted
batch_size: 4
num_workers: 0
num_att_plot: 0
use_tensorboard: false
use_matplotlib: false
max_epoch: 2
optim: adam
optim_conf: {lr: 0.002}
best_model_criterion: [[valid, cer_ctc, min]]
"""
SIZES = "output_size: 16, attention_heads: 2, linear_units: 32, num_blocks: 1"
CTC = "model_conf: {ctc_weight: 1.0}\n" + TRAINING
CONFIGS = {
    "imls.yaml": f"""
encoder: iml_spikeformer
encoder_conf: {{{SIZES}, conv_channels: 8, T: 4}}
decoder: transformer
decoder_conf: {{attention_heads: 2, linear_units: 32, num_blocks: 1}}
model_conf: {{ctc_weight: 0.3}}
spike_meta: {{vocab_size: 9, input_size: {BINS}}}
{TRAINING}""",
    "ctc.yaml": f"encoder: iml_spikeformer\nencoder_conf: {{{SIZES}, conv_channels: 8}}\n{CTC}",
    "mamba.yaml": f"""
encoder: speech_mamba
encoder_conf: {{output_size: 16, attention_heads: 2, num_blocks: 1, causal: true,
  pos_enc: none, attention_window: [50, 0]}}
{CTC.replace("utterance_mvn", "global_mvn")}""",
    "event.yaml": f"""
encoder: event_speech_mamba
encoder_conf: {{output_size: 16, attention_heads: 2, num_blocks: 1}}
spike_meta: {{sparsify: {{utterances: 4}}}}
{CTC}""",
    "lm.yaml": """
lm: seq_rnn
lm_conf: {unit: 16, nlayers: 1}
batch_type: unsorted
batch_size: 4
num_workers: 0
use_tensorboard: false
use_matplotlib: false
max_epoch: 1
optim: adam
best_model_criterion: [[valid, loss, min]]
""",
    "decode.yaml": "beam_size: 2\nctc_weight: 0.5\n",
    "fbank.yaml": FBANK,
}


NOTE = (
    "User and system time of the command and its children, median of the runs that count, with one "
    "thread; bytecode is compiled and kernels are cached. `decode` starts `asr_inference` in a "
    "process of its own; `run.sh` starts a process a stage and more."
)
NOTE_BEFORE = "Before: the same call in another checkout, in turn with ours; the share is of pairs."


@dataclass(frozen=True)
class Call:
    """A command on the synthetic data.

    Attributes:
        name: of the command, with a note in brackets where there are several calls of it.
        kind: what it is for.
        words: its options; ``{root}`` is the checkout, ``{env}`` its environment.
        makes: what is removed before each run, so that each makes it.
    """

    name: str
    kind: str
    words: str
    makes: tuple[str, ...] = ()

    @property
    def program(self) -> list[str]:
        """The command, and options that are part of its name."""
        return self.name.split(" (")[0].split()

    def exists(self, root: Path) -> bool:
        """Return whether a checkout has the command."""
        name = self.program[0]
        return (root / name).is_file() or (root / f"espnet_spike/bin/{name}.py").is_file()

    def command(self, root: Path) -> list[str]:
        """Return the command line in a checkout."""
        words = [word.format(root=root, env=sys.prefix) for word in shlex.split(self.words)]
        program, *more = self.program
        if program == "run.sh":
            return ["bash", str(root / program), *more, *words]
        return [sys.executable, "-m", f"espnet_spike.bin.{program}", *words]


DATA = "--token_list tokens/tokens.txt --token_type char"
SETS = f"--train_dir dump/train --valid_dir dump/dev {DATA}"
IMLS = "exp/asr_imls"
TEST = "test=dump/test"


def training(config: str) -> str:
    """Return the options of a training."""
    return f"--config {config}.yaml {SETS} --stats_dir exp/stats --output_dir exp/asr_{config}"


CALLS = (
    Call("list_encoders", LIGHT, ""),
    Call("list_decoders", LIGHT, ""),
    Call("check_environment", LIGHT, ""),
    Call("experiment_tag", LIGHT, "--config imls.yaml --args= fbank char"),
    Call("prepare_data_dir", AUDIO, "data/train data/dev data/test"),
    Call("perturb_data_dir", AUDIO, "data/train data/train_sp", ("data/train_sp",)),
    Call(
        *("fbank", AUDIO),
        "--config fbank.yaml data/train dump/train data/dev dump/dev data/test dump/test",
        ("dump",),
    ),
    Call("copy_feats", AUDIO, "dump/test copy/test", ("copy",)),
    Call("format_audio", AUDIO, "data/test audio/test", ("audio",)),
    Call("filter_utts", AUDIO, "dump/test kept/test", ("kept",)),
    Call("tokenize", AUDIO, "--token_type char --text data/train/text --out tokens", ("tokens",)),
    Call("ngram_train", AUDIO, f"--train_text data/train/text {DATA} --out ngram.arpa"),
    Call(
        *("check_config (new)", BUILDS),
        "--asr_config imls.yaml --inference_config decode.yaml --cache exp/checked.json",
        ("exp/checked.json",),
    ),
    Call(
        *("check_config (from its cache)", LIGHT),
        "--asr_config imls.yaml --inference_config decode.yaml --cache exp/checked.json",
    ),
    Call("describe (one of ours)", "torch alone", "--asr_config imls.yaml"),
    Call(
        *("describe (one of ESPnet's)", BUILDS),
        "--asr_config {root}/conf/train_conformer.yaml",
    ),
    Call(
        *("collect_stats", TRAINS),
        f"--asr_config imls.yaml {SETS} --output_dir exp/stats",
        ("exp/stats",),
    ),
    Call("asr_train", TRAINS, training("imls"), (IMLS,)),
    Call("asr_train (CTC)", TRAINS, training("ctc"), ("exp/asr_ctc",)),
    Call("asr_train (Mamba)", TRAINS, training("mamba"), ("exp/asr_mamba",)),
    Call("asr_train (events)", TRAINS, training("event"), ("exp/asr_event",)),
    Call(
        *("lm_train", TRAINS),
        f"--lm_config lm.yaml --train_text data/train/text --valid_text data/dev/text {DATA} "
        "--stats_dir exp/lm_stats --output_dir exp/lm",
        ("exp/lm", "exp/lm_stats"),
    ),
    Call(
        *("sparsify", TRAINS),
        training("event").replace("exp/asr_event", "exp/asr_sparse")
        + " --asr_exp exp/asr_event --steps calibrate",
        ("exp/asr_sparse",),
    ),
    Call(
        *("naive_sparse", BUILDS),
        "--asr_exp exp/asr_mamba --train_dir dump/train --output_dir exp/asr_naive",
        ("exp/asr_naive",),
    ),
    Call(
        *("decode (with asr_inference)", BUILDS),
        f"--asr_exp {IMLS} --inference_config decode.yaml --out {IMLS}/decode {TEST}",
        (f"{IMLS}/decode",),
    ),
    Call("score", LIGHT, f"--out {IMLS}/decode {DATA} {TEST}"),
    Call("count", BUILDS, f"--asr_exp {IMLS} --out {IMLS}/decode {TEST}"),
    Call(
        *("sweep", BUILDS),
        f"--asr_exp {IMLS} --inference_config decode.yaml --T 2 --T_rule keep --out sweep {TEST}",
        ("sweep",),
    ),
    Call("compare_decodes", LIGHT, f"{IMLS}/decode {IMLS}/decode"),
    Call("report", LIGHT, "--expdir exp --corpus tones --out exp/RESULTS.md"),
    Call("compare", LIGHT, f"{IMLS} {IMLS}"),
    Call(
        *("html_report", DRAWS),
        f"--asr_exp {IMLS} --inference_tag decode {TEST}",
        (f"{IMLS}/report.html",),
    ),
    Call(
        *("reparameterize", BUILDS),
        f"--asr_exp {IMLS} --data_dir dump/test --out exp/asr_merged",
        ("exp/asr_merged",),
    ),
    Call("prove_spikes", BUILDS, f"--asr_exp {IMLS} {TEST}"),
    Call("export_onnx", BUILDS, "--asr_exp exp/asr_ctc --out onnx", ("onnx",)),
    Call(
        *("export_nir", BUILDS),
        f"--asr_exp {IMLS} --data_dir dump/test --utterances 1 --out core.nir",
        ("core.nir",),
    ),
    Call(
        *("pack", BUILDS),
        f"--asr_exp {IMLS} --inference_config decode.yaml --out pack.zip",
        ("pack.zip",),
    ),
    Call("transcribe", BUILDS, f"--model {IMLS} wav/test0.wav"),
    Call("transcribe (a pack)", BUILDS, "--model pack.zip wav/test0.wav"),
    Call("stream", BUILDS, "--asr_exp exp/asr_mamba --fbank_config fbank.yaml wav/test0.wav"),
    Call("published_energy", BUILDS, ""),
    Call("simulate (what is missing)", LIGHT, "--check"),
    Call("decode_sherpa (--help)", LIGHT, "--help"),
    Call("explore (--help)", LIGHT, "--help"),
    Call("new_recipe", AUDIO, "tones --train own.csv --egs egs --trial_updates 0", ("egs",)),
    Call("run.sh --list_encoders", LIGHT, "--recipe mini_an4 --env {env}"),
    Call("run.sh --dry_run (from its cache)", LIGHT, "--recipe mini_an4 --env {env}"),
)


def write_recipe(folder: Path) -> Path:
    """Write audio of tones, one a letter, data directories of it, and the configurations."""
    import numpy as np
    import soundfile

    for name, content in CONFIGS.items():
        (folder / name).write_text(content)
    (folder / "wav").mkdir()
    rng = np.random.default_rng(0)
    time_of_letter = np.arange(RATE // 8) / RATE
    tones = {
        letter: np.sin(2 * np.pi * 300 * 1.3**number * time_of_letter)
        for number, letter in enumerate(LETTERS)
    }
    for name, count in (("train", 12), ("dev", 4), ("test", 2)):
        data = folder / "data" / name
        data.mkdir(parents=True)
        tables: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": []}
        for number in range(count):
            words = ["".join(rng.permutation(list(LETTERS))[:3]) for _ in range(3)]
            sound = np.concatenate([tones[letter] for letter in "".join(words)])
            sound = 0.3 * sound + 0.01 * rng.normal(size=len(sound))
            utt = f"{name}{number}"
            soundfile.write(folder / "wav" / f"{utt}.wav", sound, RATE)
            tables["wav.scp"].append(f"{utt} {folder}/wav/{utt}.wav")
            tables["text"].append(f"{utt} {' '.join(words)}")
            tables["utt2spk"].append(f"{utt} {utt}")
        for table, lines in tables.items():
            (data / table).write_text("".join(f"{line}\n" for line in sorted(lines)))
    lines = [f"wav/train{n}.wav,{' '.join(LETTERS)},s{n}" for n in range(4)]
    (folder / "own.csv").write_text("\n".join(["audio,text,speaker", *lines]) + "\n")
    return folder


def seconds_of(call: Call, root: Path, folder: Path) -> float:
    """Run a call and return processor seconds of it and its children.

    Raises:
        UserError: it failed; with the end of what it said.
    """
    for name in call.makes:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env |= {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    env |= {"PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        call.command(root),
        **{"cwd": folder, "env": env, "text": True},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "check": False},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise UserError(f"{call.name} in {root}: exit {done.returncode}\n{done.stdout[-2000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def get_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, help="another checkout, to compare with")
    parser.add_argument("--only", nargs="+", help="commands; those before them only prepare")
    parser.add_argument("--repeats", type=COUNT, default=3, help="runs that count")
    add_out(parser)
    return parser


def main(argv=None):
    """Run the benchmark."""
    args = get_parser().parse_args(argv)
    roots = {"seconds": ROOT} | ({"before": args.peer.resolve()} if args.peer else {})
    wanted = {call.program[0] for call in CALLS}
    if unknown := sorted({*(args.only or ())} - wanted):
        raise UserError(f"--only {unknown[0]}: no such command", f"known: {', '.join(wanted)}")
    wanted = {*args.only} if args.only else wanted
    rows = []
    with tempfile.TemporaryDirectory(prefix="startup") as scratch:
        folders = {}
        for name in roots:
            folders[name] = Path(scratch) / name
            folders[name].mkdir()
            write_recipe(folders[name])
        last = max(number for number, call in enumerate(CALLS) if call.program[0] in wanted)
        for call in CALLS[: last + 1]:
            counts = call.program[0] in wanted
            found = {name: [] for name in roots}
            there = {name: root for name, root in roots.items() if call.exists(root)}
            for turn in range(1 + args.repeats * counts):
                for name, root in there.items():
                    seconds = seconds_of(call, root, folders[name])
                    if turn:  # the first compiles bytecode
                        found[name].append(seconds)
            if not counts:
                continue
            row = {"command": call.name, "for": call.kind}
            row["processor s"] = statistics.median(found["seconds"])
            if args.peer:
                pairs = [*zip(found["seconds"], found["before"], strict=False)]
                row["before"] = statistics.median(found["before"]) if pairs else "new"
                row["share"] = statistics.median(a / b for a, b in pairs) if pairs else ""
            rows.append(row)
            print(*row.values(), sep="\t", flush=True)
    facts = machine(("espnet", "torch", "numba", "matplotlib"))
    if args.peer:
        facts["before"] = commit_of(args.peer)
    notes = [NOTE] if not args.peer else [NOTE, NOTE_BEFORE]
    title = "Processor seconds of every command on next to nothing"
    print(write_report(args.out, title, rows, facts, notes))


if __name__ == "__main__":
    run(main)
