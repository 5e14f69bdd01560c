"""Time of our layers on a CPU against those of torch, in a training step.

    .venv/bin/python -m benchmarks.bench_cpu_layers [--batch 14] [--frames 74] [--threads 1]

A step is forward and backward. The peers of depthwise convolution and dropout are torch's own, that
of LIF over frames with a learnt time constant is a loop of torch's operations, frame after frame.
Masks of dropout are drawn anew each time, those of ours in 16 bits a value; of the other layers the
values and gradients of both forms are compared, too.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.harness import add_out, compare, machine, write_report
from espnet_spike.errors import UserError
from espnet_spike.nn.layers.dropout import Dropout
from espnet_spike.nn.layers.spike_layers import SpikeConv1d
from espnet_spike.nn.neurons.frame_lif import FrameLIF
from espnet_spike.utils.cli import COUNT, Parser, run

CONVS = ((128, 15), (256, 31), (512, 3))  # channels and taps
RANDOM = "dropout"  # draws: there is nothing to compare
DROPOUTS = (128, 512)  # channels
NEURONS = (96, 192)  # channels
CLOSE = 1e-4  # of the largest value


def get_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=COUNT, default=14, help="utterances")
    parser.add_argument("--frames", type=COUNT, default=74, help="encoder frames of each")
    parser.add_argument("--repeats", type=COUNT, default=21, help="rounds")
    parser.add_argument("--threads", type=COUNT, default=1)
    add_out(parser)
    return parser


Step = Callable[[], list[Tensor]]


def step(layer: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> Step:
    """Return a function that runs ``layer`` and returns its output and all gradients."""
    given = [x, *(layer.parameters() if isinstance(layer, nn.Module) else ())]

    def run_once() -> list[Tensor]:
        y = layer(x)
        return [y.detach(), *torch.autograd.grad(y, given, grad)]

    return run_once


def pairs(batch: int, frames: int) -> dict[str, tuple[Step, Step]]:
    """Return by name a step of torch's layer and one of ours."""
    torch.manual_seed(0)
    found = {}
    for channels, taps in CONVS:
        x = torch.randn(batch, frames, channels, requires_grad=True)
        ours = SpikeConv1d(channels, channels, taps, groups=channels)
        theirs = nn.Conv1d(channels, channels, taps, padding=taps // 2, groups=channels)
        theirs.load_state_dict(ours.state_dict())
        last = nn.Sequential(_Transpose(), theirs, _Transpose())
        grad = torch.randn_like(x)
        name = f"depthwise convolution, {channels} channels, {taps} taps"
        found[name] = step(last, x, grad), step(ours, x, grad)
    for channels in DROPOUTS:
        x = torch.randn(batch, frames, channels, requires_grad=True)
        grad = torch.randn_like(x)
        layers = (nn.Dropout(0.15), Dropout(0.15))
        found[f"{RANDOM}, {channels} channels"] = tuple(step(layer, x, grad) for layer in layers)
    for channels in NEURONS:
        x = torch.randn(batch, frames, channels, requires_grad=True)
        grad = torch.randn_like(x)
        neuron = FrameLIF(channels, learn_tau=True)
        name = f"LIF over frames, learnt time constant, {channels} channels"
        found[name] = step(_Loop(neuron), x, grad), step(neuron, x, grad)
    return found


class _Transpose(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class _Loop(nn.Module):
    def __init__(self, neuron: FrameLIF) -> None:
        super().__init__()
        self.neuron = neuron

    def forward(self, x: Tensor) -> Tensor:
        assert self.neuron.rate is not None  # it is learnt
        dynamics, tau = self.neuron.dynamics, 1 / self.neuron.rate
        v, emitted = self.neuron.initial_state(x), []
        for frame in x.unbind(1):
            spikes, v = dynamics.step(v, frame, tau)
            emitted.append(spikes)
        return torch.stack(emitted, 1)


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    args = get_parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    rows = []
    for name, (theirs, ours) in pairs(args.batch, args.frames).items():
        if not name.startswith(RANDOM):
            both = zip(theirs(), ours(), strict=True)
            off = max(float((t - o).abs().max() / t.abs().max()) for t, o in both)
            if off > CLOSE:
                raise UserError(f"{name}: {off:.1e} of the largest value off torch's")
        timings = compare({"torch": theirs, "ours": ours}, "torch", args.repeats, warmups=3)
        rows.append(
            {
                "layer": name,
                "torch ms": 1e3 * timings["torch"].median,
                "ours ms": 1e3 * timings["ours"].median,
                "times faster": timings["ours"].ratio,
            }
        )
    notes = [
        f"Forward and backward, B {args.batch}, {args.frames} frames, float32, {args.threads} "
        f"thread(s), median of {args.repeats} rounds; the ratio is taken round by round."
    ]
    print(write_report(args.out, "Layers on a CPU", rows, machine(["torch"]), notes))


if __name__ == "__main__":
    run(main)
