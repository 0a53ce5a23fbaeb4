"""A map of features: their two principal components, a point for each clip, coloured by a label.

Letters: U clips, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from carrara.bench.report.plots import COLOURS, svg_style, to_svg

MARKERS = "osD^vPX*"
MAX_GROUPS = len(COLOURS) * len(MARKERS)


def feature_map(features_UD: np.ndarray, labels: Sequence[Any], title: str) -> str:
    """Return a scatter plot of the two principal components as an SVG element.

    Each feature is standardised first. The axes say how much of the variance the two components have.

    Args:
        features_UD: of each clip, at least three clips and two features.
        labels: of each clip; each label has its own colour and marker.
        title: of the plot.
    """
    from matplotlib.figure import Figure

    points_U2, explained = principal_components(features_UD)
    with svg_style(f"map {title}"):
        figure = Figure(figsize=(5.2, 5.2))
        axes = figure.add_subplot()
        texts = np.array([str(label) for label in labels])
        for index, name in enumerate(sorted(set(texts))[:MAX_GROUPS]):
            own = texts == name
            style: dict[str, Any] = {
                "color": COLOURS[index % len(COLOURS)],
                "marker": MARKERS[index // len(COLOURS) % len(MARKERS)],
            }
            axes.scatter(points_U2[own, 0], points_U2[own, 1], s=22, alpha=0.85, linewidths=0, label=name, **style)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(f"first principal component ({explained[0]:.0%} of the variance)")
        axes.set_ylabel(f"second ({explained[1]:.0%})")
        axes.set_title(title)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.07), ncols=4, columnspacing=1, handletextpad=0.2)
        return to_svg(figure, f"Map of features: {title}")


def principal_components(features_UD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the two first principal components of standardised features `[U, 2]` and their shares of the variance."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    standard_UD = StandardScaler().fit_transform(np.asarray(features_UD, dtype=np.float64))
    pca = PCA(n_components=2, svd_solver="full")
    return pca.fit_transform(standard_UD), pca.explained_variance_ratio_
