"""Everything that only a GPU can show: kernels against float64, time, memory, days of a training.

    .venv/bin/python -m benchmarks.bench_gpu [--minutes 6]

Three tables: how far each kernel is from float64 on this device; the selective scan by Triton, by
mamba-ssm where it is installed, and in plain torch; a training step (forward and backward) of the
encoders, with the seconds of speech that go through in a second and, for the configurations of
LibriSpeech-960, the days that all their epochs would take by that, the decoder and reading left
out. What does not fit into ``--minutes`` is named and left out; a row that fails says why, the
table is written all the same, and the command fails at its end. ``--tiny --device cpu`` runs the
same logic at sizes that say nothing.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch
from torch.func import functional_call

from benchmarks import bench_train_step
from benchmarks.harness import add_out, machine, markdown_table, write_report
from espnet_spike.errors import UserError
from espnet_spike.nn.neurons.imls import IMLS
from espnet_spike.nn.ops.batch_norm import batch_norm
from espnet_spike.nn.ops.decay_attention import decay_attention
from espnet_spike.nn.ops.fatrelu import frame_fatrelu
from espnet_spike.nn.ops.lif import LIFDynamics, run_frames, run_steps
from espnet_spike.nn.ops.selective_scan import scan_both, selective_scan
from espnet_spike.ranges import Number
from espnet_spike.tasks.registry import ENCODERS, load_class
from espnet_spike.utils.cli import COUNT, Parser, Ranged, run
from espnet_spike.utils.yaml import read_yaml

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ("speech_mamba", "event_speech_mamba", "spiking_speech_mamba", "iml_spikeformer")
SMALL = ("ANN twin (relu)", "IMLS, T = 6", "LIF, T = 4", "ESPnet transformer")
TINY_ENCODER = {"output_size": 32, "attention_heads": 2, "num_blocks": 1, "linear_units": 32}
# a kernel may be so far from float64, over the largest value
MOST_DEVIATION = 1e-4
HOURS = 960


def get_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--minutes", type=Ranged(Number(0, 1e6)), default=6.0, help="when no other case begins"
    )
    parser.add_argument("--device", default="cuda", help="cuda, or cpu with --tiny")
    parser.add_argument("--tiny", action="store_true", help="sizes that only try the command")
    parser.add_argument("--batch", type=COUNT, default=32, help="utterances")
    parser.add_argument("--frames", type=COUNT, default=400, help="encoder frames of each")
    parser.add_argument("--channels", type=COUNT, default=1024)
    parser.add_argument("--states", type=COUNT, nargs="+", default=[16, 256])
    parser.add_argument("--repeats", type=COUNT, default=5, help="steps that count")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    add_out(parser)
    return parser


def functions(B: int, L: int, D: int) -> dict[str, tuple[Callable, dict]]:
    """Return what kernels compute: name -> function and inputs, float32 or whole numbers."""
    g = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    lengths = torch.linspace(max(L // 2, 1), L, B).long()
    mask = torch.arange(L) < lengths[:, None]

    def imls(x, a, mask):
        return (functional_call(IMLS(D, 6).to(x), {"a": a}, (x, mask)),)

    def attend(q, k, v, slopes, mask):
        return (decay_attention(q, k, v, slopes, mask=mask),)

    def scan(u, delta, A, B, C, D, lengths):
        delta = torch.nn.functional.softplus(delta - 2)
        return (selective_scan(u, delta, -A.exp(), B, C, D, lengths=lengths),)

    def scan_twice(u, delta, A, B, C, D, lengths):
        inputs = u, torch.nn.functional.softplus(delta - 2), -A.exp(), B, C, D
        return scan_both(inputs, [x.flip(-1) if x.dim() == 3 else x for x in inputs], lengths)

    def norm(x, mask, weight, bias):
        return batch_norm(x, mask, weight, bias, 1e-5)[:1]

    x, E = randn(B, L, D), min(64, D)
    of_scan = {
        **{"u": randn(B, D, L), "delta": randn(B, D, L), "A": randn(D, 16) / 2},
        **{"B": randn(B, 16, L), "C": randn(B, 16, L), "D": randn(D)},
        "lengths": lengths,
    }
    return {
        "batch norm": (norm, {"x": x + 3, "mask": mask, "weight": randn(D), "bias": randn(D)}),
        "IMLS": (imls, {"x": x, "a": torch.zeros(D), "mask": mask}),
        "FATReLU": (
            lambda x, T: (frame_fatrelu(x, T)[0],),
            {"x": x, "T": torch.tensor(0.3)},
        ),
        "LIF over frames": (
            lambda x, v, lengths: run_frames(x, v, lengths, LIFDynamics())[:2],
            {"x": x, "v": torch.zeros(B, D), "lengths": lengths},
        ),
        "LIF over time steps": (
            lambda x: (run_steps(x, 2, LIFDynamics())[0],),
            {"x": randn(2 * B, L, D)},
        ),
        "selective scan": (scan, of_scan),
        "selective scan, both directions": (scan_twice, of_scan),
        "decay attention": (
            attend,
            {
                **{name: randn(B, 2, L, E) / E**0.5 for name in "qkv"},
                **{"slopes": torch.tensor([-0.3, -0.01]), "mask": mask},
            },
        ),
    }


def outputs_and_gradients(function: Callable, inputs: dict, exact: bool, device: str) -> list:
    """Return what a function gives, on a device or in float64 on the CPU."""
    made = {}
    for name, x in inputs.items():
        made[name] = x.to("cpu" if exact else device)
        if x.is_floating_point():
            made[name] = made[name].to(torch.float64 if exact else x.dtype).requires_grad_()
    outputs = function(**made)
    leaves = [x for x in made.values() if x.requires_grad]
    total = outputs[0].new_zeros(())
    for n, y in enumerate(outputs):
        weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(n))
        total = total + (y * weight.to(y)).sum()
    grads = torch.autograd.grad(total, leaves)
    return [t.detach().double().cpu() for t in (*outputs, *grads)]


def correctness(sizes: tuple[int, int, int], device: str) -> Iterator[dict[str, object]]:
    """Yield how far each kernel is from float64; a spike that flips at a tie counts as away."""
    for name, (function, inputs) in functions(*sizes).items():
        row: dict[str, object] = {
            "kernel": name,
            "largest deviation": "",
            "share that deviates": "",
        }
        row["two runs equal"] = ""
        try:
            row |= deviations(function, inputs, device)
        except Exception as error:  # the other rows count as well
            row["largest deviation"] = failure(error)
        yield row


def deviations(function: Callable, inputs: dict, device: str) -> dict[str, object]:
    """Return how far a function is from float64 on a device."""
    wanted = outputs_and_gradients(function, inputs, exact=True, device=device)
    found = outputs_and_gradients(function, inputs, exact=False, device=device)
    again = outputs_and_gradients(function, inputs, exact=False, device=device)
    away = max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1e-3))
        for a, b in zip(found, wanted, strict=True)
    )
    # spikes at a tie may fall the other way in float32: the share of such values
    changed = max(
        float(((a - b).abs() > MOST_DEVIATION * b.abs().max()).double().mean())
        for a, b in zip(found, wanted, strict=True)
    )
    return {
        "largest deviation": away,
        "share that deviates": changed,
        "two runs equal": all(torch.equal(a, b) for a, b in zip(found, again, strict=True)),
    }


def failure(error: Exception) -> str:
    """Return why a row has no figure, on one line of a table."""
    lines = str(error).strip().splitlines() or [""]
    return f"failed: {type(error).__name__}: {lines[0][:200]}".replace("|", "/")


def measured(step: Callable[[], object], repeats: int, device: str) -> tuple[float, object]:
    """Return the median seconds of a step, and the MiB of its peak on a GPU."""
    on_gpu = device.startswith("cuda")
    seconds = []
    warmups = 2 if on_gpu else 0  # the first steps compile
    for turn in range(warmups + repeats):
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        if turn >= warmups:
            seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else "not a GPU"
    return median(seconds), peak


def scans(args: argparse.Namespace) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield forward and backward passes of the selective scan."""
    B, L, D = args.batch, args.frames, args.channels
    names = ["triton", "torch"] if args.device.startswith("cuda") else ["numba", "torch"]
    if args.device.startswith("cuda") and importlib.util.find_spec("mamba_ssm"):
        names.append("mamba")
    for N in args.states:
        shapes = {"u": (B, D, L), "delta": (B, D, L), "B": (B, N, L), "C": (B, N, L)}
        x = {k: torch.randn(s, device=args.device).requires_grad_() for k, s in shapes.items()}
        A = -torch.rand(D, N, device=args.device)
        lengths = torch.linspace(max(L // 2, 1), L, B).long().to(args.device)
        for name in names:

            def step(x=x, A=A, lengths=lengths, name=name):
                delta = torch.nn.functional.softplus(x["delta"])
                y = selective_scan(x["u"], delta, A, x["B"], x["C"], lengths=lengths, backend=name)
                torch.autograd.grad(y.sum(), list(x.values()))

            yield f"selective scan, N = {N}: {name}", step


def encoders(args: argparse.Namespace) -> Iterator[tuple[str, Callable[[], object], int | None]]:
    """Yield training steps of encoders, and the epochs of their configuration."""
    frames = 4 * args.frames + 3
    lengths = torch.linspace(0.8 * frames, frames, args.batch).long().to(args.device)
    features = torch.randn(args.batch, frames, 80, device=args.device)

    def step_of(make: Callable[[], torch.nn.Module]) -> Callable[[], object]:
        made: list[torch.nn.Module] = []

        def step() -> None:
            if not made:  # only when its turn comes: the memory of others is free
                torch.manual_seed(0)
                made.append(make().to(args.device))
            made[0].zero_grad()
            made[0](features, lengths)[0].square().mean().backward()

        return step

    sizes = {"output_size": 256, "attention_heads": 4, "linear_units": 2048, "num_blocks": 12}
    sizes = TINY_ENCODER if args.tiny else sizes
    for name in SMALL:
        yield name, step_of(lambda name=name: bench_train_step.make_encoder(name, sizes)), None
    for name in CONFIGS:
        conf = read_yaml(ROOT / f"conf/train_{name}_librispeech960.yaml")
        options = dict(conf["encoder_conf"])
        if args.tiny:
            options |= {k: v for k, v in TINY_ENCODER.items() if k in options}
            options |= {"d_state": 4} if "d_state" in options else {}
        cls = load_class(ENCODERS[name])
        made = step_of(lambda cls=cls, options=options: cls(80, **options))
        yield f"{name}, LibriSpeech-960", made, int(conf["max_epoch"])


def main(argv: list[str] | None = None) -> None:
    """Run all cases, print the tables and write them."""
    args = get_parser().parse_args(argv)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            "bench_gpu: there is no CUDA GPU here, or torch is built without CUDA",
            "run it on a machine with a GPU; --tiny --device cpu tries its logic without one",
        )
    if args.device == "cpu" and not args.tiny:
        raise UserError("bench_gpu: --device cpu says nothing of a GPU", "add --tiny to try it")
    if args.tiny:
        args.batch, args.frames, args.channels, args.states, args.repeats = 2, 12, 16, [4], 1
    end = time.monotonic() + 60 * args.minutes
    sizes = (2, 7, 8) if args.tiny else (4, 150, 256)
    checks = list(correctness(sizes, args.device))
    rows: list[dict[str, object]] = []
    cases = [(name, step, None, False) for name, step in scans(args)]
    cases += [(name, step, epochs, True) for name, step, epochs in encoders(args)]
    cases = [case for case in cases if args.only in case[0]]
    if not cases:
        raise UserError(f"--only {args.only!r}: no case has this name", "leave it out")
    speech = args.batch * 4 * args.frames * 0.9 * 0.01
    while cases:  # a case that is done gives its memory back
        name, step, epochs, is_encoder = cases.pop(0)
        row: dict[str, object] = dict.fromkeys(
            ("case", "ms", "peak MiB", "s of speech a second", "days of all epochs"), ""
        )
        row["case"] = name
        if time.monotonic() > end:
            row["ms"] = "left out: no time"
        else:
            try:
                seconds, row["peak MiB"] = measured(step, args.repeats, args.device)
            except torch.cuda.OutOfMemoryError:
                row["ms"] = "does not fit"
            except Exception as error:  # what has been measured is not lost
                row["ms"] = failure(error)
            else:
                row["ms"] = seconds * 1e3
                if is_encoder:
                    row["s of speech a second"] = speech / seconds
                if epochs:
                    row["days of all epochs"] = HOURS * 3600 * epochs / (speech / seconds) / 86400
        rows.append(row)
        del step
        if args.device.startswith("cuda"):
            torch.cuda.empty_cache()
    notes = [
        f"`.venv/bin/python -m benchmarks.bench_gpu`, {args.batch} utterances of {0.8:.0%} to "
        f"all of {args.frames} encoder frames.",
        "Days are estimated from the encoder's steps alone.",
        markdown_table(checks),
    ]
    facts = machine(["torch", "triton", "mamba-ssm"])
    if args.device.startswith("cuda"):
        facts = {"GPU": torch.cuda.get_device_name()} | facts
    title = "On a GPU" if args.device.startswith("cuda") else "A trial of bench_gpu on a CPU"
    print(write_report(args.out, title, rows, facts, notes))
    failed = [f"{row['case']}: {row['ms']}" for row in rows if str(row["ms"]).startswith("failed")]
    for check in checks:
        share = check["share that deviates"]
        if not isinstance(share, float):
            failed.append(f"{check['kernel']}: {check['largest deviation']}")
        elif share > 0.01 or not check["two runs equal"]:
            failed.append(f"{check['kernel']} is wrong on this device: {check}")
    if failed:
        raise UserError("bench_gpu: " + "; ".join(failed), "see the other rows above")


if __name__ == "__main__":
    run(main)
