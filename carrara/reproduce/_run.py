"""Run a reproduction: train every row's recipe with several seeds and measure every model on the same tasks.

Letters: B batch, T samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carrara.audio.decode import SUFFIXES
from carrara.bench.config import BenchConfig, parse_protocol_name
from carrara.bench.run import bench
from carrara.core.errors import UsageError
from carrara.core.record import Record
from carrara.encoders._base import Encoder
from carrara.encoders._hub.load import load, with_settings
from carrara.pretrain.metrics_log import LOG_FILE, read_metrics
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.run import pretrain
from carrara.pretrain.tagging.initialize import INITIAL_WEIGHTS
from carrara.reproduce._base import CORPORA, AblationRow, LayerSelection, Reproduction

FIRST_SEED = 1337
FULL = "base"
AVERAGED_SCORE = "swa/average_precision"
LAST = "last"


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
        corpora: other corpora to train on, by name: speech, other.
        changes: settings of every row's recipe, by dotted path; equal for all, so that budgets stay equal.
        models: encoders that rows have already, by label, one for each seed; these rows are not trained.
        protocol: of the probes, as records name it: `linear:layers=concat:last4`.
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
    corpora: Mapping[str, Path] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    protocol: str = "constrained"

    def bench_config(self, reproduction: Reproduction, seed: int, row: AblationRow | None = None) -> BenchConfig:
        """Return how a model is measured: the plan's protocol with its settings, before them the reproduction's.

        A row that selects a layer has no other to choose, to add or to concatenate.
        """
        config = parse_protocol_name(self.protocol)
        settings = {**reproduction.probes, **config.settings}
        if row is not None and row.selection:
            settings.pop("layers", None)
        return replace(config, settings=settings, seeds=(seed,))

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
            if row.corpus and row.corpus not in self.corpora:
                needs[row.label] = f"--other-corpus {row.corpus}=FOLDER: {CORPORA[row.corpus]}"
        return needs

    def files(self, row: AblationRow) -> tuple[Path, ...]:
        """Return what a row is trained on: the corpus, or the first files of it by name.

        Raises:
            UsageError: a fraction of a corpus that is not of audio files or folders of them.
        """
        corpus = (self.corpora[row.corpus],) if row.corpus else self.corpus
        if row.corpus_fraction == 1:
            return corpus
        files = sorted(file for path in corpus for file in (path.rglob("*") if path.is_dir() else (path,)))
        audio = [file for file in files if file.suffix.lower() in SUFFIXES]
        if not audio:
            raise UsageError(f"--corpus: {row.label} needs audio files or folders of them, to take a fraction")
        return tuple(audio[: max(round(row.corpus_fraction * len(audio)), 1)])

    def model_folder(self, label: str, seed: int) -> Path:
        """Return the folder of a row's model."""
        return self.output / "models" / f"{label}-{seed}"


@dataclass(frozen=True)
class MeasuredModel:
    """One model's records, by task, how long its training took, in seconds, and a tagger's AP in its own task."""

    label: str
    seed: int
    records: dict[str, Record]
    training_seconds: float
    validated: float | None = None


class OneLayer(Encoder):
    """One layer of another encoder, or some thirds of it, under a name of its own: a protocol can choose no other."""

    def __init__(self, encoder: Encoder, selection: LayerSelection, name: str) -> None:
        super().__init__()
        self.encoder, self.selection, self.settings = encoder, selection, encoder.settings
        self.layer = selection.layer_of(encoder.card.num_layers)
        dim = encoder.card.dim if len(selection.thirds) == 3 else encoder.card.dim // 3 * len(selection.thirds)
        if selection.is_cnn:
            dim = encoder.card.cnn_dim or dim
        self.card = encoder.card.model_copy(update={"name": name, "num_layers": 0, "cnn_dim": None, "dim": dim})

    def num_frames(self, samples: int) -> int:
        """Return how many frames that many samples give."""
        return self.encoder.num_frames(samples)

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the layer, `[batch, 1, frames, dim]`."""
        if self.selection.is_cnn:
            return self.encoder.forward_with_cnn(samples_BT, lengths_B)[1][:, None]
        features: Tensor = self.encoder(samples_BT, lengths_B)[:, self.layer : self.layer + 1]
        if len(self.selection.thirds) == 3:
            return features
        parts = features.chunk(3, dim=-1)
        return torch.cat([parts[third] for third in self.selection.thirds], -1)


def select_layer(model: str, selection: LayerSelection, name: str, device: str) -> OneLayer:
    """Return the selected layer of a model; `name` is what its records call it."""
    encoder = with_settings(load(model, device), selection.settings, f"the row {name}").to(device)
    return OneLayer(encoder, selection, name)


def run_reproduction(reproduction: Reproduction, plan: ReproductionPlan) -> Iterator[MeasuredModel]:
    """Yield every model of every row, trained and measured; what the output folder already has is not done again.

    A row without its official weights is left out.

    Raises:
        UsageError: all rows are.
        CarraraError: a training or a measurement failed; the same command continues with it.
    """
    rows = runnable_rows(reproduction, plan)
    for seed in range(FIRST_SEED, FIRST_SEED + plan.seeds):
        for row in rows:
            model = train_row(reproduction, row, plan, seed)
            name = f"{row.label}-{seed}"
            records = bench(
                select_layer(model, row.selection, name, plan.device) if row.selection else model,
                reproduction.tasks,
                data_dir=plan.data_dir,
                results=plan.output / "results",
                config=plan.bench_config(reproduction, seed, row),
                device=plan.device,
            )
            log = training_log(reproduction, row, plan, seed)
            seconds = float(log[-1].get("seconds", 0.0)) if log and row.recipe else 0.0
            validated = [line[key] for line in log for key in validation_keys(row) if key in line]
            yield MeasuredModel(
                row.label,
                seed,
                {record.task.name: record for record in records},
                seconds,
                validated[-1] if validated else None,
            )


def runnable_rows(reproduction: Reproduction, plan: ReproductionPlan) -> list[AblationRow]:
    """Return the rows to run for which no file is missing.

    Raises:
        UsageError: there are none.
    """
    missing = plan.missing_weights(reproduction)
    rows = [row for row in plan.rows(reproduction) if row.label not in missing]
    if not rows:
        raise UsageError("nothing to run: " + "; ".join(f"{label} needs {need}" for label, need in missing.items()))
    return rows


def training_log(
    reproduction: Reproduction, row: AblationRow, plan: ReproductionPlan, seed: int
) -> list[dict[str, Any]]:
    """Return the log of the training whose weights a row measures; empty for an untrained network."""
    label = row.last_weights_of or (row.selection.model_of if row.selection else row.label)
    if not reproduction.row(label).recipe or label in plan.models:
        return []
    return read_metrics(plan.model_folder(label, seed) / LOG_FILE)


def validation_keys(row: AblationRow) -> tuple[str, ...]:
    """Return the log's keys of a tagger's score in its own task, the one that counts last."""
    return ("valid/average_precision",) if row.last_weights_of else ("valid/average_precision", AVERAGED_SCORE)


def train_row(reproduction: Reproduction, row: AblationRow, plan: ReproductionPlan, seed: int) -> str:
    """Return the model of a row as `load` takes it, trained where it is the row's own.

    A row that selects a layer has another row's model, an untrained row another's with random weights.

    Raises:
        UsageError: no row that is run has the network, or fewer models than seeds are given for it.
    """
    if row.label in plan.models:
        given = plan.models[row.label]
        if len(given) < plan.seeds:
            raise UsageError(f"--model {row.label}: {len(given)} for {plan.seeds} seeds; repeat it or lower --seeds")
        return given[seed - FIRST_SEED]
    if row.selection:
        return train_row(reproduction, reproduction.row(row.selection.model_of), plan, seed)
    if row.last_weights_of:
        folder = Path(train_row(reproduction, reproduction.row(row.last_weights_of), plan, seed))
        # Before the first average is taken the folder itself has the last weights.
        return str(folder / LAST if (folder / LAST).is_dir() else folder)
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
    changes |= plan.changes
    if row.official_weights:
        changes["initial.weights"] = str(plan.weights[row.official_weights])
    if row.initial_model:
        label, path = row.initial_model
        changes[path] = train_row(reproduction, reproduction.row(label), plan, seed)
    recipe = resolve(row.recipe, plan.scale, changes)
    steps = plan.steps
    if row.steps_factor != 1:
        steps = round(row.steps_factor * (steps or recipe.steps))
    folder = plan.model_folder(row.label, seed)
    return str(pretrain(recipe, plan.files(row), folder, steps=steps, resume=True, device=plan.device))
