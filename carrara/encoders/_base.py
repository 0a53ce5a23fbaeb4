"""The promise of every encoder: samples in, one row of features a layer out.

Letters: B batch, T samples, F frames, L layers counted with row 0, D width, C channels of the convolutional front end.

Row 0 is the input to layer 1, row i the output of layer i. The convolutional features, which Music2Vec's authors found
best for key detection (poster 000), are a named extra, "cnn".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from carrara.core.settings import Settings


class Card(Settings):
    """What is known of an encoder without running it.

    Attributes:
        name: name on the shelf, or of the folder it was loaded from.
        sample_rate: of the samples it hears, in Hz.
        frame_rate: of the features it gives, in Hz; none when it answers once for a whole clip.
        layers: number of layers; `forward` gives one row more.
        width: features a frame.
        cnn_dim: width of the extra "cnn"; none where there is none.
        window_seconds: longest stretch that it should hear at once; none: any length.
        parameters: number of weights.
        license: of the weights, as the authors state it.
        commercial_use: whether that licence allows it; none when unknown.
        trained_on: names of the datasets.
        paper: citation or address.
        benchmark: how published benchmarks heard it, in one line: whose: windows and stride; pooling; normalisation.
        files: official files, `org/repository/file` on the hub or a full address, each with its SHA-256 where known.
        code: raised whenever the output for the same weights changes.
        weights: identity of the weights.
    """

    name: str
    sample_rate: int = Field(gt=0)
    frame_rate: float | None
    num_layers: int = Field(ge=0)
    dim: int = Field(ge=1)
    cnn_dim: int | None = None
    window_seconds: float | None = None
    parameters: int = 0
    license: str = ""
    commercial_use: bool | None = None
    trained_on: tuple[str, ...] = ()
    paper: str = ""
    benchmark_setup: str = ""
    files: dict[str, str] = Field(default_factory=dict)
    output_version: int = 1
    weights_sha256: str = ""


class Encoder(nn.Module):
    """Base of all encoders; a subclass gives `settings`, `card` and `forward`."""

    card: Card
    settings: Settings

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the features of every layer, `[batch, layers + 1, frames, width]`.

        Args:
            samples_BT: float32 mono samples, nominal ±1, at `card.sample_rate`.
            lengths_B: how many samples of each row are sound; the rest is padding, which changes nothing: the valid
                frames equal those of the clip alone, and the frames after them are zero.
        """
        raise NotImplementedError

    def frames(self, samples: int) -> int:
        """Return how many frames `forward` gives for that many samples (at least 1)."""
        raise NotImplementedError

    def cnn(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the extra "cnn", `[batch, frames, cnn_dim]`; zero after each clip's own frames."""
        raise NotImplementedError(f"{self.card.name} has no convolutional front end")

    @property
    def tag_names(self) -> tuple[str, ...]:
        """What the numbers that `tags` returns stand for; empty where the encoder tells no tags."""
        return ()

    def tags(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return how probable each of `tag_names` is in each clip, `[batch, tags]`; arguments as of `forward`."""
        raise NotImplementedError(f"{self.card.name} tells no tags")


@dataclass(frozen=True)
class EncoderFamily:
    """What a file of the shelf defines as `ENCODER`: one network shape and its published variants.

    Attributes:
        settings: kind of settings that the network is built from.
        network: (settings, card, seed) → the encoder with random weights drawn from a generator of that seed.
        variants: card and settings by the variant's name; the same names as the file's literal `VARIANTS`.
        trained: whether weights must be had from somewhere; false for those that need none (statistics, noise).
        described: (card, settings) → the card of a network with other settings; none where settings change no size.
        official: (variant's name, a file or folder as its authors publish it) → the weights by the network's own names,
            or WeightsError; none where no one publishes any.
        fitted: (weights, settings, source, whether to interpolate) → the weights, their positions of another length
            stretched to the settings' where that is wished and a WeightsError where not; none where length is nothing.
        told: (variant's name, its settings, such a file or folder) → its settings with what else the files say, such as
            the names of the labels.
    """

    settings: type[Settings]
    build: Callable[[Any, Card, int], Encoder]
    variants: Mapping[str, tuple[Card, Settings]]
    has_weights: bool = True
    update_card: Callable[[Card, Any], Card] | None = None
    load_official: Callable[[str, Path], Mapping[str, Tensor]] | None = None
    resize_positions: Callable[[Any, Any, str, bool], Mapping[str, Tensor]] | None = None
    settings_from_files: Callable[[str, Any, Path], Any] | None = None
