"""Run a reproduction: train every row's recipe with several seeds and measure every model on the same tasks.

Letters: B batch, T samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from carrara.bench.config import BenchConfig
from carrara.bench.run import bench
from carrara.core.errors import UsageError
from carrara.core.record import Record
from carrara.encoders._base import Encoder
from carrara.encoders._hub.load import load, with_settings
from carrara.pretrain.metrics_log import LOG_FILE, read_metrics
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.run import pretrain
from carrara.pretrain.tagging.initialize import INITIAL_WEIGHTS
from carrara.reproduce._base import AblationRow, LayerSelection, Reproduction

FIRST_SEED = 1337
FULL = "base"


@dataclass(frozen=True)
class ReproductionPlan:
    """How a reproduction is run.

    Attributes:
        corpus: audio to train on, or the folder of a dataset whose labels are learnt.
        output: folder of the models, the records and the page.
        scale: of the recipes.
        seeds: models a row; the network's and the probes' seed are the same.
        steps: of every training, instead of the recipes'.
        labels: rows to run; empty for all.
        data_dir: folder of the datasets that models are measured on.
        device: where it all runs.
        weights: official files to start from, by kind: deit, passt.
    """

    corpus: tuple[Path, ...]
    output: Path
    scale: str = "tiny"
    seeds: int = 3
    steps: int | None = None
    labels: tuple[str, ...] = ()
    data_dir: Path | None = None
    device: str = "cpu"
    weights: Mapping[str, Path] = field(default_factory=dict)

    def rows(self, reproduction: Reproduction) -> list[AblationRow]:
        """Return the rows to run, in the table's order."""
        return [row for row in reproduction.rows if not self.labels or row.label in self.labels]

    def missing_weights(self, reproduction: Reproduction) -> dict[str, str]:
        """Return by label the rows that cannot be run for want of a file, each with what it needs."""
        needs = {}
        for row in self.rows(reproduction):
            if row.official_weights:
                need = f"--weights {row.official_weights}=FILE: {INITIAL_WEIGHTS[row.official_weights]}"
                if self.scale != FULL:
                    needs[row.label] = f"--scale {FULL} (the file is of the full network) and {need}"
                elif row.official_weights not in self.weights:
                    needs[row.label] = need
        return needs

    def model_folder(self, label: str, seed: int) -> Path:
        """Return the folder of a row's model."""
        return self.output / "models" / f"{label}-{seed}"


@dataclass(frozen=True)
class MeasuredModel:
    """One model's records, by task, and how long its training took, in seconds."""

    label: str
    seed: int
    records: dict[str, Record]
    training_seconds: float


class OneLayer(Encoder):
    """One layer of another encoder under a name of its own, so that a protocol has no other layer to choose."""

    def __init__(self, encoder: Encoder, layer: int, name: str) -> None:
        super().__init__()
        self.encoder, self.layer, self.settings = encoder, layer, encoder.settings
        self.card = encoder.card.model_copy(update={"name": name, "num_layers": 0, "cnn_dim": None})

    def num_frames(self, samples: int) -> int:
        """Return how many frames that many samples give."""
        return self.encoder.num_frames(samples)

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the layer, `[batch, 1, frames, dim]`."""
        return self.encoder(samples_BT, lengths_B)[:, self.layer : self.layer + 1]


def select_layer(model: str, selection: LayerSelection, name: str, device: str) -> OneLayer:
    """Return the selected layer of a model; `name` is what its records call it."""
    encoder = with_settings(load(model, device), selection.settings, f"the row {name}").to(device)
    return OneLayer(encoder, selection.layer_of(encoder.card.num_layers), name)


def run_reproduction(reproduction: Reproduction, plan: ReproductionPlan) -> Iterator[MeasuredModel]:
    """Yield every model of every row, trained and measured; what the output folder already has is not done again.

    A row without its official weights is left out.

    Raises:
        UsageError: all rows are.
        CarraraError: a training or a measurement failed; the same command continues with it.
    """
    missing = plan.missing_weights(reproduction)
    rows = [row for row in plan.rows(reproduction) if row.label not in missing]
    if not rows:
        raise UsageError("nothing to run: " + "; ".join(f"{label} needs {need}" for label, need in missing.items()))
    for seed in range(FIRST_SEED, FIRST_SEED + plan.seeds):
        for row in rows:
            model = train_row(reproduction, row, plan, seed)
            name = f"{row.label}-{seed}"
            records = bench(
                select_layer(model, row.selection, name, plan.device) if row.selection else model,
                reproduction.tasks,
                data_dir=plan.data_dir,
                results=plan.output / "results",
                config=BenchConfig(seeds=(seed,)),
                device=plan.device,
            )
            seconds = _training_seconds(plan.model_folder(row.label, seed)) if row.recipe else 0.0
            yield MeasuredModel(row.label, seed, {record.task.name: record for record in records}, seconds)


def train_row(reproduction: Reproduction, row: AblationRow, plan: ReproductionPlan, seed: int) -> str:
    """Return the model of a row as `load` takes it, trained where it is the row's own.

    A row that selects a layer has another row's model, an untrained row another's with random weights.

    Raises:
        UsageError: no row that is run has the network.
    """
    if row.selection:
        return train_row(reproduction, reproduction.row(row.selection.model_of), plan, seed)
    if not row.recipe:
        missing = plan.missing_weights(reproduction)
        trainable = [each for each in plan.rows(reproduction) if each.recipe and each.label not in missing]
        trained = next((each for each in trainable if row.untrained_of in ("", each.label)), None)
        if trained is None:
            needed = row.untrained_of or "one that can be trained here"
            raise UsageError(f"--rows: {row.label} is another row's network before training; name {needed} too")
        return f"{train_row(reproduction, trained, plan, seed)}:random-{seed}"
    changes: dict[str, Any] = {"seed": seed, **row.changes}
    if plan.scale != FULL:
        changes |= row.small_changes
    if row.official_weights:
        changes["initial.weights"] = str(plan.weights[row.official_weights])
    if row.initial_model:
        label, path = row.initial_model
        changes[path] = train_row(reproduction, reproduction.row(label), plan, seed)
    recipe = resolve(row.recipe, plan.scale, changes)
    folder = plan.model_folder(row.label, seed)
    return str(pretrain(recipe, plan.corpus, folder, steps=plan.steps, resume=True, device=plan.device))


def _training_seconds(model: Path) -> float:
    """Return how long a training took, from the last line of its metrics log; 0 where there is none."""
    lines = read_metrics(model / LOG_FILE)
    return float(lines[-1].get("seconds", 0.0)) if lines else 0.0
