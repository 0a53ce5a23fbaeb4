"""Codes of neural codecs: our own RVQ-VAE from a folder, EnCodec (24 kHz) through transformers; see codes.py.

A codec has a rate and a hop of its own. The student's frame takes the codec's frame that its centre falls into: at 24
kHz and 75 frames a second EnCodec's frame of the same number (as in MERT), at other rates the sound is resampled first.
Our own codec hears as much before a frame as after it, so where rate and hop are the student's, it is given the sound
from where its frames' middles are the student's.

EnCodec (Défossez et al. 2022; its authors' weights are `facebook/encodec_24khz` on the hub) is causal with an LSTM
behind its convolutions. A long sound is coded in pieces, the LSTM's state handed from one to the next, which gives the
codes of the whole file with the memory of a piece.

Letters: B batch, T samples, F frames, Q books, C channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.audio.resample import resample
from carrara.core.errors import UsageError, WeightsError
from carrara.nn.quantize import rvq_vae
from carrara.nn.spectral.framing import float32
from carrara.pretrain.targets._base import FrameGrid

# Frames of EnCodec that are coded at once, and those before them that its convolutions hear again.
PIECE, CONTEXT = 2250, 16


class Resampled(nn.Module):
    """A codec on the student's frames."""

    def __init__(self, codec: OwnCodec | EnCodec, grid: FrameGrid) -> None:
        super().__init__()
        self.codec, self.grid = codec, grid
        same = (grid.sample_rate, grid.hop) == (codec.sample_rate, codec.hop)
        self.late = grid.centre - codec.hop // 2 if same and codec.centred else 0

    def encode(self, samples_BT: Tensor, frames: int) -> Tensor:
        """Return the codes, int64 `[B, F, Q]`; F is `frames`, or fewer where the sound ends."""
        if self.late:
            return self.codec.encode(functional.pad(samples_BT, (-self.late, 0)))[:, :frames]
        codes_BFQ = self.codec.encode(self._at_its_rate(samples_BT))
        centres_F = torch.arange(frames) * self.grid.hop + self.grid.centre
        # Whole numbers, so that no frame falls on the other side of an edge.
        places_F = centres_F * self.codec.sample_rate // (self.grid.sample_rate * self.codec.hop)
        return codes_BFQ[:, places_F[places_F < codes_BFQ.shape[1]].to(codes_BFQ.device)]

    def _at_its_rate(self, samples_BT: Tensor) -> Tensor:
        ours, its = self.grid.sample_rate, self.codec.sample_rate
        if ours == its:
            return samples_BT
        rows = [torch.from_numpy(resample(row_T.numpy(), ours, its)) for row_T in samples_BT.float().cpu()]
        return torch.stack(rows).to(samples_BT.device)


class OwnCodec(nn.Module):
    """What `carrara pretrain rvq-vae` made."""

    centred = True

    def __init__(self, folder: Path, books: int) -> None:
        """Read the codec, of which so many books are wanted.

        Raises:
            UsageError: it has fewer.
            WeightsError: there is none in the folder.
        """
        super().__init__()
        self.network = rvq_vae.load(folder)
        settings = self.network.settings
        if books > settings.num_codebooks:
            raise UsageError(f"{folder}: has {settings.num_codebooks} books, not {books}; lower books")
        self.sample_rate, self.hop, self.size, self.books = (
            settings.sample_rate,
            settings.hop,
            settings.codebook_size,
            books,
        )

    def encode(self, samples_BT: Tensor) -> Tensor:
        """Return the codes, int64 `[B, F, Q]`."""
        return self.network.encode(samples_BT, self.books)


class EnCodec(nn.Module):
    """EnCodec's encoder and its first books; causal, one channel, as the 24-kHz model is."""

    centred = False

    def __init__(self, weights: str, books: int) -> None:
        """Read the model from a folder or the hub.

        Raises:
            UsageError: transformers is not installed, or the model is not one like the 24-kHz one.
            WeightsError: the weights cannot be had.
        """
        super().__init__()
        model = _read(weights)
        config = model.config
        if config.audio_channels != 1 or config.normalize or not config.use_causal_conv:
            raise UsageError(f"{weights}: not a causal EnCodec of one channel; use facebook/encodec_24khz or a copy")
        if books > len(model.quantizer.layers):
            raise UsageError(f"{weights}: has {len(model.quantizer.layers)} books, not {books}; lower books")
        self.sample_rate, self.hop, self.size = config.sampling_rate, config.hop_length, config.codebook_size
        self.books = books
        layers = list(model.encoder.layers)
        place = next((at for at, layer in enumerate(layers) if hasattr(layer, "lstm")), len(layers))
        self.before = nn.Sequential(*layers[:place])
        self.lstm = layers[place].lstm if place < len(layers) else None
        self.after = nn.Sequential(*layers[place + 1 :])
        self.quantizers: Any = nn.ModuleList(model.quantizer.layers[:books])

    @torch.no_grad()
    def encode(self, samples_BT: Tensor) -> Tensor:
        """Return the codes of the first books, int64 `[B, F, Q]`; F counts a begun last frame."""
        codes, state, heard_BCF = [], None, None
        frames = -(-samples_BT.shape[1] // self.hop)
        with float32(samples_BT):
            for first in range(0, frames, PIECE):
                begin = max(first - CONTEXT, 0)
                piece_BT = samples_BT[:, begin * self.hop : (first + PIECE) * self.hop].float()
                found_BCF = self.before(piece_BT[:, None])[..., first - begin :]
                if self.lstm is not None:
                    rows_FBC = found_BCF.permute(2, 0, 1)
                    remembered_FBC, state = self.lstm(rows_FBC, state)
                    found_BCF = (remembered_FBC + rows_FBC).permute(1, 2, 0)
                # The convolution after the LSTM hears what the LSTM gave before this piece.
                joined_BCF = found_BCF if heard_BCF is None else torch.cat([heard_BCF, found_BCF], dim=2)
                extra = joined_BCF.shape[2] - found_BCF.shape[2]
                codes.append(self._quantised(self.after(joined_BCF)[..., extra:]))
                heard_BCF = joined_BCF[..., -CONTEXT:]
        return torch.cat(codes, dim=1)

    def _quantised(self, latent_BCF: Tensor) -> Tensor:
        codes = []
        # Its own lookup, so that ties and rounding fall as they do in transformers.
        for quantizer in self.quantizers:
            codes.append(quantizer.encode(latent_BCF))
            latent_BCF = latent_BCF - quantizer.decode(codes[-1])
        return torch.stack(codes, dim=2)


def _read(weights: str) -> Any:
    try:
        from transformers import EncodecModel
    except ImportError:
        raise UsageError(
            "source encodec needs transformers; install carrara[encodec], or use source=residual-k-means"
        ) from None
    try:
        return EncodecModel.from_pretrained(weights)
    except (OSError, ValueError) as problem:
        reason = " ".join(str(problem).split())[:150]
        raise WeightsError(
            f"{weights}: EnCodec cannot be read from there ({reason}); give weights=FOLDER with config.json and "
            "model.safetensors, or its name on the hub"
        ) from None
