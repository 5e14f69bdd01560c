"""Time and peak memory of the stages that read lists, by the number of utterances.

    .venv/bin/python -m benchmarks.bench_manifest [--lines "100000 1000000"]
        [--stages "check filter ..."]

No audio is read: the reader is replaced. Every figure is taken in a process of its own; memory is
its peak above what the imports take. ``short`` drops what is too short for an encoder, ``plan`` is
ESPnet's making of batches (``numel``), ``worst`` our search for those that the scan before training
tries, ``split`` the cutting of lists.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import add_out, machine, write_report
from espnet_spike.errors import UserError
from espnet_spike.utils.cli import Parser, run

ROOT = Path(__file__).resolve().parents[1]
WORDS = "the a of and to in he was that his it had with as for you on not at be she".split()


def get_parser():
    """Return the command's parser."""
    parser = Parser(
        description=__doc__.splitlines()[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", default="100000 1000000", help="utterances of the corpora")
    parser.add_argument("--stages", default=" ".join(STAGES), help="what to measure")
    parser.add_argument("--folder", type=Path, help="where the lists go; about 500 bytes a line")
    add_out(parser)
    parser.add_argument("--measure", nargs=2, metavar=("STAGE", "DIR"), help="(internal)")
    return parser


def write_corpus(folder, count):
    """Write a Kaldi data directory, and a feature directory as stage 3 would leave it."""
    data, feats = folder / "data", folder / "feats"
    tables = {
        data / "wav.scp": lambda u, n: f"/corpora/large/audio/{u[:5]}/{u}.flac",
        data / "text": lambda u, n: text(n),
        data / "utt2spk": lambda u, n: u[:5],
        feats / "feats.scp": lambda u, n: f"dump/fbank/org/train/data/feats.1.ark:{17 + 9000 * n}",
        feats / "feats_shape": lambda u, n: f"{frames(n)},80",
        feats / "utt2dur": lambda u, n: f"{frames(n) / 100:.4f}",
        feats / "text": lambda u, n: text(n),
        feats / "utt2spk": lambda u, n: u[:5],
    }
    for path, value in tables.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            for n in range(count):
                utt = f"s{n // 1000:04d}-{n:010d}"
                file.write(f"{utt} {value(utt, n)}\n")
    speakers = {}
    for n in range(count):
        speakers.setdefault(f"s{n // 1000:04d}", []).append(f"s{n // 1000:04d}-{n:010d}")
    for path in (data, feats):
        lines = (f"{speaker} {' '.join(utts)}\n" for speaker, utts in speakers.items())
        (path / "spk2utt").write_text("".join(lines))
    shapes = (f"{line.split()[0]} {2 + n % 40},500\n" for n, line in enumerate(open(data / "text")))
    with (feats / "text_shape").open("w") as file:
        file.writelines(shapes)


def frames(n):
    """Return a length, 1 to 20 s."""
    return 100 + n * 7919 % 1900


def text(n):
    """Return a transcript of 2 to 12 words."""
    return " ".join(WORDS[(n * 31 + k * k) % len(WORDS)] for k in range(2 + n % 11))


def check(folder):
    """Stage 1: check and fix a data directory."""
    from espnet_spike.data import validation
    from espnet_spike.data.audio import AudioInfo

    info = AudioInfo(16000, 160_000, 1)
    validation.inspect = lambda source, name: info
    return lambda: validation.prepare(folder / "data")


def filtering(folder):
    """Stage 4: leave out utterances by length."""
    from espnet_spike.data.filtering import Limits, filter_dir

    return lambda: filter_dir(folder / "feats", folder / "filtered", Limits())


def token(folder):
    """Stage 5: a sentencepiece model of the transcripts."""
    import sentencepiece  # noqa: F401

    from espnet_spike.bin import tokenize

    words = ["--nbpe", "60", "--text", folder / "feats/text", "--out", folder / "tokens"]
    return lambda: tokenize.main([*map(str, words)])


def shapes(folder):
    """Return the files of lengths that batches are made by."""
    return [str(folder / "feats" / name) for name in ("feats_shape", "text_shape")]


def plan(folder):
    """Training: ESPnet's batches."""
    from espnet2.samplers.build_batch_sampler import build_batch_sampler

    conf = {"type": "numel", "batch_bins": 8_000_000, "batch_size": 1, "fold_lengths": []}
    return lambda: build_batch_sampler(shape_files=shapes(folder), **conf)


def short(folder):
    """Training: utterances too short for the encoder are dropped."""
    from espnet_spike.training.short_utterances import drop_short

    class Length:
        def __call__(self, frames):
            return frames // 4

        def reaches(self, frames, needed):
            return frames // 4 >= needed

    names = ("feats_shape", "text_shape", "text")
    files = [folder / "feats" / name for name in names]
    return lambda: drop_short(*files, folder / "shapes", Length(), str.encode, True)


def worst(folder):
    """Training: the search for the batches to try first, after batches were made."""
    from espnet_spike.tasks.oom_scan import worst_batches

    with open(folder / "feats/feats_shape") as file:
        utts = [line.split()[0] for line in file]
    batches = [utts[start : start + 50] for start in range(0, len(utts), 50)]
    return lambda: worst_batches(batches, shapes(folder))


def splitting(folder):
    """Training with --num_splits: the lists in 8 parts."""
    import espnet2.bin.split_scps  # noqa: F401

    from espnet_spike.training.splits import split

    names = {"speech_shape": "feats_shape", "text_shape": "text_shape"}
    names |= {"feats.scp": "feats.scp", "text": "text"}
    tables = {name: folder / "feats" / file for name, file in names.items()}
    return lambda: split(tables, 8, folder / "splits")


STAGES = {
    "check": check,
    "filter": filtering,
    "token": token,
    "short": short,
    "plan": plan,
    "worst": worst,
    "split": splitting,
}


def peak():
    """Return the peak of this process's memory in bytes."""
    # not ru_maxrss: it begins with what the parent had
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024


def measure(stage, folder):
    """Run a stage in this process and print its cost as JSON."""
    work = STAGES[stage](folder)
    before, start, cpu = peak(), time.perf_counter(), time.process_time()
    work()
    cost = {"s": time.perf_counter() - start, "core s": time.process_time() - cpu}
    print(json.dumps(cost | {"bytes": peak() - before}))


def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    if args.measure:
        stage, folder = args.measure
        measure(stage, Path(folder))
        return
    stages = args.stages.split()
    if unknown := set(stages) - set(STAGES):
        raise UserError(f"no such stage: {min(unknown)}", f"there are {', '.join(STAGES)}")
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for count in map(int, args.lines.split()):
        folder = Path(tempfile.mkdtemp(prefix="manifest", dir=args.folder))
        try:
            write_corpus(folder, count)
            for stage in stages:
                command = [sys.executable, "-m", "benchmarks.bench_manifest"]
                command += ["--measure", stage, str(folder)]
                environ = os.environ | {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
                done = subprocess.run(
                    command, cwd=ROOT, env=environ, capture_output=True, text=True
                )
                if done.returncode:
                    raise UserError(f"{stage} of {count} lines failed:\n{done.stderr[-2000:]}")
                cost = json.loads(done.stdout.splitlines()[-1])
                rows.append(
                    {
                        "stage": stage,
                        "lines": count,
                        "time [s]": cost["s"],
                        "core [s]": cost["core s"],
                        "us a line": 1e6 * cost["core s"] / count,
                        "peak [MiB]": cost["bytes"] / 2**20,
                        "bytes a line": round(cost["bytes"] / count),
                    }
                )
                print(rows[-1], file=sys.stderr, flush=True)
        finally:
            shutil.rmtree(folder)
    notes = [
        "Peak memory is what a stage takes above its imports; audio is not read. Stage 5 learns a "
        "sentencepiece model of 60 pieces. `plan` is ESPnet's own code."
    ]
    print(write_report(args.out, "Lists of utterances", rows, machine(["espnet"]), notes))


if __name__ == "__main__":
    run(main)
