"""The encoder during separation: frozen, every mixture is encoded once, for all heads of the search.

A window longer than the encoder's own is split into equal pieces. Features come out on the spectrogram's frames
(`spectrum.interpolation_weights`), in float32; on a GPU with bfloat16 the encoder runs under autocast.

Letters: B windows, S samples at the encoder's rate, P pieces of a window, F frames of the spectrogram, D features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from carrara.bench.separation import spectrum
from carrara.bench.separation.songs import WindowFormat
from carrara.core.errors import UsageError
from carrara.encoders._base import Encoder
from carrara.features.encode import EncodePlan, encoder_autocast


class WindowEncoder:
    """An encoder of windows of one length.

    Args:
        encoder: frozen, in evaluation mode, on the device.
        seconds: length of a window, rounded to whole frames of the spectrogram.
        device: of the encoder.

    Raises:
        UsageError: the encoder has no frames.
    """

    def __init__(self, encoder: Encoder, seconds: float, device: str) -> None:
        card = encoder.card
        if card.frame_rate is None:
            raise UsageError(f"{card.name} has no frames, only one embedding for a clip; it cannot separate stems")
        self.encoder, self.device = encoder, device
        window = max(round(seconds * spectrum.SAMPLE_RATE / spectrum.HOP), 4) * spectrum.HOP
        max_seconds = card.window_seconds or math.inf
        self.num_pieces = max(math.ceil(window / spectrum.SAMPLE_RATE / max_seconds - 1e-9), 1)
        piece = math.ceil(window * card.sample_rate / spectrum.SAMPLE_RATE / self.num_pieces)
        self.window_format = WindowFormat(window, piece * self.num_pieces, card.sample_rate)
        self.num_frames = spectrum.num_frames(window)
        piece_times_P = np.arange(self.num_pieces) * piece / card.sample_rate
        frame_times = np.arange(encoder.num_frames(piece)) / card.frame_rate
        before_F, after_F, weight_F = spectrum.interpolation_weights(
            (piece_times_P[:, None] + frame_times).reshape(-1), self.num_frames
        )
        self.before_F, self.after_F = torch.from_numpy(before_F).to(device), torch.from_numpy(after_F).to(device)
        self.weight_F1 = torch.from_numpy(weight_F).to(device)[:, None]

    @torch.no_grad()
    def encode(self, samples_BS: np.ndarray, layers: Sequence[int]) -> dict[int, Tensor]:
        """Return the features of windows by layer, `[B, F, D]` each."""
        max_windows, max_seconds = EncodePlan(self.device).batch_limits()
        seconds = self.window_format.encoder_samples / self.window_format.sample_rate
        batch = max(1, min(max_windows // self.num_pieces, int(max_seconds / seconds)))
        shape = (len(samples_BS), self.num_frames, self.encoder.card.dim)
        features = {layer: torch.empty(shape, device=self.device) for layer in layers}
        for low in range(0, len(samples_BS), batch):
            pieces = self.split(samples_BS[low : low + batch])
            with encoder_autocast(self.device):
                layers_BLFD = self.encoder(pieces)
            for layer, features_BFD in features.items():
                features_BFD[low : low + batch] = self.to_spectrogram_frames(layers_BLFD[:, layer])
        return features

    def split(self, samples_BS: np.ndarray) -> Tensor:
        """Return the pieces of windows on the device, `[B P, S / P]`."""
        pieces = torch.from_numpy(samples_BS).unflatten(1, (self.num_pieces, -1)).flatten(0, 1)
        return pieces.to(self.device)

    def to_spectrogram_frames(self, piece_features: Tensor) -> Tensor:
        """Return a layer's features of pieces on the spectrogram's frames of their windows, float32 `[B, F, D]`."""
        own_BFD = piece_features.float().unflatten(0, (-1, self.num_pieces)).flatten(1, 2)
        return torch.lerp(own_BFD[:, self.before_F], own_BFD[:, self.after_F], self.weight_F1)
