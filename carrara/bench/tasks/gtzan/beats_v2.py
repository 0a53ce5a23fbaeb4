"""GTZAN beats as MARBLE v2 scores them: the F-measure at 70 ms of all tracks' beats pooled; at most 50 epochs.

v2 predicts beats and downbeats together and decodes windows of 10 s by themselves; here beats of whole clips.
Otherwise as the task without -v2; v2's fixed layer and learning rate are not taken over: the protocol searches both.
"""

from carrara.bench.tasks.gtzan.beats import TASK as V1

TASK = V1.model_copy(
    update={
        "version": 1,
        "metrics": ("beat_f_70ms_pooled",),
        "extra_metrics": ("beat_f_70ms", "beat_f_20ms", "beat_f_20ms_pooled", "beat_f_70ms_trimmed"),
        "monitor": "beat_f_70ms_pooled",
        "max_epochs": 50,
        "plateau_patience": 5,
        "stop_patience": 10,
    }
)
