"""A task: what a probe predicts for which recordings, and how the predictions are scored. Data only.

The task type (`carrara/bench/task_types`) defines the loss, the decoding and the metrics; the protocol defines the
probe and the search. No task names an encoder and no encoder names a task.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from carrara.core.settings import Settings

Category = Literal["acoustic", "score", "performance", "high-level"]


class Task(Settings):
    """A task of a benchmark.

    Attributes:
        version: Increased whenever a score could change.
        dataset: Name of the dataset (`carrara ls data`).
        split_scheme: Name of one of the dataset's divisions into train, valid and test.
        task_type: multiclass, multilabel, regression, tempo, beat_tracking, chord_recognition, melody, structure,
            retrieval, text_retrieval or source_separation.
        label: Key of `Clip.labels` that holds the target.
        labels: Classes, tags, dimensions, event types or stems, in the order of the probe's outputs.
        window_seconds: Length of the windows that the encoder encodes; None for whole clips. For tasks scored frame by
            frame, the length of the training excerpts (whole clips are evaluated).
        partial_window: `keep` a last window shorter than the others at its own length if it has a second or more, or
            `drop` it. A clip shorter than a window is one window of its own length.
        aggregate: How the windows of a clip become one prediction. `embedding` averages their embeddings before the
            probe. Otherwise each window is a training example, and at evaluation `logit` averages the clip's logits,
            `ensemble` takes the best on validation of majority vote, highest logit, mean logit and mean probability,
            and `window` scores each window separately.
        examples_per_clip: For source separation, mixtures per training track and epoch.
        metrics: The metrics whose mean is the task's score.
        extra_metrics: Further metrics that are recorded.
        monitor: The validation metric that selects the epoch, the layer and the learning rate.
        category: Level of the taxonomy [yuan2023thesis §3.2].
        max_epochs: Most epochs of the probe's training [notes/benchmark §1.0].
        plateau_patience: Epochs without a better score on validation until the learning rate is divided.
        stop_patience: Epochs without a better score on validation until training stops.
        name: Filled in by the registry.
    """

    version: int
    dataset: str
    split_scheme: str
    task_type: str
    label: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    monitor: str
    category: Category
    extra_metrics: tuple[str, ...] = ()
    window_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    partial_window: Literal["keep", "drop"] = "keep"
    aggregate: Literal["embedding", "logit", "ensemble", "window"] = "embedding"
    examples_per_clip: int = Field(default=64, ge=1)
    max_epochs: int = Field(default=100, ge=1)
    plateau_patience: int = Field(default=5, ge=0)
    stop_patience: int = Field(default=20, ge=1)
    name: str = ""

    def __repr__(self) -> str:
        return f"<task {self.name}: {self.task_type} on {self.dataset}, {', '.join(self.metrics)}>"
