"""How well tags are told: macro averages over the tags that some clips have and some have not.

Average precision and area under the ROC curve are scikit-learn's; the chance level of the first is the mean share of
clips that have a tag, of the second one half.

Letters: N clips, C tags.
"""

from __future__ import annotations

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score


def scores(tags_NC: np.ndarray, told_NC: np.ndarray) -> dict[str, float]:
    """Return `average_precision` and `roc_auc`; nothing where no tag can be judged.

    Args:
        tags_NC: which clip has which tag, as bool.
        told_NC: answers, the higher the likelier.
    """
    judged_C = tags_NC.any(axis=0) & ~tags_NC.all(axis=0)
    if not judged_C.any():
        return {}
    tags_NC, told_NC = tags_NC[:, judged_C], told_NC[:, judged_C]
    return {
        "average_precision": float(average_precision_score(tags_NC, told_NC, average="macro")),
        "roc_auc": float(roc_auc_score(tags_NC, told_NC, average="macro")),
    }
