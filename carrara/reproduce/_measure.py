"""The running of a study: every line's recipe for several seeds, every model asked the same rows; all of it resumes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carrara.core.errors import UsageError
from carrara.core.record import Record
from carrara.reproduce._base import Line, Study

if TYPE_CHECKING:
    from carrara.encoders._base import Encoder

FIRST_SEED = 1337
FULL = "base"


@dataclass(frozen=True)
class Plan:
    """How a study is run.

    Attributes:
        corpus: sound to learn from, or the place of a dataset whose labels are learnt.
        output: folder of the models, the records and the page.
        scale: of the recipes.
        seeds: models a line; the network's and the probes' seed go together.
        steps: of every training, instead of the recipes'.
        labels: lines to run; empty: all.
        data_dir: folder of the datasets that the rows ask about.
        device: where it all runs.
        weights: official files to begin from, by kind: deit, passt.
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

    def lines(self, study: Study) -> list[Line]:
        """Return the lines that are run, in the study's order."""
        return [line for line in study.lines if not self.labels or line.label in self.labels]

    def lacking(self, study: Study) -> dict[str, str]:
        """Return the lines that cannot be run, each with what it needs."""
        from carrara.pretrain.tagging.initial import OFFICIAL

        needs = {}
        for line in self.lines(study):
            file = f"--weights {line.weights}=FILE"
            if line.weights and self.scale != FULL:
                needs[line.label] = (
                    f"--scale {FULL} (the file is of the full network) and {file}: {OFFICIAL[line.weights]}"
                )
            elif line.weights and line.weights not in self.weights:
                needs[line.label] = f"{file}: {OFFICIAL[line.weights]}"
        return needs


@dataclass(frozen=True)
class Measured:
    """One model's records, by task, and what it cost to train it, in seconds."""

    label: str
    seed: int
    records: dict[str, Record]
    seconds: float


def measured(study: Study, plan: Plan) -> Iterator[Measured]:
    """Yield every model of every line, trained and measured; what stands in the output already is taken from there.

    A line that lacks a file is left out.

    Raises:
        UsageError: all of them do.
        CarraraError: a training or a measurement failed; what was done stays, and the same command goes on.
    """
    lacking = plan.lacking(study)
    lines = [line for line in plan.lines(study) if line.label not in lacking]
    if not lines:
        raise UsageError("nothing to run: " + "; ".join(f"{label} needs {need}" for label, need in lacking.items()))
    for seed in range(FIRST_SEED, FIRST_SEED + plan.seeds):
        for line in lines:
            model = _heard(study, line, plan, seed)
            yield Measured(line.label, seed, _asked(study, model, plan, seed), _seconds(plan, line, seed))


def trained(study: Study, line: Line, plan: Plan, seed: int) -> str:
    """Return the model of a line: its folder, the one that it looks at, or another line's before training.

    Raises:
        UsageError: there is no trained line to take the network from.
    """
    from carrara.pretrain.recipes._base import resolve
    from carrara.pretrain.run import pretrain

    if line.view:
        return trained(study, _named(study, line.view.of), plan, seed)
    if not line.recipe:
        lacking = plan.lacking(study)
        can = [one for one in plan.lines(study) if one.recipe and one.label not in lacking]
        taught = next((one for one in can if line.before in ("", one.label)), None)
        if taught is None:
            needed = line.before or "one that can be trained here"
            raise UsageError(f"--lines: {line.label} is another line's network before training; name {needed} too")
        return f"{trained(study, taught, plan, seed)}:random-{seed}"
    folder = place(plan, line.label, seed)
    changes: dict[str, Any] = {"seed": seed, **line.changes}
    if plan.scale != FULL:
        changes |= line.shrunk
    if line.weights:
        changes["initial.weights"] = str(plan.weights[line.weights])
    if line.after:
        changes[line.after[1]] = trained(study, _named(study, line.after[0]), plan, seed)
    recipe = resolve(line.recipe, plan.scale, changes)
    return str(pretrain(recipe, plan.corpus, folder, steps=plan.steps, resume=True, device=plan.device))


def place(plan: Plan, label: str, seed: int) -> Path:
    """Return the folder of a line's model."""
    return plan.output / "models" / f"{label}-{seed}"


def _named(study: Study, label: str) -> Line:
    return next(line for line in study.lines if line.label == label)


def _heard(study: Study, line: Line, plan: Plan, seed: int) -> Encoder | str:
    """Return what is asked: a line's model, or what its view hears of one."""
    model = trained(study, line, plan, seed)
    if not line.view:
        return model
    from carrara.reproduce._view import looked_at

    return looked_at(model, line.view, f"{line.label}-{seed}", plan.device)


def _asked(study: Study, model: Encoder | str, plan: Plan, seed: int) -> dict[str, Record]:
    from carrara.bench.config import BenchConfig
    from carrara.bench.run import bench

    found = bench(
        model,
        study.rows,
        data_dir=plan.data_dir,
        results=plan.output / "results",
        config=BenchConfig(seeds=(seed,)),
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
