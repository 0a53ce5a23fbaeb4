"""Windows of sound through an encoder: batched by similar length, given back in the order in which they came.

Windows are gathered into a short run, sorted by length, cut into batches and encoded, then put back in order; a run is
bounded by its samples and by the features that it makes, so memory stays flat however long the recordings are. On a GPU
that has bfloat16 the encoder runs under autocast; anywhere else in float32.

Letters: B batch, T samples, F frames, L layers counted with row 0, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from carrara.encoders._base import Encoder
from carrara.features.pool import Pool, pool_frames

CNN = "cnn"
RUN_BATCHES = 4
RUN_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Window:
    """A window on its way: the recording's place, its first sample and its samples; none at the recording's end.

    `problem` is the reason why the recording ended early.
    """

    source_index: int
    start: int
    samples_T: np.ndarray | None
    problem: str | None = None


@dataclass(frozen=True)
class EncodePlan:
    """How windows are encoded.

    Attributes:
        device: where.
        pool: what a row is.
        cnn: whether the convolutional features are wanted too.
        batch: windows of a batch at most; none: as many as the device takes well.
    """

    device: str = "cpu"
    pool: Pool = "mean"
    cnn: bool = False
    batch_size: int | None = None

    def batch_limits(self) -> tuple[int, float]:
        """Return the most windows, and the most seconds with their padding, of one batch."""
        on_cpu = torch.device(self.device).type == "cpu"
        if self.batch_size is not None:
            return self.batch_size, float("inf")
        return (16, 60.0) if on_cpu else (64, 320.0)


Rows = dict[str, np.ndarray]


def compute_dtype(device: str) -> str:
    """Return the type in which an encoder computes there: bfloat16 on a GPU that has it, else float32."""
    has = torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported()
    return "bfloat16" if has else "float32"


@torch.inference_mode()
def encode_windows(encoder: Encoder, windows: Iterable[Window], plan: EncodePlan) -> Iterator[tuple[Window, Rows]]:
    """Yield each window with its rows: layer by name ("0" to "L", and "cnn") to float32 `[rows, width]`.

    The window that ends a recording comes with no rows.
    """
    card = encoder.card
    most, seconds = plan.batch_limits()
    run_samples = RUN_BATCHES * min(seconds, most * 30.0) * card.sample_rate
    row_bytes = 4 * ((card.num_layers + 1) * card.dim + (card.cnn_dim or 0) * plan.cnn)
    run: list[Window] = []
    samples, size = 0, 0
    for window in windows:
        run.append(window)
        if window.samples_T is not None:
            samples += len(window.samples_T)
            rows = encoder.frames(len(window.samples_T)) if plan.pool == "frames" else 1
            size += rows * row_bytes
        if samples >= run_samples or size >= RUN_BYTES or len(run) >= RUN_BATCHES * most:
            yield from _run(encoder, run, plan)
            run, samples, size = [], 0, 0
    yield from _run(encoder, run, plan)


def _run(encoder: Encoder, run: Sequence[Window], plan: EncodePlan) -> Iterator[tuple[Window, Rows]]:
    found: dict[int, Rows] = {}
    lengths = {place: len(window.samples_T) for place, window in enumerate(run) if window.samples_T is not None}
    for batch in _batches(lengths, plan, encoder.card.sample_rate):
        samples = [run[place].samples_T for place in batch]
        found.update(zip(batch, _batch(encoder, [s for s in samples if s is not None], plan)))
    for place, window in enumerate(run):
        yield window, found.pop(place, {})


def _batches(lengths: dict[int, int], plan: EncodePlan, sample_rate: int) -> Iterator[list[int]]:
    """Yield the places of the windows of each batch, longest first, so that a batch too large fails at once."""
    most, seconds = plan.batch_limits()
    batch: list[int] = []
    for place in sorted(lengths, key=lambda place: -lengths[place]):
        longest = lengths[batch[0]] if batch else 0
        too_many = (len(batch) + 1) * longest > seconds * sample_rate
        if batch and (len(batch) >= most or too_many or lengths[place] < longest // 2):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _batch(encoder: Encoder, samples: Sequence[np.ndarray], plan: EncodePlan) -> list[Rows]:
    lengths_B = torch.tensor([len(samples_T) for samples_T in samples])
    padded_BT = np.zeros((len(samples), int(lengths_B.max())), dtype=np.float32)
    for row_T, samples_T in zip(padded_BT, samples):
        row_T[: len(samples_T)] = samples_T
    samples_BT, lengths_B = torch.from_numpy(padded_BT).to(plan.device), lengths_B.to(plan.device)
    frames_B = [encoder.frames(len(samples_T)) for samples_T in samples]
    autocast: Any = nullcontext()
    if compute_dtype(plan.device) == "bfloat16":
        autocast = torch.autocast("cuda", dtype=torch.bfloat16)
    with autocast:
        layers_BLFD = encoder(samples_BT, lengths_B)
        cnn_BFD = encoder.cnn(samples_BT, lengths_B) if plan.cnn else None
    found = [{str(layer): row for layer, row in enumerate(rows)} for rows in pool_frames(layers_BLFD, frames_B, plan.pool)]
    if cnn_BFD is not None:
        for rows, extra_LFD in zip(found, pool_frames(cnn_BFD[:, None], frames_B, plan.pool)):
            rows[CNN] = extra_LFD[0]
    return found
