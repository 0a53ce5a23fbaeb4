"""Any network or function as an encoder: an `nn.Module`, a model of transformers, or a Python function.

It is called as `function(samples, lengths)` with float32 `[batch, samples]` and the number of valid samples of each
clip, and returns `[batch, layers, frames, dim]`, or `[batch, dim]` for one vector a clip. A model of transformers is
called as `model(input_values, output_hidden_states=True)`, and its hidden states are the layers; samples reach it as
they are, so wrap one whose feature extractor normalises them in a function that does the same.

Clips of different lengths are encoded in separate calls, so padding cannot leak into a clip whatever the function does.

Letters: B batch, T samples, L layers, F frames, D dim.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from carrara.core.errors import UsageError
from carrara.core.printable import count_of, one_line
from carrara.core.settings import Settings
from carrara.encoders._base import Card, Encoder

PROBE_SECONDS = (1, 2, 3)
MIN_RATE = 200  # below stands kHz instead of Hz
WINDOW_SECONDS = 30.0


class WrappedSettings(Settings):
    """Nothing can be set."""


class WrappedEncoder(Encoder):
    """A network or function as an encoder; its weights' hash is a hash of what it returns for fixed noise."""

    def hash_weights(self) -> str:
        """Return the hash of what the function returns for fixed noise, as it is now."""
        digest = hashlib.sha256()
        for layers_BLFD in _probe(self.function, self.card.sample_rate, self.card.name):
            digest.update(layers_BLFD.float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def __init__(self, function: Callable[..., Any], card: Card) -> None:
        super().__init__()
        self.card, self.settings = card, WrappedSettings()
        # A module is registered, so that its weights move to a device with the encoder.
        self.function = function
        self._frames: dict[int, int] = {}

    def num_frames(self, samples: int) -> int:
        """Return the number of frames of that many samples: those that the function returns for silence."""
        if self.card.frame_rate is None:
            return 1
        if samples not in self._frames:
            device = next((tensor.device for tensor in self.parameters()), "cpu")
            with torch.no_grad():
                self._frames[samples] = _call(self.function, torch.zeros(1, samples, device=device)).shape[2]
        return self._frames[samples]

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the function's layers, zero after each clip's own frames."""
        if lengths_B is None:
            return _call(self.function, samples_BT)
        features: list[Tensor] = [torch.empty(0)] * len(samples_BT)
        for length in sorted(set(lengths_B.tolist())):
            rows = (lengths_B == length).nonzero().flatten().tolist()
            for row, layers_LFD in zip(rows, _call(self.function, samples_BT[rows, :length])):
                features[row] = layers_LFD
        frames = max(layers_LFD.shape[1] for layers_LFD in features)
        return torch.stack(
            [nn.functional.pad(layers_LFD, (0, 0, 0, frames - layers_LFD.shape[1])) for layers_LFD in features]
        )


def wrap_encoder(
    function: Callable[..., Any], sample_rate: int | None, name: str = "", window_seconds: float | None = WINDOW_SECONDS
) -> WrappedEncoder:
    """Return an encoder of a network or function, in evaluation mode where it is a network.

    Args:
        function: See the module's text.
        sample_rate: Of the samples that it takes, in Hz. None means the one that its `config` names.
        name: Of the encoder in records; by default the function's or the class's.
        window_seconds: Longest input that it gets at once; None means any length.

    Raises:
        UsageError: The sample rate is not known, or the function does not return what it should.
    """
    name = name or getattr(function, "__name__", type(function).__name__).strip("<>")
    config = getattr(function, "config", None)
    rate: Any = sample_rate or getattr(config, "sample_rate", None) or getattr(config, "sampling_rate", None)
    if not rate:
        raise UsageError(f"{name}: give the sample rate that it takes, such as sample_rate=16000")
    if not isinstance(rate, Real) or rate != round(rate) or rate < MIN_RATE:
        raise UsageError(f"{name}: sample_rate={rate!r}: give whole samples a second, such as sample_rate=16000")
    rate = round(rate)
    if isinstance(function, nn.Module):
        function.eval()
    outputs = _probe(function, rate, name)
    frames = [layers_BLFD.shape[2] for layers_BLFD in outputs]
    _, num_layers, _, dim = outputs[0].shape
    for seconds, (_, layers, _, size) in zip(PROBE_SECONDS, (layers_BLFD.shape for layers_BLFD in outputs)):
        if (layers, size) != (num_layers, dim):
            raise UsageError(
                f"{name}: returned {count_of(num_layers, 'layer')} of {dim} values for {PROBE_SECONDS[0]} s and "
                f"{layers} of {size} for {seconds} s; only the frames may depend on the length, and they are the "
                "last dimension but one: [batch, layers, frames, dim]"
            )
    card = Card(
        name=name,
        sample_rate=rate,
        # What a second adds, since the first frames of a clip may need more of it.
        frame_rate=None
        if frames[-1] == frames[0]
        else (frames[-1] - frames[0]) / (PROBE_SECONDS[-1] - PROBE_SECONDS[0]),
        num_layers=num_layers - 1,
        dim=dim,
        window_seconds=window_seconds,
        parameters=sum(map(Tensor.numel, function.parameters())) if isinstance(function, nn.Module) else 0,
    )
    encoder = WrappedEncoder(function, card).eval()
    encoder.card = card.model_copy(update={"weights_sha256": encoder.hash_weights()})
    return encoder


def _probe(function: Callable[..., Any], rate: int, name: str) -> list[Tensor]:
    """Return what a function gives for a second, two and three of fixed noise.

    Raises:
        UsageError: It does not return what it should.
    """
    tensors = function.parameters() if isinstance(function, nn.Module) else iter(())
    device = next((tensor.device for tensor in tensors), "cpu")
    outputs = []
    with torch.no_grad():
        for seconds in PROBE_SECONDS:
            noise_BT = 0.1 * torch.randn(1, seconds * rate, generator=torch.Generator().manual_seed(seconds))
            try:
                outputs.append(_call(function, noise_BT.to(device), name))
            except (IndexError, RuntimeError, TypeError, ValueError) as problem:
                if not _has_hidden_states(function):
                    raise
                raise UsageError(
                    f"{name}: does not take samples [batch, samples] ({type(problem).__name__}: "
                    f"{one_line(str(problem))}); give a function that calls its feature extractor first"
                ) from problem
    return outputs


def _call(function: Callable[..., Any], samples_BT: Tensor, name: str = "the encoder") -> Tensor:
    """Return what a function gives for clips of one length, `[B, L, F, D]`.

    Raises:
        UsageError: It is something else.
    """
    if _has_hidden_states(function):
        states = function(samples_BT, output_hidden_states=True).hidden_states
        return torch.stack([state if state.ndim == 3 else state.flatten(1, -2) for state in states], dim=1)
    lengths_B = torch.full((len(samples_BT),), samples_BT.shape[1], device=samples_BT.device)
    features = function(samples_BT, lengths_B) if _takes_lengths(function) else function(samples_BT)
    if not isinstance(features, Tensor):
        raise UsageError(
            f"{name}: returned {type(features).__name__}, not a tensor [batch, layers, frames, dim]; torch.from_numpy "
            "makes one of an array"
        )
    shape = ", ".join(map(str, features.shape))
    if features.ndim == 2:
        features = features[:, None, None]
    elif features.ndim == 3:
        features = features[:, None]
    if features.ndim != 4 or len(features) != len(samples_BT):
        raise UsageError(
            f"{name}: returned [{shape}] for a batch of {len(samples_BT)}, not [batch, layers, frames, dim], "
            "[batch, frames, dim] or [batch, dim]"
        )
    return features.float()


def _has_hidden_states(function: Callable[..., Any]) -> bool:
    """Return whether it is a model of transformers."""
    return hasattr(getattr(function, "config", None), "output_hidden_states")


def _takes_lengths(function: Callable[..., Any]) -> bool:
    """Return whether a function or a module's `forward` takes a second positional argument."""
    parameters = inspect.signature(
        function.forward if isinstance(function, nn.Module) else function
    ).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in positional for each in parameters) > 1 or any(
        each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters
    )
