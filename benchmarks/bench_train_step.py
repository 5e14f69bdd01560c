"""Time and peak memory of a training step: spiking encoders, their ANN twin, ESPnet's transformer.

    .venv/bin/python -m benchmarks.bench_train_step [--threads 1] [--ceiling 1.35]
        [--memory_ceiling 1.3]

A step is forward and backward of the encoder on random features, at the same sizes for all. One
IMLS time step stands for T steps of a LIF network, which runs everything T times; LIF is ours or
spikingjelly's multi-step node, in the same encoder. Memory is the growth of a fresh process's
resident memory from before the first step to its peak in two steps, compilers that it loads
included.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

from benchmarks.harness import add_out, compare, machine, write_report
from espnet_spike.errors import UserError
from espnet_spike.utils.cli import COUNT, POSITIVE, Parser, run

ROOT = Path(__file__).resolve().parents[1]
PEER = "ANN twin (relu)"
SPIKINGJELLY = "spikingjelly"
COMPILER = "the compiler alone"
CASES = {
    PEER: {"neuron": "relu"},
    "IMLS, T = 6": {"neuron": "imls", "T": 6},
    "IMLS, T = 6, statistic not detached": {"neuron": "imls", "T": 6, "detach_stat": False},
    "ternary, T = 4": {"neuron": "ternary", "T": 4},
    "LIF, T = 4": {"neuron": "lif", "T": 4},
    "LIF, T = 6": {"neuron": "lif", "T": 6},
    "spikingjelly's LIF, T = 4": {"neuron": SPIKINGJELLY, "T": 4},
    "spikingjelly's LIF, T = 6": {"neuron": SPIKINGJELLY, "T": 6},
    "ESPnet transformer": None,
}


def get_parser():
    """Return the command's parser."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=COUNT, default=8, help="utterances")
    parser.add_argument("--frames", type=COUNT, default=250, help="encoder frames of each")
    parser.add_argument("--dim", type=COUNT, default=256)
    parser.add_argument("--blocks", type=COUNT, default=12)
    parser.add_argument("--repeats", type=COUNT, default=5, help="rounds")
    parser.add_argument("--threads", type=COUNT, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--cases", help="comma-separated beginnings of names; the twin always runs")
    parser.add_argument(
        "--ceiling", type=POSITIVE, help="fail if IMLS takes more of the twin's time"
    )
    parser.add_argument("--memory_ceiling", type=POSITIVE, help="or more of its memory")
    parser.add_argument("--measure", help="print the memory of one case and end (used by itself)")
    add_out(parser)
    return parser


def spikingjelly_lif():
    """Return a class: spikingjelly's multi-step node, called and made as our ``LIF``."""
    from spikingjelly.activation_based import functional, neuron, surrogate

    from espnet_spike.nn.neurons.base import Neuron
    from espnet_spike.nn.neurons.lif import LIF

    class SpikingjellyLIF(Neuron):
        needs_norm = LIF.needs_norm

        def __init__(self, dim, T=4):
            super().__init__()
            self.dim, self.time_steps = dim, T
            self.node = neuron.LIFNode(
                surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m"
            )

        def forward(self, x, mask=None):
            functional.reset_net(self.node)
            return self.node(x.unflatten(0, (self.time_steps, -1))).flatten(0, 1)

        def update_cost(self, numel, frames):
            return LIF.update_cost(self, numel, frames)

        def spike_counts(self, inputs, output):
            return output, 1

    return SpikingjellyLIF


def make_encoder(case, sizes):
    """Return the encoder of a case."""
    options = CASES[case]
    if options is None:
        from espnet2.asr.encoder.transformer_encoder import TransformerEncoder

        return TransformerEncoder(80, **sizes)
    from espnet_spike.encoders.iml_spikeformer import IMLSpikeformerEncoder
    from espnet_spike.nn.neurons.factory import NEURONS

    if options["neuron"] != SPIKINGJELLY:
        return IMLSpikeformerEncoder(80, **sizes, **options)
    with mock.patch.dict(NEURONS, lif=spikingjelly_lif()):
        return IMLSpikeformerEncoder(80, **sizes, **options | {"neuron": "lif"})


def make_step(case, args):
    """Return a function that does one step."""
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    sizes = {
        "output_size": args.dim,
        "attention_heads": args.dim // 64,
        "linear_units": 2048,
        "num_blocks": args.blocks,
    }
    encoder = make_encoder(case, sizes).to(args.device)
    frames = 4 * args.frames + 3
    features = torch.randn(args.batch, frames, 80, device=args.device)
    lengths = torch.linspace(0.8 * frames, frames, args.batch).long().to(args.device)

    def step():
        encoder.zero_grad()
        xs, _, _ = encoder(features, lengths)
        xs.square().mean().backward()
        if args.device == "cuda":
            torch.cuda.synchronize()

    return step


def resident():
    """Return resident and peak resident memory of this process in bytes."""
    status = Path("/proc/self/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return [int(fields[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM")]


def load_compiler():
    """Run the kernels of IMLS once, on next to nothing: what remains in memory is numba."""
    import torch

    from espnet_spike.nn.ops import imls as imls_module

    x, level = torch.ones(1, 1, 1), torch.ones(1)
    imls_module.mean_abs(x)
    imls_module.forward(x, level, level, level, 6, "half_up")
    imls_module.backward(x, x, level, level, level, 6, "half_up")


def measure(case, args):
    """Print the memory that two steps of ``case`` add, in bytes."""
    import torch

    step = load_compiler if case == COMPILER else make_step(case, args)
    if args.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        step()
        print(json.dumps(torch.cuda.max_memory_allocated() - before))
        return
    before, _ = resident()
    step()
    step()
    print(json.dumps(resident()[1] - before))


def measure_apart(case, own, args):
    """Return the memory of a case in a process of its own; None if the machine has too little."""
    command = [sys.executable, "-m", "benchmarks.bench_train_step", f"--measure={case}", *own]
    env = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, check=False)
    if done.returncode == -signal.SIGKILL:  # by the kernel
        return None
    done.check_returncode()
    return json.loads(done.stdout.splitlines()[-1])


def main(argv=None):
    """Run the benchmark."""
    args = get_parser().parse_args(argv)
    if args.measure:
        measure(args.measure, args)
        return
    wanted = tuple((args.cases or "").split(","))
    cases = [name for name in CASES if name == PEER or name.startswith(wanted)]
    own = [f"--{k}={getattr(args, k)}" for k in ("batch", "frames", "dim", "blocks", "threads")]
    own.append(f"--device={args.device}")
    memory = {name: measure_apart(name, own, args) for name in [*cases, COMPILER]}
    too_large = [name for name in cases if memory[name] is None]
    cases = [name for name in cases if name not in too_large]
    started = time.time()
    timings = compare({name: make_step(name, args) for name in cases}, PEER, args.repeats)
    rows = []
    for name, timing in timings.items():
        rows.append(
            {
                "encoder": name,
                "s/step": timing.median,
                "CPU s/step": timing.cpu_median,
                "time / twin": 1 / timing.ratio,
                "peak MiB": memory[name] / 2**20,
                "memory / twin": memory[name] / memory[PEER],
            }
        )
    imls = next((row for row in rows if row["encoder"] == "IMLS, T = 6"), None)
    notes = [
        f"B = {args.batch}, N = {args.frames} encoder frames (conv2d front end of 4), "
        f"d = {args.dim}, {args.blocks} blocks, ff 2048, {args.threads} thread(s), {args.device}; "
        f"{args.repeats} rounds in {time.time() - started:.0f} s."
    ]
    if args.device == "cpu":
        notes.append(
            f"numba, which compiles all neurons but ReLU and spikingjelly's, takes "
            f"{memory[COMPILER] / 2**20:.0f} MiB of the memory once a process, whatever the batch."
        )
    notes += [f"{name}: does not fit into the memory." for name in too_large]
    facts = machine(["torch", "espnet", "numba"])
    if args.device == "cuda":
        import torch

        facts["gpu"] = torch.cuda.get_device_name()
    print(write_report(args.out, "A training step of the encoder", rows, facts, notes))
    for key, ceiling in (("time / twin", args.ceiling), ("memory / twin", args.memory_ceiling)):
        if ceiling is not None and imls is not None and imls[key] > ceiling:
            raise UserError(f"IMLS: {key} is {imls[key]:.2f}, above {ceiling}")


if __name__ == "__main__":
    run(main)
