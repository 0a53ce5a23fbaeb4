"""Styles along a recording as a picture: a row a style, time to the right, the darker the more probable.

Letters: W windows, S styles that are shown.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from carrara.core.io import atomic_write
from carrara.features.tags import TrackTags

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INCH_A_ROW, INCH_BESIDE, WIDTH = 0.28, 1.2, 10.0


@dataclass(frozen=True)
class Drawing:
    """What a picture shows: the styles from top to bottom, the times (s) between windows, how dark each field is."""

    styles: list[str]
    edges: np.ndarray
    probability_SW: np.ndarray


def drawing(track: TrackTags, labels: Sequence[str], top: int) -> Drawing:
    """Return what is drawn of a recording: its most probable styles, the first first, over time."""
    styles = track.top(top)
    names = [labels[style].replace("---", " / ") for style in styles]
    return Drawing(names, edges(track), track.probability_WK[:, styles].T)


def edges(track: TrackTags) -> np.ndarray:
    """Return the times between which each window is shown, `[W + 1]`: midway to the next window's middle."""
    middle_W = track.start_W + track.duration_W / 2
    return np.concatenate([[0.0], (middle_W[1:] + middle_W[:-1]) / 2, [track.seconds]])


def style_picture(path: Path, track: TrackTags, labels: Sequence[str], top: int) -> None:
    """Write the picture of a recording's most probable styles as a PNG.

    Raises:
        StoreError: it cannot be written.
    """
    import matplotlib

    with matplotlib.rc_context({"font.size": 9, "text.parse_math": False}), warnings.catch_warnings():
        # Names in scripts that the font lacks are drawn as boxes; a warning for each letter helps nobody.
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from font", UserWarning)
        figure = figure_of(drawing(track, labels, top), Path(track.path).name)
        with atomic_write(path) as draft:
            figure.savefig(draft, format="png", dpi=150, metadata={"Software": "carrara"})


def figure_of(drawn: Drawing, title: str) -> Figure:
    """Return a drawing as a figure of matplotlib's."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    rows = len(drawn.styles)
    figure = Figure(figsize=(WIDTH, INCH_BESIDE + INCH_A_ROW * rows), layout="constrained")
    axes = figure.add_subplot()
    image = axes.pcolormesh(drawn.edges, np.arange(rows + 1) - 0.5, drawn.probability_SW, vmin=0, vmax=1, cmap="Blues")
    axes.set_yticks(range(rows), drawn.styles)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: clock(seconds)))
    axes.set_title(title, loc="left")
    figure.colorbar(image, ax=axes, label="probability", pad=0.01)
    return figure


def picture_names(folder: Path, paths: Iterable[str], former: Mapping[str, str]) -> dict[str, str]:
    """Return the file name of each recording's picture: its former one, or its stem, numbered until nobody has it.

    Args:
        folder: where the pictures are; no other file in it is overwritten, also where case makes no difference.
        paths: the recordings.
        former: names that are given already, by recording.
    """
    taken = {name.casefold() for name in [*former.values(), *(file.name for file in folder.iterdir())]}
    names = {}
    for path in paths:
        stem = Path(path).stem
        numbered = chain([f"{stem}.png"], (f"{stem}-{number}.png" for number in count(2)))
        names[path] = former.get(path) or next(name for name in numbered if name.casefold() not in taken)
        taken.add(names[path].casefold())
    return names


def clock(seconds: float) -> str:
    """Return a time as minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
