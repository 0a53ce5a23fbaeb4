"""Encoders of frames, taken apart into front end and stack: what masked prediction can train.

    samples → `conv_features` → `project` → masked → `stack` → every layer

Which frames are masked, and whether a vector replaces them or noise replaces their samples, is up to the objective
(carrara/pretrain/masks.py). HuBERT's and data2vec's shape, the conformers on mel spectrograms and MAEST's patch
Transformer are such encoders.

Letters: B batch, T samples, F frames, L layers counted with layer 0, D dim, C channels of the front end's output.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.core.errors import UsageError
from carrara.encoders._base import Encoder
from carrara.nn.conv.waveform_frontend import valid_mask
from carrara.nn.transformer.conformer import Conformer
from carrara.nn.transformer.encoder import Transformer
from carrara.nn.transformer.vit import PatchTransformer


@dataclass(frozen=True)
class FrameGrid:
    """Where an encoder's frames are: frame i is centred on sample i × hop + centre.

    Attributes:
        sample_rate: in Hz.
        hop: samples between two frames.
        centre: sample in the middle of frame 0.
    """

    sample_rate: int
    hop: int
    centre: int


class FrameEncoder(Encoder, ABC):
    """Base of the encoders of frames; a subclass defines the front end, the stack and where its frames are.

    Attributes:
        masked_spec_embed: the vector in the place of masked frames; None if the network has none.
        input_dropout: of the projected frames, in training.
        layerdrop: probability of skipping a layer in training.
        free_settings: names of settings that change neither shape nor meaning of the weights of frames.
        head_names: beginnings of the names of weights that frames do not depend on.
    """

    masked_spec_embed: nn.Parameter | None
    input_dropout: float = 0.0
    layerdrop: float = 0.0
    free_settings: frozenset[str] = frozenset()
    head_names: tuple[str, ...] = ()

    @property
    @abstractmethod
    def grid(self) -> FrameGrid:
        """Where the frames are."""

    @property
    @abstractmethod
    def stack(self) -> Transformer | Conformer | PatchTransformer:
        """The layers; those of HuBERT's shape and a conformer's take projected frames and return each output."""

    @abstractmethod
    def conv_features(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the front end's output, `[batch, frames, channels]`; undefined after each clip's own frames."""

    def project(self, features_BFC: Tensor) -> Tensor:
        """Return the input of the stack, `[batch, frames, dim]`, from the front end's output; by default it is that."""
        return features_BFC

    def input_statistics(self, batches: Iterable[Tensor]) -> dict[str, Tensor]:
        """Return buffers by name that a new network takes from its corpus, from crops `[B, T]`; by default none."""
        return {}

    def run_stack(
        self, x_BFD: Tensor, valid_BF: Tensor | None, keep: Callable[[Tensor], Tensor] | None = None
    ) -> list[Tensor]:
        """Return every layer's output, or what `keep` makes of it at once.

        Frames where `valid_BF` is false are not a clip's own.
        """
        outputs: list[Tensor] = self.stack(x_BFD, valid_BF, keep=keep)
        return outputs

    def predictor_input(self, last_BFD: Tensor) -> Tensor:
        """Return what prediction heads get, `[batch, frames, dim]`, from the last layer's output; by default that."""
        return last_BFD

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the features of every layer, `[batch, layers + 1, frames, dim]` (see `Encoder.forward`)."""
        features_BFC = self.conv_features(samples_BT, lengths_B)
        return self.encode_frames(features_BFC, None if lengths_B is None else self.frame_lengths(lengths_B))

    def mean_frames(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the mean over each clip's own frames, `[batch, layers + 1, dim]`.

        A layer's frames are let go as soon as the next layer has seen them.
        """
        features_BFC = self.conv_features(samples_BT, lengths_B)
        frames = features_BFC.shape[1]
        lengths_B = torch.full((len(features_BFC),), frames) if lengths_B is None else self.frame_lengths(lengths_B)
        valid_BF, counts_B1 = _valid_frames(features_BFC, lengths_B), lengths_B.to(features_BFC.device)[:, None].float()

        def mean(x_BFD: Tensor) -> Tensor:
            own_BFD = x_BFD if valid_BF is None else x_BFD.masked_fill(~valid_BF[..., None], 0)
            # In the order of forward's stacked layers, so that the sum is the same to the last bit.
            return own_BFD.float().contiguous().sum(1) / counts_B1

        return torch.stack(self.layer_outputs(features_BFC, lengths_B, keep=mean), 1)

    def encode_frames(
        self, features_BFC: Tensor, frame_lengths_B: Tensor | None = None, mask_BF: Tensor | None = None
    ) -> Tensor:
        """Return the features of every layer, `[batch, layers + 1, frames, dim]`; zero after each clip's own frames.

        Args:
            features_BFC: output of `conv_features`.
            frame_lengths_B: number of valid frames in each clip; None means all.
            mask_BF: frames that are replaced by the mask vector; None means no frame.
        """
        layers_BLFD = torch.stack(self.layer_outputs(features_BFC, frame_lengths_B, mask_BF), 1)
        valid_BF = _valid_frames(features_BFC, frame_lengths_B)
        return layers_BLFD if valid_BF is None else layers_BLFD.masked_fill(~valid_BF[:, None, :, None], 0)

    def layer_outputs(
        self,
        features_BFC: Tensor,
        frame_lengths_B: Tensor | None = None,
        mask_BF: Tensor | None = None,
        keep: Callable[[Tensor], Tensor] | None = None,
    ) -> list[Tensor]:
        """Return the layers + 1 outputs, `[batch, frames, dim]` each, as a list: training needs few of them.

        Unlike `encode_frames`, frames after a clip's own are undefined.

        Args:
            features_BFC, frame_lengths_B, mask_BF: as for `encode_frames`.
            keep: what is returned of an output, made as soon as it is there; None means all of it.

        Raises:
            UsageError: frames are masked, and the network has no mask vector.
        """
        x_BFD = functional.dropout(self.project(features_BFC), self.input_dropout, self.training)
        if mask_BF is not None:
            if self.masked_spec_embed is None:
                raise UsageError(f"{self.card.name}: has no mask vector; masked prediction needs mask_vector=true")
            x_BFD = torch.where(mask_BF[..., None], self.masked_spec_embed.to(x_BFD.dtype), x_BFD)
        return self.run_stack(x_BFD, _valid_frames(features_BFC, frame_lengths_B), keep)

    def frame_lengths(self, lengths_B: Tensor) -> Tensor:
        """Return the number of frames for each clip of that many samples, int64 `[batch]`."""
        return torch.tensor([self.num_frames(samples) for samples in lengths_B.tolist()], device=lengths_B.device)


def _valid_frames(features_BFC: Tensor, frame_lengths_B: Tensor | None) -> Tensor | None:
    """Return which frames are valid, bool `[batch, frames]`; None means all, so that no time is spent on masks."""
    frames = features_BFC.shape[1]
    if frame_lengths_B is None or bool((frame_lengths_B >= frames).all()):
        return None
    return valid_mask(frame_lengths_B, frames, features_BFC.device)
