"""Encoders for other benchmarks: MTEB's model wrapper, X-ARES's encoder, HEAR's module.

    mteb.evaluate(carrara.adapters.mteb("muq"), tasks=[...])
    xares.audio_encoder_checker.check_audio_encoder(carrara.adapters.xares("mert-v1-95m"))
    module = carrara.adapters.hear("mert-v1-95m")        load_model, get_scene_embeddings, get_timestamp_embeddings

Each takes a name, folder or hub id, an encoder, a network or a function, as `carrara.bench` does, and the layer whose
features count: 0 to L, by default the last. A recording longer than the encoder's window is encoded in windows. Nothing
of the other packages is imported until its adapter is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from carrara.audio.resample import resample
from carrara.audio.windows import window_spans
from carrara.bench.leaderboard.mteb_results import mteb_model_name
from carrara.core.errors import UsageError
from carrara.encoders._base import Encoder
from carrara.encoders._hub.any_encoder import AnyEncoder, resolve_encoder
from carrara.encoders._text.tower import JointAudio, TextEncoder
from carrara.features.encode import EncodePlan, encode_recordings, merge_windows
from carrara.features.windows import Pool, WindowSpec, window_grid

HEAR_RATES = (16_000, 22_050, 44_100, 48_000)


def encode_arrays(
    encoder: Encoder, clips: Sequence[np.ndarray], layer: int, pool: Pool, device: str = "cpu"
) -> list[np.ndarray]:
    """Return a layer's features of clips in memory: the mean over a clip's windows `[1, D]`, or its frames `[F, D]`.

    Args:
        encoder: in evaluation mode, on the device.
        clips: mono samples at the encoder's rate, `[T]` each.
        layer: 0 to L.
        pool: `mean` or `frames`.
        device: of the encoder.

    Raises:
        UsageError: a clip has no samples.
    """
    grid = window_grid(encoder, WindowSpec(pool=pool))
    if any(not len(clip_T) for clip_T in clips):
        raise UsageError(f"{encoder.card.name}: a clip has no samples; leave it out")

    def windows(clip_T: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        samples_T = np.ascontiguousarray(clip_T, dtype=np.float32)
        for start, length in window_spans(len(samples_T), grid.window, grid.hop, grid.min_tail):
            yield start, samples_T[start : start + length]

    sources = [partial(windows, clip_T) for clip_T in clips]
    encoded: list[np.ndarray] = []
    with closing(encode_recordings(encoder, sources, EncodePlan(device, pool))) as recordings:
        for _, own in recordings:
            rows_FD = np.concatenate([rows[str(layer)] for _, rows in merge_windows(own, encoder, pool)])
            encoded.append(rows_FD if pool == "frames" else rows_FD.mean(0, keepdims=True))
    return [rows_FD.astype(np.float32) for rows_FD in encoded]


def mteb(encoder: AnyEncoder, layer: int | None = None, device: str = "cpu") -> Any:
    """Return a model for `mteb.evaluate`: mean embeddings of audio, and of texts where the encoder has a text tower.

    With a text tower and no layer, audio is embedded in the space of its texts. Metadata is the card's; the revision is
    the start of the weights' hash.

    Raises:
        UsageError: mteb is not installed, or the encoder has no such layer.
    """
    try:
        from mteb.models import ModelMeta
        from mteb.models.abs_encoder import AbsEncoder
        from mteb.models.model_meta import ScoringFunction
    except ImportError:
        raise UsageError("the MTEB adapter needs mteb; run `pip install 'carrara[mteb]'`") from None
    resolved = resolve_encoder(encoder, device)
    text_tower = resolved if isinstance(resolved, TextEncoder) else None
    audio = JointAudio(resolved) if text_tower is not None and layer is None else resolved
    index = _layer_index(audio, layer)

    class CarraraModel(AbsEncoder):
        """An encoder as MTEB calls it."""

        def __init__(self) -> None:
            card = resolved.card
            self.model = resolved
            self.mteb_model_meta = ModelMeta.create_empty(
                {
                    "name": mteb_model_name(card.name),
                    "revision": resolved.hash_weights()[:12],
                    "n_parameters": card.parameters or None,
                    "embed_dim": audio.card.dim,
                    "open_weights": True,
                    "framework": ["PyTorch"],
                    "similarity_fn_name": ScoringFunction.COSINE,
                    "modalities": ["audio", "text"] if text_tower is not None else ["audio"],
                    "experiment_kwargs": None if layer is None else {"layer": layer},
                }
            )

        def encode(
            self, inputs: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, prompt_type: Any = None,
            **options: Any,
        ) -> np.ndarray:  # fmt: skip
            """Return an embedding of each input, float32 `[N, D]`; of audio with a text, the sum of both."""
            inputs.collate_fn = _columns
            batches = []
            for batch in inputs:
                parts = []
                if "audio" in batch:
                    clips = [_to_mono(item, audio.card.sample_rate) for item in batch["audio"]]
                    parts.append(np.concatenate(encode_arrays(audio, clips, index, "mean", device)))
                if "text" in batch:
                    if text_tower is None:
                        raise UsageError(f"{resolved.card.name}: has no text tower, and the task has texts")
                    parts.append(text_tower.encode_text(list(batch["text"])).cpu().numpy())
                batches.append(np.sum(parts, axis=0))
            return np.concatenate(batches)

    return CarraraModel()


def xares(encoder: AnyEncoder, layer: int | None = None, device: str = "cpu") -> nn.Module:
    """Return an encoder for X-ARES: samples `[B, T]` → frames `[B, F, D]`, with its rate, dimension and hop.

    Raises:
        UsageError: the encoder has no frames, or no such layer.
    """
    return XaresEncoder(resolve_encoder(encoder, device), layer, device)


class XaresEncoder(nn.Module):
    """An encoder as X-ARES calls it.

    Attributes:
        sampling_rate: in Hz.
        output_dim: D.
        hop_size_in_ms: from one frame to the next.
    """

    def __init__(self, encoder: Encoder, layer: int | None, device: str) -> None:
        super().__init__()
        self.encoder, self.layer, self.device = encoder, _layer_index(encoder, layer), device
        self.sampling_rate, self.output_dim = encoder.card.sample_rate, encoder.card.dim
        self.hop_size_in_ms = 1000 / _frame_rate(encoder, "X-ARES")

    def forward(self, audio: Tensor) -> Tensor:
        """Return the frames of a batch of clips of equal length."""
        clips = list(audio.detach().cpu().float().reshape(len(audio), -1).numpy())
        frames = encode_arrays(self.encoder, clips, self.layer, "frames", self.device)
        return torch.from_numpy(np.stack(frames)).to(audio.device)


def hear(encoder: AnyEncoder, layer: int | None = None, device: str = "cpu") -> ModuleType:
    """Return a module with HEAR's functions `load_model`, `get_scene_embeddings` and `get_timestamp_embeddings`.

    HEAR imports modules by name: put `sys.modules["my_encoder"] = carrara.adapters.hear(...)` before its runner, or its
    three functions into a file. Encoders whose sample rate HEAR does not have take the next higher one and resample.

    Raises:
        UsageError: the encoder has no such layer.
    """
    resolved = resolve_encoder(encoder, device)
    module = ModuleType(f"carrara_hear_{resolved.card.name}".replace("-", "_"), "HEAR's common API of an encoder.")

    def load_model(model_file_path: str = "") -> HearModel:
        own = resolve_encoder(model_file_path, device) if model_file_path else resolved
        return HearModel(own, layer, device)

    def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
        return model.embed(audio, "mean")[:, 0]

    def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
        rate = _frame_rate(model.encoder, "get_timestamp_embeddings")
        frames_BFD = model.embed(audio, "frames")
        middle_F = (torch.arange(frames_BFD.shape[1], device=audio.device) + 0.5) / rate * 1000
        return frames_BFD, middle_F.expand(len(frames_BFD), -1)

    functions = (load_model, get_scene_embeddings, get_timestamp_embeddings)
    vars(module).update({function.__name__: function for function in functions})
    return module


class HearModel(nn.Module):
    """An encoder as HEAR calls it.

    Attributes:
        sample_rate: of the audio, in Hz.
        scene_embedding_size, timestamp_embedding_size: D.
    """

    def __init__(self, encoder: Encoder, layer: int | None, device: str) -> None:
        super().__init__()
        self.encoder, self.layer, self.home = encoder, _layer_index(encoder, layer), device
        own = encoder.card.sample_rate
        self.sample_rate = next((rate for rate in HEAR_RATES if rate >= own), HEAR_RATES[-1])
        self.scene_embedding_size = self.timestamp_embedding_size = encoder.card.dim

    def embed(self, audio: Tensor, pool: Pool) -> Tensor:
        """Return the features of a batch of clips `[B, T]`, `[B, 1, D]` or `[B, F, D]`, on the audio's device."""
        rate = self.encoder.card.sample_rate
        clips = [resample(clip_T, self.sample_rate, rate) for clip_T in audio.detach().cpu().float().numpy()]
        # HEAR's runner may have moved the model.
        device = str(next((tensor.device for tensor in self.encoder.parameters()), self.home))
        return torch.from_numpy(np.stack(encode_arrays(self.encoder, clips, self.layer, pool, device))).to(audio.device)


def _layer_index(encoder: Encoder, layer: int | None) -> int:
    """Return the number of a layer; None is the last.

    Raises:
        UsageError: the encoder has no such layer.
    """
    last = encoder.card.num_layers
    if layer is not None and not 0 <= layer <= last:
        raise UsageError(f"layer={layer}: {encoder.card.name} has the layers 0 to {last}")
    return last if layer is None else layer


def _frame_rate(encoder: Encoder, needs: str) -> float:
    if encoder.card.frame_rate is None:
        raise UsageError(f"{encoder.card.name} has no frames, one vector for a clip, and {needs} needs frames")
    return encoder.card.frame_rate


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return a batch by column."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def _to_mono(item: Any, rate: int) -> np.ndarray:
    """Return the samples of MTEB's audio, channels first, as mono at a sample rate, `[T]`."""
    samples = np.asarray(item["array"], dtype=np.float32)
    mono_T = samples if samples.ndim == 1 else samples.mean(0)
    return resample(mono_T, int(item["sampling_rate"]), rate)
