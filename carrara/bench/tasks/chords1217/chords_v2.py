"""Chords1217 as MARBLE v2 sets it: at most 50 epochs, stopped after 10 without a better one.

v2 validates and tests excerpts of 15 s; here frames of whole songs, which are scored the same.
Otherwise as the task without -v2; v2's fixed layer and learning rate are not taken over: the protocol searches both.
"""

from carrara.bench.tasks.chords1217.chords import TASK as V1

TASK = V1.model_copy(update={"version": 1, "max_epochs": 50, "stop_patience": 10})
