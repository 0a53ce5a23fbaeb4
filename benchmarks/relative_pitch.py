"""What 14 numbers that do not depend on the key reach on Pebble's theory and covers, against all of the chroma's.

Intervals, chord qualities, scales, progressions and covers are the same in every key, but features of a clip are not: a
probe would have to learn each class in each of the twelve keys. The magnitudes of the discrete Fourier transform over
the twelve pitch classes do not change when the clip is transposed. This script takes them of the mean and the standard
deviation of the chroma of `chroma-mfcc`, 14 numbers in all, trains a logistic regression whose C is chosen on
validation, and tests it once; covers are compared by cosine, standardised over the training clips. If they beat the
floor, the labels are in the sound.

    python benchmarks/relative_pitch.py DATA_DIR

Letters: U clips, K pitch classes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from carrara import load
from carrara.bench.protocols._base import probe_windows
from carrara.bench.task_data import FeatureProvider
from carrara.bench.task_types import REGISTRY as TASK_TYPES
from carrara.bench.tasks import task as load_task
from carrara.core.clip import SPLITS
from carrara.metrics.retrieval import score_queries

CHROMA = 12
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
CLASSES = ("interval", "chord-quality", "scale", "progression")


def read_splits(provider: FeatureProvider, name: str) -> list[tuple[np.ndarray, np.ndarray, list[Any]]]:
    """Return for train, valid and test all features, the 14 invariant numbers and the truths of each clip."""
    task = load_task(name)
    data = provider.load(task, TASK_TYPES.get(task.task_type), probe_windows(task))
    parts = []
    for split in SPLITS:
        own = data.splits[split]
        feature_U = np.asarray(own.layers["0"][np.concatenate(own.rows_U)], dtype=np.float64)
        mean_UK, std_UK = feature_U[:, :CHROMA], feature_U[:, CHROMA : 2 * CHROMA]
        invariant_U = np.abs(np.concatenate([np.fft.rfft(mean_UK), np.fft.rfft(std_UK)], axis=1))
        parts.append((feature_U, invariant_U, list(own.truths)))
    return parts


def main(data_dir: Path) -> None:
    """Print the test score of all features and of the invariant numbers on each task."""
    provider = FeatureProvider(load("chroma-mfcc"), data_dir, partial=True)
    for kind in CLASSES:
        train, valid, test = read_splits(provider, f"pebble/{kind}")
        scores = []
        for index in (0, 1):
            models = [
                make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000)).fit(
                    train[index], train[2]
                )
                for strength in STRENGTHS
            ]
            best = max(models, key=lambda model: model.score(valid[index], valid[2]))
            scores.append(best.score(test[index], test[2]))
        print(f"pebble/{kind}: {len(train[2])} training clips, accuracy {scores[0]:.3f}, invariant {scores[1]:.3f}")
    train, _, test = read_splits(provider, "pebble/covers")
    maps = []
    for index in (0, 1):
        scaled_U = StandardScaler().fit(train[index]).transform(test[index])
        maps.append(np.mean([each["map"] for each in score_queries(scaled_U, test[2]) if each]))
    print(f"pebble/covers: {len(test[2])} test clips, map {maps[0]:.3f}, invariant {maps[1]:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
