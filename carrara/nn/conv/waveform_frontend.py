"""The convolutional front end of HuBERT-shaped networks: waveform in, one vector every 320 samples out.

Seven 1-D convolutions without padding ([baevski2020 §2], [hsu2021]), exact GELU after each. Norm mode "group":
only layer 0 is normalized, every channel over time (HuBERT-base, all MERT). Norm mode "layer": every layer, every frame
over channels (data2vec, Music2Vec). Norms are computed in float32 under autocast.

Group norm couples a whole clip, so zeros appended to fill a batch change a clip's features (by 36 % with random
weights). Padding "masked" takes the statistics over each clip's own frames only, so that a clip has the
same features in a batch as alone; "original" is the behaviour of the published code.

Encoding on a CPU runs clip by clip in tiles of frames, with channels last, so that the long outputs of the first layers
stay in the cache; group norm is folded into the weights of layer 0. The result is the same up to rounding.

Letters: B batch, T samples, F frames, C channels, K taps of a kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.nn.linear import (
    is_cpu_inference,
    linear,
    linear_int8,
    quantize_weight,
    refuse_int8_unless_cpu_inference,
)

Padding = Literal["masked", "original"]
ConvNorm = Literal["group", "layer"]
Count = TypeVar("Count", int, Tensor)

EPS = 1e-5
TILE_FRAMES = 125  # 8,000 of layer 0: 16 MB with 512 channels


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Return how many samples one frame depends on: 400 for the published stack."""
    field = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides)):
        field = (field - 1) * stride + kernel
    return field


def num_conv_frames(samples: Count, kernels: Sequence[int], strides: Sequence[int]) -> Count:
    """Return the number of frames of `samples` samples, at least 1: shorter input is padded to one receptive field."""
    field = receptive_field(kernels, strides)
    count = samples.clamp(min=field) if isinstance(samples, Tensor) else max(samples, field)
    for kernel, stride in zip(kernels, strides):
        count = (count - kernel) // stride + 1
    return count


def valid_mask(lengths_B: Tensor, size: int, device: torch.device) -> Tensor:
    """Return which of `size` positions belong to each clip, bool `[batch, size]`."""
    return torch.arange(size, device=device) < lengths_B.to(device)[:, None]


def standardize_waveform(samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
    """Return each clip with mean 0 and variance 1 over its own samples (plus 1e-7 under the root); zero after them.

    Sums are in double precision (except on MPS, which has none), so that their order, which depends on the number of
    threads, does not reach the samples.
    """
    precise = samples_BT.dtype if samples_BT.device.type == "mps" else torch.float64
    if lengths_B is None:
        centred_BT = samples_BT - samples_BT.mean(1, keepdim=True, dtype=precise).to(samples_BT.dtype)
        variance_B1 = centred_BT.square().mean(1, keepdim=True, dtype=precise).to(samples_BT.dtype)
        return centred_BT * torch.rsqrt(variance_B1 + 1e-7)
    valid_BT = valid_mask(lengths_B, samples_BT.shape[1], samples_BT.device)
    count_B1 = valid_BT.sum(1, keepdim=True).clamp(min=1)
    sum_B1 = samples_BT.masked_fill(~valid_BT, 0).sum(1, keepdim=True, dtype=precise)
    centred_BT = (samples_BT - (sum_B1 / count_B1).to(samples_BT.dtype)).masked_fill(~valid_BT, 0)
    variance_B1 = (centred_BT.square().sum(1, keepdim=True, dtype=precise) / count_B1).to(samples_BT.dtype)
    return centred_BT * torch.rsqrt(variance_B1 + 1e-7)


class _ConvLayer(nn.Module):
    """A convolution, its norm if any, and GELU."""

    weight_OI: Tensor | None = None
    scale_O: Tensor | None = None

    def __init__(self, conv: nn.Conv1d, norm: ConvNorm | None):
        super().__init__()
        self.conv = conv
        channels = conv.out_channels
        self.layer_norm: nn.Module | None = None
        if norm == "group":
            self.layer_norm = nn.GroupNorm(channels, channels, eps=EPS)
        elif norm == "layer":
            self.layer_norm = nn.LayerNorm(channels, eps=EPS)

    def forward(self, x_BCF: Tensor, counts_B: Tensor | None) -> Tensor:
        """Return `[batch, channels, frames]`; group norm uses the first `counts_B` frames of each clip only."""
        return self.activate(self.conv(x_BCF), counts_B)

    def quantize(self) -> None:
        """Multiply in int8 from now on; a window is one vector, its K frames one after another."""
        self.weight_OI, self.scale_O = quantize_weight(self.conv.weight.mT.flatten(1))

    def convolve_int8(self, x_FC: Tensor) -> Tensor:
        """Return the convolution of one clip's frames `[frames, channels]`; each window has its own scale."""
        assert self.weight_OI is not None and self.scale_O is not None
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        x_FC = x_FC.contiguous()
        frames, channels = (len(x_FC) - kernel) // stride + 1, x_FC.shape[1]
        windows_NI = x_FC.as_strided((frames, kernel * channels), (stride * channels, 1))
        largest_N = x_FC.abs().amax(1).unfold(0, kernel, stride).amax(1)
        return linear_int8(windows_NI, largest_N, self.weight_OI, self.scale_O, self.conv.bias)

    def activate(self, x_BCF: Tensor, counts_B: Tensor | None = None) -> Tensor:
        """Return the norm, if any, and GELU of the convolution's output."""
        if isinstance(self.layer_norm, nn.GroupNorm):
            x_BCF = _group_norm(x_BCF, self.layer_norm, counts_B)
        elif isinstance(self.layer_norm, nn.LayerNorm):
            norm = self.layer_norm
            weight_C, bias_C = norm.weight.float(), norm.bias.float()
            x_BFC = functional.layer_norm(x_BCF.mT.float(), norm.normalized_shape, weight_C, bias_C, norm.eps)
            x_BCF = x_BFC.mT.to(x_BCF.dtype)
        return functional.gelu(x_BCF)


class WaveformFrontend(nn.Module):
    """The stack of convolutions; attributes are named as in Hugging Face's `feature_extractor`."""

    def __init__(
        self, channels: int, kernels: Sequence[int], strides: Sequence[int], norm: ConvNorm, bias: bool = False
    ):
        super().__init__()
        self.kernels, self.strides = tuple(kernels), tuple(strides)
        self.conv_layers = nn.ModuleList(
            _ConvLayer(
                nn.Conv1d(1 if i == 0 else channels, channels, kernel, stride, bias=bias),
                norm if norm == "layer" or i == 0 else None,
            )
            for i, (kernel, stride) in enumerate(zip(kernels, strides))
        )

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None, padding: Padding = "masked") -> Tensor:
        """Return the features, `[batch, frames, channels]`; zero after each clip's own frames.

        Args:
            samples_BT: waveform; zeros fill it up to one receptive field.
            lengths_B: valid samples of each clip; None means all.
            padding: whether group norm excludes the padding ("masked") or not ("original").
        """
        x_BT = samples_BT
        if lengths_B is not None:
            lengths_B = lengths_B.to(x_BT.device)
            x_BT = x_BT.masked_fill(~valid_mask(lengths_B, x_BT.shape[1], x_BT.device), 0)
        field = receptive_field(self.kernels, self.strides)
        if x_BT.shape[1] < field:
            x_BT = functional.pad(x_BT, (0, field - x_BT.shape[1]))
        counts_B = None
        if lengths_B is not None and padding == "masked":
            counts_B = num_conv_frames(lengths_B.clamp(min=field), self.kernels[:1], self.strides[:1])
        frames_B = None if lengths_B is None else num_conv_frames(lengths_B, self.kernels, self.strides)
        if any(layer.weight_OI is not None for layer in self.conv_layers):
            refuse_int8_unless_cpu_inference(x_BT)
        if is_cpu_inference(x_BT):
            return self._forward_in_tiles(x_BT, counts_B, frames_B)
        x_BCF = x_BT[:, None]
        for layer in self.conv_layers:
            x_BCF = layer(x_BCF, counts_B)
        x_BFC = x_BCF.mT
        if frames_B is None:
            return x_BFC
        return x_BFC.masked_fill(~valid_mask(frames_B, x_BFC.shape[1], x_BFC.device)[..., None], 0)

    def _forward_in_tiles(self, x_BT: Tensor, counts_B: Tensor | None, frames_B: Tensor | None) -> Tensor:
        """Return `forward`'s features; frames after a clip's own are not computed."""
        layers: list[Any] = list(self.conv_layers)
        first, others = layers[0], layers[1:]
        weights = [layer.conv.weight[:, :, None].contiguous(memory_format=torch.channels_last) for layer in others]
        field, hop = receptive_field(self.kernels[1:], self.strides[1:]), math.prod(self.strides[1:])
        frames = num_conv_frames(x_BT.shape[1], self.kernels, self.strides)
        features_BFC = x_BT.new_zeros(len(x_BT), frames, first.conv.out_channels)
        counts = [None] * len(x_BT) if counts_B is None else counts_B.tolist()
        own_frames = [frames] * len(x_BT) if frames_B is None else frames_B.tolist()
        for x_T, count, own, features_FC in zip(x_BT, counts, own_frames, features_BFC):
            windows_FK = x_T.unfold(0, self.kernels[0], self.strides[0])
            is_folded = isinstance(first.layer_norm, nn.GroupNorm)
            weight_CK, bias_C = first.conv.weight[:, 0], first.conv.bias
            if is_folded:
                weight_CK, bias_C = _fold_group_norm(windows_FK[:count], weight_CK, first.layer_norm)
            for start in range(0, own, TILE_FRAMES):
                stop = min(start + TILE_FRAMES, own)
                x_FC = linear(windows_FK[start * hop : (stop - 1) * hop + field], weight_CK, bias_C)
                x_FC = functional.gelu(x_FC) if is_folded else first.activate(x_FC.mT[None])[0].mT
                for layer, weight_CC1K in zip(others, weights):
                    if layer.weight_OI is None:
                        x_1C1F = x_FC[None, None].permute(0, 3, 1, 2)
                        x_1C1F = functional.conv2d(x_1C1F, weight_CC1K, layer.conv.bias, (1, layer.conv.stride[0]))
                        x_1CF = x_1C1F[:, :, 0]
                    else:
                        x_1CF = layer.convolve_int8(x_FC).mT[None]
                    x_FC = layer.activate(x_1CF)[0].mT
                features_FC[start:stop] = x_FC
        return features_BFC

    def quantize(self) -> None:
        """Multiply in int8 from now on, in all layers but the first, whose windows have only ten inputs."""
        layers: list[Any] = list(self.conv_layers[1:])
        for layer in layers:
            layer.quantize()

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw Kaiming-normal weights; biases are zero, norms the identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.GroupNorm | nn.LayerNorm):
                module.reset_parameters()


def _group_norm(x_BCF: Tensor, norm: nn.GroupNorm, counts_B: Tensor | None) -> Tensor:
    weight_C, bias_C = norm.weight.float(), norm.bias.float()
    if counts_B is None:
        return functional.group_norm(x_BCF.float(), norm.num_groups, weight_C, bias_C, norm.eps).to(x_BCF.dtype)
    # Clip by clip: a masked mean and variance of the whole batch would pass over its largest tensor five times more.
    clips = [
        functional.group_norm(x_1CF[..., :count].float(), norm.num_groups, weight_C, bias_C, norm.eps)
        for x_1CF, count in zip(x_BCF.split(1), counts_B.tolist())
    ]
    frames = x_BCF.shape[2]
    return torch.cat([functional.pad(x_1CF, (0, frames - x_1CF.shape[2])) for x_1CF in clips]).to(x_BCF.dtype)


def _fold_group_norm(windows_FK: Tensor, weight_CK: Tensor, norm: nn.GroupNorm) -> tuple[Tensor, Tensor]:
    """Return weight `[C, K]` and bias `[C]` of layer 0 that contain its group norm of one clip.

    A channel's mean and variance over time follow from those of the K samples under the kernel, as the convolution is
    linear; its bias drops out. In float64, because a variance here is a difference of large numbers.
    """
    weight_CK, windows_FK = weight_CK.double(), windows_FK.double()
    mean_K = windows_FK.mean(0)
    covariance_KK = windows_FK.mT @ windows_FK / len(windows_FK) - torch.outer(mean_K, mean_K)
    variance_C = ((weight_CK @ covariance_KK) * weight_CK).sum(1).clamp(min=0)
    scale_C = norm.weight.double() * torch.rsqrt(variance_C + norm.eps)
    return (weight_CK * scale_C[:, None]).float(), (norm.bias.double() - weight_CK @ mean_K * scale_C).float()
