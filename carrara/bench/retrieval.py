"""Retrieval without training: the mean embedding of each layer, the layer chosen on validation, tested once.

Clips are compared as they are and with the features standardised over the training clips: two points of the search for
each layer. Nothing else is learned, so a score says how the encoder's space is arranged.

Letters: U clips, D features.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from carrara.bench.protocols._base import Predictor, ProtocolInputs, ProtocolResult
from carrara.bench.split_data import SplitData
from carrara.bench.task_types._base import monitor_only
from carrara.core.errors import DataError
from carrara.core.record import GridPoint

PLAIN, STANDARDISED = "plain", "standardised"
MIN_STD = 1e-6


@dataclass(frozen=True)
class LayerEmbedding(Predictor):
    """The chosen layer, and what is subtracted from its features and divides them, `[D]`."""

    layer: str
    mean_D: np.ndarray
    std_D: np.ndarray
    seeds: int

    def predict(self, split: SplitData) -> list[list[np.ndarray]]:
        """Return for each seed the embedding of each clip, the same for all."""
        rows_U = np.concatenate(split.rows_U)
        matrix_UD = np.asarray(split.layers[self.layer][rows_U], dtype=np.float32)
        return [list((matrix_UD - self.mean_D) / self.std_D)] * self.seeds


def run_retrieval(inputs: ProtocolInputs) -> ProtocolResult:
    """Return the layer and scaling with the best monitored score on the validation clips.

    Raises:
        DataError: none has a finite score: no validation clip has a positive.
    """
    started = time.perf_counter()
    task, valid = inputs.task, inputs.valid
    train_rows = np.concatenate(inputs.train.rows_U)
    points: list[GridPoint] = []
    best: tuple[float, LayerEmbedding, str] | None = None
    for layer, matrix in inputs.train.layers.items():
        train_UD = np.asarray(matrix[train_rows], dtype=np.float32)
        dim, count = train_UD.shape[1], len(inputs.seeds)
        std_D = train_UD.std(0).clip(MIN_STD)
        for scaling, predictor in (
            (PLAIN, LayerEmbedding(layer, np.zeros(dim, np.float32), np.ones(dim, np.float32), count)),
            (STANDARDISED, LayerEmbedding(layer, train_UD.mean(0), std_D, count)),
        ):
            embeddings = predictor.predict(valid)[0]
            score = inputs.task_type.metrics(monitor_only(task), valid.truths, embeddings)[task.monitor]
            if np.isfinite(score):
                points.append(GridPoint(layer=layer, learning_rate=0.0, valid=score, epoch=0, epochs=0))
                if best is None or score > best[0]:
                    best = score, predictor, scaling
    if best is None:
        raise DataError(f"task {task.name!r}: no validation clip has another one with its {task.label}")
    choice = {"layer": best[1].layer, "scaling": best[2], "valid": best[0]}
    return ProtocolResult(
        predictor=best[1],
        tried=2 * len(inputs.train.layers),
        grid=tuple(points),
        chosen=(choice,) * len(inputs.seeds),
        seconds={"search": time.perf_counter() - started},
    )
