"""GTZAN genre: which of ten genres a clip was filed under, by accuracy.

MARBLE's GTZAN task [notes/benchmark §1.4]: fault-filtered split, 443 / 197 / 290 clips, the mean over the whole 30 s.
One test clip is 0.345 points, so at 75 % the 95 % interval is 5 points to either side: small differences mean nothing
here.

Texts and code disagree [notes/benchmark §0, row 10]: [yuan2023thesis] has 930 clips; v1 leaves out jazz.00054 (train),
which its Kaggle source has broken, so it trains on 442. Here the list is complete, and a copy without that file is
marked partial. Users reproduce 76.9 for MERT-v1-95M, not the published 78.6 (MARBLE#7).
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
)
