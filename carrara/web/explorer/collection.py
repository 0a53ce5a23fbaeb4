"""The recordings that the explorer shows: positions, neighbours, walks, a probe of labels, and their audio files.

Letters: N recordings, D dim, S steps of a walk between its ends.
"""

from __future__ import annotations

import csv
import io
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from carrara.audio.decode import SUFFIXES
from carrara.core.errors import UsageError
from carrara.features.draw_map import is_numeric
from carrara.features.embedding_map import MapPoints, Method, project_points
from carrara.features.search import points_on_arc

MAX_CATEGORIES = 256
MAX_LISTED = 12  # most and least certain recordings
PROBE_C = 1.0


class Collection:
    """Recordings with an embedding a layer.

    Args:
        points: The recordings.
        folders: From which audio may be read; none for the folders of the recordings themselves.
    """

    def __init__(self, points: MapPoints, folders: Sequence[Path] = ()) -> None:
        self.points = points
        parents = {Path(os.path.abspath(name)).parent for name in points.names}
        self.folders = [folder.resolve() for folder in folders] or sorted(parent.resolve() for parent in parents)
        self.is_searched = bool(folders)
        self._units: dict[str, np.ndarray] = {}
        self._positions: dict[tuple[str, str], np.ndarray] = {}
        self._lock = threading.Lock()

    def positions(self, layer: str, method: Method) -> np.ndarray:
        """Return the map of a layer, scaled into ±1, float32 `[N, 2]`."""
        with self._lock:
            key = (layer, method)
            if key not in self._positions:
                placed_N2 = project_points(self._vectors(layer), self.points.fitted, method)
                low_2, high_2 = placed_N2.min(0), placed_N2.max(0)
                size = float(max((high_2 - low_2).max(), 1e-12))
                self._positions[key] = ((placed_N2 - (low_2 + high_2) / 2) * (1.9 / size)).astype(np.float32)
            return self._positions[key]

    def describe_label(self, name: str) -> dict[str, Any]:
        """Return whether a label is numeric, with its range, or its values in order, most frequent first."""
        values = [str(value) if isinstance(value, list | tuple | dict) else value for value in self.points.labels[name]]
        if is_numeric(values):
            numbers = [float(value) for value in values if value not in (None, "")]
            return {"name": name, "numeric": True, "range": [min(numbers), max(numbers)]}
        counts: dict[str, int] = {}
        for value in values:
            if value not in (None, ""):
                counts[str(value)] = counts.get(str(value), 0) + 1
        ordered = sorted(counts, key=lambda value: (-counts[value], value))[:MAX_CATEGORIES]
        return {"name": name, "numeric": False, "values": ordered, "counts": [counts[value] for value in ordered]}

    def label_codes(self, name: str) -> np.ndarray:
        """Return a label as float32 `[N]`: the number, or the index among the values; NaN where there is none."""
        facts, values = self.describe_label(name), self.points.labels[name]
        if facts["numeric"]:
            return np.array([np.nan if value in (None, "") else float(value) for value in values], np.float32)
        index = {value: number for number, value in enumerate(facts["values"])}
        return np.array([index.get(str(value), np.nan) for value in values], np.float32)

    def neighbours(
        self, layer: str, query_D: np.ndarray, count: int, without: Sequence[int] = ()
    ) -> list[dict[str, Any]]:
        """Return the recordings most similar to a vector by cosine, the most similar first."""
        query_D = np.asarray(query_D, np.float32)
        cosine_N = self.unit_vectors(layer) @ (query_D / max(float(np.linalg.norm(query_D)), 1e-12))
        cosine_N[list(without)] = -np.inf
        count = min(count, len(cosine_N) - len(without))
        best = np.argpartition(-cosine_N, count - 1)[:count] if count > 0 else np.zeros(0, int)
        best = best[np.argsort(-cosine_N[best], kind="stable")]
        return [{**self.describe(int(row)), "similarity": round(float(cosine_N[row]), 4)} for row in best]

    def walk(self, layer: str, first: int, last: int, count: int) -> list[dict[str, Any]]:
        """Return a walk between two recordings: those nearest to points on the arc between them.

        Raises:
            UsageError: They have the same or opposite embeddings.
        """
        unit_ND = self.unit_vectors(layer)
        points_SD = points_on_arc(unit_ND[first], unit_ND[last], count)
        if points_SD is None:
            raise UsageError("these two have the same or opposite embeddings; choose another one")
        rows = [first, last]
        for point_D in points_SD:
            nearest = self.neighbours(layer, point_D, 1, rows)
            rows[-1:-1] = [item["row"] for item in nearest]
        return [{**self.describe(row), "similarity": round(float(unit_ND[first] @ unit_ND[row]), 4)} for row in rows]

    def train_probe(self, layer: str, labels: Mapping[int, str]) -> dict[str, Any]:
        """Train the benchmark's head logistic-regression on labelled recordings and predict all the others.

        Returns:
            The classes, how many of the labelled ones a leave-out probe predicts right where that can be measured,
            and the most and least certain of the recordings without a label.

        Raises:
            UsageError: There are fewer than two labels.
        """
        from sklearn.model_selection import cross_val_score
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        from carrara.bench.probes.heads.logistic_regression import HEAD

        rows = sorted(labels)
        targets = [labels[row] for row in rows]
        counts = {name: targets.count(name) for name in set(targets)}
        if len(counts) < 2:
            raise UsageError("a probe needs at least two labels; select other recordings and label them too")
        assert HEAD.estimator is not None
        model = make_pipeline(StandardScaler(), HEAD.estimator("multiclass", PROBE_C))
        vectors_ND = self._vectors(layer)
        folds = min(5, *counts.values())
        accuracy = float(cross_val_score(model, vectors_ND[rows], targets, cv=folds).mean()) if folds > 1 else None
        model.fit(vectors_ND[rows], targets)
        rest = np.setdiff1d(np.arange(len(vectors_ND)), rows)
        probability_NK = model.predict_proba(vectors_ND[rest]) if len(rest) else np.zeros((0, len(counts)))
        certainty_N, class_N = probability_NK.max(1, initial=0), probability_NK.argmax(1)
        order = np.argsort(-certainty_N, kind="stable")

        def listed(chosen: np.ndarray) -> list[dict[str, Any]]:
            return [
                {
                    **self.describe(int(rest[each])),
                    "label": str(model.classes_[class_N[each]]),
                    "probability": round(float(certainty_N[each]), 4),
                }
                for each in chosen
            ]

        least = order[::-1][: min(MAX_LISTED, max(len(order) - MAX_LISTED, 0))]
        facts = {"classes": [str(name) for name in model.classes_], "accuracy": accuracy, "folds": folds}
        return {**facts, "certain": listed(order[:MAX_LISTED]), "uncertain": listed(least)}

    def labels_csv(self, labels: Mapping[int, str]) -> str:
        """Return labels as a CSV file with the columns path and label, as task files and `carrara map` read them."""
        file = io.StringIO(newline="")
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["path", "label"])
        rows.writerows([os.path.abspath(self.points.names[row]), labels[row]] for row in sorted(labels))
        return file.getvalue()

    def describe(self, row: int) -> dict[str, Any]:
        """Return number, name and labels of a recording."""
        path = self.points.names[row]
        labels = {name: values[row] for name, values in self.points.labels.items() if values[row] not in (None, "")}
        return {"row": row, "path": path, "name": Path(path).stem, "labels": labels}

    def audio_file(self, row: int) -> Path | None:
        """Return the audio file of a recording; None where it is not there, or not below the folders named at start.

        A recording that has moved is looked for below these folders by the end of its path.
        """
        path = Path(os.path.abspath(self.points.names[row]))
        if path.suffix.lower() not in SUFFIXES:
            return None
        candidates = [path]
        if self.is_searched:
            candidates += [folder.joinpath(*path.parts[-depth:]) for folder in self.folders for depth in (1, 2, 3)]
        for candidate in candidates:
            real = candidate.resolve()
            if real.is_file() and any(folder in (candidate.parent.resolve(), *real.parents) for folder in self.folders):
                return real
        return None

    def unit_vectors(self, layer: str) -> np.ndarray:
        """Return the embeddings of a layer divided by their lengths, float32 `[N, D]`."""
        with self._lock:
            if layer not in self._units:
                vectors_ND = self._vectors(layer)
                lengths_N = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
                self._units[layer] = (vectors_ND / np.maximum(lengths_N, 1e-12)).astype(np.float32)
            return self._units[layer]

    def _vectors(self, layer: str) -> np.ndarray:
        return self.points.layers[layer]
