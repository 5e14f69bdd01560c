"""Export the spiking cores of a trained encoder as a NIR graph, and compare it with the encoder.

Beside the file a manifest, OUT.json, says what every parameter became, and what stayed outside and
why. The file is read back and run on real utterances; if a spike differs, nothing is written.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_spike.utils.cli import COUNT, Parser, run
from espnet_spike.utils.files import plural


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="espnet_spike.bin.export_nir", description=__doc__)
    parser.add_argument("--asr_exp", type=Path, required=True, help="exp/<asr_tag>")
    parser.add_argument(
        "--inference_asr_model",
        old=["--asr_model_file"],
        help="file name there; by default the best",
    )
    parser.add_argument(
        "--data_dir", type=Path, required=True, help="features of utterances to compare on"
    )
    parser.add_argument("--utterances", type=COUNT, default=3, help="how many of them")
    parser.add_argument("--out", type=Path, required=True, help="NIR file to write")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = get_parser().parse_args(argv)
    import logging

    from espnet_spike.export.nir_graph import export_nir

    logging.getLogger().setLevel(logging.ERROR)
    manifest, beside = export_nir(
        args.asr_exp, args.inference_asr_model, args.data_dir, args.out, args.utterances
    )
    check, outside = manifest["check"], manifest["outside"]
    print(
        f"{plural(check['utterances'], 'utterance')}, "
        f"{plural(check['activations'], 'activation')}, "
        f"{plural(check['spikes'], 'spike')}: {check['different']} differ; "
        f"currents differ by {check['current']:.1e} (relative)"
    )
    print(
        f"{manifest['share']:.1%} of the encoder's parameters in the graph; "
        f"{plural(len(outside['operations']), 'operation')} outside; left out: "
        f"{', '.join(manifest['left_out'])}"
    )
    print(f"written: {args.out}, {beside}")


if __name__ == "__main__":
    run(main)
