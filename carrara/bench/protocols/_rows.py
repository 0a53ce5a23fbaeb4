"""One layer's features in memory, for protocols that train on random rows of it; which layer, and which tasks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from carrara.bench.probes.examples import Examples
from carrara.bench.protocols._base import probe_windows, refuse_without_cnn, refuse_without_probe
from carrara.bench.task_types._base import TaskType
from carrara.core.errors import UsageError
from carrara.core.task import Task
from carrara.encoders._base import Card
from carrara.features.encode import CNN
from carrara.features.windows import WindowSpec

MIDDLE = "middle"


def row_windows(task: Task, task_type: TaskType, card: Card, layer: str, protocol: str) -> WindowSpec:
    """Return the windows of a task whose rows a protocol trains on.

    Raises:
        UsageError: the task is scored frame by frame, no probe can learn it, or the encoder lacks the layer `cnn`.
    """
    refuse_without_probe(task, task_type)
    if task_type.frame_level:
        raise UsageError(
            f"task {task.name!r}: {protocol} predicts clips, not frames; use --protocol constrained or semi-constrained"
        )
    if layer == CNN:
        refuse_without_cnn(card, "layer=cnn")
    return probe_windows(task, cnn=layer == CNN)


def find_layer(layers: Sequence[str], name: str) -> str:
    """Return the layer of that name; `middle` is layer L // 2 of 0 to L.

    Raises:
        UsageError: there is no such layer.
    """
    numbered = [layer for layer in layers if layer != CNN]
    if name == MIDDLE:
        return numbered[len(numbered) // 2]
    if name not in layers:
        raise UsageError(f"--set layer={name}: there is no such layer; there are {MIDDLE}, {', '.join(layers)}")
    return name


def read_rows(examples: Examples, layer: str, device: str) -> Tensor:
    """Return the examples' features of a layer as float32 on the device, `[R, D]`."""
    return examples.take(layer, examples.rows_R).to(device).float()
