"""NSynth pitch: the MIDI number of a single note, one of 128, by accuracy.

MARBLE's task [notes/benchmark §1.7]: 289,205 / 12,678 / 4,096 notes, official split, the whole 4 s at once. Classes are
the MIDI numbers themselves, "0" to "127"; v1's label is pitch − 1, which gives the same accuracy and no class for MIDI
0. Its comment gives 9 to 120 as the range that occurs, so several classes have no note. Valid and test share their 53
instruments (see the dataset).
"""

from carrara.core.task import Task
from carrara.data.nsynth import PITCHES

TASK = Task(
    version=1,
    dataset="nsynth",
    split_scheme="official",
    task_type="multiclass",
    label="pitch",
    labels=PITCHES,
    metrics=("accuracy",),
    monitor="accuracy",
    category="score",
    max_epochs=50,
    plateau_patience=3,
    stop_patience=10,
)
