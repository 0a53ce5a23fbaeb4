"""Pebble stems: vocals, drums, bass and other out of a mixture, by the global SDR in dB, mean over songs.

The counterpart of MUSDB18 in MARBLE [notes/benchmark §1.9]: songs of 8 s in mono at 24 kHz, made into 44.1-kHz stereo,
a singer and a band whose stems add up to the mixture. The head has 64 units and windows of 1 s, 4 mixtures for each
song and epoch, and patiences are short, so that a laptop gets there; see `carrara/bench/separation/train.py`.
"""

from carrara.core.task import Task
from carrara.data._pebble.labels import STEMS

TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="stems",
    task_type="source_separation",
    label="stems",
    labels=STEMS,
    window_seconds=1.0,
    examples_per_clip=4,
    metrics=("sdr_vocals", "sdr_drums", "sdr_bass", "sdr_other"),
    monitor="sdr",
    category="acoustic",
    max_epochs=16,
    plateau_patience=1,
    stop_patience=3,
)
