"""Few-shot by nearest centroid: k training clips a class, nothing is trained, the layer is chosen on validation.

The idea is [snell2017]'s; MARBLE v2 has such a track, of which neither draws nor layer are known. Here each seed draws
k clips of each class (`--set shots=5`), so `--seeds 20` are twenty draws, and the interval covers draws and clips. A
clip counts once: its windows are averaged. For each draw the layer is the one whose centroids score best on the whole
validation split by the task's monitored metric. Then the test split, once.

Multiclass: a clip (or each of its windows) belongs to the class of the nearest centroid; a class with fewer than k
clips gives all it has, one with none is never predicted. Multilabel: k clips with the tag and k without it give two
centroids, and the score is how much nearer the first one is; a tag that lacks either scores 0 everywhere. With `cosine`
all rows are scaled to length 1 and the nearest centroid has the highest cosine; with `euclidean` it has the smallest
distance (scikit-learn's NearestCentroid). The weighted sum of layers is no candidate, since nothing is learned.

Letters: U clips, R rows, B rows of a block, D features, K classes or tags.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from carrara.bench.protocols._base import (
    ProbePredictor,
    Protocol,
    ProtocolInputs,
    ProtocolResult,
    check_rates,
    window_choice,
)
from carrara.bench.protocols.constrained import LayerSettings, check_layers, grid_window_spec, searched_layers
from carrara.bench.split_data import LabelledSplit, SplitData, monitored_score
from carrara.bench.task_types._base import TaskType
from carrara.core.errors import DataError, UsageError
from carrara.core.record import GridPoint
from carrara.core.task import Task
from carrara.encoders._base import Card
from carrara.features.windows import WindowSpec

TASK_TYPES = ("multiclass", "multilabel")
SHOTS = (
    4  # the draw's own random stream, beside those of `carrara.bench.probes.rng` and `carrara.bench.finetune.excerpts`
)
BLOCK_ROWS = 8192


class FewShotSettings(LayerSettings):
    """Settings of few-shot.

    Attributes:
        layers: as in the constrained track.
        shots: clips a class; for tags as many with it and as many without.
        metric: distance to a centroid, `cosine` or `euclidean`.
    """

    shots: int = Field(default=5, ge=1)
    metric: Literal["cosine", "euclidean"] = "cosine"


@dataclass(frozen=True)
class Centroids:
    """The centroid of each class or tag, for tags also of the clips without it; whether there were clips."""

    with_KD: np.ndarray
    without_KD: np.ndarray | None
    known_K: np.ndarray
    metric: str


@dataclass(frozen=True)
class _Candidate:
    """One layer in one draw: its centroids, its validation score, and the best rule for a clip's windows."""

    seed: int
    layer: str
    centroids: Centroids
    score: float
    rule: str


def draw_shots(task: Task, truths: Sequence[Any], shots: int, seed: int) -> list[list[np.ndarray]]:
    """Return indices of training clips: for each class one array, for each tag one with and one without it."""
    rng = np.random.default_rng([seed, SHOTS])
    shuffled_U = rng.permutation(len(truths))
    if task.task_type == "multilabel":
        tagged_UK = np.asarray(truths)[shuffled_U] > 0
        return [[shuffled_U[tagged_U][:shots], shuffled_U[~tagged_U][:shots]] for tagged_U in tagged_UK.T]
    truth_U = np.asarray(truths)[shuffled_U]
    return [[shuffled_U[truth_U == index][:shots]] for index in range(len(task.labels))]


def compute_centroids(split: LabelledSplit, layer: str, draw: list[list[np.ndarray]], metric: str) -> Centroids:
    """Return the centroids of the clips of a draw, each clip with the same weight whatever its number of windows."""
    matrix = split.layers[layer]
    clips = {clip for groups in draw for group in groups for clip in group.tolist()}
    mean = {clip: _load_rows(matrix, split.rows_U[clip], metric).mean(0) for clip in sorted(clips)}
    zeros_D = np.zeros(matrix.shape[1], dtype=np.float32)
    centroids = [
        np.stack(
            [np.mean([mean[clip] for clip in group.tolist()], axis=0) if len(group) else zeros_D for group in groups]
        )
        for groups in zip(*draw)
    ]
    known_K = np.array([all(map(len, groups)) for groups in draw])
    return Centroids(centroids[0], centroids[1] if len(centroids) > 1 else None, known_K, metric)


def centroid_scores(centroids: Centroids, split: SplitData, layer: str) -> Tensor:
    """Return how near each row is to each class, or how much nearer to clips with a tag than without it, `[R, K]`."""
    rows_R = np.concatenate(split.rows_U)
    blocks = []
    for low in range(0, len(rows_R), BLOCK_ROWS):
        x_BD = _load_rows(split.layers[layer], rows_R[low : low + BLOCK_ROWS], centroids.metric)
        score_BK, unknown = _nearness(x_BD, centroids.with_KD, centroids.metric), -np.inf
        if centroids.without_KD is not None:
            # A tag that lacks either kind of clips ranks all clips the same.
            score_BK, unknown = score_BK - _nearness(x_BD, centroids.without_KD, centroids.metric), 0
        blocks.append(np.where(centroids.known_K, score_BK, np.float32(unknown)))
    return torch.from_numpy(np.concatenate(blocks))


def _load_rows(matrix: Any, rows_R: np.ndarray, metric: str) -> np.ndarray:
    x_RD = np.asarray(matrix[rows_R], dtype=np.float32)
    return _normalize(x_RD) if metric == "cosine" else x_RD


def _normalize(x_RD: np.ndarray) -> np.ndarray:
    # Silence may have no direction at all; it is then equally far from all.
    return x_RD / np.maximum(np.linalg.norm(x_RD, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def _nearness(x_BD: np.ndarray, centroid_KD: np.ndarray, metric: str) -> np.ndarray:
    if metric == "cosine":
        return x_BD @ _normalize(centroid_KD).T
    from sklearn.metrics import pairwise_distances

    return -pairwise_distances(x_BD, centroid_KD)


class _FittedCentroids(ProbePredictor):
    def logits(self, probe: _Candidate, split: SplitData) -> tuple[SplitData, Tensor]:
        return split, centroid_scores(probe.centroids, searched_layers(split, self.inputs.settings), probe.layer)


def _window_spec(task: Task, task_type: TaskType, card: Card, settings: FewShotSettings) -> WindowSpec | None:
    if task.task_type not in TASK_TYPES:
        raise UsageError(
            f"task {task.name!r}: {task.task_type} has no centroids, few-shot needs {' or '.join(TASK_TYPES)}; "
            "use --protocol constrained"
        )
    return grid_window_spec(task, task_type, card, settings)


def _run(inputs: ProtocolInputs) -> ProtocolResult:
    started = time.perf_counter()
    task, task_type, settings = inputs.task, inputs.probe_task_type, inputs.settings
    state = task_type.fit(task, inputs.train.truths)
    train, valid = (searched_layers(split, settings) for split in (inputs.train, inputs.valid))
    candidates, chosen = [], []
    for seed in inputs.seeds:
        draw = draw_shots(task, inputs.train.truths, settings.shots, seed)
        by_layer = []
        for layer in train.layers:
            centroids = compute_centroids(train, layer, draw, settings.metric)
            scores_RK = centroid_scores(centroids, valid, layer)
            score, rule = monitored_score(task, task_type, state, valid, scores_RK[None])[0]
            by_layer.append(_Candidate(seed, layer, centroids, score, rule))
        finite = [candidate for candidate in by_layer if math.isfinite(candidate.score)]
        if not finite:
            raise DataError(
                f"task {task.name!r}: no layer reached a finite {task.monitor} on the validation clips; "
                "look for too few clips"
            )
        candidates += by_layer
        chosen.append(max(finite, key=lambda candidate: candidate.score))
    return ProtocolResult(
        predictor=_FittedCentroids(inputs, state, chosen, [candidate.rule for candidate in chosen]),
        tried=len(candidates),
        grid=tuple(
            # Nothing is trained: no learning rate, no epochs.
            GridPoint(layer=c.layer, learning_rate=0.0, valid=c.score, epoch=0, epochs=0, seed=c.seed)
            for c in candidates
            if math.isfinite(c.score)
        ),
        chosen=tuple({"layer": c.layer, **window_choice(task, c.rule)} for c in chosen),
        seconds={"centroids": time.perf_counter() - started},
    )


def _check_search(task: Task, settings: FewShotSettings, points: Sequence[GridPoint]) -> list[str]:
    return [*check_layers(task, settings, points), *check_rates(points, (0.0,))]


PROTOCOL = Protocol("few-shot", 1, FewShotSettings, _window_spec, _run, check_search=_check_search)
