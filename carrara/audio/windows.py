"""Windows over a recording, and the frames of overlapping windows merged into one sequence.

Windows start every `hop` samples. A recording shorter than a window is one window of its own length. The tail behind
the last whole window is one more window of its own length, never padded, if at least `min_tail` of its samples are in
no other window, and is dropped otherwise [notes/benchmark §1.3].

Frames of a window have an index on the frame grid of the whole recording. Where windows overlap, each gives the half of
the overlap that is farther from its border, since frames near a border have less context.

Letters: T samples, F frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

Parts = Mapping[str, np.ndarray]


def window_spans(samples: int, window: int | None, hop: int | None = None, min_tail: int = 1) -> list[tuple[int, int]]:
    """Return start and length of each window, in samples.

    Args:
        samples: length of the recording.
        window: length of a window; None means the whole recording.
        hop: distance between starts; None means the length of a window.
        min_tail: fewest samples of a shorter last window that no other window holds.
    """
    if samples <= 0:
        return []
    if window is None or samples <= window:
        return [(0, samples)]
    hop = hop or window
    spans = [(start, window) for start in range(0, samples - window + 1, hop)]
    start = spans[-1][0] + hop
    if samples - max(start, spans[-1][0] + window) >= max(min_tail, 1):
        spans.append((start, samples - start))
    return spans


def split_windows(
    blocks: Iterable[np.ndarray], window: int | None, hop: int | None = None, min_tail: int = 1
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield start and samples of the windows that `window_spans` gives, over a stream of blocks, one at a time."""
    if window is None:
        samples_T = np.concatenate([np.zeros(0, dtype=np.float32), *blocks])
        if len(samples_T):
            yield 0, samples_T
        return
    hop = hop or window
    buffer_T = np.zeros(0, dtype=np.float32)
    offset, covered, start = 0, 0, 0  # first sample in the buffer, end of the last whole window, start of the next
    for block_T in blocks:
        buffer_T = np.concatenate([buffer_T, block_T])
        while offset + len(buffer_T) >= start + window:
            yield start, buffer_T[start - offset : start - offset + window].copy()
            covered, start = start + window, start + hop
            dropped = min(max(start - offset, 0), len(buffer_T))
            buffer_T, offset = buffer_T[dropped:], offset + dropped
    total = offset + len(buffer_T)
    if total - max(start, covered) >= (max(min_tail, 1) if covered else 1):
        yield start, buffer_T[start - offset :]


def merge_overlaps(windows: Iterable[tuple[int, Parts]]) -> Iterator[tuple[int, Parts]]:
    """Yield for each window its part of the whole recording: the index of the first frame, and matrices.

    Args:
        windows: in order, the index of a window's first frame on the grid, and matrices `[F, …]` by name.

    Returns:
        index and matrices with overlaps divided between neighbours: indices increase and no frame comes twice. Windows
        that do not overlap come back unchanged, and gaps stay gaps.
    """
    previous: tuple[int, Parts] | None = None
    begin = 0  # first frame that was not yielded yet
    for first, parts in windows:
        if previous is not None:
            end = previous[0] + len(next(iter(previous[1].values())))
            border = min(max((first + end + 1) // 2, begin), end) if first < end else end
            yield begin, _slice_frames(*previous, begin, border)
            begin = max(first, border)
        else:
            begin = first
        previous = (first, parts)
    if previous is not None:
        yield begin, _slice_frames(*previous, begin, previous[0] + len(next(iter(previous[1].values()))))


def _slice_frames(first: int, parts: Parts, begin: int, end: int) -> Parts:
    return {name: matrix[begin - first : max(end - first, begin - first)] for name, matrix in parts.items()}
