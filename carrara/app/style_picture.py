"""Styles along a recording as a picture: a row a style, time to the right, the darker the more probable.

Letters: W windows, S styles that are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from carrara.core.files import whole
from carrara.features.tags import Track

INCH_A_ROW, INCH_BESIDE, WIDTH = 0.28, 1.2, 10.0


def edges(track: Track) -> np.ndarray:
    """Return the times between which each window is shown, `[W + 1]`: midway to the next window's middle."""
    middle_W = track.start_W + track.duration_W / 2
    return np.concatenate([[0.0], (middle_W[1:] + middle_W[:-1]) / 2, [track.seconds]])


def style_picture(path: Path, track: Track, labels: Sequence[str], top: int) -> None:
    """Write the picture of a recording's most probable styles as a PNG.

    Raises:
        StoreError: it cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    styles = track.top(top)
    probability_SW = track.probability_WK[:, styles].T
    with matplotlib.rc_context({"font.size": 9, "text.parse_math": False}):
        figure = Figure(figsize=(WIDTH, INCH_BESIDE + INCH_A_ROW * len(styles)), layout="constrained")
        axes = figure.add_subplot()
        image = axes.pcolormesh(
            edges(track), np.arange(len(styles) + 1) - 0.5, probability_SW, vmin=0, vmax=1, cmap="Blues"
        )
        axes.set_yticks(range(len(styles)), [labels[style].replace("---", " / ") for style in styles])
        axes.invert_yaxis()
        axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: clock(seconds)))
        axes.set_title(Path(track.path).name, loc="left")
        figure.colorbar(image, ax=axes, label="probability", pad=0.01)
        with whole(path) as draft:
            figure.savefig(draft, format="png", dpi=150, metadata={"Software": "carrara"})


def clock(seconds: float) -> str:
    """Return a time as minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
