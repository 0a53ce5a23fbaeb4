"""The thesis's figures 6.1 and 6.2 of a leaderboard: systems by task type, and levels against hours of training data.

Figure 6.1 [yuan2023thesis §6]: a bar for each system and task type (table 3.1), the mean of its tasks' scores; a task
type of which a system lacks a task has no bar (the thesis draws 0), and the previous state of the art is a line. Figure
6.2: the mean score of each level's tasks against the hours of audio that a system was trained on; areas grow with the
logarithm of its parameters. Source separation and beat tracking are in no level, since only encoders with frames have
them. Hours and parameters are those of the cards; where sources state a range, a line spans it. Systems whose hours no
card states stand at the left edge. Own records have a black edge, published scores (‡) have none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carrara.bench import tasks as task_registry
from carrara.bench.leaderboard.picture import INK, PAPER, RULE, SOFT
from carrara.bench.leaderboard.ranking import CATEGORIES, Leaderboard
from carrara.core.errors import UsageError
from carrara.core.io import atomic_write
from carrara.encoders import REGISTRY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TASK_KINDS: Mapping[str, tuple[str, ...]] = {
    "tagging": ("magnatagatune/tags", "mtg-jamendo/top50"),
    "key": ("giantsteps/key",),
    "genre": ("gtzan/genre", "mtg-jamendo/genre"),
    "emotion": ("emomusic/emotion", "mtg-jamendo/mood-theme"),
    "pitch": ("nsynth/pitch",),
    "beats": ("gtzan/beats",),
    "chords": ("chords1217/chords",),
    "technique": ("vocalset/technique",),
    "singer": ("vocalset/singer",),
    "instrument": ("nsynth/instrument", "mtg-jamendo/instrument"),
    "stems (dB)": ("musdb18/stems",),
}
LEVELS = ("acoustic", "score", "performance", "high-level")
WITHOUT_LEVEL = ("beat_tracking", "source_separation")
STATE_OF_THE_ART = "Previous-SOTA"
# The encoders whose cards state the hours and parameters of published systems.
ENCODERS = {
    "MusiCNN": "musicnn-msd-big",
    "CLMR": "clmr",
    "Jukebox-5B": "jukebox-5b",
    "MULE": "mule",
    "Music2Vec": "music2vec-v1",
    "MERT-v0-95M": "mert-v0",
    "MERT-v0-95M-public": "mert-v0-public",
    "MERT-v1-95M": "mert-v1-95m",
    "MERT-v1-330M": "mert-v1-330m",
    "MERT-Large": "mert-v1-330m",
    "MERT-v2-30s": "mert-v2-30s",
    "MERT-v2-FullSong": "mert-v2-fullsong",
    "Dasheng-1.2B": "dasheng-1.2b",
    "MuQ": "muq",
    "MusicFM": "musicfm-msd",
}
# The thesis's own figure counts all of Jukebox; the card has the 36 of 72 layers that are run. The others have no card.
PARAMETERS = {
    "Jukebox-5B": 5e9,
    "AudioMAE++": 307e6,
    "MATPAC++": 307e6,
    "A-JEPA": 307e6,
    "PupuJEPA-Large": 307e6,
    "PupuJEPA-Huge": 632e6,
}
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a7000", "#5d6bb0", "#7f7f7f", "#b2182b")
HATCHES = ("", "////", "....")  # of the first, second and third systems of a colour
NAME_GAP = 0.07  # of the height, between the names of two points
UNKNOWN_HOURS = 30.0  # where systems of unknown hours stand on the axis


@dataclass(frozen=True)
class FigureSystem:
    """One system of the figures: its scores by task, whether they were measured here, hours (a range), parameters."""

    name: str
    scores: Mapping[str, float]
    is_own: bool
    hours: tuple[float, float] | None
    parameters: float

    def mean(self, tasks: Sequence[str]) -> float | None:
        """Return the mean score of tasks; None where one is missing, or there are none."""
        values = [self.scores[task] for task in tasks if task in self.scores]
        return sum(values) / len(values) if values and len(values) == len(tasks) else None


def figure_systems(leaderboard: Leaderboard) -> list[FigureSystem]:
    """Return the systems of a leaderboard, own ones first; partial records count as missing."""
    systems = []
    for own in leaderboard.systems:
        scores = {task: own.results[task].score.value for task in own.complete_tasks()}
        encoder = next(iter(own.results.values())).record.encoder
        card = _card(encoder.name)
        systems.append(FigureSystem(own.name, scores, True, card and card.training_hours, encoder.parameters))
    for each in leaderboard.published:
        values = {task: each.score(task) for task in leaderboard.tasks}
        card = _card(ENCODERS.get(each.name.partition(" (")[0], ""))
        known = PARAMETERS.get(each.name.partition(" (")[0], card.parameters if card else 0)
        scores = {task: value for task, value in values.items() if value is not None}
        systems.append(FigureSystem(f"{each.name}‡", scores, False, card and card.training_hours, known))
    return systems


def task_kinds(leaderboard: Leaderboard) -> dict[str, tuple[str, ...]]:
    """Return the tasks of each task type that the leaderboard has whole; other tasks are types of their own."""
    kinds = {name: members for name, members in TASK_KINDS.items() if set(members) <= set(leaderboard.tasks)}
    grouped = {task for members in kinds.values() for task in members}
    rest = {task.rpartition("/")[2]: (task,) for task in leaderboard.tasks if task not in grouped}
    return {**kinds, **rest}


def level_tasks(leaderboard: Leaderboard) -> dict[str, tuple[str, ...]]:
    """Return the tasks of each level: those of the thesis for its suite, else by the tasks' own categories."""
    if leaderboard.suite in CATEGORIES:
        levels = CATEGORIES[leaderboard.suite]
        return {level: levels[level] for level in LEVELS if set(levels[level]) <= set(leaderboard.tasks)}
    levels = {}
    for level in LEVELS:
        own = [task_registry.task(name) for name in leaderboard.tasks if name in task_registry.REGISTRY.entries]
        levels[level] = tuple(
            task.name for task in own if task.category == level and task.task_type not in WITHOUT_LEVEL
        )
    return {level: members for level, members in levels.items() if members}


def draw_figures(path: Path | str, leaderboard: Leaderboard) -> Path:
    """Write both figures into one picture, PNG or SVG by the ending, and return its path.

    Raises:
        UsageError: another ending, or no system has a score.
        StoreError: the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    path = Path(path)
    if path.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"--figure {path}: end the file's name with .png or .svg")
    systems = [system for system in figure_systems(leaderboard) if system.scores]
    if not systems:
        raise UsageError(f"--figure: no system of {leaderboard.title} has a complete score; measure without --limit")
    levels = level_tasks(leaderboard)
    bars = [system for system in systems if not system.name.startswith(STATE_OF_THE_ART)]
    colours = {system.name: PALETTE[index % len(PALETTE)] for index, system in enumerate(bars)}
    with matplotlib.rc_context({"font.size": 8.5, "text.color": INK, "text.parse_math": False}):
        width = max(11.0, 1.1 * len(task_kinds(leaderboard)) + 2)
        figure = Figure(figsize=(width, 11), facecolor=PAPER, layout="constrained")
        rows = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.4))[:, 0]
        _draw_kinds(rows[0].add_subplot(), leaderboard, systems, colours)
        panels = rows[1].subplots(max((len(levels) + 1) // 2, 1), 2, squeeze=False).ravel()
        for axes, (level, members) in zip(panels, levels.items()):
            _draw_level(axes, level, members, systems, colours)
        for axes in panels[len(levels) :]:
            axes.set_axis_off()
        with atomic_write(path) as tmp:
            metadata = {"Software": "carrara"} if path.suffix.lower() == ".png" else {"Date": None}
            figure.savefig(tmp, format=path.suffix.lower()[1:], dpi=160, metadata=metadata)
    return path


def _draw_kinds(
    axes: Axes, leaderboard: Leaderboard, systems: Sequence[FigureSystem], colours: Mapping[str, str]
) -> None:
    kinds = task_kinds(leaderboard)
    bars = [system for system in systems if not system.name.startswith(STATE_OF_THE_ART)]
    width = 0.84 / max(len(bars), 1)
    for index, system in enumerate(bars):
        points = [(place, system.mean(members)) for place, members in enumerate(kinds.values())]
        drawn = [(place - 0.42 + (index + 0.5) * width, value) for place, value in points if value is not None]
        axes.bar(
            [left for left, _ in drawn],
            [value for _, value in drawn],
            width * 0.92,
            color=colours[system.name],
            edgecolor=INK if system.is_own else PAPER if index >= len(PALETTE) else "none",
            linewidth=1.2 if system.is_own else 0,
            hatch=HATCHES[index // len(PALETTE) % len(HATCHES)],
            label=f"{system.name} (measured here)" if system.is_own else system.name,
        )
    best = [system for system in systems if system not in bars]
    for system in best:
        for place, members in enumerate(kinds.values()):
            value = system.mean(members)
            if value is not None:
                label = "previous state of the art‡" if system is best[0] and place == 0 else None
                axes.plot([place - 0.46, place + 0.46], [value] * 2, color=INK, linewidth=1.4, label=label)
    axes.set_xticks(range(len(kinds)), list(kinds))
    axes.set_xlim(-0.6, len(kinds) - 0.4)
    axes.set_ylabel("score (percent)")
    axes.set_title(f"{leaderboard.title}: mean score by task type", loc="left", fontweight="bold")
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.005, 1), frameon=False)


def _draw_level(
    axes: Axes, level: str, tasks: Sequence[str], systems: Sequence[FigureSystem], colours: Mapping[str, str]
) -> None:
    has_unknown = False
    points: list[tuple[float, float, FigureSystem]] = []
    for system in systems:
        value = system.mean(tasks)
        if value is None or system.name.startswith(STATE_OF_THE_ART):
            continue
        low, high = system.hours or (UNKNOWN_HOURS, UNKNOWN_HOURS)
        has_unknown |= system.hours is None
        # Radii on a logarithmic scale of parameters, from a thousand on.
        radius = 2.0 + 1.6 * max(math.log10(max(system.parameters, 1e3)) - 3, 0)
        axes.plot([low, high], [value] * 2, color=colours[system.name], linewidth=1.2, zorder=1)
        axes.plot(
            [math.sqrt(low * high)],
            [value],
            "o",
            markersize=2 * radius,
            color=colours[system.name],
            alpha=0.8,
            markeredgecolor=INK if system.is_own else "none",
            markeredgewidth=1.4,
            zorder=2,
        )
        points.append((value, math.sqrt(low * high), system))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda hours, _: f"{hours:,.0f}")
    axes.set_xlim(UNKNOWN_HOURS / 2 if has_unknown else 1e2, 2e6)
    if has_unknown:
        axes.axvline(2 * UNKNOWN_HOURS, color=RULE, linewidth=0.8)
        place: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "bottom"}
        axes.text(UNKNOWN_HOURS, 0.01, "hours\nnot stated", color=SOFT, fontsize=6, **place)
    axes.margins(y=0.12)
    _name_points(axes, points, colours)
    axes.set_title(f"{level.removesuffix('-level')} level ({len(tasks)} task{'s' * (len(tasks) > 1)})", loc="left")
    axes.set_xlabel("hours of training audio")
    axes.grid(color=RULE, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _name_points(axes: Axes, points: Sequence[tuple[float, float, FigureSystem]], colours: Mapping[str, str]) -> None:
    """Write the names of (score, hours, system) beside the axes, apart from each other, with a line to each point."""
    bottom, top = axes.get_ylim()
    ordered = sorted(points, key=lambda point: point[0])
    heights = [(value - bottom) / (top - bottom) for value, _, _ in ordered]
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + NAME_GAP)
    # Names that were pushed beyond the top come down again.
    for index in range(len(heights) - 1, -1, -1):
        heights[index] = min(heights[index], 1.0 - NAME_GAP * (len(heights) - 1 - index))
    for height, (value, hours, system) in zip(heights, ordered):
        axes.annotate(
            system.name,
            (hours, value),
            (1.02, height),
            textcoords="axes fraction",
            fontsize=7,
            va="center",
            fontweight="bold" if system.is_own else "normal",
            arrowprops={"arrowstyle": "-", "color": colours[system.name], "linewidth": 0.6, "shrinkB": 0},
        )


def _card(name: str) -> Any:
    """Return the card of a registered encoder; None where there is none."""
    if name not in REGISTRY.entries:
        return None
    return REGISTRY.get(name).variants[name][0]
