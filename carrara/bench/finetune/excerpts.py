"""Audio for fine-tuning: the windows to train on, decoded anew in each epoch, and the logits of whole clips.

Training windows are the task's. Where a clip's windows are averaged to one embedding, an epoch takes one of them, drawn
at random; else each is an example. Only the excerpt itself is decoded, in threads ahead of the network. Frame by frame,
training windows begin on the encoder's grid, and evaluation takes the whole clip. In evaluation, windows are split,
batched and encoded as for the feature store, so it equals that of a frozen encoder.

Letters: N examples, B batch, T samples, F frames, L layers with row 0, D features, R rows of logits, K outputs, U
clips.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from carrara.audio.decode import load_audio, read_info
from carrara.audio.windows import window_spans
from carrara.bench.decode import prefetched, undecodable
from carrara.bench.finetune.model import FineTuneModel
from carrara.bench.finetune.settings import FineTuneSettings
from carrara.bench.probes.rng import epoch_permutation
from carrara.bench.split_data import SplitData
from carrara.bench.task_types._base import Frames, ProbeTaskType, State
from carrara.core.clip import Clip
from carrara.core.errors import AudioError
from carrara.core.task import Task
from carrara.encoders._base import Encoder
from carrara.features.encode import EncodePlan, encode_recordings, merge_windows
from carrara.features.extract import decode_windows
from carrara.features.windows import WindowGrid, WindowSpec, window_grid

WINDOW_STREAM = 3  # the random stream of windows, beside those of `carrara.bench.probes.rng`


@dataclass(frozen=True)
class Excerpt:
    """A window of a clip.

    Attributes:
        path: of its file.
        start: in seconds.
        duration: in seconds; None means to the end.
        target: of its rows.
    """

    path: Path
    start: float
    duration: float | None
    target: np.ndarray


@dataclass(frozen=True)
class ExcerptBatch:
    """Windows of a batch: padded samples, their lengths, targets, and whether it opens and closes its step."""

    samples_BT: Tensor
    lengths_B: Tensor
    targets: list[np.ndarray]
    first: bool
    last: bool


def list_excerpts(
    encoder: Encoder, task: Task, task_type: ProbeTaskType, state: State, clips: Sequence[Clip]
) -> list[tuple[Excerpt, ...]]:
    """Return the examples of an epoch, each with the windows of which one is drawn.

    Raises:
        DataError: a clip's file cannot be read.
    """
    sample_rate, grid = encoder.card.sample_rate, training_grid(encoder, task, task_type.frame_level)
    lengths = [_num_samples(clip, sample_rate) for clip in clips]
    rate = encoder.card.frame_rate if task_type.frame_level else None
    frames = Frames([encoder.num_frames(length) for length in lengths], rate) if rate else None
    targets = task_type.targets(task, state, task_type.truths(task, clips), frames)
    examples: list[tuple[Excerpt, ...]] = []
    for clip, samples, clip_target in zip(clips, lengths, targets):
        spans = window_spans(samples, grid.window, grid.hop, grid.min_tail)
        windows = []
        for start, length in spans:
            target = clip_target
            if rate:
                first = round(start * rate / sample_rate)
                target = clip_target[first : first + encoder.num_frames(length)]
            duration = clip.duration if spans == [(0, samples)] else length / sample_rate
            windows.append(Excerpt(clip.path, clip.start + start / sample_rate, duration, np.asarray(target)))
        if task.aggregate == "embedding" and not task_type.frame_level:
            examples.append(tuple(windows))
        else:
            examples.extend((window,) for window in windows)
    return examples


def training_grid(encoder: Encoder, task: Task, frames: bool) -> WindowGrid:
    """Return the training windows of a task; frame by frame they begin on the encoder's grid."""
    spec = WindowSpec(window_seconds=task.window_seconds, tail=task.partial_window, pool="mean")
    grid = window_grid(encoder, spec)
    if not frames or grid.window is None or encoder.card.frame_rate is None:
        return grid
    stride = encoder.card.sample_rate / encoder.card.frame_rate
    hop = max(round(int(grid.window / stride) * stride), 1)
    return WindowGrid(hop, hop, grid.min_tail)


def iter_batches(
    examples: Sequence[Sequence[Excerpt]], settings: FineTuneSettings, seed: int, epoch: int, sample_rate: int
) -> Iterator[ExcerptBatch]:
    """Yield the batches of an epoch, in the order that seed and epoch give.

    Args:
        examples: the windows of which one is drawn for each example.
        settings: size of a batch and number of batches in a step.
        seed: of the training.
        epoch: of the training.
        sample_rate: of the encoder (Hz).

    Raises:
        DataError: a window cannot be decoded.
    """
    rng = np.random.default_rng([seed, WINDOW_STREAM, epoch])
    windows = [
        examples[index][int(rng.integers(len(examples[index])))]
        for index in epoch_permutation(seed, epoch, len(examples)).tolist()
    ]
    step_size = settings.batch * settings.accumulation_steps
    bounds = [
        (low, min(low + settings.batch, begin + step_size, len(windows)))
        for begin in range(0, len(windows), step_size)
        for low in range(begin, min(begin + step_size, len(windows)), settings.batch)
    ]

    def decode(own: Sequence[Excerpt]) -> Iterator[list[np.ndarray]]:
        yield [load_audio(window.path, sample_rate, window.start, window.duration) for window in own]

    for index, audio in prefetched([partial(decode, windows[low:high]) for low, high in bounds], depth=2):
        low, high = bounds[index]
        lengths_B = torch.tensor([len(samples_T) for samples_T in audio])
        samples_BT = torch.zeros(len(audio), int(lengths_B.max()))
        for row_T, samples_T in zip(samples_BT, audio):
            row_T[: len(samples_T)] = torch.from_numpy(samples_T)
        yield ExcerptBatch(
            samples_BT,
            lengths_B,
            [window.target for window in windows[low:high]],
            first=low % step_size == 0,
            last=high % step_size == 0 or high == len(windows),
        )


def clip_logits(model: FineTuneModel, clips: Sequence[Clip], task: Task, device: str) -> tuple[SplitData, Tensor]:
    """Return the rows of clips and their logits `[R, K]`, on the CPU; the model moves to the device.

    A row is a clip's mean embedding, a window, or a frame, as task and task type define.

    Raises:
        DataError: a clip cannot be decoded.
    """
    model.to(device).eval()
    if model.frames:
        spec = WindowSpec(window_seconds=None, pool="frames")
    else:
        spec = WindowSpec(window_seconds=task.window_seconds, tail=task.partial_window, pool="mean")
    encoder = model.encoder
    grid = window_grid(encoder, spec)
    sources = [partial(decode_windows, clip, grid, encoder.card.sample_rate) for clip in clips]
    logits_U = []
    with closing(encode_recordings(encoder, sources, EncodePlan(device, spec.pool))) as recordings:
        for _, encoded in recordings:
            try:
                blocks = [np.stack(list(rows.values())) for _, rows in merge_windows(encoded, encoder, spec.pool)]
            except AudioError as problem:
                raise undecodable(problem) from None
            x_LRD = np.concatenate(blocks, axis=1)
            if not model.frames and task.aggregate == "embedding":
                x_LRD = x_LRD.mean(1, keepdims=True)
            with torch.no_grad():
                logits_U.append(model.probe(torch.from_numpy(x_LRD).to(device)).cpu())
    ends = np.cumsum([len(logits_RK) for logits_RK in logits_U])
    rows_U = [np.arange(end - len(own), end) for own, end in zip(logits_U, ends)]
    frame_rate = encoder.card.frame_rate if model.frames else None
    return SplitData(clips, {}, rows_U, frame_rate), torch.cat(logits_U)


def _num_samples(clip: Clip, sample_rate: int) -> int:
    """Return the number of samples of a clip, from its file's header where that is exact."""
    try:
        info = read_info(clip.path)
        if info.duration_seconds is None or not info.exact:
            return len(load_audio(clip.path, sample_rate, clip.start, clip.duration))
    except AudioError as problem:
        raise undecodable(problem) from None
    remaining = info.duration_seconds - clip.start
    seconds = remaining if clip.duration is None else min(remaining, clip.duration)
    return max(round(seconds * sample_rate), 1)
