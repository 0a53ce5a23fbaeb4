"""A linear layer that multiplies by oneDNN where no gradient is needed.

On CPUs torch multiplies float32 matrices by MKL, whose AVX-512 kernels are for Intel's processors only; oneDNN's run on
others too. Same weights, same result up to rounding; benchmarks/encode.py measures by how much it is faster.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import register_flop_formula

# The operator is torch.compile's; torch has no public name for it.
_MULTIPLY = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


class OnednnLinear(nn.Linear):
    """torch.nn.Linear by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return `[…, outputs]`."""
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return what torch.nn.functional.linear returns, by oneDNN where `is_cpu_inference`."""
    if _MULTIPLY is not None and is_cpu_inference(x) and weight.dtype == torch.float32:
        return _MULTIPLY(x, weight, bias, "none", [], "")
    return functional.linear(x, weight, bias)


def is_cpu_inference(x: Tensor) -> bool:
    """Return whether a tensor is float32 on a CPU, gradients are off, and nothing casts or traces operations."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and bool(torch.backends.mkldnn.enabled)
    )


if _MULTIPLY is not None:

    @register_flop_formula(_MULTIPLY)
    def _linear_flops(x_shape: Any, weight_shape: Any, *arguments: Any, out_shape: Any = None, **others: Any) -> int:
        return 2 * int(torch.Size(x_shape).numel()) * int(weight_shape[0])
