"""nn.Linear by way of oneDNN where that is faster: on a CPU, in float32, with a multiple of 256 rows.

On CPUs torch computes matrix products with MKL, which reaches half of the possible rate on AMD processors: 90 against 200
GFLOP/s on one core of an EPYC with AVX-512 (docs/benchmarks.md). oneDNN comes with the same torch. Its product has no backward
pass, so here is one. oneDNN compiles a kernel for every number of rows, which costs more than it saves if the number does not
repeat: hence the multiples.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

ROWS = 256

AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Linear(nn.Linear):
    """x W^T + b, [..., in_features] -> [..., out_features]."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        fast = input.device.type == "cpu" and input.dtype is torch.float32 and AVAILABLE
        rows = input.shape[:-1].numel()
        if not fast or rows == 0 or rows % ROWS or torch.compiler.is_compiling():
            return F.linear(input, self.weight, self.bias)
        return _Product.apply(input.flatten(0, -2), self.weight, self.bias).unflatten(0, input.shape[:-1])


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_NI, weight_OI, bias_O):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x_NI, weight_OI)
        return _onednn(x_NI, weight_OI, bias_O)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient_NO):  # type: ignore[no-untyped-def]
        x_NI, weight_OI = ctx.saved_tensors
        gradient_NO = gradient_NO.contiguous()  # that of a sum is one number, expanded
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _onednn(gradient_NO, weight_OI.t()) if needs_x else None,
            _onednn(gradient_NO.t(), x_NI.t()) if needs_weight else None,
            gradient_NO.sum(0) if needs_bias else None,
        )


def _onednn(x_NI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x_NI, weight_OI, bias_O, "none", [], "")
