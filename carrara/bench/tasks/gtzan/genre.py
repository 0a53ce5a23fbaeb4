"""GTZAN genre: which of ten genres a clip was filed under, by accuracy.

MARBLE's GTZAN row (benchmark.md 1.4): fault-filtered split, 443 / 197 / 290 clips, the mean over the whole 30 s. One
test clip is 0.345 points, so at 75 % the 95 % interval is 5 points to either side: small differences mean nothing here.

Texts and code disagree (benchmark.md, section 0, 10): the thesis says 930 clips; v1 leaves out jazz.00054 (train),
which its Kaggle source has broken, so that it trains on 442. Here the list is whole, and a copy without it is called
partial.
Users reproduce 76.9 for MERT-v1-95M rather than the published 78.6 (MARBLE#7).
"""

from carrara.core.task import Task
from carrara.data.gtzan import GENRES

TASK = Task(
    version=1,
    dataset="gtzan",
    split_scheme="fault-filtered",
    task_type="multiclass",
    label="genre",
    labels=GENRES,
    metrics=("accuracy",),
    monitor="accuracy",
    category="high-level",
    plateau_patience=6,
    stop_patience=20,
)
