"""Speed of the fbank stage on one core, against torchaudio in a loop.

    .venv/bin/python -m benchmarks.bench_fbank [--wav_dir DIR] [--floor 2000]

Without ``--wav_dir`` the utterances of mini_an4 are taken again and again.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import add_out, compare, machine, write_report
from espnet_spike.errors import UserError
from espnet_spike.utils.cli import COUNT, POSITIVE, Parser, run

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "conf" / "fbank.yaml"
PEER = "torchaudio loop: read, compute, write"


def get_parser():
    """Return the command's parser."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--wav_dir", type=Path, help="audio to use (wav, flac or sph, recursive)")
    parser.add_argument("--hours", type=POSITIVE, default=1.0, help="use about so much audio")
    parser.add_argument("--repeats", type=COUNT, default=5, help="rounds")
    parser.add_argument(
        "--floor", type=POSITIVE, help="fail below this multiple of real time a core"
    )
    add_out(parser)
    return parser


def make_data_dir(path, wav_dir, hours):
    """Write a data directory with about that many hours; return its seconds and sampling rate."""
    from espnet_spike.corpora import mini_an4
    from espnet_spike.corpora.download import extract
    from espnet_spike.data.audio import inspect, parse_source
    from espnet_spike.data.kaldi_dir import DataDir

    if wav_dir is None:
        wav_dir = extract(mini_an4.find_archive(), path / "an4", "downloads/an4/wav/", 3)
    files = sorted(p for p in wav_dir.rglob("*") if p.suffix in (".wav", ".flac", ".sph"))
    if not files:
        raise UserError(f"{wav_dir}: no wav, flac or sph files")
    infos = {file: inspect(parse_source(str(file), file.name), file.name) for file in files}
    rate = infos[files[0]].rate
    files = [file for file in files if infos[file].rate == rate]
    data, seconds = DataDir(), 0.0
    while seconds < hours * 3600:
        file = files[len(data.wav) % len(files)]
        utt = f"utt{len(data.wav):06d}"
        data.wav[utt], data.text[utt], data.utt2spk[utt] = str(file.resolve()), "WORD", utt
        seconds += infos[file].duration
    data.write(path / "data")
    return data, seconds, rate


def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    # read when the numerical libraries are imported
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    import torch
    import torchaudio.compliance.kaldi

    from espnet_spike.data.ark import ArkWriter
    from espnet_spike.data.audio import parse_source, read
    from espnet_spike.data.extraction import run_tasks
    from espnet_spike.data.fbank import Fbank, load_config
    from espnet_spike.data.feature_sources import plan_extraction

    config = load_config(CONFIG)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        data, seconds, rate = make_data_dir(path, args.wav_dir, args.hours)
        sources = {utt: parse_source(value, utt) for utt, value in data.wav.items()}
        waves = [read(source, utt)[0] for utt, source in list(sources.items())[:200]]
        in_memory = sum(map(len, waves)) / rate
        extractor = Fbank(config, rate)
        keys = {"num_mel_bins": config.num_mel_bins, "sample_frequency": rate}

        def torchaudio_fbank(wave):
            wave = torch.from_numpy(wave)[None]
            return torchaudio.compliance.kaldi.fbank(wave, **keys).numpy()

        def stage():
            # the progress bar is part of the stage, but not of the benchmark's output
            with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
                tasks, _ = plan_extraction([(path / "data", path / "feats")], config)
                run_tasks(tasks, 1)

        def command():
            module = [sys.executable, "-m", "espnet_spike.bin.fbank", "--config", str(CONFIG)]
            pair = [str(path / "data"), str(path / "feats")]
            subprocess.run([*module, *pair], cwd=ROOT, check=True, capture_output=True)

        def peer():
            with ArkWriter(path / "peer.ark") as writer:
                for utt, source in sources.items():
                    writer.write(utt, torchaudio_fbank(read(source, utt)[0]))

        cases = {
            PEER: (peer, seconds),
            "fbank stage: read, compute, write, re-read": (stage, seconds),
            "the same as a command, interpreter start included": (command, seconds),
            "torchaudio, computing only": (lambda: list(map(torchaudio_fbank, waves)), in_memory),
            "ours, computing only": (lambda: list(map(extractor, waves)), in_memory),
        }
        stage_cases, compute_cases = list(cases)[:3], list(cases)[3:]
        timings = compare({name: cases[name][0] for name in stage_cases}, PEER, args.repeats)
        timings |= compare(
            {name: cases[name][0] for name in compute_cases}, compute_cases[0], args.repeats
        )
        rows = [
            {
                "case": name,
                "seconds": timing.median,
                "x real time (wall)": cases[name][1] / timing.median,
                "x real time (processor)": cases[name][1] / timing.cpu_median,
                "x torchaudio": timing.ratio,
            }
            for name, timing in timings.items()
        ]
    corpus = args.wav_dir.name if args.wav_dir else "mini_an4"
    kinds = ", ".join(sorted({Path(value).suffix[1:] for value in data.wav.values()}))
    notes = [
        f"{seconds / 3600:.2f} h of {corpus} ({kinds}, {rate} Hz, {len(data.wav)} utterances), "
        f"one thread, median of {args.repeats} rounds. The ratio is taken round by round."
    ]
    facts = machine(["numpy", "scipy", "torch", "torchaudio", "soundfile", "kaldiio"])
    print(write_report(args.out, "Filter banks", rows, facts, notes))
    reached = rows[1]["x real time (processor)"]
    if args.floor and reached < args.floor:
        raise UserError(
            f"the fbank stage runs at {reached:.0f} x real time, below {args.floor:.0f}"
        )


if __name__ == "__main__":
    run(main)
