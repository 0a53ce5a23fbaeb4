"""What a study is: which recipes a published table compares, and what its authors conclude from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ROWS = ("pebble/key", "pebble/pitch", "pebble/genre", "pebble/emotion", "pebble/instrument", "pebble/beats")


@dataclass(frozen=True)
class View:
    """One layer of a trained model and what of it is heard; nothing more is trained.

    Attributes:
        of: label of the line whose model it is.
        settings: that are changed on it, by dotted path.
        layer, layers: the table's layer, and how many its network has; in another the layer at the same share.
    """

    of: str
    settings: Mapping[str, Any]
    layer: int
    layers: int

    def layer_of(self, layers: int) -> int:
        """Return which layer of a network of so many it is."""
        return max(round(self.layer * layers / self.layers), 1)


@dataclass(frozen=True)
class Line:
    """One line of a table.

    Attributes:
        label: its name in the study, and of its models' folders.
        recipe: that makes it; empty for a network as it is before training, and for a view.
        before: the line whose network it is before training; where nothing is said, the first that has a recipe.
        published: the system's name in `carrara/bench/leaderboard/published.tsv`; empty where the table has none.
        changes: settings to change at any scale, by dotted path.
        shrunk: settings to change at any scale below base.
        after: label of the line whose model a setting needs, and the path of that setting.
        weights: which of the official files that a user must give it begins from: deit, passt.
        view: what it hears of another line's model.
        source: the published table where it is not the study's.
    """

    label: str
    recipe: str
    published: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    shrunk: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[str, str] | None = None
    weights: str = ""
    view: View | None = None
    source: str = ""
    before: str = ""


@dataclass(frozen=True)
class Claim:
    """That one line is above another, as the authors read their table."""

    text: str
    above: str
    below: str


@dataclass(frozen=True)
class Study:
    """A published table: where it is printed, its lines, and what follows from them.

    Attributes:
        title: of the page.
        source: the table's name in published.tsv.
        column: which of its columns is printed: an average (ALL4, ALL9) or a dataset.
        lines, claims: see there.
        rows: of Pebble, asked of every line.
        metric: of that column.
        table: what the page calls it.
        told: what the page says of the published column, and of what else is other than published.
        labelled: whether the recipes learn from labels, and so from Pebble itself and not from its unlabelled part.
    """

    title: str
    source: str
    column: str
    lines: tuple[Line, ...]
    claims: tuple[Claim, ...]
    rows: tuple[str, ...] = ROWS
    metric: str = "avg"
    table: str = "The thesis's table"
    told: str = "The published column is the mean of the thesis's own tasks, so only its order compares."
    labelled: bool = False
