"""Time and peak memory of encoding long audio: chunkwise, quadratic, ESPnet's transformer.

    .venv/bin/python -m benchmarks.bench_long_audio [--lengths "10 60 600 3600"] [--limit_gb 8]

Every figure is taken in a process of its own, on one core, whose data may not grow beyond the
limit: what does not fit fails there and is said. Features are random; neither time nor memory
depends on them.
"""

import dataclasses
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.harness import add_out, machine, write_report
from espnet_spike.utils.cli import COUNT, POSITIVE, Parser, run

ROOT = Path(__file__).resolve().parents[1]
FRAMES_PER_SECOND = 100
FEATURES = 80
FORMS = {
    "chunkwise": "IML-Spikeformer, chunkwise",
    "quadratic": "IML-Spikeformer, quadratic",
    "transformer": "ESPnet transformer",
    "transformer_lean": "ESPnet transformer, use_sdpa, mask given",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """What one process measures."""

    form: str
    seconds: int
    d: int
    heads: int
    linear_units: int
    blocks: int
    input_layer: str
    limit_gb: float
    repeats: int

    @property
    def frames(self):
        """Input frames."""
        return self.seconds * FRAMES_PER_SECOND


def get_parser():
    """Return the command's parser."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", default="10 60 600 3600", help="seconds of audio")
    parser.add_argument("--forms", default=" ".join(FORMS), help=f"out of {', '.join(FORMS)}")
    parser.add_argument("--d", type=COUNT, default=512, help="channels of the blocks")
    parser.add_argument("--heads", type=COUNT, default=8, help="attention heads")
    parser.add_argument("--linear_units", type=COUNT, default=2048, help="hidden channels")
    parser.add_argument("--blocks", type=COUNT, default=18, help="encoder blocks")
    parser.add_argument("--input_layer", default="conv2d6", help="front end")
    parser.add_argument(
        "--limit_gb", type=POSITIVE, default=8.0, help="memory of a process, 2^30 B"
    )
    parser.add_argument(
        "--repeats", type=COUNT, default=3, help="rounds for up to a minute of audio"
    )
    add_out(parser)
    parser.add_argument("--measure", help="(internal) measure this case, given as JSON")
    return parser


def build(case):
    """Return the encoder of ``case``."""
    import torch

    torch.manual_seed(0)
    conf = {
        "input_size": FEATURES,
        "output_size": case.d,
        "attention_heads": case.heads,
        "linear_units": case.linear_units,
        "num_blocks": case.blocks,
        "input_layer": case.input_layer,
    }
    if case.form.startswith("transformer"):
        from espnet2.asr.encoder.transformer_encoder import TransformerEncoder

        return TransformerEncoder(**conf, use_sdpa=case.form == "transformer_lean").eval()
    from espnet_spike.encoders.iml_spikeformer import IMLSpikeformerEncoder

    return IMLSpikeformerEncoder(**conf, attention_form=case.form).eval()


def predict(case):
    """Return the bytes that activations take at the peak, from their shapes.

    Counted from the code: which fp32 tensors are alive together while a layer runs.
    """
    from espnet_spike.nn.layers.overlapping_chunks import PIECE_FRAMES, PIECES_FROM, map_lengths
    from espnet_spike.nn.layers.spiking_subsampling import INPUT_LAYERS

    layers = INPUT_LAYERS[case.input_layer]
    bins = map_lengths(FEATURES, layers)[0]
    n = map_lengths(case.frames, layers)[-1]
    hidden = 3 * n * case.d + 2 * n * case.linear_units
    matrix = case.heads * n * n
    features = case.frames * FEATURES
    if case.form.startswith("transformer"):
        # the first map, and its copy in the layout that the second convolution wants
        front = 2 * case.d * bins * map_lengths(case.frames, layers)[0]
        attention = 7 * n * case.d
        if case.form == "transformer":
            # ESPnet makes the mask of ilens from three square ones of a byte per entry
            front = max(front, 3 * (case.frames + 1) ** 2 // 4)
            # every layer keeps its last map; the last one holds two scores and a softmax beside
            attention += (case.blocks + 3) * matrix
    else:
        piece = PIECE_FRAMES if case.frames >= PIECES_FROM else case.frames
        front = 2 * case.d * bins * map_lengths(piece, layers)[0] + n * case.d
        features *= 2  # beside the copy that is zero in padding
        attention = 10 * n * case.d
        if case.form == "quadratic":
            attention += 3 * matrix  # Q K^T, D, and their product
    return 4 * (features + max(front, attention, hidden))


def measure(case):
    """Print, as JSON, what encoding takes in this process."""
    import torch

    torch.set_num_threads(1)
    encoder = build(case)
    warm = torch.randn(1, 200, FEATURES)
    with torch.no_grad():
        encoder(warm, torch.tensor([200]))
    result = {"base": _peak(), "wall": [], "cpu": [], "error": ""}
    limit = int(case.limit_gb * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        with torch.no_grad():
            x, ilens = torch.randn(1, case.frames, FEATURES), torch.tensor([case.frames])
            given = {}
            if case.form == "transformer_lean":
                given["masks"] = torch.arange(case.frames) >= ilens[:, None]
            for _ in range(case.repeats):
                wall, cpu = time.perf_counter(), time.process_time()
                y, _, _ = encoder(x, ilens, **given)
                result["wall"].append(time.perf_counter() - wall)
                result["cpu"].append(time.process_time() - cpu)
                if not y.isfinite().all():
                    raise FloatingPointError("the output is not finite")
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "can't allocate memory" not in str(error):
            raise
        asked = re.search(r"tried to allocate (\d+) bytes", str(error))
        result["error"] = f"asked for {int(asked[1]) / 2**30:.1f} more" if asked else "no memory"
    result["peak"] = _peak()
    print(json.dumps(result))


def _peak():
    """Return the largest resident size of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def row_of(case):
    """Measure ``case`` in a new process and return its row of the table."""
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    command = [sys.executable, "-m", "benchmarks.bench_long_audio", "--measure"]
    done = subprocess.run(
        [*command, json.dumps(dataclasses.asdict(case))],
        cwd=ROOT,
        env=os.environ | dict.fromkeys(variables, "1"),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout.splitlines()[-1])
    fits = not result["error"]
    wall = statistics.median(result["wall"]) if fits else None
    cpu = statistics.median(result["cpu"]) if fits else None
    return {
        "audio [s]": case.seconds,
        "encoder": FORMS[case.form],
        "predicted [GiB]": round((result["base"] + predict(case)) / 2**30, 2),
        "peak [GiB]": round(result["peak"] / 2**30, 2)
        if fits
        else "does not fit: " + result["error"],
        "wall [s]": wall if fits else "-",
        "core [s]": cpu if fits else "-",
        "core time / audio": cpu / case.seconds if fits else "-",
    }


def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    if args.measure:
        measure(Case(**json.loads(args.measure)))
        return
    rows = []
    for seconds in map(int, args.lengths.split()):
        for form in args.forms.split():
            case = Case(
                form=form,
                seconds=seconds,
                d=args.d,
                heads=args.heads,
                linear_units=args.linear_units,
                blocks=args.blocks,
                input_layer=args.input_layer,
                limit_gb=args.limit_gb,
                repeats=args.repeats if seconds <= 60 else 1,
            )
            rows.append(row_of(case))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    notes = [
        f"Encoder only, fp32, no gradients, batch 1, one core: {args.blocks} blocks, "
        f"d = {args.d}, {args.heads} heads, {args.linear_units} hidden units, {args.input_layer}, "
        f"{FEATURES} features every {1000 // FRAMES_PER_SECOND} ms. A process may hold "
        f"{args.limit_gb:g} GiB of data (RLIMIT_DATA); peak is its largest resident size, the "
        "libraries and weights included; predicted is the resident size before the input plus the "
        "activations that are alive together, from their shapes.",
        f"Median of {args.repeats} rounds up to a minute of audio, one round beyond. Core time is "
        "processor time of the process: the figure to compare when others use the machine.",
    ]
    facts = machine(["torch", "espnet"])
    print(write_report(args.out, "Encoding long audio", rows, facts, notes))


if __name__ == "__main__":
    run(main)
