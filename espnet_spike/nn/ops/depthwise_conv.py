"""Depthwise convolution over time, channels last: fast on CPUs, forward and backward.

There torch's own 1-D form copies its input channels first, and its gradient costs many times the
convolution. As an image of height 1 whose channels lie last the forward pass takes torch's fast
path; so does the gradient of the input, which is a convolution with the taps reversed, and that of
the weights is one product of rows for each tap.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def depthwise_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, padding: int = 0
) -> Tensor:
    """Convolve each channel over time with taps of its own.

    Args:
        x: ``(B, L, C)``.
        weight: ``(C, 1, K)``, as of a depthwise ``nn.Conv1d``.
        bias: ``(C,)``.
        padding: frames of zeros at either end.

    Returns:
        ``(B, L + 2 padding - K + 1, C)``.
    """
    if x.device.type != "cpu" or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return F.conv1d(x.mT, weight, bias, padding=padding, groups=weight.shape[0]).mT
    alike = x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64)
    differentiates = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if not (alike and differentiates) or torch.is_autocast_enabled("cpu"):
        return _convolve(x, weight, bias, padding)
    y = _DepthwiseConv.apply(x, weight, padding)
    return y if bias is None else y + bias


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    image = x.mT[:, :, None]
    y = F.conv2d(image, weight[:, :, None], bias, padding=(0, padding), groups=weight.shape[0])
    return y[:, :, 0].mT


class _DepthwiseConv(torch.autograd.Function):
    """With x the padded input: dL/dx_t = sum_k w_k g_{t-k}, dL/dw_k = sum_{b, t} x_{t+k} g_t."""

    @staticmethod
    def forward(ctx, x, weight, padding):  # noqa: ANN001
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return _convolve(x, weight, None, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # noqa: ANN001
        x, weight = ctx.saved_tensors
        taps, padding = weight.shape[-1], ctx.padding
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            whole = _convolve(grad, weight.flip(-1), None, taps - 1)
            grad_x = whole[:, padding : padding + x.shape[1]]
        if ctx.needs_input_grad[1]:
            padded = F.pad(x, (0, 0, padding, padding))
            length = grad.shape[1]
            rows = [(padded[:, k : k + length] * grad).sum((0, 1)) for k in range(taps)]
            grad_weight = torch.stack(rows, -1)[:, None]
        return grad_x, grad_weight, None
