"""Stems: a mixture taken apart, answered by a head of its own and judged by the global SDR in dB.

No probe over rows can give such an answer, so this kind brings the constrained track's training with it
(`carrara/bench/separation`); protocols of other kinds refuse it. A truth is the song's id, since the true stems are
sound; an answer is what is left of a song once its estimate has been heard: its SDR for each stem, `{"sdr_vocals":
4.2, …}`. Metrics: `sdr_<stem>`, the mean over songs, and `sdr`, the mean of the task's stems, which validation watches.
Songs are resampled whole for the intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from carrara.bench.protocols._base import ProtocolInputs, ProtocolResult
from carrara.bench.task_types._base import TaskType
from carrara.core.clip import Clip
from carrara.core.errors import UsageError
from carrara.core.task import Task


def truths(task: Task, clips: Sequence[Clip]) -> list[str]:
    """Return the ids of the songs."""
    return [clip.id for clip in clips]


def metrics(task: Task, truths: Sequence[str], answers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean SDR over songs by metric name, in dB.

    Raises:
        UsageError: the task names a metric that stems do not have.
    """
    by_stem = {f"sdr_{stem}": _mean([given[f"sdr_{stem}"] for given in answers]) for stem in task.labels}
    found = {**by_stem, "sdr": _mean(list(by_stem.values()))}
    named = dict.fromkeys((*task.metrics, *task.extra_metrics, task.monitor))
    for name in named:
        if name not in found:
            raise UsageError(f"task {task.name!r}: stems have no metric {name!r}; they have {', '.join(found)}")
    return {name: found[name] for name in named}


def run(inputs: ProtocolInputs) -> ProtocolResult:
    """Return what the constrained track's search of separation heads finds."""
    from carrara.bench.separation.run import run

    return run(inputs)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _no_probe(task: Task, *given: Any) -> NoReturn:
    raise UsageError(f"task {task.name!r}: stems are no answer of a probe; use --protocol constrained")


def _no_loss(logits: Any, targets: Any) -> NoReturn:
    raise UsageError("stems are no answer of a probe; use --protocol constrained")


TASK_TYPE = TaskType(
    frames=True,
    outputs=_no_probe,
    truths=truths,
    fit=_no_probe,
    targets=_no_probe,
    loss=_no_loss,
    decode=_no_probe,
    metrics=metrics,
    unit="track",
    run=run,
    scale="dB",
)
