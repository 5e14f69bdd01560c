"""Real-time factor of decoding by batch size, on one thread, against one utterance at a time.

    .venv/bin/python -m benchmarks.bench_decode [--recipe egs/fsdd --asr_exp exp/asr_X ...]

Wants trained models: how long a beam search takes depends on what they say.
"""

import os
from pathlib import Path

from benchmarks.harness import add_out, compare, machine, write_report
from espnet_spike.errors import UserError
from espnet_spike.utils.cli import COUNT, SHARE, Parser, run

ROOT = Path(__file__).resolve().parents[1]


def get_parser():
    """Return the command's parser."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, default=ROOT / "egs/fsdd", help="its folder")
    parser.add_argument(
        "--asr_exp", type=Path, nargs="+", help="trained models, as seen from there; all of seed 1"
    )
    parser.add_argument("--data", type=Path, default="dump/fbank/test", help="features, likewise")
    parser.add_argument("--utterances", type=COUNT, help="decode that many; all by default")
    parser.add_argument("--batch_sizes", type=COUNT, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--beam_size", type=COUNT, default=10)
    parser.add_argument("--ctc_weight", type=SHARE, default=1.0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--repeats", type=COUNT, default=3, help="rounds")
    add_out(parser)
    return parser


def read_features(folder, count):
    """Return the first utterances of a feature directory and their seconds of audio."""
    from espnet_spike.data.ark import ArkReader
    from espnet_spike.data.feature_dir import FeatureDir

    data = FeatureDir.read(folder)
    keys = sorted(data.feats)[:count]
    with ArkReader() as reader:
        feats = {key: reader.read(key, data.feats[key]) for key in keys}
    return feats, sum(data.durations[key] for key in keys)


class Decoder:
    """Decode all utterances in batches of one size; keeps the texts."""

    def __init__(self, exp_dir, feats, batch_size, options):
        """Load the model."""
        import torch
        from espnet2.bin.asr_inference import Speech2Text

        from espnet_spike.experiment import best_checkpoint
        from espnet_spike.inference.batches import make_batches

        self.speech2text = Speech2Text(
            exp_dir / "config.yaml", best_checkpoint(exp_dir), batch_size=batch_size, **options
        )
        frames = {key: len(matrix) for key, matrix in feats.items()}
        self.batches = make_batches(frames, batch_size)
        self.feats = {key: torch.from_numpy(matrix) for key, matrix in feats.items()}
        self.texts = {}

    def __call__(self):
        """Decode everything once."""
        import torch

        for keys in self.batches:
            lengths = torch.tensor([len(self.feats[key]) for key in keys])
            speech = torch.nn.utils.rnn.pad_sequence(
                [self.feats[key] for key in keys], batch_first=True
            )
            for key, best in zip(keys, self.speech2text.batch_decode(speech, lengths), strict=True):
                self.texts[key] = best[0][2]


def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    args.out = args.out and args.out.resolve()
    os.chdir(args.recipe)  # features refer to their archives from there
    exp_dirs = args.asr_exp or sorted(Path("exp").glob("asr_*_seed1"))
    if not exp_dirs:
        raise UserError(f"no trained model in {args.recipe}", "run its run.sh --seed 1 first")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import logging

    import torch

    import espnet_spike.task  # noqa: F401  registers the encoders

    logging.getLogger().setLevel(logging.ERROR)
    options = {"beam_size": args.beam_size, "ctc_weight": args.ctc_weight}
    options |= {"ctc_window_margin": 0, "device": args.device}
    feats, seconds = read_features(args.data, args.utterances)
    first = f"batch of {args.batch_sizes[0]}"
    rows = []
    for exp_dir in exp_dirs:
        decoders = {size: Decoder(exp_dir, feats, size, options) for size in args.batch_sizes}
        cases = {f"batch of {size}": decoder for size, decoder in decoders.items()}
        timings = compare(cases, first, args.repeats)
        alone = decoders[args.batch_sizes[0]].texts
        for size, timing in zip(args.batch_sizes, timings.values(), strict=True):
            same = sum(decoders[size].texts[key] == alone[key] for key in feats)
            rows.append(
                {
                    "model": exp_dir.name,
                    "batch size": size,
                    "real-time factor (wall)": timing.median / seconds,
                    "real-time factor (processor)": timing.cpu_median / seconds,
                    f"times faster than {first}": timing.ratio,
                    "same hypotheses": f"{same} of {len(feats)}",
                }
            )
    notes = [
        f"{len(feats)} utterances, {seconds:.0f} s; beam {args.beam_size}, CTC weight "
        f"{args.ctc_weight:g}, {torch.get_num_threads()} thread, {args.device}, median of "
        f"{args.repeats} rounds. Loading the model is not counted."
    ]
    print(write_report(args.out, "Decoding", rows, machine(["torch", "espnet"]), notes))


if __name__ == "__main__":
    run(main)
