"""Resample with soxr at quality HQ, whole arrays and streams alike; both give the same samples.

`RESAMPLER` is its name and version, for records and feature keys.

Letters: T samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import soxr

QUALITY = "HQ"
RESAMPLER = f"soxr-{soxr.__version__}-{QUALITY}"


def resample(samples_T: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """Return float32 samples at another rate (Hz): `round(T · target / source)` of them, and at least one if T > 0."""
    if source_rate == target_rate:
        return np.ascontiguousarray(samples_T, dtype=np.float32)
    out_T = soxr.resample(np.ascontiguousarray(samples_T, dtype=np.float32), source_rate, target_rate, quality=QUALITY)
    return out_T if len(out_T) else samples_T[:1].astype(np.float32)


def resample_blocks(blocks: Iterable[np.ndarray], source_rate: int, target_rate: int) -> Iterator[np.ndarray]:
    """Yield a stream of blocks at another rate (Hz); concatenated they equal `resample` of the whole input."""
    if source_rate == target_rate:
        yield from blocks
        return
    stream = soxr.ResampleStream(source_rate, target_rate, 1, dtype="float32", quality=QUALITY)
    first_T = last_T = np.zeros(0, dtype=np.float32)
    given = 0
    for block_T in blocks:
        first_T = first_T if len(first_T) else block_T[:1]
        out_T = stream.resample_chunk(np.ascontiguousarray(block_T, dtype=np.float32))
        given += len(out_T)
        if len(out_T):
            yield out_T
    last_T = stream.resample_chunk(last_T, last=True)
    if given + len(last_T) == 0:
        last_T = first_T.astype(np.float32)
    if len(last_T):
        yield last_T
