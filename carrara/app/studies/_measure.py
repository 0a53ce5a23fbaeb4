"""The running of a study: every line's recipe for several seeds, every model asked the same rows; all of it resumes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carrara.app.studies._base import Line, Study
from carrara.core.errors import UsageError
from carrara.core.record import Record

FIRST_SEED = 1337


@dataclass(frozen=True)
class Plan:
    """How a study is run.

    Attributes:
        corpus: sound to learn from.
        output: folder of the models, the records and the page.
        scale: of the recipes.
        seeds: models a line; the network's and the probes' seed go together.
        steps: of every training, instead of the recipes'.
        labels: lines to run; empty: all.
        data_dir: folder of the datasets that the rows ask about.
        device: where it all runs.
    """

    corpus: tuple[Path, ...]
    output: Path
    scale: str = "tiny"
    seeds: int = 3
    steps: int | None = None
    labels: tuple[str, ...] = ()
    data_dir: Path | None = None
    device: str = "cpu"

    def lines(self, study: Study) -> list[Line]:
        """Return the lines that are run, in the study's order."""
        return [line for line in study.lines if not self.labels or line.label in self.labels]


@dataclass(frozen=True)
class Measured:
    """One model's records, by task, and what it cost to train it, in seconds."""

    label: str
    seed: int
    records: dict[str, Record]
    seconds: float


def measured(study: Study, plan: Plan) -> Iterator[Measured]:
    """Yield every model of every line, trained and measured; what stands in the output already is taken from there.

    Raises:
        CarraraError: a training or a measurement failed; what was done stays, and the same command goes on.
    """
    for seed in range(FIRST_SEED, FIRST_SEED + plan.seeds):
        for line in plan.lines(study):
            model = trained(study, line, plan, seed)
            yield Measured(line.label, seed, _asked(study, model, plan, seed), _seconds(plan, line, seed))


def trained(study: Study, line: Line, plan: Plan, seed: int) -> str:
    """Return the model of a line: its folder, or the first trained line's as it is before training.

    Raises:
        UsageError: there is no trained line to take the network from.
    """
    from carrara.pretrain.recipes._base import resolve
    from carrara.pretrain.run import pretrain

    if not line.recipe:
        first = next((one for one in plan.lines(study) if one.recipe), None)
        if first is None:
            raise UsageError(f"--lines: {line.label} is another line's network before training; name that line too")
        return f"{trained(study, first, plan, seed)}:random-{seed}"
    folder = place(plan, line.label, seed)
    changes: dict[str, Any] = {"seed": seed}
    if plan.scale != "base":
        changes |= line.changes
    if line.after:
        before = next(one for one in study.lines if one.label == line.after[0])
        changes[line.after[1]] = trained(study, before, plan, seed)
    recipe = resolve(line.recipe, plan.scale, changes)
    return str(pretrain(recipe, plan.corpus, folder, steps=plan.steps, resume=True, device=plan.device))


def place(plan: Plan, label: str, seed: int) -> Path:
    """Return the folder of a line's model."""
    return plan.output / "models" / f"{label}-{seed}"


def _asked(study: Study, model: str, plan: Plan, seed: int) -> dict[str, Record]:
    from carrara.bench.rules import Rules
    from carrara.bench.run import bench

    found = bench(
        model,
        study.rows,
        data_dir=plan.data_dir,
        results=plan.output / "results",
        rules=Rules(seeds=(seed,)),
        device=plan.device,
    )
    return {record.task.name: record for record in found}


def _seconds(plan: Plan, line: Line, seed: int) -> float:
    """Return how long a line's training took, from its journal; 0 where there was none."""
    path = place(plan, line.label, seed) / "journal.jsonl"
    if not line.recipe or not path.is_file():
        return 0.0
    last: Sequence[str] = path.read_text(encoding="utf-8").splitlines()[-1:]
    return float(json.loads(last[0]).get("seconds", 0.0)) if last else 0.0
