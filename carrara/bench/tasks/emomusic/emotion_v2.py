"""EmoMusic's valence and arousal as MARBLE v2 sets them: windows of 15 s.

v2 validates window by window; here a clip's prediction is the mean of its three windows in validation too.
Otherwise as the task without -v2; v2's fixed layer and learning rate are not taken over: the protocol searches both.
"""

from carrara.bench.tasks.emomusic.emotion import TASK as V1

TASK = V1.model_copy(update={"version": 1, "window_seconds": 15.0})
