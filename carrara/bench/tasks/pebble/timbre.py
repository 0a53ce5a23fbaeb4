"""Pebble timbre: which of NSynth's 11 families a note is of, whose preset plays other training notes.

The second version of `pebble/instrument`. There presets are disjoint as NSynth's are, and two of a soundfont say so
little about a family that hand-crafted features score as a random network does; on recorded notes they are far above
it. Here the same clips are split anew: of the 80 presets in 11 families, nearly all have notes in training and test,
with pitches, forces, lengths and rooms drawn alike, so that timbre decides and pitch does not.
"""

from carrara.core.task import Task
from carrara.data._pebble.labels import FAMILIES

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="timbre",
    task_type="multiclass",
    label="family",
    labels=FAMILIES,
    metrics=("accuracy",),
    monitor="accuracy",
    category="acoustic",
    max_epochs=50,
    plateau_patience=3,
    stop_patience=10,
)
