"""Which clips an epoch hears: drawn without replacement, those with rare tags more often (encoders.md, section 1.5).

A clip weighs the sum over its tags of 1000 / (count + 100), where the count is of the clips that have the tag; a clip
without tags weighs nothing and is never heard.

Letters: N clips, C tags.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from carrara.pretrain.tagging.tagged import Tagged

NUMERATOR, OFFSET = 1000.0, 100.0
DRAW = 5  # tells this draw from the others of a run


def weights(tags_NC: np.ndarray) -> np.ndarray:
    """Return the weight of each clip, `[N]`."""
    return tags_NC @ (NUMERATOR / (tags_NC.sum(axis=0, dtype=np.int64) + OFFSET))


@lru_cache(maxsize=4)
def epoch_order(corpus: Tagged, seed: int, epoch: int, clips: int) -> np.ndarray:
    """Return the clips of an epoch in the order in which they are heard, each once.

    Drawing with exponential clocks (Efraimidis and Spirakis 2006): the first to ring, at rates proportional to the
    weights, are a sample without replacement.
    """
    draw = np.random.default_rng([seed, DRAW, epoch])
    weight_N = weights(corpus.tags_NC)
    with np.errstate(divide="ignore"):
        ring_N = draw.exponential(size=len(weight_N)) / weight_N
    # The heaviest ring first, so the order is drawn once more.
    return draw.permutation(np.argsort(ring_N, kind="stable")[: min(clips, np.count_nonzero(weight_N))])
