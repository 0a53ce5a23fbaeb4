"""Maps of embeddings as a picture: a panel for each layer, coloured by a label. PNG, SVG or PDF."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from carrara.core.io import atomic_write
from carrara.core.printable import one_line
from carrara.features.embedding_map import Separation

# Okabe and Ito's colours, which colour-blind readers can tell apart; each has its own marker too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#4d4d4d")
MARKERS = "osD^vPXp"
OTHER = "#b9bdc2"
MAX_NAMED = 16
MAX_COLUMNS = 4
PANEL_INCHES = 3.0


def is_numeric(labels: Sequence[Any]) -> bool:
    """Return whether labels are numbers of many values, which get a scale of colours instead of a legend."""
    present = [label for label in labels if label is not None]
    try:
        values = {float(label) for label in present}
    except (TypeError, ValueError):
        return False
    return len(values) > MAX_NAMED


def draw_map(
    path: Path,
    placed: Mapping[str, np.ndarray],
    labels: Sequence[Any] | None = None,
    title: str = "",
    separations: Mapping[str, Separation] | None = None,
) -> None:
    """Write the picture; its format is the ending of the path.

    Args:
        path: ends in .png, .svg or .pdf.
        placed: by layer the points `[N, 2]`.
        labels: of each point; None where it has none.
        title: above the panels.
        separations: by layer, named in the panels' titles.

    Raises:
        StoreError: it cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(MAX_COLUMNS, len(placed))
    rows = -(-len(placed) // columns)
    legend = 1.7 if labels is not None else 0.0
    style: dict[Any, Any] = {
        "font.size": 9,
        "svg.fonttype": "none",
        "text.parse_math": False,
        "svg.hashsalt": "carrara",
    }
    with matplotlib.rc_context(style):
        figure = Figure(
            figsize=(max(PANEL_INCHES * columns, 4) + legend, (PANEL_INCHES + 0.35) * rows + 0.4), layout="constrained"
        )
        figure.suptitle(one_line(title), fontsize=11, fontweight="bold")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels[len(placed) :]:
            axes.set_axis_off()
        artists: list[Any] = []
        for axes, (layer, placed_N2) in zip(panels, placed.items()):
            artists = _draw_panel(axes, placed_N2, labels)
            separation = (separations or {}).get(layer)
            numbers = f"\npurity {separation.purity:.2f}, silhouette {separation.silhouette:.2f}" if separation else ""
            axes.set_title(f"layer {one_line(layer)}{numbers}", fontsize=9)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color("#d6d8d4")
        if labels is not None and is_numeric(labels):
            figure.colorbar(artists[0], ax=panels.tolist(), shrink=0.6, location="right")
        elif labels is not None:
            figure.legend(handles=artists, loc="outside right upper", frameon=False, fontsize=8.5)
        with atomic_write(path) as tmp:
            metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
            figure.savefig(tmp, format=path.suffix[1:].lower(), dpi=160, metadata=metadata)


def _draw_panel(axes: Any, placed_N2: np.ndarray, labels: Sequence[Any] | None) -> list[Any]:
    """Draw the points, and return what the legend shows."""
    size = float(np.clip(4000 / len(placed_N2), 3, 28))
    if labels is None:
        return [axes.scatter(*placed_N2.T, s=size, color=COLOURS[0], linewidths=0, alpha=0.8)]
    if is_numeric(labels):
        values_N = np.array([np.nan if label is None else float(label) for label in labels])
        return [axes.scatter(*placed_N2.T, s=size, c=values_N, cmap="viridis", linewidths=0)]
    names = np.array(["" if label is None else str(label) for label in labels])
    counts = Counter(name for name in names if name)
    shown = [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_NAMED]]
    is_other_N = ~np.isin(names, shown)
    artists = []
    for number, name in enumerate(sorted(shown)):
        # Beyond the colours, each comes again with another marker.
        marker = MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]
        style = {"s": size, "marker": marker, "color": COLOURS[number % len(COLOURS)], "linewidths": 0, "alpha": 0.85}
        text = one_line(name).lstrip("_") or name
        artists.append(axes.scatter(*placed_N2[names == name].T, label=text[:28], zorder=2, **style))
    if is_other_N.any():
        artists.append(
            axes.scatter(*placed_N2[is_other_N].T, s=size, color=OTHER, linewidths=0, label="others", zorder=1)
        )
    return artists
