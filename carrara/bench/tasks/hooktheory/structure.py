"""HookTheory structure: which of seven sections a clip is from, by accuracy; MARBLE v2's task and lists.

Windows of 15 s, each a training example; a clip's prediction is the mean of their logits.
"""

from carrara.core.task import Task
from carrara.data.hooktheory import SECTIONS

TASK = Task(
    version=1,
    dataset="hooktheory",
    split_scheme="structure",
    task_type="multiclass",
    label="section",
    labels=SECTIONS,
    window_seconds=15.0,
    aggregate="logit",
    metrics=("accuracy",),
    monitor="accuracy",
    category="high-level",
    max_epochs=50,
    stop_patience=10,
)
