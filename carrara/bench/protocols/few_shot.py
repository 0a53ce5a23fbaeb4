"""Few-shot by nearest centroid: k clips a class from the training side, nothing trained, layer from validation.

Snell et al. 2017 (arXiv 1703.05175) for the idea; MARBLE v2 has such a track (benchmark.md 4.3), whose draws and layer
nobody recorded. Here each seed draws k clips of each class (`--set shots=5`), so `--seeds 20` are twenty draws, and the
interval covers them as well as the clips. A clip of several windows counts as one: its windows are averaged. For each
draw the layer is the one whose centroids score best on the whole validation side by the task's watched metric; then the
test side is read, once.

Multiclass: a clip (or each of its windows) belongs to the nearest of the classes' centroids; a class with fewer than k
clips gives all it has, one with none is never answered. Any-of: k clips with the tag and k without it give two
centroids, and the score is how much nearer the first one is; a tag that lacks either scores 0 everywhere. By `cosine`
every row is brought to length 1 first and the nearest has the highest cosine, by `euclidean` the least distance
(scikit-learn's NearestCentroid). The learned sum of layers is no candidate, since nothing is learned.

Letters: U clips, R rows, B rows of a block, D features, K classes or tags.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from carrara.bench.protocols._base import Protocol, ProtocolInputs, ProtocolResult, Splits
from carrara.bench.split_features import SplitFeatures, answers, watched
from carrara.core.errors import DataError, UsageError
from carrara.core.record import GridPoint
from carrara.core.settings import Settings

KINDS = ("multiclass", "multilabel")
SHOTS = 4  # the draw's own stream, beside those of `carrara.bench.probes.rng` and `carrara.bench.finetune.excerpts`
BLOCK_ROWS = 8192


class FewShotSettings(Settings):
    """How few, and what near means.

    Attributes:
        shots: clips a class; for tags as many with it and as many without.
        metric: `cosine` or `euclidean`.
    """

    shots: int = Field(default=5, ge=1)
    metric: Literal["cosine", "euclidean"] = "cosine"


@dataclass(frozen=True)
class Centroids:
    """A centroid a class, `[K, D]`, and for tags one of the clips without each; whether there were clips, `[K]`."""

    with_KD: np.ndarray
    without_KD: np.ndarray | None
    known_K: np.ndarray
    metric: str


@dataclass(frozen=True)
class Chosen:
    """What validation chose for one draw: a layer, its centroids, the rule that joins windows, and the score."""

    layer: str
    centroids: Centroids
    rule: str
    score: float


def run(inputs: ProtocolInputs) -> ProtocolResult:
    """Return what the rules find for one task.

    Raises:
        UsageError: the answer is neither a class nor tags.
        DataError: no layer reached a finite validation score.
    """
    task, answer = inputs.task, inputs.answer
    if task.task_type not in KINDS:
        raise UsageError(
            f"task {task.name!r}: {task.task_type} have no centroids, few-shot knows {' and '.join(KINDS)}; "
            "use --protocol constrained"
        )
    how = inputs.settings or FewShotSettings()
    sides = inputs.sides()
    began = time.perf_counter()
    state = answer.fit(task, sides.train.truths)
    scored = {seed: list(_scored(inputs, how, sides, state, seed)) for seed in inputs.seeds}
    chosen = [_best(task.name, task.monitor, found) for found in scored.values()]
    tried = time.perf_counter()

    def read(side: SplitFeatures) -> list[list[Any]]:
        return [
            answers(task, answer, state, side, similarities(one.centroids, side, one.layer)[None], one.rule)[0]
            for one in chosen
        ]

    test = sides.test()
    return ProtocolResult(
        tried=sum(map(len, scored.values())),
        grid=tuple(
            # Nothing is trained: no rate, no epochs.
            GridPoint(layer=one.layer, learning_rate=0.0, valid=one.score, epoch=0, epochs=0, seed=seed)
            for seed, found in scored.items()
            for one in found
            if math.isfinite(one.score)
        ),
        chosen=tuple(
            {"layer": one.layer, **({"windows": one.rule} if task.aggregate == "ensemble" else {})} for one in chosen
        ),
        truths=test.truths,
        answers=read(test),
        seconds={"centroids": tried - began, "test": time.perf_counter() - tried},
        read=read,
    )


def drawn(inputs: ProtocolInputs, truths: Sequence[Any], shots: int, seed: int) -> list[list[np.ndarray]]:
    """Return which training clips a draw takes: for each class one list, for each tag one with and one without it."""
    generator = np.random.default_rng([seed, SHOTS])
    shuffled_U = generator.permutation(len(truths))
    if inputs.task.task_type == "multilabel":
        held_UK = np.asarray(truths)[shuffled_U] > 0
        return [[shuffled_U[held_U][:shots], shuffled_U[~held_U][:shots]] for held_U in held_UK.T]
    truth_U = np.asarray(truths)[shuffled_U]
    return [[shuffled_U[truth_U == place][:shots]] for place in range(inputs.answer.outputs(inputs.task))]


def centroids(side: SplitFeatures, layer: str, picks: list[list[np.ndarray]], metric: str) -> Centroids:
    """Return the centroids of the clips that were drawn, each clip weighing the same whatever its windows."""
    matrix = side.layers[layer]
    clips = {clip for groups in picks for group in groups for clip in group.tolist()}
    mean = {clip: _rows(matrix, side.rows_U[clip], metric).mean(0) for clip in sorted(clips)}
    nothing_D = np.zeros(matrix.shape[1], dtype=np.float32)
    found = [
        np.stack(
            [np.mean([mean[clip] for clip in group.tolist()], axis=0) if len(group) else nothing_D for group in own]
        )
        for own in zip(*picks)
    ]
    known_K = np.array([all(map(len, groups)) for groups in picks])
    return Centroids(found[0], found[1] if len(found) > 1 else None, known_K, metric)


def similarities(centroids: Centroids, side: SplitFeatures, layer: str) -> Tensor:
    """Return how near the rows of a side are to each class, or how much nearer with a tag than without it, `[R, K]`."""
    rows_R = np.concatenate(side.rows_U)
    parts = []
    for low in range(0, len(rows_R), BLOCK_ROWS):
        x_BD = _rows(side.layers[layer], rows_R[low : low + BLOCK_ROWS], centroids.metric)
        near_BK = _near(x_BD, centroids.with_KD, centroids.metric)
        unknown = -np.inf
        if centroids.without_KD is not None:
            # A tag that lacks a side gives no order among clips.
            near_BK, unknown = near_BK - _near(x_BD, centroids.without_KD, centroids.metric), 0
        parts.append(np.where(centroids.known_K, near_BK, np.float32(unknown)))
    return torch.from_numpy(np.concatenate(parts))


def _scored(inputs: ProtocolInputs, how: FewShotSettings, sides: Splits, state: Any, seed: int) -> Iterator[Chosen]:
    """Yield every layer's centroids of one draw with their validation score."""
    task, answer = inputs.task, inputs.answer
    picks = drawn(inputs, sides.train.truths, how.shots, seed)
    for layer in sides.train.layers:
        found = centroids(sides.train, layer, picks, how.metric)
        near_RK = similarities(found, sides.valid, layer)
        score, rule = watched(task, answer, state, sides.valid, near_RK[None])[0]
        yield Chosen(layer, found, rule, score)


def _best(task: str, watch: str, found: list[Chosen]) -> Chosen:
    finite = [one for one in found if math.isfinite(one.score)]
    if not finite:
        raise DataError(
            f"task {task!r}: no layer reached a finite {watch} on the validation clips; look for too few clips"
        )
    return max(finite, key=lambda one: one.score)


def _rows(matrix: Any, rows_R: np.ndarray, metric: str) -> np.ndarray:
    x_RD = np.asarray(matrix[rows_R], dtype=np.float32)
    return _unit(x_RD) if metric == "cosine" else x_RD


def _unit(x_RD: np.ndarray) -> np.ndarray:
    # Silence may have no direction at all; it is then equally far from all.
    return x_RD / np.maximum(np.linalg.norm(x_RD, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def _near(x_BD: np.ndarray, centroid_KD: np.ndarray, metric: str) -> np.ndarray:
    if metric == "cosine":
        return x_BD @ _unit(centroid_KD).T
    from sklearn.metrics import pairwise_distances

    return -pairwise_distances(x_BD, centroid_KD)


PROTOCOL = Protocol("few-shot", 1, run, FewShotSettings)
