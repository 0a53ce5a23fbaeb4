"""Draws the tags of a recording over time as a heat map: one row per tag, time to the right, darker is more probable.

Letters: W windows, K tags that are shown.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from carrara.core.io import atomic_write
from carrara.features.tags import TrackTags

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROW_INCHES, MARGIN_INCHES, WIDTH_INCHES = 0.28, 1.2, 10.0


def write_heatmap(path: Path, track: TrackTags, labels: Sequence[str], top: int) -> None:
    """Write the heat map of a recording's most probable tags as a PNG.

    Raises:
        StoreError: it cannot be written.
    """
    import matplotlib

    with matplotlib.rc_context({"font.size": 9, "text.parse_math": False}), warnings.catch_warnings():
        # Letters that the font lacks are drawn as boxes; a warning for each is of no use.
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from font", UserWarning)
        figure = draw_heatmap(track, labels, top)
        with atomic_write(path) as tmp:
            figure.savefig(tmp, format="png", dpi=150, metadata={"Software": "carrara"})


def draw_heatmap(track: TrackTags, labels: Sequence[str], top: int) -> Figure:
    """Return a figure of a recording's most probable tags, the most probable first.

    A window is shown from the midpoint between its centre and the previous one's to that with the next one's.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    tags = track.top(top)
    centre_W = track.start_W + track.duration_W / 2
    edges = np.concatenate([[0.0], (centre_W[1:] + centre_W[:-1]) / 2, [track.seconds]])
    figure = Figure(figsize=(WIDTH_INCHES, MARGIN_INCHES + ROW_INCHES * len(tags)), layout="constrained")
    axes = figure.add_subplot()
    probability_KW = track.probability_WK[:, tags].T
    low, high = (0, 1) if track.measure == "probability" else (None, None)
    image = axes.pcolormesh(edges, np.arange(len(tags) + 1) - 0.5, probability_KW, vmin=low, vmax=high, cmap="Blues")
    axes.set_yticks(range(len(tags)), [labels[tag].replace("---", " / ") for tag in tags])
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: format_time(seconds)))
    axes.set_title(Path(track.path).name, loc="left")
    figure.colorbar(image, ax=axes, label=track.measure, pad=0.01)
    return figure


def name_pictures(folder: Path, paths: Iterable[str], former: Mapping[str, str]) -> dict[str, str]:
    """Return the file name of each recording's picture: its former one, or its stem with a number where it is taken.

    Args:
        folder: folder of the pictures; no other file in it is overwritten, not even where case makes no difference.
        paths: the recordings.
        former: names from earlier commands, by recording.
    """
    taken = {name.casefold() for name in [*former.values(), *(file.name for file in folder.iterdir())]}
    names = {}
    for path in paths:
        stem = Path(path).stem
        candidates = chain([f"{stem}.png"], (f"{stem}-{number}.png" for number in count(2)))
        names[path] = former.get(path) or next(name for name in candidates if name.casefold() not in taken)
        taken.add(names[path].casefold())
    return names


def format_time(seconds: float) -> str:
    """Return a time as minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
