"""Counting operations while encoding, against encoding alone.

Both encode the same utterances one at a time, as counting does; encoding in batches is shown as
well. ``--most 2`` makes it an error when counting takes more than twice the time.
"""

import os
from pathlib import Path

from benchmarks.harness import add_out, compare, machine, write_report
from espnet_spike.errors import UserError
from espnet_spike.utils.cli import COUNT, POSITIVE, Parser, run

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = [
    ROOT / f"conf/train_{name}.yaml"
    for name in ("iml_spikeformer", "transformer", "conformer", "e_branchformer")
]


def get_parser():
    """Return the parser of the command line."""
    parser = Parser(prog="benchmarks.bench_count", description=__doc__)
    parser.add_argument("--configs", type=Path, nargs="+", default=CONFIGS, help="of the training")
    parser.add_argument(
        "--utterances", type=COUNT, default=8, help="encode that many, of 2 to 10 s"
    )
    parser.add_argument("--batch_size", type=COUNT, default=8, help="of encoding in batches")
    parser.add_argument("--repeats", type=COUNT, default=5, help="rounds")
    parser.add_argument(
        "--most", type=POSITIVE, help="fail above this multiple of the time of encoding"
    )
    add_out(parser)
    return parser


def main(argv=None):
    """Run the benchmark."""
    args = get_parser().parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    from espnet_spike.counting.counter import Counter
    from espnet_spike.tasks.asr import SpikeASRTask
    from espnet_spike.tasks.config import read_training_config
    from espnet_spike.tasks.config_check import check_training_config

    torch.manual_seed(0)
    lengths = torch.linspace(200, 1000, args.utterances).long().tolist()
    speech = [torch.randn(frames, 80) for frames in lengths]
    rows = []
    for path in args.configs:
        config, meta = read_training_config(path)
        built = check_training_config(
            SpikeASRTask, config, path, vocab_size=meta["vocab_size"]
        ).args
        built.normalize, built.normalize_conf = None, {}
        model = SpikeASRTask.build_model(built).eval()

        def encode(size=1, model=model):
            with torch.inference_mode():
                for start in range(0, len(speech), size):
                    batch = speech[start : start + size]
                    padded = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
                    model.encode(padded, torch.tensor([len(x) for x in batch]))

        def count(model=model, encode=encode):
            with Counter(model):
                encode()

        cases = {
            "encode": encode,
            "count": count,
            "encode in batches": lambda encode=encode: encode(args.batch_size),
        }
        timings = compare(cases, "encode", args.repeats)
        for case, timing in timings.items():
            rows.append(
                {
                    "config": path.stem,
                    "case": case,
                    "seconds (wall)": timing.median,
                    "seconds (processor)": timing.cpu_median,
                    "times the time of encoding": 1 / timing.ratio,
                }
            )
    notes = [
        f"{args.utterances} utterances, {sum(lengths) / 100:.0f} s of synthetic features, random "
        f"weights, {torch.get_num_threads()} thread, median of {args.repeats} rounds."
    ]
    print(write_report(args.out, "Counting", rows, machine(["torch", "espnet"]), notes))
    slow = [
        f"{row['config']} {row['times the time of encoding']:.2f}"
        for row in rows
        if row["case"] == "count" and args.most and row["times the time of encoding"] > args.most
    ]
    if slow:
        raise UserError(f"counting takes above {args.most} times encoding: {', '.join(slow)}")


if __name__ == "__main__":
    run(main)
