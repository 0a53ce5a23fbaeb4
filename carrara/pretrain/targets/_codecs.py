"""Codes of neural codecs: our own RVQ-VAE from a folder, and EnCodec at 24 kHz through transformers; see codes.py.

A codec has its own sample rate and hop. Each frame of the student takes the codec's frame that contains its centre: at
24 kHz and 75 frames per second the EnCodec frame with the same number (as in MERT); at other rates the audio is
resampled first. Our own codec is centred, so if sample rate and hop are the student's, the audio is shifted until both
frame centres coincide.

EnCodec [defossez2022] (its authors' weights are `facebook/encodec_24khz` on the hub) is causal, with an LSTM after its
convolutions. Long audio is encoded in chunks that hand on the LSTM's state, which gives the codes of the whole file
with the memory of one chunk.

Letters: B batch, T samples, F frames, Q codebooks, C channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.audio.resample import resample
from carrara.core.errors import UsageError, WeightsError
from carrara.encoders._frame_encoder import FrameGrid
from carrara.nn.spectral.framing import no_autocast
from carrara.pretrain.codec_folder import load_codec

# Frames per chunk of EnCodec, and frames before a chunk that its convolutions need again.
CHUNK_FRAMES, CONTEXT_FRAMES = 2250, 16


class CodecOnGrid(nn.Module):
    """A codec whose codes are placed on the student's frames."""

    def __init__(self, codec: TrainedCodec | EnCodec, grid: FrameGrid) -> None:
        super().__init__()
        self.codec, self.grid = codec, grid
        same = (grid.sample_rate, grid.hop) == (codec.sample_rate, codec.hop)
        self.shift = grid.centre - codec.hop // 2 if same and codec.is_centred else 0

    def encode(self, samples_BT: Tensor, frames: int) -> Tensor:
        """Return the codes, int64 `[B, F, Q]`; F is `frames`, or less if the audio ends."""
        if self.shift:
            return self.codec.encode(functional.pad(samples_BT, (-self.shift, 0)))[:, :frames]
        ours, theirs = self.grid.sample_rate, self.codec.sample_rate
        if ours != theirs:
            rows = [torch.from_numpy(resample(row_T.numpy(), ours, theirs)) for row_T in samples_BT.float().cpu()]
            samples_BT = torch.stack(rows).to(samples_BT.device)
        codes_BFQ = self.codec.encode(samples_BT)
        centres_F = torch.arange(frames) * self.grid.hop + self.grid.centre
        # In integers, so that no centre is rounded into a neighbouring frame.
        indices_F = centres_F * theirs // (ours * self.codec.hop)
        return codes_BFQ[:, indices_F[indices_F < codes_BFQ.shape[1]].to(codes_BFQ.device)]


class TrainedCodec(nn.Module):
    """Our own codec, from the folder that `carrara pretrain rvq-vae` wrote."""

    is_centred = True

    def __init__(self, folder: Path, num_codebooks: int) -> None:
        """Read the codec, of which the first codebooks are used.

        Raises:
            UsageError: it has fewer codebooks.
            WeightsError: there is no codec in the folder.
        """
        super().__init__()
        self.network = load_codec(folder)
        settings = self.network.settings
        if num_codebooks > settings.num_codebooks:
            raise UsageError(
                f"{folder}: has {settings.num_codebooks} codebooks, not {num_codebooks}; give --set "
                f"targets.codes.num_codebooks={settings.num_codebooks}"
            )
        self.sample_rate, self.hop = settings.sample_rate, settings.hop
        self.codebook_size, self.num_codebooks = settings.codebook_size, num_codebooks

    def encode(self, samples_BT: Tensor) -> Tensor:
        """Return the codes, int64 `[B, F, Q]`."""
        return self.network.encode(samples_BT, self.num_codebooks)


class EnCodec(nn.Module):
    """EnCodec's encoder with its first codebooks; causal and mono, as the 24-kHz model."""

    is_centred = False

    def __init__(self, weights: str, num_codebooks: int) -> None:
        """Read the model from a folder or the hub.

        Raises:
            UsageError: transformers is not installed, or the model differs in kind from the 24-kHz one.
            WeightsError: the weights cannot be read.
        """
        super().__init__()
        model = _read_encodec(weights)
        config = model.config
        if config.audio_channels != 1 or config.normalize or not config.use_causal_conv:
            raise UsageError(
                f"{weights}: is not a causal mono EnCodec; give --set targets.codes.weights=facebook/encodec_24khz"
            )
        available = len(model.quantizer.layers)
        if num_codebooks > available:
            raise UsageError(
                f"{weights}: has {available} codebooks, not {num_codebooks}; give --set "
                f"targets.codes.num_codebooks={available}"
            )
        self.sample_rate, self.hop, self.codebook_size = config.sampling_rate, config.hop_length, config.codebook_size
        layers = list(model.encoder.layers)
        index = next((index for index, layer in enumerate(layers) if hasattr(layer, "lstm")), len(layers))
        self.before = nn.Sequential(*layers[:index])
        self.lstm = layers[index].lstm if index < len(layers) else None
        self.after = nn.Sequential(*layers[index + 1 :])
        self.quantizers: Any = nn.ModuleList(model.quantizer.layers[:num_codebooks])

    @torch.no_grad()
    def encode(self, samples_BT: Tensor) -> Tensor:
        """Return the codes of the first codebooks, int64 `[B, F, Q]`; F includes an incomplete last frame."""
        codes, state, context_BCF = [], None, None
        frames = -(-samples_BT.shape[1] // self.hop)
        with no_autocast(samples_BT):
            for first in range(0, frames, CHUNK_FRAMES):
                begin = max(first - CONTEXT_FRAMES, 0)
                chunk_BT = samples_BT[:, begin * self.hop : (first + CHUNK_FRAMES) * self.hop].float()
                hidden_BCF = self.before(chunk_BT[:, None])[..., first - begin :]
                if self.lstm is not None:
                    inputs_FBC = hidden_BCF.permute(2, 0, 1)
                    outputs_FBC, state = self.lstm(inputs_FBC, state)
                    hidden_BCF = (outputs_FBC + inputs_FBC).permute(1, 2, 0)
                # The convolution after the LSTM also needs the LSTM's output before this chunk.
                joint_BCF = hidden_BCF if context_BCF is None else torch.cat([context_BCF, hidden_BCF], dim=2)
                latent_BCF = self.after(joint_BCF)[..., joint_BCF.shape[2] - hidden_BCF.shape[2] :]
                codes.append(self._quantise(latent_BCF))
                context_BCF = joint_BCF[..., -CONTEXT_FRAMES:]
        return torch.cat(codes, dim=1)

    def _quantise(self, latent_BCF: Tensor) -> Tensor:
        codes = []
        # transformers' own lookup, so that ties and rounding are the same.
        for quantizer in self.quantizers:
            codes.append(quantizer.encode(latent_BCF))
            latent_BCF = latent_BCF - quantizer.decode(codes[-1])
        return torch.stack(codes, dim=2)


def _read_encodec(weights: str) -> Any:
    try:
        from transformers import EncodecModel
    except ImportError:
        raise UsageError(
            "source encodec needs transformers; install carrara[encodec], or take codes that are fitted "
            "on the corpus with --set targets.codes.source=residual-k-means"
        ) from None
    try:
        return EncodecModel.from_pretrained(weights)
    except (OSError, ValueError) as problem:
        reason = " ".join(str(problem).split())[:150]
        raise WeightsError(
            f"{weights}: EnCodec cannot be read from there ({reason}); give --set "
            "targets.codes.weights=FOLDER with config.json and model.safetensors, or its name on the hub"
        ) from None
