"""FMA genre, medium: 16 genres of 25,000 excerpts of 30 s, by accuracy; half are rock or electronic.

The authors' division, by artist: 19,922 / 2,505 / 2,573.
"""

from carrara.core.task import Task
from carrara.data.fma import GENRES

TASK = Task(
    version=1,
    dataset="fma",
    split_scheme="medium",
    task_type="multiclass",
    label="genre",
    labels=GENRES,
    metrics=("accuracy",),
    monitor="accuracy",
    category="high-level",
)
