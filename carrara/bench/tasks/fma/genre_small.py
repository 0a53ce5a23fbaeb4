"""FMA genre, small: eight balanced genres of 8,000 excerpts of 30 s, by accuracy.

The authors' division, by artist: 6,400 / 800 / 800.
"""

from carrara.core.task import Task
from carrara.data.fma import SMALL_GENRES

TASK = Task(
    version=1,
    dataset="fma",
    split_scheme="small",
    task_type="multiclass",
    label="genre",
    labels=SMALL_GENRES,
    metrics=("accuracy",),
    monitor="accuracy",
    category="high-level",
)
