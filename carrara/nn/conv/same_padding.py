"""TensorFlow's SAME padding, and the symmetric padding of ports to PyTorch."""

from __future__ import annotations

import math


def same_padding(size: int, kernel: int, stride: int, symmetric: bool = False) -> tuple[int, int]:
    """Return how many zeros to add before and after an axis so that a convolution gives ceil(size / stride) values.

    Args:
        size: length of the axis.
        kernel: length of the convolution's kernel.
        stride: stride of the convolution.
        symmetric: whether kernel // 2 zeros come before, as in ports to PyTorch, or as many as after or one fewer.
    """
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    before = kernel // 2 if symmetric else total // 2
    return before, max(total - before, 0)
