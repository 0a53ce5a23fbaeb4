"""SALAMI structure: where a recording's sections begin, by mir_eval within 0.5 s, and which they are.

Sections and training are those of `harmonix/structure`. The score is the mean of the boundaries' F-measure and of the
fraction of time with the right section.
"""

from carrara.core.task import Task
from carrara.data.harmonix import SECTIONS

TASK = Task(
    version=1,
    dataset="salami",
    split_scheme="songs",
    task_type="structure",
    label="structure",
    labels=SECTIONS,
    window_seconds=30.0,
    metrics=("boundary_f_500ms", "segment_label_accuracy"),
    extra_metrics=("boundary_f_3s", "boundary_f_500ms_trimmed", "boundary_f_3s_trimmed", "segment_pairwise_f"),
    monitor="segment_label_accuracy",
    category="high-level",
)
