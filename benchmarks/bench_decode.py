"""Real-time factor of decoding by batch size, on one thread, against one utterance at a time.

    python -m benchmarks.bench_decode [--asr_exp exp/asr_X --data dump/fbank/test]

Without ``--asr_exp`` models of ``--configs`` with random weights decode made-up features of 1.5 to
4 s, the length of connected digits; hypotheses get four tokens a second.
"""

import os
import tempfile
from pathlib import Path

from benchmarks.harness import compare, machine, write_report
from espnet_spike.cli import Parser, run

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = [ROOT / f"egs/fsdd/conf/train_{name}.yaml" for name in ("transformer", "iml_spikeformer")]
VOCABULARY, FRAMES_A_SECOND, TOKENS_A_SECOND = 30, 100, 4


def get_parser():
    """Return the command's parser."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--asr_exp", type=Path, help="trained model to decode with")
    parser.add_argument("--data", type=Path, help="its features, for example dump/fbank/test")
    parser.add_argument("--configs", type=Path, nargs="+", default=CONFIGS, help="of the training")
    parser.add_argument("--utterances", type=int, default=64, help="decode so many")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--beam_size", type=int, default=10)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/decode", help="stem")
    return parser


def random_model(path, folder):
    """Write an untrained model of a training config; return its configuration and model file."""
    import torch
    import yaml

    from espnet_spike.config import read_training_config
    from espnet_spike.launch import parse_espnet
    from espnet_spike.task import SpikeASRTask

    config, _ = read_training_config(path)
    tokens = ["<blank>", "<unk>", *(f"t{n}" for n in range(VOCABULARY - 3)), "<sos/eos>"]
    (folder / "tokens.txt").write_text("\n".join(tokens))
    words = ["--output_dir", str(folder), "--token_list", str(folder / "tokens.txt")]
    args = parse_espnet(
        SpikeASRTask, config, [*words, "--token_type", "char", "--input_size", "80"]
    )
    torch.manual_seed(0)
    torch.save(SpikeASRTask.build_model(args).state_dict(), folder / f"{path.stem}.pth")
    (folder / path.name).write_text(yaml.safe_dump(vars(args)))
    return folder / path.name, folder / f"{path.stem}.pth"


def made_up_features(count):
    """Return utterance -> (T, 80) of 1.5 to 4 s."""
    import numpy as np

    rng = np.random.default_rng(0)
    lengths = rng.integers(150, 400, count)
    return {
        f"utt{n:04d}": rng.normal(size=(length, 80)).astype(np.float32)
        for n, length in enumerate(lengths)
    }


def read_features(folder, count):
    """Return the first utterances of a feature directory and their seconds of audio."""
    from espnet_spike.ark import ArkReader
    from espnet_spike.feature_dir import FeatureDir

    data = FeatureDir.read(folder)
    keys = sorted(data.feats)[:count]
    with ArkReader() as reader:
        feats = {key: reader.read(key, data.feats[key]) for key in keys}
    return feats, sum(data.durations[key] for key in keys)


class Decoder:
    """Decode all utterances in batches of one size; keeps the texts."""

    def __init__(self, files, feats, batch_size, options, fixed_length):
        """Load the model; with ``fixed_length`` all hypotheses of a batch get equally long."""
        import torch
        from espnet2.bin.asr_inference import Speech2Text

        from espnet_spike.decode_runs import make_batches

        config, model = files
        self.speech2text = Speech2Text(config, model, batch_size=batch_size, **options)
        frames = {key: len(matrix) for key, matrix in feats.items()}
        self.batches = make_batches(frames, batch_size)
        self.feats = {key: torch.from_numpy(matrix) for key, matrix in feats.items()}
        self.fixed_length = fixed_length
        self.texts = {}

    def __call__(self):
        """Decode everything once."""
        import torch

        for keys in self.batches:
            lengths = torch.tensor([len(self.feats[key]) for key in keys])
            if self.fixed_length:
                tokens = TOKENS_A_SECOND * int(lengths.max()) // FRAMES_A_SECOND
                self.speech2text.maxlenratio = -float(tokens)
                self.speech2text.minlenratio = 1.0 - tokens  # ESPnet counts it from 0
            speech = torch.nn.utils.rnn.pad_sequence(
                [self.feats[key] for key in keys], batch_first=True
            )
            for key, best in zip(keys, self.speech2text.batch_decode(speech, lengths), strict=True):
                self.texts[key] = best[0][2]


def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import logging

    import torch

    import espnet_spike.task  # noqa: F401  registers the encoders

    logging.getLogger().setLevel(logging.ERROR)
    options = {"beam_size": args.beam_size, "ctc_weight": 0.5, "ctc_window_margin": 0}
    options["device"] = args.device
    rows = []
    with tempfile.TemporaryDirectory() as name:
        if args.asr_exp:
            from espnet_spike.training import best_checkpoint

            files = {
                args.asr_exp.name: (args.asr_exp / "config.yaml", best_checkpoint(args.asr_exp))
            }
            feats, seconds = read_features(args.data, args.utterances)
        else:
            files = {path.stem: random_model(path, Path(name)) for path in args.configs}
            feats = made_up_features(args.utterances)
            seconds = sum(map(len, feats.values())) / FRAMES_A_SECOND
        for model, paths in files.items():
            decoders = {
                size: Decoder(paths, feats, size, options, fixed_length=not args.asr_exp)
                for size in args.batch_sizes
            }
            cases = {f"batch of {size}": decoder for size, decoder in decoders.items()}
            first = f"batch of {args.batch_sizes[0]}"
            timings = compare(cases, first, args.repeats)
            for size, timing in zip(args.batch_sizes, timings.values(), strict=True):
                row = {
                    "model": model,
                    "batch size": size,
                    "real-time factor (wall)": timing.median / seconds,
                    "real-time factor (processor)": timing.cpu_median / seconds,
                    f"times faster than {first}": timing.ratio,
                }
                if args.asr_exp:
                    same = sum(
                        decoders[size].texts[key] == decoders[args.batch_sizes[0]].texts[key]
                        for key in feats
                    )
                    row["same hypotheses"] = f"{same} of {len(feats)}"
                rows.append(row)
    what = args.asr_exp.name if args.asr_exp else "random weights, made-up features"
    notes = [
        f"{what}: {len(feats)} utterances, {seconds:.0f} s; beam {args.beam_size}, joint "
        f"CTC/attention search, {torch.get_num_threads()} thread, {args.device}, median of "
        f"{args.repeats} rounds. Loading the model is not counted."
    ]
    print(write_report(args.out, "Decoding", rows, machine(["torch", "espnet"]), notes))


if __name__ == "__main__":
    run(main)
