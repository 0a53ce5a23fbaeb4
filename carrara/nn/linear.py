"""A linear layer that multiplies by oneDNN where no gradient is needed, in float32 or int8.

On CPUs torch multiplies float32 matrices by MKL, whose AVX-512 kernels are for Intel's processors only; oneDNN's run on
others too. Same weights, same result up to rounding; benchmarks/encode.py measures by how much it is faster.

In int8, each output's weights have one scale and each vector (frame, token) of the input its own, taken when it comes,
so that a clip has the same features in a batch as alone. One scale for a whole batch would not give that. The
convolutions of waveform_frontend.py multiply in the same way.

Letters: N vectors, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import register_flop_formula

from carrara.core.errors import UsageError

LARGEST = 127
# Without VNNI, oneDNN adds two products in 16 bits, where two of 255 · 127 would overflow; the same on every processor.
LARGEST_WEIGHT = 63

# The operator is torch.compile's; torch has no public name for it.
_MULTIPLY = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


class OnednnLinear(nn.Linear):
    """torch.nn.Linear by `linear`, or in int8 after `quantize`."""

    weight_OI: Tensor | None = None
    scale_O: Tensor | None = None

    def quantize(self) -> None:
        """Multiply in int8 from now on; the weights stay, for their hash and for saving."""
        self.weight_OI, self.scale_O = quantize_weight(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """Return `[…, outputs]`.

        Raises:
            UsageError: It is quantized, and not for encoding in float32 on a CPU.
        """
        if self.weight_OI is None or self.scale_O is None:
            return linear(input, self.weight, self.bias)
        refuse_int8_unless_cpu_inference(input)
        x_NI = input.reshape(-1, input.shape[-1])
        if not len(x_NI):
            return linear(input, self.weight, self.bias)
        out_NO = linear_int8(x_NI, x_NI.abs().amax(1), self.weight_OI, self.scale_O, self.bias)
        return out_NO.view(*input.shape[:-1], -1)


def quantize_weight(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """Return a weight in int8 and the scale of each output, whose product is the weight up to rounding."""
    weight_OI = weight_OI.detach()
    scale_O = weight_OI.abs().amax(1).clamp(min=1e-12) / LARGEST_WEIGHT
    return (weight_OI / scale_O[:, None]).round().to(torch.int8), scale_O


def linear_int8(x_NI: Tensor, largest_N: Tensor, weight_OI: Tensor, scale_O: Tensor, bias: Tensor | None) -> Tensor:
    """Return `[N, outputs]`, multiplied in int8.

    Args:
        x_NI: vectors, in float32.
        largest_N: the largest absolute value of each, or an upper bound.
        weight_OI, scale_O: of `quantize_weight`.
        bias: of the layer, in float32.
    """
    scale_N1 = largest_N[:, None].clamp(min=1e-12) / LARGEST
    products_NO = torch._int_mm((x_NI / scale_N1).round_().to(torch.int8), weight_OI.mT) * scale_N1
    return products_NO.mul_(scale_O) if bias is None else torch.addcmul(bias, products_NO, scale_O)


def refuse_int8_unless_cpu_inference(x: Tensor) -> None:
    """Raise an error where int8 could not be used.

    Raises:
        UsageError: This is not encoding in float32 on a CPU.
    """
    if not is_cpu_inference(x):
        raise UsageError("int8 is for encoding on a CPU; use --device cpu, or the encoder without :int8")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return what torch.nn.functional.linear returns, by oneDNN where `is_cpu_inference`."""
    if _MULTIPLY is not None and is_cpu_inference(x) and weight.dtype == torch.float32:
        return _MULTIPLY(x, weight, bias, "none", [], "")
    return functional.linear(x, weight, bias)


def gelu(x: Tensor) -> Tensor:
    """Return GELU of a tensor that is not needed afterwards, in its own memory where `is_cpu_inference`."""
    return torch.ops.aten.gelu_(x) if is_cpu_inference(x) else functional.gelu(x)


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
