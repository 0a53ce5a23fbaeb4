"""A support vector machine of scikit-learn, RBF kernel, on standardised features; one layer and C chosen on validation.

[cortes1995]: SVC for classes (`break_ties=True`, the class of the highest decision value), one for each tag, SVR for
each number; gamma is scikit-learn's "scale" [pedregosa2011]. C is searched over `--set C=[...]`, by default 0.001 to
100 by factors of ten (`carrara/bench/protocols/_fit_estimator.py`). Time grows with the square of the number of
training clips or windows; more than 20,000 are refused.
"""

from __future__ import annotations

from typing import Any

from carrara.bench.probes.heads._base import Head


def _build(task_type: str, c: float) -> Any:
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.multioutput import MultiOutputRegressor
    from sklearn.svm import SVC, SVR

    if task_type == "regression":
        return MultiOutputRegressor(SVR(C=c))
    return OneVsRestClassifier(SVC(C=c)) if task_type == "multilabel" else SVC(C=c, break_ties=True)


HEAD = Head(
    frames=False,
    each_row=False,
    estimator=_build,
    task_types=("multiclass", "multilabel", "regression"),
    max_examples=20_000,
)
