"""Memory of a training step by configuration: predicted from shapes, and allocated on this CPU.

    .venv/bin/python -m benchmarks.bench_step_memory [--seconds 1]
        [--corpora aishell librispeech960] [--measure true]

Rows are the configurations of our encoders in ``conf/``, as they are and with
``gradient_checkpointing`` turned round. Bytes are those of one training step of the encoder beside
weights, gradients and the optimizer's state, a second of speech (100 frames of 80 values).
"""

import argparse
from pathlib import Path

import torch

from benchmarks.harness import add_out, machine, write_report
from espnet_spike.advice.step_memory import predicted_memory, step_memory
from espnet_spike.errors import UserError
from espnet_spike.tasks.registry import ENCODERS, load_class
from espnet_spike.utils.cli import POSITIVE, Parser, run
from espnet_spike.utils.yaml import read_yaml

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("speech_mamba", "event_speech_mamba", "spiking_speech_mamba", "iml_spikeformer")


def get_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=POSITIVE, default=1.0, help="of one utterance")
    parser.add_argument("--corpora", nargs="+", default=["aishell", "librispeech960"])
    parser.add_argument("--measure", default="true", choices=["true", "false"], help="run steps")
    add_out(parser)
    return parser


def row_of(corpus: str, name: str, checkpointing: bool, args: argparse.Namespace) -> dict:
    """Return the figures of a configuration."""
    conf = read_yaml(ROOT / f"conf/train_{name}_{corpus}.yaml")["encoder_conf"]
    conf = dict(conf) | {"gradient_checkpointing": checkpointing}
    frames = round(100 * args.seconds)
    encoder = load_class(ENCODERS[name])(80, **conf).train()
    unit = 2**20 * args.seconds
    measured: object = "not run"
    error: object = ""
    if args.measure == "true":
        lengths = torch.full((1,), frames)
        measured = step_memory(encoder, torch.randn(1, frames, 80), lengths) / unit
    predicted = predicted_memory(encoder.to("meta"), 1, frames, 80) / unit
    if isinstance(measured, float):
        error = f"{predicted / measured - 1:+.1%}"
    return {
        "configuration": f"{name}_{corpus}",
        "gradient_checkpointing": str(checkpointing).lower(),
        "predicted [MiB / s]": predicted,
        "measured [MiB / s]": measured,
        "error": error,
    }


def main(argv: list[str] | None = None) -> None:
    """Predict and measure all rows, print the table and write it."""
    args = get_parser().parse_args(argv)
    if not 0.1 <= args.seconds < float("inf"):
        raise UserError(f"--seconds {args.seconds:g} is no utterance", "give 0.1 or more")
    rows = [
        row_of(corpus, name, checkpointing, args)
        for corpus in args.corpora
        for name in NAMES
        for checkpointing in (False, True)
    ]
    notes = [
        f"`.venv/bin/python -m benchmarks.bench_step_memory`, one utterance of "
        f"{args.seconds:g} s, fp32."
    ]
    print(write_report(args.out, "Memory of a training step", rows, machine(["torch"]), notes))


if __name__ == "__main__":
    run(main)
