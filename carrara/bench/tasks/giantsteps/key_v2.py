"""GiantSteps key as MARBLE v2 sets it: only the mean of a track's logits, at most 50 epochs.

v2 validates window by window, and keeps a last window from 24 s on, padded; here both are as in the task without -v2.
Otherwise as the task without -v2; v2's fixed layer and learning rate are not taken over: the protocol searches both.
"""

from carrara.bench.tasks.giantsteps.key import TASK as V1

TASK = V1.model_copy(update={"version": 1, "aggregate": "logit", "max_epochs": 50})
