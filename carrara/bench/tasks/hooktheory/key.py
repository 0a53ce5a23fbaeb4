"""HookTheory key: the key of a clip, one of 24, by mir_eval's weighted score; MARBLE v2's task and lists.

Windows of 15 s, each a training example; a shorter last one counts too. v2 leaves one out that is below 12 s, pads it
else, and averages the logits of all clips of a recording; here of a clip's own windows.
"""

from carrara.core.task import Task
from carrara.data.giantsteps import KEYS

TASK = Task(
    version=1,
    dataset="hooktheory",
    split_scheme="key",
    task_type="multiclass",
    label="key",
    labels=KEYS,
    window_seconds=15.0,
    aggregate="logit",
    metrics=("key_weighted",),
    extra_metrics=("accuracy",),
    monitor="key_weighted",
    category="high-level",
    max_epochs=50,
    stop_patience=10,
)
