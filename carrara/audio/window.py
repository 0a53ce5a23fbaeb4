"""Windows over a recording, and frames of neighbouring windows joined on one grid.

The tail rule (MARBLE's, benchmark.md section 3): windows begin every `hop`; a recording shorter than a window is one
window of its own length; what the whole windows leave at the end is one more window, of its own length and never
padded, if at least `least` samples of it are in no other window, and is dropped otherwise.

Frames: a frame of a window stands for a place on the whole recording's grid, frame 0 at its first sample. Where windows
overlap, each gives the half of the overlap that lies deeper inside it, since frames near a border have heard little of
what is beyond.

Letters: T samples, F frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

Parts = Mapping[str, np.ndarray]


def windows(samples: int, window: int | None, hop: int | None = None, least: int = 1) -> list[tuple[int, int]]:
    """Return start and length of each window over a recording of so many samples.

    Args:
        samples: length of the recording.
        window: length of a window; none: the whole recording.
        hop: from one start to the next; none: as long as the window.
        least: how many samples a shorter last window must have for itself.
    """
    if samples <= 0:
        return []
    if window is None or samples <= window:
        return [(0, samples)]
    hop = hop or window
    spans = [(start, window) for start in range(0, samples - window + 1, hop)]
    start = spans[-1][0] + hop
    if samples - max(start, spans[-1][0] + window) >= max(least, 1):
        spans.append((start, samples - start))
    return spans


def cut(
    blocks: Iterable[np.ndarray], window: int | None, hop: int | None = None, least: int = 1
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield start and samples of the windows that `windows` gives for the joined blocks; one at a time is held."""
    if window is None:
        samples_T = np.concatenate([np.zeros(0, dtype=np.float32), *blocks])
        if len(samples_T):
            yield 0, samples_T
        return
    hop = hop or window
    held_T = np.zeros(0, dtype=np.float32)
    at, ended, start = 0, 0, 0  # place of the first held sample, end of the last whole window, start of the next
    for block_T in blocks:
        held_T = np.concatenate([held_T, block_T])
        while at + len(held_T) >= start + window:
            yield start, held_T[start - at : start - at + window].copy()
            ended, start = start + window, start + hop
            held_T, at = held_T[max(start - at, 0) :], at + min(max(start - at, 0), len(held_T))
    total = at + len(held_T)
    if total - max(start, ended) >= (max(least, 1) if ended else 1):
        yield start, held_T[start - at :]


def stitched(windows: Iterable[tuple[int, Parts]]) -> Iterator[tuple[int, Parts]]:
    """Yield for each window the frames that it gives to the whole recording, and the place of the first of them.

    Args:
        windows: in order, the place of a window's first frame on the grid, and matrices `[F, …]` by name.

    Returns:
        place and matrices again, with overlaps shared out: places rise, and no frame comes twice. Windows that neither
        overlap nor leave a gap come back as they are; a gap stays a gap.
    """
    held: tuple[int, Parts] | None = None
    begin = 0  # first place that is still to be given
    for first, parts in windows:
        if held is not None:
            end = held[0] + _frames(held[1])
            border = min(max((first + end + 1) // 2, begin), end) if first < end else end
            yield _between(held, begin, border)
            begin = max(first, border)
        else:
            begin = first
        held = (first, parts)
    if held is not None:
        yield _between(held, begin, held[0] + _frames(held[1]))


def _frames(parts: Parts) -> int:
    return len(next(iter(parts.values())))


def _between(window: tuple[int, Parts], begin: int, end: int) -> tuple[int, Parts]:
    first, parts = window
    return begin, {name: matrix[begin - first : max(end - first, begin - first)] for name, matrix in parts.items()}
