"""Beats from beat activations: a bar-pointer dynamic Bayesian network, decoded exactly and for many clips at once.

The model is [bock2014] on the state space of [krebs2015], with the settings that MARBLE's scores were made with
[notes/benchmark §1.5]. A state is a beat interval (a whole number of frames, 55 to 215 beats a minute, the ends
rounded) and a position in it, which advances by one each frame. Only where a beat begins may the interval change: from
a to b with probability ∝ exp(-100 |b/a - 1|), none where that is below the resolution of a double. In the first
sixteenth of the positions the observation is the activation p, in all others (1 - p) / 15. All states are equally
likely at first, and a clip may end in any. Each decoded beat moves to the highest activation in its sixteenth.
Downbeats are decoded alike, with intervals of bars and a 64th of them in place of the sixteenth.

Because positions only advance, a path is a chain of whole beats, and the states (3,193 at 75 Hz) need not be visited:
entering an interval at a frame fixes the frame of the next entry and, from prefix sums, all observations between.
Relative to a path without any beat, only the frames of the sixteenth count, each with logit(p) + log 15. What remains
is one max-plus product over intervals; since no beat is shorter than the shortest interval, that many frames are one
block. Back pointers are not stored: the backward pass repeats the maximum once a beat.

Letters: N clips (of all probes), F frames, L frames and the longest interval, T intervals, S beats, W frames of a beat.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from carrara.core.errors import UsageError

TRANSITION = 100.0
# One frame, however certain, weighs no more than odds of a million to one.
LIMIT = math.log(1e6)
CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Pulse:
    """What is tracked: its slowest and fastest tempo per minute; 1 / `observation` of an interval is its own."""

    slowest: float
    fastest: float
    observation: int


BEAT = Pulse(55.0, 215.0, 16)
# Bars of four beats at the slowest tempo to bars of three at the fastest; its own part is as long as a beat's is.
DOWNBEAT = Pulse(55.0 / 4, 215.0 / 3, 64)


@dataclass(frozen=True)
class TempoSpace:
    """The beat intervals at a frame rate.

    Attributes:
        interval_T: frames from beat to beat, ascending without gaps.
        beat_T: the number of frames at the start of each interval that are the beat's own.
        observation: of the pulse.
        log_change_TT: log probability of a change from one interval (row) to another, -inf for never.
        reach_T: for each interval the slice of those it may change to.
    """

    interval_T: Tensor
    beat_T: Tensor
    observation: int
    log_change_TT: Tensor
    reach_T: tuple[slice, ...]

    def to(self, device: torch.device) -> TempoSpace:
        """Return the same on another device."""
        return replace(
            self,
            interval_T=self.interval_T.to(device),
            beat_T=self.beat_T.to(device),
            log_change_TT=self.log_change_TT.to(device),
        )


@lru_cache
def tempo_space(rate: float, pulse: Pulse = BEAT) -> TempoSpace:
    """Return the intervals that a pulse (beats: 55 to 215 a minute) has at `rate` frames a second.

    Raises:
        UsageError: the frames are too far apart to separate a beat from the time between beats.
    """
    shortest, longest = max(2, round(60 * rate / pulse.fastest)), round(60 * rate / pulse.slowest)
    if longest < shortest:
        raise UsageError(f"{rate:g} frames a second are too few to track beats; use an encoder with more")
    interval_T = torch.arange(shortest, longest + 1)
    ratio_TT = interval_T.double()[None] / interval_T.double()[:, None]
    change_TT = torch.exp(-TRANSITION * (ratio_TT - 1).abs())
    change_TT[change_TT <= np.finfo(float).eps] = 0
    log_change_TT = (change_TT / change_TT.sum(1, keepdim=True)).log()
    reach_T = []
    for change_T in change_TT:
        reached = change_T.nonzero()[:, 0].tolist()
        reach_T.append(slice(reached[0], reached[-1] + 1))
    return TempoSpace(interval_T, -(-interval_T // pulse.observation), pulse.observation, log_change_TT, tuple(reach_T))


def beat_times(logits: Sequence[Tensor], rate: float, pulse: Pulse = BEAT) -> list[np.ndarray]:
    """Return the times of the beats (or of another pulse) of each clip, in seconds, ascending.

    Args:
        logits: for each clip the log odds of a beat at every frame, `[F]` (the activation before the sigmoid); NaN
            counts as a frame without a beat. A clip without frames, or without a logit above -13.8 (an activation of
            a millionth), has no beats.
        rate: frames a second.
        pulse: beats or downbeats.

    Raises:
        UsageError: the frame rate is too low.
    """
    finite = [torch.nan_to_num(logit_F.detach().double(), nan=-LIMIT).clamp(-LIMIT, LIMIT) for logit_F in logits]
    active = [clip for clip, logit_F in enumerate(finite) if len(logit_F) and bool((logit_F > -LIMIT).any())]
    times = [np.empty(0)] * len(finite)
    for clip, (start_S, width_S) in zip(active, decode_paths([finite[clip] for clip in active], rate, pulse)):
        times[clip] = _peaks(finite[clip].cpu().numpy(), start_S, width_S, pulse.observation) / rate
    return times


def decode_paths(logits: Sequence[Tensor], rate: float, pulse: Pulse = BEAT) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the best path of each clip: the frame at which each beat starts and its interval in frames, `[S]` each.

    The first beat may have started before the clip: its frame is then negative, down to one less than its interval.
    Clips need at least one frame and finite logits.
    """
    if not logits:
        return []
    paths: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0), np.empty(0))] * len(logits)
    space = tempo_space(rate, pulse).to(logits[0].device)
    for clips in _chunks([len(logit_F) for logit_F in logits], space):
        chunk = [logits[clip] for clip in clips]
        length_N = torch.tensor([len(logit_F) for logit_F in chunk], device=logits[0].device)
        sum_FN = _beat_sums(chunk, space)
        arrival_TLN = _forward(sum_FN, int(length_N.max()), space)
        for clip, path in zip(clips, _backward(arrival_TLN, length_N, space)):
            paths[clip] = path
    return paths


def _chunks(lengths: list[int], space: TempoSpace) -> list[list[int]]:
    """Return the indices of clips to decode together: of similar lengths, and few enough for the memory."""
    frame_bytes = 8 * len(space.interval_T)
    chunks: list[list[int]] = []
    for clip in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        # The first of a chunk is its longest.
        if chunks and frame_bytes * lengths[chunks[-1][0]] * (len(chunks[-1]) + 1) <= CHUNK_BYTES:
            chunks[-1].append(clip)
        else:
            chunks.append([clip])
    return chunks


def _beat_sums(chunk: list[Tensor], space: TempoSpace) -> Tensor:
    """Return the prefix sums of what a beat frame gains, `[F padded + longest, N]`, constant after a clip's end.

    Frames beyond the end so neither gain nor cost, and a last beat cut short needs no case.
    """
    frames = _pad_to_blocks(max(len(logit_F) for logit_F in chunk), space)
    gain_FN = torch.zeros(
        frames + int(space.interval_T[-1]) + 1, len(chunk), dtype=torch.double, device=chunk[0].device
    )
    for column, logit_F in enumerate(chunk):
        gain_FN[1 : len(logit_F) + 1, column] = logit_F + math.log(space.observation - 1)
    return gain_FN.cumsum(0)


def _pad_to_blocks(frames: int, space: TempoSpace) -> int:
    block = int(space.interval_T[0])
    return -(-frames // block) * block


def _forward(sum_FN: Tensor, longest: int, space: TempoSpace) -> Tensor:
    """Return the best score of a path that has just completed an interval before a frame, `[T, L, N]`."""
    interval_T, beat_T = space.interval_T, space.beat_T
    clips, first, kinds = sum_FN.shape[1], int(interval_T[0]), len(interval_T)
    frames = _pad_to_blocks(longest, space)
    arrival_TLN = sum_FN.new_empty(kinds, frames + int(interval_T[-1]), clips)
    for row, (interval, beat) in enumerate(zip(interval_T.tolist(), beat_T.tolist())):
        # A clip may begin at any position; what is left of the beat's own frames then depends on the first arrival.
        left = (torch.arange(interval, device=sum_FN.device) + beat - interval).clamp(min=0)
        arrival_TLN[row, :interval] = sum_FN[left]
    # Rows whose beats are equally long are neighbours and share their observations.
    same = [(beat_T.eq(beat).nonzero()[:, 0], beat) for beat in beat_T.unique().tolist()]
    groups = [(slice(int(rows[0]), int(rows[-1]) + 1), beat) for rows, beat in same]
    # An entry at frame t of interval T arrives at t + T; intervals grow by one, so a row's block starts one later.
    row_stride, frame_stride, _ = arrival_TLN.stride()
    skewed = (kinds, first, clips), (row_stride + frame_stride, frame_stride, 1)
    entry_TBN, enter = _prepare_entry(space, first, clips)
    for low in range(0, frames, first):
        enter(arrival_TLN[:, low : low + first])
        if low == 0:
            entry_TBN[:, 0] = 0
        then_TBN = arrival_TLN.as_strided(*skewed, (low + first) * frame_stride)
        for rows, beat in groups:
            gain_BN = sum_FN[low + beat : low + beat + first] - sum_FN[low : low + first]
            torch.add(entry_TBN[rows], gain_BN, out=then_TBN[rows])
    return arrival_TLN


def _prepare_entry(space: TempoSpace, frames: int, clips: int) -> tuple[Tensor, Callable[[Tensor], None]]:
    """Return the scores of entering each interval, `[T, B, N]`, and the function that sets them from completed ones.

    The function is a max-plus product. Its views are made once: on short clips they take longer than the arithmetic.
    """
    change_TT, kinds = space.log_change_TT, len(space.interval_T)
    entry_TBN, added_TBN = change_TT.new_empty(2, kinds, frames, clips)
    steps = [
        (entry_TBN[reach], added_TBN[reach], change_T[reach, None, None])
        for change_T, reach in zip(change_TT, space.reach_T)
    ]

    def enter(completed_TBN: Tensor) -> None:
        entry_TBN.fill_(-math.inf)
        for completed_BN, (reached, added, change) in zip(completed_TBN.unbind(), steps):
            torch.add(completed_BN, change, out=added)
            torch.maximum(reached, added, out=reached)

    return entry_TBN, enter


def _backward(arrival_TLN: Tensor, length_N: Tensor, space: TempoSpace) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return each clip's best path, from its end."""
    interval_T = space.interval_T
    longest, clips = int(interval_T[-1]), len(length_N)
    clip_N = torch.arange(clips, device=length_N.device)
    # The last beat began inside the clip and completes at its end or later: for each interval, that many frames.
    after_A = torch.arange(longest, device=length_N.device)
    last_NAT = arrival_TLN[:, length_N[:, None] + after_A, clip_N[:, None]].permute(1, 2, 0)
    last_NAT = last_NAT.masked_fill(after_A[:, None] >= interval_T, -math.inf)
    best_N = last_NAT.flatten(1).argmax(1)
    frame_N, row_N = length_N + best_N // len(interval_T), best_N % len(interval_T)
    starts, rows = [], []
    while True:
        frame_N = frame_N - interval_T[row_N]
        starts.append(frame_N)
        rows.append(row_N)
        if bool((frame_N <= 0).all()):
            break
        inside_N = frame_N.clamp(min=0)
        before_NT = arrival_TLN[:, inside_N, clip_N].T + space.log_change_TT[:, row_N].T
        # A clip that has reached its beginning stays there until the others have.
        row_N = torch.where(frame_N > 0, before_NT.argmax(1), row_N)
        frame_N = torch.where(frame_N > 0, frame_N, -longest)
    start_NS = torch.stack(starts[::-1], 1).cpu().numpy()
    width_NS = interval_T[torch.stack(rows[::-1], 1)].cpu().numpy()
    own_NS = start_NS > -width_NS
    return [(start_S[own_S], width_S[own_S]) for start_S, width_S, own_S in zip(start_NS, width_NS, own_NS)]


def _peaks(logit_F: np.ndarray, start_S: np.ndarray, width_S: np.ndarray, observation: int) -> np.ndarray:
    """Return the frame of the highest logit among each beat's own frames; drop a beat without one inside the clip."""
    own_S = -(-width_S // observation)
    frame_SW = start_S[:, None] + np.arange(own_S.max())
    inside_SW = (frame_SW >= 0) & (frame_SW < len(logit_F)) & (frame_SW < (start_S + own_S)[:, None])
    logit_SW = np.where(inside_SW, logit_F[frame_SW.clip(0, len(logit_F) - 1)], -np.inf)
    peak_S = np.take_along_axis(frame_SW, logit_SW.argmax(1)[:, None], 1)[:, 0]
    return peak_S[inside_SW.any(1)]
