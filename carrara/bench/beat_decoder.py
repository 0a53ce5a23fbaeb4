"""Beats from beat activations: the bar-pointer dynamic Bayesian network, decoded exactly and for many clips at once.

The model is that of Böck, Krebs and Widmer (ISMIR 2014) on the state space of Krebs, Böck and Widmer (ISMIR 2015), with
the settings that MARBLE's scores were made with (benchmark.md 1.5). A state is a beat interval (a whole number of
frames, 55 to 215 beats a minute, the ends rounded) and a position in it, which moves on by one each frame. Only where a
beat begins may the interval change: from a to b with probability ∝ exp(-100 |b/a - 1|), none where that is below the
resolution of a double. In the first sixteenth of the positions the observation is the activation p, in all others
(1 - p) / 15. All states are equally likely at first, and a clip may end in any. Each decoded beat is moved to the
highest activation in its sixteenth.

Because positions only move on, a path is a chain of whole beats, and the states (3,193 at 75 Hz) need not be visited:
entering an interval at a frame fixes the frame of the next entry and, from prefix sums, all observations between.
Counted relative to a path without any beat, only the frames of the sixteenth count, each with logit(p) + log 15. What
remains is one max-plus product over intervals; and since no beat is shorter than the shortest interval, so many frames
are done as one block. Back pointers are not kept: the way back asks again, once a beat.

Letters: N clips (of all probes), F frames, L frames and the longest interval, T intervals, S beats, W frames of a beat.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from carrara.core.errors import UsageError

SLOWEST, FASTEST = 55.0, 215.0  # beats a minute
TRANSITION, OBSERVATION = 100.0, 16
# One frame, however certain, weighs no more than odds of a million to one.
LIMIT = math.log(1e6)
CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Tempi:
    """The intervals of a frame rate.

    Attributes:
        interval_T: frames from beat to beat, ascending without gaps.
        beat_T: how many of them, at the start, are the beat's own.
        log_change_TT: log probability of going from one interval (row) to another, -inf for never.
        reach_T: for each interval the slice of those it may change to.
    """

    interval_T: Tensor
    beat_T: Tensor
    log_change_TT: Tensor
    reach_T: tuple[slice, ...]

    def to(self, device: torch.device) -> Tempi:
        """Return the same on another device."""
        return Tempi(self.interval_T.to(device), self.beat_T.to(device), self.log_change_TT.to(device), self.reach_T)


@lru_cache
def tempi(rate: float) -> Tempi:
    """Return the intervals that 55 to 215 beats a minute have at `rate` frames a second.

    Raises:
        UsageError: the frames are too far apart to tell a beat from the time between beats.
    """
    shortest, longest = max(2, round(60 * rate / FASTEST)), round(60 * rate / SLOWEST)
    if longest < shortest:
        raise UsageError(f"{rate:g} frames a second are too few to find beats in; use an encoder with a finer grid")
    interval_T = torch.arange(shortest, longest + 1)
    ratio_TT = interval_T.double()[None] / interval_T.double()[:, None]
    change_TT = torch.exp(-TRANSITION * (ratio_TT - 1).abs())
    change_TT[change_TT <= np.finfo(float).eps] = 0
    log_change_TT = (change_TT / change_TT.sum(1, keepdim=True)).log()
    reach_T = []
    for change_T in change_TT:
        reached = change_T.nonzero()[:, 0].tolist()
        reach_T.append(slice(reached[0], reached[-1] + 1))
    return Tempi(interval_T, -(-interval_T // OBSERVATION), log_change_TT, tuple(reach_T))


def beat_times(logits: Sequence[Tensor], rate: float) -> list[np.ndarray]:
    """Return the times of the beats of each clip, in seconds, ascending.

    Args:
        logits: for each clip the log odds of a beat at every frame, `[F]` (the activation before the sigmoid); NaN
            counts as a frame without a beat. A clip without frames, or none of whose logits rises above -13.8 (an
            activation of a millionth), has no beats.
        rate: frames a second.

    Raises:
        UsageError: the frame rate is too low.
    """
    known = [torch.nan_to_num(one.detach().double(), nan=-LIMIT).clamp(-LIMIT, LIMIT) for one in logits]
    found = [np.empty(0)] * len(known)
    heard = [place for place, one in enumerate(known) if len(one) and bool((one > -LIMIT).any())]
    paths = decode([known[place] for place in heard], rate)
    for place, (start_S, width_S) in zip(heard, paths):
        found[place] = _peaks(known[place].cpu().numpy(), start_S, width_S) / rate
    return found


def decode(logits: Sequence[Tensor], rate: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the best path of each clip: the frame at which each beat starts and its interval in frames, `[S]` each.

    The first beat may have started before the clip: its frame is then negative, down to one less than its interval.
    Clips need at least one frame, and finite logits.
    """
    if not logits:
        return []
    found: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0), np.empty(0))] * len(logits)
    space = tempi(rate).to(logits[0].device)
    for places in _chunks([len(one) for one in logits], space):
        chunk = [logits[place] for place in places]
        length_N = torch.tensor([len(one) for one in chunk], device=logits[0].device)
        sum_FN = _beat_sums(chunk, space)
        arrival_TLN = _forward(sum_FN, int(length_N.max()), space)
        for place, path in zip(places, _backward(arrival_TLN, length_N, space)):
            found[place] = path
    return found


def _chunks(lengths: list[int], space: Tempi) -> list[list[int]]:
    """Return the places of clips to decode together: of like lengths, and few enough for the memory."""
    frame_bytes = 8 * len(space.interval_T)
    chunks: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        # The first of a chunk is its longest.
        if chunks and frame_bytes * lengths[chunks[-1][0]] * (len(chunks[-1]) + 1) <= CHUNK_BYTES:
            chunks[-1].append(place)
        else:
            chunks.append([place])
    return chunks


def _beat_sums(chunk: list[Tensor], space: Tempi) -> Tensor:
    """Return what beat frames before each frame would add up to, `[F + blocks' rest + longest, N]`; flat after the end.

    Flat means that what lies beyond a clip's end neither gains nor costs, so a last beat cut short needs no case.
    """
    frames = _padded(max(len(one) for one in chunk), space)
    gain_FN = torch.zeros(
        frames + int(space.interval_T[-1]) + 1, len(chunk), dtype=torch.double, device=chunk[0].device
    )
    for column, one in enumerate(chunk):
        gain_FN[1 : len(one) + 1, column] = one + math.log(OBSERVATION - 1)
    return gain_FN.cumsum(0)


def _padded(frames: int, space: Tempi) -> int:
    block = int(space.interval_T[0])
    return -(-frames // block) * block


def _forward(sum_FN: Tensor, longest: int, space: Tempi) -> Tensor:
    """Return the best score of a path that has just completed an interval before a frame, `[T, L, N]`."""
    interval_T, beat_T = space.interval_T, space.beat_T
    clips, first, kinds = sum_FN.shape[1], int(interval_T[0]), len(interval_T)
    frames = _padded(longest, space)
    arrival_TLN = sum_FN.new_empty(kinds, frames + int(interval_T[-1]), clips)
    for row, (interval, beat) in enumerate(zip(interval_T.tolist(), beat_T.tolist())):
        # A clip may begin at any position; what is left of the beat's own frames then depends on the first arrival.
        left = (torch.arange(interval, device=sum_FN.device) + beat - interval).clamp(min=0)
        arrival_TLN[row, :interval] = sum_FN[left]
    # Rows whose beats are equally long stand together and share their observations.
    same = [(beat_T.eq(beat).nonzero()[:, 0], beat) for beat in beat_T.unique().tolist()]
    groups = [(slice(int(rows[0]), int(rows[-1]) + 1), beat) for rows, beat in same]
    # An entry at frame t of interval T arrives at t + T; intervals grow by one, so a row's block starts one later.
    row_stride, frame_stride, _ = arrival_TLN.stride()
    skewed = (kinds, first, clips), (row_stride + frame_stride, frame_stride, 1)
    entry_TBN, enter = _entering(space, first, clips)
    for low in range(0, frames, first):
        enter(arrival_TLN[:, low : low + first])
        if low == 0:
            entry_TBN[:, 0] = 0
        then_TBN = arrival_TLN.as_strided(*skewed, (low + first) * frame_stride)
        for rows, beat in groups:
            gain_BN = sum_FN[low + beat : low + beat + first] - sum_FN[low : low + first]
            torch.add(entry_TBN[rows], gain_BN, out=then_TBN[rows])
    return arrival_TLN


def _entering(space: Tempi, frames: int, clips: int) -> tuple[Tensor, Callable[[Tensor], None]]:
    """Return scores `[T, B, N]` of entering each interval, and what sets them from those of completing each.

    This is a max-plus product. All views are made once, for on short clips they would take longer than the arithmetic.
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


def _backward(arrival_TLN: Tensor, length_N: Tensor, space: Tempi) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return each clip's best path, from its end."""
    interval_T = space.interval_T
    longest, clips = int(interval_T[-1]), len(length_N)
    clip_N = torch.arange(clips, device=length_N.device)
    # The last beat began inside the clip and completes at its end or after: for each interval, that many frames.
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
        # A clip that has reached its beginning waits there for the others.
        row_N = torch.where(frame_N > 0, before_NT.argmax(1), row_N)
        frame_N = torch.where(frame_N > 0, frame_N, -longest)
    start_NS = torch.stack(starts[::-1], 1).cpu().numpy()
    width_NS = interval_T[torch.stack(rows[::-1], 1)].cpu().numpy()
    own_NS = start_NS > -width_NS
    return [(start_S[own_S], width_S[own_S]) for start_S, width_S, own_S in zip(start_NS, width_NS, own_NS)]


def _peaks(logit_F: np.ndarray, start_S: np.ndarray, width_S: np.ndarray) -> np.ndarray:
    """Return the frame of the highest logit among each beat's own; a beat that has none inside the clip is dropped."""
    own_S = -(-width_S // OBSERVATION)
    frame_SW = start_S[:, None] + np.arange(own_S.max())
    inside_SW = (frame_SW >= 0) & (frame_SW < len(logit_F)) & (frame_SW < (start_S + own_S)[:, None])
    logit_SW = np.where(inside_SW, logit_F[frame_SW.clip(0, len(logit_F) - 1)], -np.inf)
    peak_S = np.take_along_axis(frame_SW, logit_SW.argmax(1)[:, None], 1)[:, 0]
    return peak_S[inside_SW.any(1)]
