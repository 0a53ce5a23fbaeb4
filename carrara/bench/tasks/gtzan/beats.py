"""GTZAN-Rhythm: the times of a clip's beats, by F-measure within 70 ms.

MARBLE's beat tracking row (benchmark.md 1.5): the lists of the genre row, training on excerpts of 10 s, evaluation on
whole clips. Frames become beats by a bar-pointer network with madmom's settings, 55 to 215 beats a minute; 11 of the
290 test clips (26 in train, 12 in valid) have a median tempo outside of that, which bounds the score from above.

Texts and code disagree (benchmark.md, section 0, 1 to 3):

1. Window: the thesis and the paper say 20 ms, all released code has 70 ms. Beats with a jitter of 20 ms score 0.67 at
   20 ms and 1.00 at 70 ms, so the published 88.3 is very likely a 70-ms number. The row's score is at 70 ms;
   `beat_f_20ms` stands beside it.
2. Mean: the texts name mir_eval's F-measure, which is a track's own; the code counts hits over the whole test set for
   one F-measure. The row's score is the mean over tracks; `beat_f_70ms_pooled` and `beat_f_20ms_pooled` are the code's.
   None of them leaves out the first 5 s, as `mir_eval.beat.evaluate` does: `beat_f_70ms_trimmed` does.
3. Probe: v1's has a class axis at the wrong place and stops (MARBLE#19); v2's runs with another protocol, windows of
   10 s in test as well, decoded each by itself, and downbeats learnt beside. Here it is v1's protocol, made to run.

In v1 and v2 the truth is rounded to frames; here it is the annotators' times. v1 moves its 30 s of test sound by up to
80 ms at random; here a clip is heard as it is.
"""

from carrara.core.task import Task

TASK = Task(
    version=1,
    dataset="gtzan",
    split_scheme="fault-filtered",
    task_type="beat_tracking",
    label="beats",
    labels=("beat",),
    window_seconds=10.0,
    metrics=("beat_f_70ms",),
    extra_metrics=("beat_f_20ms", "beat_f_70ms_pooled", "beat_f_20ms_pooled", "beat_f_70ms_trimmed"),
    monitor="beat_f_70ms",
    category="score",
    plateau_patience=6,
    stop_patience=20,
)
