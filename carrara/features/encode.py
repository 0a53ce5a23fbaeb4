"""Encodes windows of audio in batches of similar length, and yields them in the order in which they came.

Windows are gathered into a short run, sorted by length, encoded in batches and put back in order. A run is bounded by
its samples and by the size of its features, so memory stays flat however long the recordings are. On a GPU with
bfloat16 the encoder runs under autocast, elsewhere in float32.

Letters: B batch, T samples, F frames, L layers (layer 0 included), D dim.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from carrara.audio.windows import merge_overlaps
from carrara.core.errors import AudioError
from carrara.encoders._base import Encoder
from carrara.features.prefetch import Source, prefetch
from carrara.features.windows import Pool
from carrara.formats.weights import release_memory

CNN, JOINT = "cnn", "joint"
RUN_BATCHES = 4
RUN_BYTES = 256 * 2**20
WEIGHTS_BYTES = 128 * 2**20  # of weights, from which on a block's are given back after use
BATCH_BYTES = 128 * 2**20  # of the features of all layers of a batch on a CPU, twice of which exist at once

Rows = Mapping[str, np.ndarray]  # name of a layer → its float32 rows [rows, dim]


@dataclass(frozen=True)
class Window:
    """A window of a recording, or without samples the end of one.

    Attributes:
        source_index: Which recording it belongs to.
        start: Its first sample in the recording.
        samples_T: Its samples; None at the recording's end.
        problem: Why the recording could not be decoded further.
    """

    source_index: int
    start: int
    samples_T: np.ndarray | None
    problem: str | None = None


@dataclass(frozen=True)
class EncodePlan:
    """How windows are encoded.

    Attributes:
        device: Where the encoder runs.
        pool: What a row is.
        cnn: Also return the convolutional features.
        batch_size: Largest number of windows in a batch. None means a number that suits the device.
        before_batch: Called before each batch is encoded.
    """

    device: str = "cpu"
    pool: Pool = "mean"
    cnn: bool = False
    batch_size: int | None = None
    before_batch: Callable[[], None] = lambda: None

    def batch_limits(self) -> tuple[int, float]:
        """Return the largest number of windows in a batch, and of seconds with their padding."""
        if self.batch_size is not None:
            return self.batch_size, float("inf")
        return (16, 60.0) if torch.device(self.device).type == "cpu" else (64, 320.0)


def compute_dtype(device: str) -> str:
    """Return the type in which an encoder computes on a device: bfloat16 on a GPU that has it, else float32."""
    on_gpu = torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported()
    return "bfloat16" if on_gpu else "float32"


def encoder_autocast(device: str) -> AbstractContextManager[Any]:
    """Return the context in which an encoder runs on a device."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if compute_dtype(device) == "bfloat16" else nullcontext()


def encode_recordings(
    encoder: Encoder, sources: Iterable[Source[tuple[int, np.ndarray | None]]], plan: EncodePlan, threads: int = 2
) -> Generator[tuple[int, Iterator[tuple[Window, Rows]]], None, None]:
    """Decode recordings ahead, encode them, and yield for each its index and its windows with their rows, in order.

    Use it under `contextlib.closing`: after an error the decoding threads must end before Python can.

    Args:
        encoder: The encoder, on the plan's device.
        sources: For each recording a function that returns its windows: first sample, and samples or None.
        plan: How the windows are encoded.
        threads: How many threads decode.
    """
    max_windows, run_samples = RUN_BATCHES * plan.batch_limits()[0], _run_samples(encoder, plan)

    def weigh(item: tuple[int, np.ndarray | None]) -> float:
        samples_T = item[1]
        return max(0 if samples_T is None else len(samples_T), run_samples / max_windows)

    # While a run is encoded, the next is decoded.
    with closing(prefetch(sources, threads, run_samples, weigh)) as items:
        windows = (
            Window(index, 0, None, None if item is None else str(item))
            if item is None or isinstance(item, AudioError)
            else Window(index, *item)
            for index, item in items
        )
        yield from groupby(_encode_windows(encoder, windows, plan), key=lambda pair: pair[0].source_index)


@torch.inference_mode()
def _encode_windows(encoder: Encoder, windows: Iterable[Window], plan: EncodePlan) -> Iterator[tuple[Window, Rows]]:
    """Yield each window with its rows by layer, "0" to "L" and "cnn"; a window without samples has none."""
    card = encoder.card
    max_windows, run_samples = plan.batch_limits()[0], _run_samples(encoder, plan)
    row_bytes = 4 * ((card.num_layers + 1) * card.dim + (card.cnn_dim or 0) * plan.cnn)
    run: list[Window] = []
    samples, size = 0, 0
    with _blocks_released(encoder):
        for window in windows:
            run.append(window)
            if window.samples_T is not None:
                samples += len(window.samples_T)
                size += row_bytes * (encoder.num_frames(len(window.samples_T)) if plan.pool == "frames" else 1)
            if samples >= run_samples or size >= RUN_BYTES or len(run) >= RUN_BATCHES * max_windows:
                yield from _encode_run(encoder, run, plan)
                run, samples, size = [], 0, 0
                _give_memory_back()
        yield from _encode_run(encoder, run, plan)


@contextmanager
def _blocks_released(encoder: Encoder) -> Iterator[None]:
    """Give the memory of each block's mapped weights back after it has run, if the weights are large.

    For the next batch they are read again, from the system's cache of the file.
    """
    blocks: list[nn.Module] = []
    if sum(parameter.nbytes for parameter in encoder.parameters()) > WEIGHTS_BYTES:
        blocks = [block for module in encoder.modules() if isinstance(module, nn.ModuleList) for block in module]

    def release(block: nn.Module, *_: object) -> None:
        for parameter in block.parameters():
            release_memory(parameter)

    hooks = [block.register_forward_hook(release) for block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _give_memory_back() -> None:
    """Return freed memory to the system; glibc keeps that of tensors of ever new sizes in pieces, half a gigabyte."""
    with suppress(OSError, AttributeError, TypeError):  # another C library, or Windows
        ctypes.CDLL(None).malloc_trim(0)


def _run_samples(encoder: Encoder, plan: EncodePlan) -> float:
    """Return how many samples the windows of a run may have in all."""
    max_windows, max_seconds = plan.batch_limits()
    return RUN_BATCHES * min(max_seconds, max_windows * 30.0) * encoder.card.sample_rate


def merge_windows(windows: Iterable[tuple[Window, Rows]], encoder: Encoder, pool: Pool) -> Iterator[tuple[int, Rows]]:
    """Yield the rows of one recording in order with the index of their first; overlaps of frames are merged.

    Raises:
        AudioError: The recording could not be decoded to its end.
    """
    rate = encoder.card.frame_rate if pool == "frames" else None

    def numbered() -> Iterator[tuple[int, Rows]]:
        for index, (window, rows) in enumerate(windows):
            if window.problem:
                raise AudioError(window.problem)
            if rows:
                yield (index if rate is None else round(window.start * rate / encoder.card.sample_rate)), rows

    return merge_overlaps(numbered())


def _encode_run(encoder: Encoder, run: Sequence[Window], plan: EncodePlan) -> Iterator[tuple[Window, Rows]]:
    rows_of: dict[int, Rows] = {}
    samples = {index: window.samples_T for index, window in enumerate(run) if window.samples_T is not None}
    for batch in _length_batches({index: len(own_T) for index, own_T in samples.items()}, plan, encoder):
        rows_of.update(zip(batch, _encode_batch(encoder, [samples[index] for index in batch], plan)))
    for index, window in enumerate(run):
        yield window, rows_of.pop(index, {})


def _length_batches(lengths: dict[int, int], plan: EncodePlan, encoder: Encoder) -> Iterator[list[int]]:
    """Yield the indices of each batch's windows, longest first, so that a batch too large fails at once."""
    max_windows, max_seconds = plan.batch_limits()
    if plan.batch_size is None and torch.device(plan.device).type == "cpu":
        card = encoder.card
        second_bytes = 4 * (card.num_layers + 1) * card.dim * (card.frame_rate or 0.0)
        max_seconds = min(max_seconds, BATCH_BYTES / max(second_bytes, 1.0))
    batch: list[int] = []
    for index in sorted(lengths, key=lambda index: -lengths[index]):
        longest = lengths[batch[0]] if batch else 0
        too_long = (len(batch) + 1) * longest > max_seconds * encoder.card.sample_rate
        if batch and (len(batch) >= max_windows or too_long or lengths[index] < longest // 2):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _encode_batch(encoder: Encoder, samples: Sequence[np.ndarray], plan: EncodePlan) -> Sequence[Rows]:
    plan.before_batch()
    lengths_B = torch.tensor([len(samples_T) for samples_T in samples])
    padded_BT = np.zeros((len(samples), int(lengths_B.max())), dtype=np.float32)
    for row_T, samples_T in zip(padded_BT, samples):
        row_T[: len(samples_T)] = samples_T
    samples_BT, lengths_B = torch.from_numpy(padded_BT).to(plan.device), lengths_B.to(plan.device)
    with encoder_autocast(plan.device):
        if plan.pool == "mean" and not plan.cnn:
            means_BLD = encoder.mean_frames(samples_BT, lengths_B).cpu().numpy()
            return [{str(layer): row_D[None] for layer, row_D in enumerate(means_LD)} for means_LD in means_BLD]
        if plan.cnn:
            layers_BLFD, cnn_BFD = encoder.forward_with_cnn(samples_BT, lengths_B)
        else:
            layers_BLFD, cnn_BFD = encoder(samples_BT, lengths_B), None
    frames_B = [encoder.num_frames(len(samples_T)) for samples_T in samples]
    rows_of: list[dict[str, np.ndarray]] = [
        {str(layer): rows_RD for layer, rows_RD in enumerate(rows_LRD)}
        for rows_LRD in _pool_frames(layers_BLFD, frames_B, plan.pool)
    ]
    if cnn_BFD is not None:
        for rows, cnn_LRD in zip(rows_of, _pool_frames(cnn_BFD[:, None], frames_B, plan.pool)):
            rows[CNN] = cnn_LRD[0]
    return rows_of


def _pool_frames(layers_BLFD: Tensor, frames_B: list[int], pool: Pool) -> list[np.ndarray]:
    """Return each window's float32 rows `[L, rows, D]`: its own frames, or one row with their mean.

    With `mean-std` the row has their standard deviation after their mean, `[L, 1, 2 D]`.
    """
    layers_BLFD = layers_BLFD.float()
    if pool == "frames":
        return [layers_LFD[:, :frames].cpu().numpy() for layers_LFD, frames in zip(layers_BLFD, frames_B)]
    counts_B = torch.tensor(frames_B, dtype=torch.float32, device=layers_BLFD.device)
    means_BLD = layers_BLFD.sum(dim=2) / counts_B[:, None, None]
    if pool == "mean-std":
        # The frames of a shorter window's padding are zero, but their distance to the mean is not.
        is_own_BF = torch.arange(layers_BLFD.shape[2], device=layers_BLFD.device) < counts_B[:, None]
        squares_BLFD = (layers_BLFD - means_BLD[:, :, None]).square() * is_own_BF[:, None, :, None]
        deviations_BLD = (squares_BLFD.sum(dim=2) / counts_B[:, None, None]).sqrt()
        means_BLD = torch.cat([means_BLD, deviations_BLD], dim=-1)
    return list(means_BLD.cpu().numpy()[:, :, None])
