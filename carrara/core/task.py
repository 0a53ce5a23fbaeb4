"""A task: which question is asked of which recordings, and how an answer is judged. Data only.

The kind of answer (`carrara/bench/task_types`) knows the loss, the decoding and the scores; the protocol knows the probe
and the search; so an encoder and a task meet in code and need no file for the pair.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from carrara.core.settings import Settings

Category = Literal["acoustic", "score", "performance", "high-level"]


class Task(Settings):
    """One row of a benchmark.

    Attributes:
        version: raised whenever a score could change.
        dataset: name on the shelf of datasets.
        split: name of one of the dataset's splits.
        answer: name of the kind of answer: multiclass, multilabel, numbers, events, stems.
        label: key of `Clip.labels` that holds the truth.
        labels: the classes, tags, dimensions or kinds of event, in the order of the probe's outputs.
        window_seconds: length of the windows that the encoder hears; none: the whole clip at once. For answers given
            frame by frame: length of the training excerpts (evaluation hears whole clips).
        tail: what becomes of a last window shorter than the others: `keep` it at its own length if it is a second or
            more, or `drop` it. A clip shorter than a window is one window of its own length.
        aggregate: how a clip of several windows becomes one answer. `embedding`: its windows' embeddings are averaged
            before the probe. Else each window is an example to train on, and at evaluation `logit` averages a clip's
            logits; `ensemble` takes the best on validation of majority vote, highest logit, mean logit and mean
            probability; `window` gives every window an answer of its own.
        examples_per_clip: for stems, mixtures a training track and epoch.
        scores: the metrics that make the row's score; the row's cell is their mean.
        also: further metrics that are recorded.
        watch: the validation metric that chooses the epoch, the layer and the learning rate.
        level: place in the taxonomy of the thesis (section 3.2).
        max_epochs, plateau_patience, stop_patience: training of the probe (benchmark.md, section 1.0).
        name: filled in by the shelf.
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
    window_seconds: float | None = Field(default=None, gt=0)
    partial_window: Literal["keep", "drop"] = "keep"
    aggregate: Literal["embedding", "logit", "ensemble", "window"] = "embedding"
    examples_per_clip: int = Field(default=64, ge=1)
    max_epochs: int = Field(default=100, ge=1)
    plateau_patience: int = Field(default=5, ge=0)
    stop_patience: int = Field(default=20, ge=1)
    name: str = ""
