"""The interface of every encoder: samples in, features of every layer out.

Letters: B batch, T samples, F frames, L layers (layer 0 included), D dim, C channels of the convolutional front end.

Layer 0 is the input to the first Transformer layer, layer i the output of the i-th. The convolutional features, which
are best for key detection in Music2Vec [music2vec-poster], are a named extra, "cnn".

Encoders with a text tower are `carrara.encoders._text.tower.TextEncoder`: they also have `encode_text(texts)` and
`encode_audio_joint(samples, lengths)`, unit vectors `[N, D]` and `[B, D]` in one space. No other encoder has these
attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from carrara.core.errors import UsageError
from carrara.core.paths import user_path
from carrara.core.printable import count_of
from carrara.core.settings import Settings
from carrara.formats.weights import hash_tensors, load_state_dict_strict

MAX_CHANNELS = 8


class Card(Settings):
    """Facts about an encoder that are known without running it.

    Attributes:
        name: Registered name, or name of the folder it was loaded from.
        sample_rate: Of the samples that it takes, in Hz.
        frame_rate: Of its features, in Hz; None for one vector per clip.
        num_layers: Number of layers; `forward` returns one more, layer 0.
        dim: Size of a feature vector.
        cnn_dim: Size of a vector of the extra "cnn"; None if there is no such extra.
        joint_dim: Size of a vector in the space of its text tower; None if it has none.
        window_seconds: Longest input that it should encode at once; None means any length.
        parameters: Number of parameters.
        license: Licence of the weights, as the authors state it.
        commercial_use: Whether that licence allows commercial use; None if unknown.
        is_gated: Whether downloads from the hub require accepting the licence there.
        trained_on: Names of the datasets.
        training_hours: Hours of audio that it was trained on: the lowest and the highest number that sources state;
            None if none does.
        pretraining_task: What it was trained to do; "" if it is yours to train.
        input: What the network gets: waveform, log-mel …
        network: Kinds and numbers of layers.
        context_seconds: Length of the crops that it was trained on; None if unknown.
        stride_seconds: From one vector to the next before a clip's are averaged; None for 1 / frame_rate.
        paper: Citation or address.
        benchmark_setup: How a published benchmark ran it, as "benchmark: windows and stride; pooling; normalisation".
        files: Official files, as `org/repository/file` on the hub or a URL, each with its SHA-256 ("" if unknown).
        is_standardised: Whether each clip's samples are scaled to mean 0 and variance 1 first; None where that is no
            choice.
        is_constant: Whether its features are the same for all audio; tasks then get their best constant answer.
        output_version: Incremented whenever the output for the same weights changes.
        weights_sha256: Hash of the weights.
    """

    name: str
    sample_rate: int = Field(gt=0)
    frame_rate: float | None
    num_layers: int = Field(ge=0)
    dim: int = Field(ge=1)
    cnn_dim: int | None = None
    joint_dim: int | None = None
    window_seconds: float | None = None
    parameters: int = 0
    license: str = ""
    commercial_use: bool | None = None
    is_gated: bool = False
    trained_on: tuple[str, ...] = ()
    training_hours: tuple[float, float] | None = None
    pretraining_task: str = ""
    input: str = ""
    network: str = ""
    context_seconds: float | None = None
    stride_seconds: float | None = None
    paper: str = ""
    benchmark_setup: str = ""
    files: dict[str, str] = Field(default_factory=dict)
    is_standardised: bool | None = None
    is_constant: bool = False
    output_version: int = 1
    weights_sha256: str = ""

    def describe(self) -> str:
        """Return name, sample rate and sizes in one line."""
        rate = "a vector a clip" if self.frame_rate is None else f"{self.frame_rate:g} frames a second"
        layers = count_of(self.num_layers + 1, "layer")
        sizes = f"{layers} of {self.dim}, {rate}, {self.parameters:,} parameters"
        return f"{self.name}: {self.sample_rate:,} Hz, {sizes}"

    def __repr__(self) -> str:
        return f"<card {self.describe()}>"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        values = self.model_dump(mode="json", exclude={"files"})
        texts = {key: ", ".join(map(str, value)) if isinstance(value, list) else value for key, value in values.items()}
        rows = "".join(
            f"<tr><td>{escape(key)}</td><td>{escape(str(text))}</td></tr>"
            for key, text in texts.items()
            if text not in (None, "")
        )
        return f"<table>{rows}</table>"


# What a card says of the weights, whatever the settings of the network are.
WEIGHT_FACTS = {
    "license",
    "commercial_use",
    "trained_on",
    "training_hours",
    "pretraining_task",
    "context_seconds",
    "paper",
}


def untrained_card(card: Card, name: str) -> Card:
    """Return the card of the same network with weights of its own, without what belongs to those of `card`."""
    network = {"sample_rate", "frame_rate", "num_layers", "dim", "cnn_dim", "joint_dim", "window_seconds", "parameters"}
    return Card(name=name, **card.model_dump(include=network | {"paper", "input", "network"}))


class Encoder(nn.Module):
    """Base of all encoders; a subclass sets `card`, `settings` if it has some, and implements `forward`."""

    card: Card
    settings: Settings = Settings()

    def __call__(
        self,
        samples: Tensor | np.ndarray,
        lengths: Tensor | np.ndarray | Sequence[int] | None = None,
        *,
        gradients: bool | None = None,
    ) -> Tensor:
        """Return the features of every layer, `[batch, layers + 1, frames, dim]`, on the encoder's device.

        Args:
            samples: Floating-point mono samples, nominal ±1, at `card.sample_rate`: `[batch, samples]`, or `[samples]`
                for a batch of one clip.
            lengths: Number of valid samples in each clip, as for `forward`.
            gradients: Whether gradients can flow back. None means in training mode (`encoder.train()`), or where the
                samples require a gradient.

        Raises:
            UsageError: The samples are integers, or have other dimensions, or the lengths do not fit them.
        """
        samples_BT = self._to_batch(samples)
        lengths_B = None if lengths is None else self._to_lengths(lengths, samples_BT)
        if gradients is None:
            gradients = self.training or samples_BT.requires_grad
        with torch.set_grad_enabled(gradients and torch.is_grad_enabled()):
            return super().__call__(samples_BT, lengths_B)

    def _to_batch(self, samples: Tensor | np.ndarray) -> Tensor:
        name = self.card.name
        if isinstance(samples, str | Path):
            raise UsageError(f"{name}: takes samples, not a file; carrara.embed({str(samples)!r}, …) reads files")
        try:
            # torch refuses negative strides and warns of memory that cannot be written; such arrays are copied.
            arrays = (
                samples if isinstance(samples, Tensor) else np.require(np.asarray(samples), requirements=["C", "W"])
            )
            samples_BT = torch.as_tensor(arrays)
        except (TypeError, ValueError, RuntimeError):
            raise UsageError(
                f"{name}: the samples are no array of numbers; give [samples] or [batch, samples], with shorter clips "
                "padded and their lengths"
            ) from None
        if samples_BT.numel() == 0:
            raise UsageError(f"{name}: there are no samples")
        if not samples_BT.is_floating_point():
            raise UsageError(
                f"{name}: the samples are {samples_BT.dtype}; give floating-point ones within ±1 (16-bit samples "
                "divided by 32768)"
            )
        if samples_BT.ndim == 1:
            samples_BT = samples_BT[None]
        if samples_BT.ndim != 2 or (samples_BT.shape[1] <= MAX_CHANNELS and len(samples_BT) > 100 * MAX_CHANNELS):
            shape = ", ".join(map(str, samples_BT.shape))
            raise UsageError(
                f"{name}: the samples have the shape [{shape}]; give [samples] or [batch, samples] of mono audio (the "
                "mean over the channels)"
            )
        device = next((tensor.device for tensor in self.parameters()), samples_BT.device)
        return samples_BT.to(device, torch.float32 if samples_BT.dtype == torch.float64 else samples_BT.dtype)

    def _to_lengths(self, lengths: Tensor | np.ndarray | Sequence[int], samples_BT: Tensor) -> Tensor:
        lengths_B = torch.as_tensor(lengths, device=samples_BT.device)
        if lengths_B.shape != samples_BT.shape[:1]:
            raise UsageError(
                f"{self.card.name}: lengths are a list of numbers of samples, one for each of the "
                f"{count_of(len(samples_BT), 'clip')}; given {lengths}"
            )
        # Values of a tensor are not looked at, which would wait for a GPU.
        if not isinstance(lengths, Tensor) and not all(0 < n <= samples_BT.shape[1] for n in lengths):
            raise UsageError(
                f"{self.card.name}: lengths are numbers of samples from 1 to {samples_BT.shape[1]}; given {lengths}"
            )
        return lengths_B

    def __repr__(self) -> str:
        return f"<encoder {self.card.describe()}>"

    def _repr_html_(self) -> str:
        return self.card._repr_html_()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that `carrara.load` and `from_pretrained` read: config.json, model.safetensors, README.md.

        Raises:
            UsageError: No registered family has this encoder's class of settings.
            StoreError: The folder cannot be written.
        """
        from carrara.encoders._hub.load import save_pretrained

        save_pretrained(self, user_path(folder, "folder"))

    def push_to_hub(self, repository: str, private: bool = False) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face hub, and return the address of the commit.

        Args:
            repository: org/name or user/name, created where it is missing.
            private: Whether a new repository is private.

        Raises:
            UsageError: The encoder cannot be written, the name is none, or the hub refuses; the message says why.
        """
        import tempfile

        from carrara.encoders._hub.push import push_encoder

        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "encoder"
            self.save_pretrained(folder)
            return push_encoder(folder, repository, private)

    @classmethod
    def from_pretrained(cls, spec: str | Path, device: str | torch.device = "cpu") -> Self:
        """Return the encoder that `carrara.load` returns.

        Args:
            spec: A registered name, a folder, or a hub id `org/name`.
            device: Where to put it.

        Raises:
            UsageError: Nothing has that name, or it is another kind of encoder than this class.
            WeightsError: The weights are damaged or another network's.
        """
        from carrara.encoders._hub.load import load

        encoder = load(spec, device)
        if not isinstance(encoder, cls):
            raise UsageError(f"{spec}: is a {type(encoder).__name__}, not a {cls.__name__}; use carrara.load")
        return encoder

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the features of every layer, `[batch, layers + 1, frames, dim]`.

        Args:
            samples_BT: Float32 mono samples, nominal ±1, at `card.sample_rate`.
            lengths_B: Number of valid samples in each clip; the rest is padding. Padding has no influence: the valid
                frames equal those of the clip alone, and the frames after them are zero. None means no padding.
        """
        raise NotImplementedError

    def num_frames(self, samples: int) -> int:
        """Return the number of frames that `forward` returns for that many samples (at least 1)."""
        raise NotImplementedError

    def mean_frames(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the mean of `forward`'s features over each clip's own frames, float32 `[batch, layers + 1, dim]`."""
        layers_BLFD = self(samples_BT, lengths_B).float()
        lengths = [samples_BT.shape[1]] * len(samples_BT) if lengths_B is None else lengths_B.tolist()
        counts_B = torch.tensor([self.num_frames(samples) for samples in lengths], device=layers_BLFD.device)
        return layers_BLFD.sum(dim=2) / counts_B.float()[:, None, None]

    def forward_with_cnn(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return `forward`'s features, and from the same pass the extra "cnn", `[batch, frames, cnn_dim]`.

        Both are zero after each clip's own frames.
        """
        raise NotImplementedError(f"{self.card.name} has no convolutional front end")

    def hash_weights(self) -> str:
        """Return the hash of the weights as they are now, which may have changed since the card was written.

        It is that of the tensors; without tensors the card's, and where the card has none, that of what the encoder
        returns for fixed noise.
        """
        if tensors := self.state_dict():
            return hash_tensors(tensors)
        if self.card.weights_sha256:
            return self.card.weights_sha256
        noise_BT = 0.1 * torch.randn(1, self.card.sample_rate, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return hash_tensors({"layers": self(noise_BT)})

    @property
    def tag_names(self) -> tuple[str, ...]:
        """Names of the tags that `predict_tags` scores; empty if the encoder predicts none."""
        return ()

    def predict_tags(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the probability of each of `tag_names` in each clip, `[batch, tags]`; arguments as for `forward`."""
        raise NotImplementedError(f"{self.card.name} predicts no tags")


@dataclass(frozen=True)
class EncoderFamily:
    """What an encoder's file defines as `ENCODER`: one network and its published variants.

    Attributes:
        settings: Class of the settings that the network is built from.
        build: (settings, card, seed) → the encoder with random weights drawn from a generator with that seed.
        variants: Card and settings by the variant's name; the same names as in the file's literal `VARIANTS`.
        has_weights: Whether there are weights to load; false for statistics and noise.
        update_card: (card, settings) → the card of a network with other settings. None if settings change no size.
        load_official: (variant, official file or folder) → the weights by the network's names; raises WeightsError.
            None if no weights are published.
        resize_positions: (weights, settings, source, interpolate) → the weights with positions of the settings' length;
            raises WeightsError if the lengths differ and `interpolate` is false. None if there are no such positions.
        settings_from_files: (variant, settings, official file or folder) → the settings with what else the files hold,
            such as the names of the labels.
    """

    settings: type[Settings]
    build: Callable[[Any, Card, int], Encoder]
    variants: Mapping[str, tuple[Card, Settings]]
    has_weights: bool = True
    update_card: Callable[[Card, Any], Card] | None = None
    load_official: Callable[[str, Path], Mapping[str, Tensor]] | None = None
    resize_positions: Callable[[Any, Any, str, bool], Mapping[str, Tensor]] | None = None
    settings_from_files: Callable[[str, Any, Path], Any] | None = None


_AnyEncoder = TypeVar("_AnyEncoder", bound=Encoder)


def build_with_weights(
    build: Callable[[Any, Card, int], _AnyEncoder],
    settings: Any,
    card: Card,
    tensors: Mapping[str, Tensor],
    source: str,
) -> _AnyEncoder:
    """Return an encoder with these weights, in training mode; its card holds their hash.

    Args:
        build: As in `EncoderFamily`.
        settings: The network's settings.
        card: The encoder's card.
        tensors: The weights by the network's names.
        source: Name of the weights in messages.

    Raises:
        WeightsError: The weights are another network's.
    """
    # Without weights, as with chroma and MFCCs, all tensors are computed when the encoder is built.
    with torch.device("meta" if tensors else "cpu"):
        encoder = build(settings, card, 0)
    load_state_dict_strict(encoder, tensors, source)
    encoder.card = encoder.card.model_copy(update={"weights_sha256": hash_tensors(encoder.state_dict())})
    return encoder
