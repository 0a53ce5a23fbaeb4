"""Sound for fine-tuning: the windows that are learned from, decoded anew each epoch, and those that are answered.

To learn from, the windows are the task's. Where a clip's windows become one embedding, an epoch hears one of them,
drawn at random; else each is an example. Only the stretch that is heard is decoded, in threads ahead of the network.
Frame by frame, windows begin on the encoder's grid, and what is answered is the whole clip. Windows that are answered
are cut, batched and encoded as for the feature store, so evaluation is the frozen encoder's.

Letters: N examples, B batch, T samples, F frames, L rows of layers, D width, R rows to answer, K outputs, U clips.
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
from carrara.bench.finetune.model import Tunable
from carrara.bench.probes.rng import epoch_permutation
from carrara.bench.task_types._base import Frames, ProbeTaskType, State
from carrara.core.clip import Clip
from carrara.core.errors import AudioError, DataError
from carrara.core.task import Task
from carrara.encoders._base import Encoder
from carrara.features.encode import EncodePlan, encode_recordings, merge_windows
from carrara.features.extract import decode_windows
from carrara.features.prefetch import prefetch
from carrara.features.windows import WindowGrid, WindowSpec, window_grid

WINDOW = 3  # beside ORDER and DROPOUT of carrara.bench.probes.rng
THREADS, DEPTH = 2, 2


@dataclass(frozen=True)
class Excerpt:
    """A window of a clip: place and length in seconds (none: to the end), and what the loss wants of its rows."""

    path: Path
    start: float
    duration: float | None
    target: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Windows that are heard at once: sound, samples of each, targets, and where the batch stands in its step."""

    samples_BT: Tensor
    lengths_B: Tensor
    targets: list[np.ndarray]
    first: bool
    last: bool


@dataclass(frozen=True)
class Draw:
    """How an epoch is cut: windows of a batch, batches of a step; and the seed of its order."""

    batch: int
    accumulate: int
    seed: int

    def steps(self, examples: int) -> int:
        """Return how many steps an epoch over that many examples takes."""
        return -(-examples // (self.batch * self.accumulate))


def excerpts(
    encoder: Encoder, task: Task, answer: ProbeTaskType, state: State, clips: Sequence[Clip]
) -> list[tuple[Excerpt, ...]]:
    """Return the examples of an epoch, each the windows of which one is heard.

    Raises:
        DataError: a clip's file cannot be read.
    """
    card, cut = encoder.card, learning_grid(encoder, task, answer.frame_level)
    lengths = [_samples(clip, card.sample_rate) for clip in clips]
    rate = card.frame_rate if answer.frame_level else None
    grid_of_frames = Frames([encoder.num_frames(length) for length in lengths], rate) if rate else None
    targets = answer.targets(task, state, answer.truths(task, clips), grid_of_frames)
    found: list[tuple[Excerpt, ...]] = []
    for clip, samples, target in zip(clips, lengths, targets):
        spans = window_spans(samples, cut.window, cut.hop, cut.min_tail)
        own = []
        for start, length in spans:
            wanted = target
            if rate:
                first = round(start * rate / card.sample_rate)
                wanted = target[first : first + encoder.num_frames(length)]
            seconds = clip.duration if spans == [(0, samples)] else length / card.sample_rate
            own.append(Excerpt(clip.path, clip.start + start / card.sample_rate, seconds, np.asarray(wanted)))
        if task.aggregate == "embedding" and not answer.frame_level:
            found.append(tuple(own))
        else:
            found.extend((one,) for one in own)
    return found


def learning_grid(encoder: Encoder, task: Task, frames: bool) -> WindowGrid:
    """Return the windows that are learned from; frame by frame they begin on the encoder's grid."""
    cut = window_grid(encoder, WindowSpec(window_seconds=task.window_seconds, tail=task.partial_window, pool="mean"))
    if not frames or cut.window is None or encoder.card.frame_rate is None:
        return cut
    stride = encoder.card.sample_rate / encoder.card.frame_rate
    hop = max(round(int(cut.window / stride) * stride), 1)
    return WindowGrid(hop, hop, cut.min_tail)


def batches(examples: Sequence[Sequence[Excerpt]], draw: Draw, epoch: int, sample_rate: int) -> Iterator[Batch]:
    """Yield an epoch's batches in the order that (seed, epoch) give.

    Raises:
        DataError: a window cannot be decoded.
    """
    which = np.random.default_rng([draw.seed, WINDOW, epoch])
    picks = [
        examples[place][int(which.integers(len(examples[place])))]
        for place in epoch_permutation(draw.seed, epoch, len(examples)).tolist()
    ]
    step = draw.batch * draw.accumulate
    cuts = [
        (
            picks[low : min(low + draw.batch, begin + step)],
            low == begin,
            low + draw.batch >= min(begin + step, len(picks)),
        )
        for begin in range(0, len(picks), step)
        for low in range(begin, min(begin + step, len(picks)), draw.batch)
    ]
    sources = [partial(_sounds, heard, sample_rate) for heard, _, _ in cuts]
    with closing(prefetch(sources, THREADS, DEPTH)) as items:
        for place, item in items:
            if isinstance(item, AudioError):
                raise unheard(str(item))
            if item is not None:
                heard, first, last = cuts[place]
                yield _batch(item, [one.target for one in heard], first, last)


def logits(model: Tunable, clips: Sequence[Clip], task: Task, device: str) -> tuple[Tensor, list[np.ndarray]]:
    """Return the logits for clips, `[R, K]` on the CPU, and which of the rows are each clip's.

    A row is a clip's mean embedding, or a window, or a frame, as the task and its answer ask.

    Raises:
        DataError: a clip cannot be decoded.
    """
    model.eval()
    frames = model.frames
    view = WindowSpec(window_seconds=task.window_seconds, tail=task.partial_window, pool="mean")
    if frames:
        view = WindowSpec(window_seconds=None, pool="frames")
    cut, card = window_grid(model.encoder, view), model.encoder.card
    sources = [partial(decode_windows, clip, cut, card.sample_rate) for clip in clips]
    parts = []
    with closing(encode_recordings(model.encoder, sources, EncodePlan(device, view.pool))) as recordings:
        for _, encoded in recordings:
            try:
                blocks = [np.stack(list(rows.values())) for _, rows in merge_windows(encoded, model.encoder, view.pool)]
            except AudioError as problem:
                raise unheard(str(problem)) from None
            x_LRD = np.concatenate(blocks, axis=1)
            if not frames and task.aggregate == "embedding":
                x_LRD = x_LRD.mean(1, keepdims=True)
            with torch.no_grad():
                parts.append(model.answer(torch.from_numpy(x_LRD).to(device)).cpu())
    ends = np.cumsum([len(part) for part in parts])
    return torch.cat(parts), [np.arange(end - len(part), end) for part, end in zip(parts, ends)]


def unheard(problem: str) -> DataError:
    """Return the error of sound that cannot be decoded."""
    return DataError(f"{problem}; repair the file, or remove it and measure with --partial")


def _samples(clip: Clip, sample_rate: int) -> int:
    """Return how many samples of a clip there are, from its file's head where that is exact."""
    try:
        head = read_info(clip.path)
        if head.duration_seconds is None or not head.exact:
            return len(load_audio(clip.path, sample_rate, clip.start, clip.duration))
    except AudioError as problem:
        raise unheard(str(problem)) from None
    left = head.duration_seconds - clip.start
    seconds = left if clip.duration is None else min(left, clip.duration)
    return max(round(seconds * sample_rate), 1)


def _sounds(heard: Sequence[Excerpt], sample_rate: int) -> Iterator[list[np.ndarray]]:
    yield [load_audio(one.path, sample_rate, one.start, one.duration) for one in heard]


def _batch(sounds: list[np.ndarray], targets: list[np.ndarray], first: bool, last: bool) -> Batch:
    lengths_B = torch.tensor([len(samples_T) for samples_T in sounds])
    samples_BT = torch.zeros(len(sounds), int(lengths_B.max()))
    for row_T, samples_T in zip(samples_BT, sounds):
        row_T[: len(samples_T)] = torch.from_numpy(samples_T)
    return Batch(samples_BT, lengths_B, targets, first, last)
