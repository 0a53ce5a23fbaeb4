"""Pebble structure: where a song's sections begin and which they are, by mir_eval's boundaries within 0.5 s.

Intro, verse, chorus and bridge differ in chords, tune, players and force; one that returns has the same notes. The
score is the mean of boundaries (start and end of the song included, as in mir_eval) and of the time with the right
section. Predicted frame by frame; trained on excerpts of 2 s with short patiences.
"""

from carrara.core.task import Task
from carrara.data._pebble.labels import SECTIONS

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="forms",
    task_type="structure",
    label="structure",
    labels=SECTIONS,
    window_seconds=2.0,
    metrics=("boundary_f_500ms", "segment_label_accuracy"),
    extra_metrics=("boundary_f_3s", "boundary_f_500ms_trimmed", "boundary_f_3s_trimmed", "segment_pairwise_f"),
    monitor="segment_label_accuracy",
    category="high-level",
    plateau_patience=2,
    stop_patience=4,
    max_epochs=12,
)
