"""Export the spiking cores of a trained encoder as NIR and compare the file with the encoder.

The manifest, OUT.json beside the file, says which layers are in it and why the others are not.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.cli import Parser, run


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="espnet_spike.bin.export_nir", description=__doc__)
    parser.add_argument("--asr_exp", type=Path, required=True, help="exp/<asr_tag>")
    parser.add_argument("--asr_model_file", help="file name there; by default the best")
    parser.add_argument(
        "--data_dir", type=Path, required=True, help="features of utterances to compare on"
    )
    parser.add_argument("--utterances", type=int, default=3, help="how many of them")
    parser.add_argument("--out", type=Path, required=True, help="NIR file to write")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Export; exit with an error when the spikes differ."""
    args = get_parser().parse_args(argv)
    from espnet_spike.nir_export import export_experiment

    found = export_experiment(
        args.asr_exp, args.asr_model_file, args.data_dir, args.out, args.utterances
    )
    check, nodes = found["check"], [n for nodes in found["cores"].values() for n in nodes]
    neurons = sum(node["nir"] == "LIF" for node in nodes)
    print(
        f"{len(found['cores'])} cores, {len(nodes)} nodes ({neurons} layers of LIF neurons), "
        f"{found['parameters_inside'] / found['parameters']:.1%} of the parameters; "
        f"{len(found['outside'])} modules stay outside"
    )
    print(
        f"read again and run on {check['utterances']} utterances: {check['differing_spikes']} of "
        f"the decisions behind {check['spikes']} spikes differ, real values by "
        f"{check['largest_difference']:.1e}"
    )
    print(f"written: {args.out}, {args.out}.json")


if __name__ == "__main__":
    run(main)
