"""MUSDB18 stems: vocals, drums, bass and other out of a mixture, by the global SDR in dB, mean over songs.

MARBLE's task [notes/benchmark §1.9]: a head of three linear and three bi-LSTM layers on frozen frame features masks the
mixture's spectrogram; training mixes 6-s segments of stems of random songs, 64 for each song and epoch. The score is
the mean of the four stems.

Texts and code disagree [notes/benchmark §0, rows 13, 14 and 17]: [yuan2023thesis] has bi-LSTMs, its code unidirectional
LSTMs; the code works on mono at 24 kHz and does not run as released; its metric is the Music Demixing Challenge's
global SDR, which is of 44.1-kHz stereo. Here: bi-LSTMs, SDR on 44.1-kHz stereo, a mask from the mono mixture for both
channels. Epochs and patiences are the script's: 50, 2 and 5. The implementation is `carrara/bench/separation`.
"""

from carrara.core.task import Task
from carrara.data.musdb18 import STEMS

TASK = Task(
    version=1,
    dataset="musdb18",
    split_scheme="official",
    task_type="source_separation",
    label="stems",
    labels=STEMS,
    window_seconds=6.0,
    metrics=("sdr_vocals", "sdr_drums", "sdr_bass", "sdr_other"),
    monitor="sdr",
    category="acoustic",
    max_epochs=50,
    plateau_patience=2,
    stop_patience=5,
)
