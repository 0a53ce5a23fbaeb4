"""The frozen encoder in the loop: every new mixture is encoded once, and all heads of the search hear the result.

A window longer than the encoder should hear at once is cut into equal pieces. Features come out on the spectrogram's
frames (`spectrum.between`), in float32; on a GPU that has bfloat16 the encoder itself runs under autocast.

Letters: B windows, S samples at the encoder's rate, L rows of layers that are wanted, F frames of the spectrogram, D
width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carrara.bench.separation import spectrum
from carrara.bench.separation.songs import Reading
from carrara.core.errors import UsageError
from carrara.encoders._base import Encoder
from carrara.features.encode import EncodePlan, compute_dtype


class Ears:
    """An encoder that hears windows of one length.

    Args:
        encoder: frozen, in evaluation mode, on the device.
        seconds: length of a window; made whole frames of the spectrogram.
        device: where it runs.

    Raises:
        UsageError: the encoder answers once a clip.
    """

    def __init__(self, encoder: Encoder, seconds: float, device: str) -> None:
        card = encoder.card
        if card.frame_rate is None:
            raise UsageError(f"{card.name} answers once a clip, not frame by frame; stems cannot be asked of it")
        self.encoder, self.device = encoder, device
        window = max(round(seconds * spectrum.SAMPLE_RATE / spectrum.HOP), 4) * spectrum.HOP
        self.pieces = max(math.ceil(window / spectrum.SAMPLE_RATE / (card.window_seconds or math.inf) - 1e-9), 1)
        piece = math.ceil(window * card.sample_rate / spectrum.SAMPLE_RATE / self.pieces)
        self.reading = Reading(window, piece * self.pieces, card.sample_rate)
        self.frames = spectrum.frames(window)
        begins_P = np.arange(self.pieces) * piece / card.sample_rate
        own_S = np.arange(encoder.num_frames(piece)) / card.frame_rate
        before_F, after_F, share_F = spectrum.between((begins_P[:, None] + own_S).reshape(-1), self.frames)
        self.before_F, self.after_F = (torch.from_numpy(at).to(device) for at in (before_F, after_F))
        self.share_F1 = torch.from_numpy(share_F).to(device)[:, None]

    @torch.no_grad()
    def hear(self, heard_BS: np.ndarray, rows: Sequence[int]) -> dict[int, Tensor]:
        """Return the features of windows by row, `[B, F, D]` each."""
        most, seconds = EncodePlan(self.device).batch_limits()
        window = self.reading.heard / self.reading.sample_rate
        size = max(1, min(most // self.pieces, int(seconds / window)))
        autocast: Any = nullcontext()
        if compute_dtype(self.device) == "bfloat16":
            autocast = torch.autocast("cuda", dtype=torch.bfloat16)
        shape = (len(heard_BS), self.frames, self.encoder.card.dim)
        found = {row: torch.empty(shape, device=self.device) for row in rows}
        for low in range(0, len(heard_BS), size):
            pieces_NS = torch.from_numpy(heard_BS[low : low + size]).unflatten(1, (self.pieces, -1)).flatten(0, 1)
            with autocast:
                layers_NLPD = self.encoder(pieces_NS.to(self.device))
            for row, features_BFD in found.items():
                own_BPD = layers_NLPD[:, row].float().unflatten(0, (-1, self.pieces)).flatten(1, 2)
                features_BFD[low : low + size] = torch.lerp(
                    own_BPD[:, self.before_F], own_BPD[:, self.after_F], self.share_F1
                )
        return found
