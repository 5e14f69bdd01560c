"""The Mamba block (arXiv 2312.00752) and its bidirectional form, for batches of unequal lengths.

    [x; z] = in_proj(u)
    x = SiLU(causal depthwise conv(x))
    (dt_r, B, C) = x_proj(x),  delta = softplus(dt_proj(dt_r))
    y = selective_scan(x, delta, A, B, C) + D x
    out = out_proj(y * SiLU(z))

The bidirectional form is "v2" of Vim and ConMamba: in_proj, gate and out_proj are shared, a second
set of the rest reads the utterance backwards, and the two scans are averaged. Only the valid
frames are reversed, so padding never comes before speech.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from espnet_spike.errors import UserError
from espnet_spike.nn.accounting import Cost, CostLedger, counted, open_ledger
from espnet_spike.nn.layers.fatrelu import FatPoints, Pass
from espnet_spike.nn.ops.depthwise_conv import depthwise_conv
from espnet_spike.nn.ops.precision import at_least_fp32, without_autocast
from espnet_spike.nn.ops.selective_scan import (
    reverse_valid,
    scan_both,
    selective_scan,
    takes_both,
)
from espnet_spike.nn.stream_state import Stateful
from espnet_spike.nn.weight_decay import without_weight_decay
from espnet_spike.utils.options import choose

INIT_MODES = ("mamba", "xavier_normal")


@torch.no_grad()
def xavier_normal(module: nn.Module) -> None:
    """Draw all parameters of more than one dimension in ``module`` (Glorot and Bengio, 2010)."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_normal_(parameter)


class RMSNorm(nn.RMSNorm):
    """RMSNorm over channels, called like the masked norms."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__(dim, eps=eps)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise every frame of ``x`` ``(..., C)``, in fp32 at least; ``mask`` is not needed."""
        with without_autocast(x.device.type):
            return super().forward(at_least_fp32(x))


class CausalConv(nn.Module):
    """Depthwise convolution over time that looks at this and the ``kernel - 1`` frames before."""

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.empty(dim, 1, kernel))
        self.bias = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias as ``nn.Conv1d`` does."""
        bound = self.kernel**-0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        """Convolve ``x`` ``(B, L, E)``; ``before`` ``(B, kernel - 1, E)`` are earlier inputs."""
        if before is None:
            x = F.pad(x, (0, 0, self.kernel - 1, 0))
        else:
            x = torch.cat([before, x], 1)
        return depthwise_conv(x, self.weight, self.bias)


def count_scan(
    ledger: CostLedger,
    out: tuple[Tensor, Tensor],
    ssm: "SelectiveSSM",
    u: Tensor,
    delta: Tensor,
    B: Tensor,
    C: Tensor,
    *rest: object,
) -> None:
    """Count a selective scan; arguments as of ``SelectiveSSM.scan``, ``out`` is its result.

    For each state: exp(delta A), decay times state, two products (input into the state, state
    into the output); the state is read and written.
    """
    cost = ledger.cost("scan")
    states = u.numel() * B.shape[1]
    cost.dense_macs += 2 * states + u.numel()
    counts = ledger.counts(u)
    if ledger.dense:
        cost.macs += 2 * states + u.numel()
        cost.multiplies += u.numel()
    else:
        _count_scan_products(cost, counts, u, B, C)
    cost.multiplies += 2 * states
    cost.special += states
    for x in (u, delta, B, C):
        ledger.read(cost, x)
    cost.values_read += states
    cost.values_written += states + out[0].numel()
    cost.sizes(u.shape[1] * B.shape[1], u.shape[1], u.shape[1])


def _count_scan_products(
    cost: Cost, counts: Tensor | None, u: Tensor, B: Tensor, C: Tensor
) -> None:
    inputs = (u != 0).sum(1).double() if counts is None else counts.sum(1).double()
    into_state = float((inputs * (B != 0).sum(1)).sum())
    skip = float(inputs.sum())
    if counts is None:
        cost.macs += into_state + skip
        cost.multiplies += skip  # delta u
    else:
        # delta B of the channels that fire is made and added; D is selected and added
        cost.acs += into_state + skip
        events = (counts != 0).sum(1).double()
        products = float((events * (B != 0).sum(1)).sum())
        cost.event_macs += products + float(events.sum())
        cost.state_multiplies += products
    cost.macs += float((C != 0).sum()) * u.shape[1]


class SelectiveSSM(Stateful, nn.Module):
    """One direction of a Mamba block: convolution, projections and scan on ``(B, L, E)``.

    Args:
        dim: E, inner channels.
        d_state: N, states a channel.
        d_conv: kernel of the convolution.
        dt_rank: R, rank of delta.
        points: where FATReLU layers go (F9, F10, F11).
        activation: after the convolution, called as ``activation(x, mask)``; None means SiLU.
        scan_backend: see ``selective_scan``.
        scan_memory: MiB that plain torch may take for the states of a scan, see there.
        init_mode: a name in ``INIT_MODES``, see ``espnet_initialization_fn``.
    """

    def __init__(
        self,
        dim: int,
        d_state: int,
        d_conv: int,
        dt_rank: int,
        points: FatPoints | None = None,
        activation: nn.Module | None = None,
        scan_backend: str = "auto",
        init_mode: str = "mamba",
        scan_memory: float | None = None,
    ) -> None:
        super().__init__()
        points = points or FatPoints()
        if scan_memory is not None and (isinstance(scan_memory, bool) or not scan_memory > 0):
            raise UserError(
                f"scan_memory: {scan_memory} is out of range", "give MiB above 0, or null"
            )
        self.scan_memory = scan_memory
        self.sizes = (dt_rank, d_state, d_state)
        self.scan_backend = scan_backend
        self.init_mode = choose("init_mode", init_mode, INIT_MODES)
        self.conv = CausalConv(dim, d_conv)
        self.activation = activation or Pass(nn.SiLU())
        self.f9 = points("F9", macs=dt_rank + 2 * d_state)
        self.x_proj = nn.Linear(dim, dt_rank + 2 * d_state, bias=False)
        self.f10 = points("F10", macs=dim)
        self.f11_b = points("F11", macs=dim)
        self.f11_c = points("F11", macs=dim)
        self.dt_proj = nn.Linear(dt_rank, dim)
        self.A_log = nn.Parameter(torch.empty(dim, d_state))
        self.D = nn.Parameter(torch.empty(dim))
        for parameter in (self.A_log, self.D):
            without_weight_decay(parameter)
        self.espnet_initialization_fn()

    @torch.no_grad()
    def espnet_initialization_fn(self) -> None:
        """Set what Mamba starts from; ESPnet calls this after its own ``init``.

        With ``init_mode: xavier_normal``, as Speech-Mamba's recipe has it, every parameter of more
        than one dimension is drawn anew: A_log about 0, A about -1.
        """
        dim, d_state = self.A_log.shape
        self.conv.reset_parameters()
        self.A_log.copy_(torch.arange(1, d_state + 1, device=self.D.device).log().expand(dim, -1))
        nn.init.ones_(self.D)
        bound = self.sizes[0] ** -0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        # softplus(bias) is log-uniform in 0.001..0.1
        dt = torch.empty_like(self.D).uniform_(math.log(1e-3), math.log(1e-1)).exp().clamp(min=1e-4)
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))
        if self.init_mode == "xavier_normal":
            xavier_normal(self)

    def forward(self, x: Tensor, lengths: Tensor, mask: Tensor | None) -> Tensor:
        """Filter and scan.

        Args:
            x: ``(B, L, E)``.
            lengths: valid frames ``(B,)``.
            mask: ``(B, L)``, true on valid frames; None when all are.

        Returns:
            y ``(B, L, E)``, 0 on padding.
        """
        u, delta, B, C = self.inputs(x, mask)
        h = None if self.carry is None else self.carry.get("h")
        valid = None if mask is None else lengths
        y, h = self.scan(u, delta, B, C, valid, h)
        if self.carry is not None:
            self.carry["h"] = h
        return y.mT

    def inputs(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return u, delta, B and C of the scan; arguments as of ``forward``."""
        if self.carry is None:
            x = self.conv(x)
        else:
            kept = self.conv.kernel - 1
            before = self.carry.get("inputs", x.new_zeros(len(x), kept, x.shape[2]))
            self.carry["inputs"] = torch.cat([before, x], 1)[:, x.shape[1] :]
            x = self.conv(x, before)
        x = self.activation(x, mask)
        dt_r, B, C = self.x_proj(self.f9(x, mask)).split(self.sizes, -1)
        B, C = self.f11_b(B, mask), self.f11_c(C, mask)
        dt_r = self.f10(dt_r, mask)
        with without_autocast(x.device.type):  # its bias is about -5: bf16 would be 2 % away
            delta = F.softplus(self.dt_proj(at_least_fp32(dt_r)))
        return x.mT, delta.mT, B.mT, C.mT

    @property
    def rates(self) -> Tensor:
        """A ``(E, N)``, negative."""
        return -torch.exp(self.A_log)

    @counted(count_scan)
    def scan(
        self,
        u: Tensor,
        delta: Tensor,
        B: Tensor,
        C: Tensor,
        lengths: Tensor | None,
        state: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Run the selective scan with this module's A and D.

        Args:
            u: input ``(B, E, L)``.
            delta: step sizes ``(B, E, L)``.
            B: ``(B, N, L)``.
            C: ``(B, N, L)``.
            lengths: valid frames ``(B,)``; None when all are.
            state: before the first frame ``(B, E, N)``; None for zeros.

        Returns:
            y ``(B, E, L)`` and the last state ``(B, E, N)``.
        """
        found: Any = selective_scan(
            *(u, delta, self.rates, B, C, self.D),
            lengths=lengths,
            initial_state=state,
            return_last_state=True,
            backend=self.scan_backend,
            memory=self.scan_memory,
        )
        return found


class Mamba(nn.Module):
    """Mamba block on ``(B, L, D)``, without norm and shortcut.

    Args:
        dim: D.
        d_state: N, states a channel.
        d_conv: kernel of the causal convolution.
        expand: inner channels E = expand * D.
        dt_rank: rank of delta; None means D / 16, rounded up.
        bidirectional: also scan the utterance backwards ("v2").
        points: where FATReLU layers go (F5, F6, F7, F9, F10, F11).
        scan_backend: see ``selective_scan``.
        scan_memory: see ``SelectiveSSM``.
        init_mode: ``mamba`` (Mamba's own) or ``xavier_normal``, see ``SelectiveSSM``.
    """

    def __init__(
        self,
        dim: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        bidirectional: bool = True,
        points: FatPoints | None = None,
        scan_backend: str = "auto",
        init_mode: str = "mamba",
        scan_memory: float | None = None,
    ) -> None:
        super().__init__()
        points = points or FatPoints()
        inner = expand * dim
        sizes = (inner, d_state, d_conv, dt_rank or math.ceil(dim / 16))
        self.f5 = points("F5", macs=2 * inner)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)

        def ssm() -> SelectiveSSM:
            conf = {"scan_backend": scan_backend, "scan_memory": scan_memory}
            return SelectiveSSM(*sizes, points, init_mode=init_mode, **conf)

        self.ssm = ssm()
        self.ssm_reverse = ssm() if bidirectional else None
        self.f6 = points("F6", nn.SiLU())
        self.f7 = points("F7", macs=dim)
        self.out_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, u: Tensor, lengths: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix over time.

        Args:
            u: ``(B, L, D)``.
            lengths: valid frames ``(B,)``.
            mask: ``(B, L)``, true on valid frames; None when all are.

        Returns:
            ``(B, L, D)``, on valid frames independent of padding.

        Raises:
            ValueError: a bidirectional block in a stream.
        """
        x, z = self.in_proj(self.f5(u, mask)).chunk(2, -1)
        if self.ssm_reverse is None:
            y = self.ssm(x, lengths, mask)
        else:
            if self.ssm.carry is not None:
                raise ValueError("a bidirectional Mamba block cannot stream")
            y = self._both_directions(self.ssm_reverse, x, lengths, mask)
        return self.out_proj(self.gated(y, z, mask))

    def _both_directions(
        self, reverse: SelectiveSSM, x: Tensor, lengths: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Return the mean of both scans ``(B, L, E)``, in one launch where that can be."""
        valid, backend = None if mask is None else lengths, self.ssm.scan_backend
        # what counts or records follows each direction by its module
        if open_ledger() is None and takes_both(x, self.ssm.A_log.shape[1], backend):
            forwards, backwards = (
                (u, delta, ssm.rates, B, C, ssm.D)
                for ssm, (u, delta, B, C) in (
                    (self.ssm, self.ssm.inputs(x, mask)),
                    (reverse, reverse.inputs(reverse_valid(x, valid), mask)),
                )
            )
            y, y_reverse = (y.mT for y in scan_both(forwards, backwards, valid, backend))
        else:
            y = self.ssm(x, lengths, mask)
            y_reverse = reverse_valid(reverse(reverse_valid(x, valid), lengths, mask), valid)
        return 0.5 * (y + y_reverse)

    def gated(self, y: Tensor, z: Tensor, mask: Tensor | None) -> Tensor:
        """Return the scan's output ``(B, L, E)`` under the gate z."""
        return self.f7(y * self.f6(z, mask), mask)
