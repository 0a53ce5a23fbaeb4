"""EmoMusic emotion: a clip's valence and arousal as listeners rated them, by R² of each.

MARBLE's EMO task [notes/benchmark §1.6]: 504 / 115 / 125 clips of 45 s; each window of 5 s is a training example, and
the prediction for a clip is the mean over its windows; R² is the coefficient of determination over the test clips, and
the monitored metric is the mean of the two.

Texts and code disagree on the windows [notes/benchmark §0, row 7]: [yuan2023thesis] cuts the whole clip into windows of
5 s; v1's MERT path uses only the first 30 s, six windows, its music2vec and HuBERT paths windows of 30 s, Jukebox 25 s,
MusiCNN, CLMR and MULE the whole clip at once; v2 takes 15 s. Here it is as in the thesis, the same for every encoder:
nine windows of 5 s, the last one shorter where the file is shorter than 45 s. Labels are the clip's own `valence` and
`arousal`, on the scale of 1 to 9.
"""

from carrara.core.task import Task

TASK = Task(
    version=1,
    dataset="emomusic",
    split_scheme="artist",
    task_type="regression",
    label="emotion",
    labels=("valence", "arousal"),
    window_seconds=5.0,
    aggregate="logit",
    metrics=("r2_valence", "r2_arousal"),
    monitor="r2",
    category="high-level",
)
