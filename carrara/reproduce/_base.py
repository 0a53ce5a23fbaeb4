"""What a reproduction is: which recipes a published table compares, and what its authors conclude from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# What a user must give, with what it is, for a row that is trained on another corpus.
CORPORA = {
    "speech": "speech, such as benchmarks/speech_corpus.py renders with Debian's espeak-ng",
    "other": "music of another collection",
}
TASKS = ("pebble/key", "pebble/pitch", "pebble/genre", "pebble/emotion", "pebble/instrument", "pebble/beats")


@dataclass(frozen=True)
class LayerSelection:
    """One layer of a trained model, measured alone; nothing more is trained.

    Attributes:
        model_of: label of the row whose model it is.
        settings: encoder settings to change, by dotted path.
        layer, num_layers: the table's layer, and how many its network has.
        thirds: which thirds of its features are measured, counted from 0: of cls, dist and average side by side.
        is_cnn: whether the convolutions' output is measured instead of the layer.
    """

    model_of: str
    settings: Mapping[str, Any]
    layer: int
    num_layers: int
    thirds: tuple[int, ...] = (0, 1, 2)
    is_cnn: bool = False

    def layer_of(self, num_layers: int) -> int:
        """Return the layer at the same fraction of the depth of a network with so many layers."""
        return max(round(self.layer * num_layers / self.num_layers), 1)


@dataclass(frozen=True)
class AblationRow:
    """One row of a published table.

    Attributes:
        label: its name in the reproduction, and that of its models' folders.
        recipe: the recipe that trains it; empty for an untrained network and for a layer of another row's model.
        published: the system's name in `carrara/bench/leaderboard/published.tsv`; empty where the table has none.
        changes: recipe settings to change at any scale, by dotted path.
        small_changes: recipe settings to change at any scale below base.
        initial_model: label of the row whose model a setting needs, and the path of that setting.
        official_weights: which of the official files that a user must give it starts from: deit, passt.
        selection: the layer of another row's model that it measures.
        source: the published table where it is not the reproduction's own.
        untrained_of: the row whose network it is before training; empty for the first row that has a recipe.
        last_weights_of: the row of whose training it measures the last weights and not the averaged ones.
        corpus: the corpus it is trained on where it is not the command's: speech, other.
        corpus_fraction: how much of the corpus it is trained on: so many of the first files by name.
        steps_factor: its steps over those of the other rows.
        outcome: how the authors' training went, in words, where trainings are compared.
    """

    label: str
    recipe: str = ""
    published: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    small_changes: Mapping[str, Any] = field(default_factory=dict)
    initial_model: tuple[str, str] | None = None
    official_weights: str = ""
    selection: LayerSelection | None = None
    source: str = ""
    untrained_of: str = ""
    last_weights_of: str = ""
    corpus: str = ""
    corpus_fraction: float = 1.0
    steps_factor: float = 1.0
    outcome: str = ""


@dataclass(frozen=True)
class Hypothesis:
    """That one row is better than another, as the authors read their table."""

    text: str
    better: str
    worse: str


@dataclass(frozen=True)
class Reproduction:
    """A published table: where it is printed, its rows, and what follows from them.

    Attributes:
        title: of the page.
        source: the table's name in published.tsv.
        column: which of its columns is shown: an average (ALL4, ALL9) or a dataset.
        rows, hypotheses: of the table.
        tasks: of Pebble, measured for every row.
        metric: of that column.
        table: what the page calls it.
        notes: what the page says about the published column, and about what differs from the publication.
        is_supervised: whether the recipes train on labels, and so on Pebble itself and not on its unlabelled part.
        probes: settings of the probes' protocol, by name.
        measures: what is compared: scores of `tasks`; how the `training` goes, with nothing measured after it; or the
            `purity` of genres among neighbours by layer.
    """

    title: str
    source: str
    column: str
    rows: tuple[AblationRow, ...]
    hypotheses: tuple[Hypothesis, ...]
    tasks: tuple[str, ...] = TASKS
    metric: str = "avg"
    table: str = "The thesis's table"
    notes: str = "The published column is the mean of the thesis's own tasks, so only its order compares."
    is_supervised: bool = False
    probes: Mapping[str, Any] = field(default_factory=dict)
    measures: Literal["tasks", "training", "purity"] = "tasks"

    def row(self, label: str) -> AblationRow:
        """Return the row with a label."""
        return next(row for row in self.rows if row.label == label)
