"""What the conformers on mel spectrograms share: spectrogram, subsampling and conformer, taken one after the other.

Letters: B batch, T samples, M bands, F frames (those of the spectrogram where M follows, else output frames), L layers
counted with layer 0, D dimension.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from carrara.core.settings import Settings
from carrara.encoders._base import Card
from carrara.encoders._frame_encoder import FrameEncoder
from carrara.nn.init import build_constants, init_weights
from carrara.nn.spectral.framing import Framing
from carrara.nn.spectral.mel import MelSpectrogram
from carrara.nn.transformer.conformer import Conformer, ConformerShape

# Decibels of the Million Song Dataset's mel bands, as the authors of MusicFM and MuQ have them.
MSD_MEAN, MSD_STD = 6.768444971712967, 18.417922652295623
# In decibels, the smallest measured deviation: a band that is silent in the corpus would be amplified without end.
MIN_MEASURED_STD = 1.0


class StackSettings(Settings):
    """The conformer's sizes; the defaults are those of MusicFM and MuQ.

    Attributes:
        dim, num_layers, num_heads, ffn_dim: sizes of the conformer.
        kernel: frames of its convolution along time.
        dropout: in training.
        mask_vector: whether there is a learned vector in the place of masked frames, for pre-training.
    """

    dim: int = Field(default=1024, ge=2)
    num_layers: int = Field(default=12, ge=1)
    num_heads: int = Field(default=16, ge=1)
    ffn_dim: int = Field(default=4096, ge=1)
    kernel: int = Field(default=31, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    mask_vector: bool = False

    @model_validator(mode="after")
    def _check(self) -> StackSettings:
        if self.dim % (2 * self.num_heads):
            raise ValueError(f"dim {self.dim} must be divisible by twice num_heads {self.num_heads}")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} must be odd")
        return self

    @property
    def shape(self) -> ConformerShape:
        """The conformer's sizes."""
        return ConformerShape(self.num_layers, self.dim, self.num_heads, self.ffn_dim, self.kernel, self.dropout)


class MelFrameEncoder(FrameEncoder):
    """The encoder, with random weights of that seed (none under torch's meta device).

    A subclass builds its subsampling in `build_subsampling` and says how it is used and initialized.
    """

    settings: StackSettings
    framing: Framing
    mel: MelSpectrogram
    mel_mean: Tensor
    free_settings = frozenset({"dropout", "mel_mean", "mel_std"})

    def __init__(self, settings: StackSettings, card: Card, seed: int = 0):
        super().__init__()
        self.settings = settings
        with torch.device("meta"):
            self.build_subsampling()
            self.conformer = Conformer(settings.shape)
            self.masked_spec_embed = nn.Parameter(torch.empty(settings.dim)) if settings.mask_vector else None
        parameters = sum(parameter.numel() for parameter in self.parameters())
        sizes = {"num_layers": settings.num_layers, "dim": settings.dim}
        self.card = card.model_copy(update={**sizes, "parameters": parameters})
        init_weights(self, self._initialize, seed)
        self.mel = build_constants(self.build_mel)

    @abstractmethod
    def build_subsampling(self) -> None:
        """Add the subsampling and the statistics of decibels."""

    @abstractmethod
    def build_mel(self) -> MelSpectrogram:
        """Return the mel spectrogram, in decibels."""

    @abstractmethod
    def init_subsampling(self, generator: torch.Generator) -> None:
        """Draw the weights of the subsampling and fill the statistics of decibels."""

    @abstractmethod
    def spectrogram(self, samples_BT: Tensor) -> Tensor:
        """Return the normalized spectrogram, the input of the subsampling, `[batch, frames, bands]`."""

    @abstractmethod
    def subsample(self, mel_BFM: Tensor, counts_B: Tensor | None) -> Tensor:
        """Return the input to layer 1, `[batch, output frames, dim]`; `counts_B` frames of each clip are its own."""

    def _initialize(self, generator: torch.Generator) -> None:
        self.init_subsampling(generator)
        self.conformer.init_weights(generator)
        if self.masked_spec_embed is not None:
            # As HuBERT's; drawn last, so that a network without it has the same other weights.
            nn.init.uniform_(self.masked_spec_embed, generator=generator)

    @property
    def stack(self) -> Conformer:
        """The conformer."""
        return self.conformer

    def conv_features(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the output of the subsampling, `[batch, frames, dim]`; undefined after each clip's own frames."""
        if lengths_B is None or bool((lengths_B >= samples_BT.shape[1]).all()):
            return self.subsample(self.spectrogram(samples_BT), None)
        # Each clip by itself, because its end is reflected.
        clips = zip(samples_BT, lengths_B.tolist())
        mels = [self.spectrogram(samples_T[None, :length])[0] for samples_T, length in clips]
        counts_B = torch.tensor([len(mel_FM) for mel_FM in mels], device=samples_BT.device)
        mel_BFM = pad_sequence(mels, batch_first=True)
        beyond = self.framing.num_frames(samples_BT.shape[1]) - mel_BFM.shape[1]
        return self.subsample(nn.functional.pad(mel_BFM, (0, 0, 0, max(beyond, 0))), counts_B)
