"""Logistic regression of scikit-learn on standardised features; one layer and C are chosen on validation.

Multinomial for classes, one regression for each tag, L2 penalty, lbfgs, at most 1,000 iterations [pedregosa2011]. C is
searched over `--set C=[...]`, by default 0.001 to 100 by factors of ten (`carrara/bench/protocols/_fit_estimator.py`).
"""

from __future__ import annotations

from typing import Any

from carrara.bench.probes.heads._base import Head

MAX_ITERATIONS = 1000


def _build(task_type: str, c: float) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    model = LogisticRegression(C=c, max_iter=MAX_ITERATIONS)
    return OneVsRestClassifier(model) if task_type == "multilabel" else model


HEAD = Head(frames=False, each_row=False, estimator=_build, task_types=("multiclass", "multilabel"))
