"""MagnaTagATune's 50 tags as MARBLE v2 sets them: at most 50 epochs.

v2 pads the clips of 29.1 s to 30 s; here a clip is a window of its own length.
Otherwise as the task without -v2; v2's fixed layer and learning rate are not taken over: the protocol searches both.
"""

from carrara.bench.tasks.magnatagatune.tags import TASK as V1

TASK = V1.model_copy(update={"version": 1, "max_epochs": 50})
