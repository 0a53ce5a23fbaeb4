"""Maps of embeddings: recordings in two dimensions, layer by layer, and how well each layer separates a label.

A point is a recording (or a clip of a feature store): the mean of its rows. The axes are fitted on the training split
where the labels say which one that is, and the other points are placed by the fitted axes. Purity and silhouette are
measured on the embeddings themselves, by cosine, so no choice of axes changes them.

Letters: N points, D dim, K neighbours.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from carrara.core.clip import Clip
from carrara.core.errors import AudioError, StoreError, UsageError, did_you_mean
from carrara.core.io import atomic_write
from carrara.core.strict_json import read_json_object
from carrara.features.embedding_table import EmbeddingTable
from carrara.features.hash_cache import hash_files
from carrara.features.store import META, FeatureStore

if TYPE_CHECKING:
    import pyarrow

Method = Literal["pca", "umap"]
NEIGHBOURS = 10
MIN_POINTS = 3
# Silhouettes take time and purity memory with the square of the points; beyond this a fixed sample is measured.
MAX_MEASURED = 10_000


@dataclass(frozen=True)
class MapPoints:
    """The points of a map.

    Attributes:
        names: of each point: its path, or in a feature store without a matching file its key.
        layers: the embeddings by layer, float32 `[N, D]`.
        labels: by name the label of each point, None where it has none.
        splits: the split of each point, None where it has none.
    """

    names: list[str]
    layers: dict[str, np.ndarray]
    labels: dict[str, list[Any]] = field(default_factory=dict)
    splits: list[str | None] = field(default_factory=list)

    @property
    def fitted(self) -> np.ndarray:
        """Whether each point is one that axes are fitted on `[N]`: those of train; all where none is."""
        is_train = np.array([split == "train" for split in self.splits], bool)
        return is_train if is_train.sum() >= MIN_POINTS else np.ones(len(self.names), bool)

    def labelled(self, name: str) -> MapPoints:
        """Return the points that have a label.

        Raises:
            UsageError: they are fewer than three.
        """
        rows = [row for row, label in enumerate(self.labels[name]) if label not in (None, "")]
        if len(rows) < MIN_POINTS:
            raise UsageError(f"{len(rows)} recordings have the label {name!r}; a map needs at least {MIN_POINTS}")
        return MapPoints(
            [self.names[row] for row in rows],
            {layer: vectors_ND[rows] for layer, vectors_ND in self.layers.items()},
            {key: [values[row] for row in rows] for key, values in self.labels.items()},
            [self.splits[row] for row in rows],
        )


@dataclass(frozen=True)
class Separation:
    """How well a layer separates a label.

    Attributes:
        purity: mean over the points of the fraction of their nearest neighbours that have their label, between 0 and 1.
        chance: the purity that points without any order would have.
        silhouette: mean silhouette coefficient, between -1 and 1 [rousseeuw1987].
        points: how many labelled points were measured.
    """

    purity: float
    chance: float
    silhouette: float
    points: int


def read_points(source: Path, clips: Sequence[Clip] = (), layers: Sequence[str] = ()) -> MapPoints:
    """Return the points of a table that `carrara embed` wrote, or of a feature store, with the labels of clips.

    Args:
        source: the table (file or folder of parts), or the store's folder, below `$CARRARA_HOME/features`.
        clips: with labels and splits. A table's recordings are matched by path, a store's by audio, start and duration.
        layers: which ones; none for all.

    Raises:
        StoreError: it is neither, or is damaged.
        UsageError: it has no such layer, fewer than three points, or none of them is a clip's.
    """
    if (source / META).is_file():
        names, available = _read_store(source, layers)
        hashes = hash_files([clip.path for clip in clips], title="reading the labelled recordings")
        known = {
            f"{digest}:{float(clip.start)!r}:{clip.duration and float(clip.duration)!r}": clip
            for clip in clips
            if not isinstance(digest := hashes[clip.path], AudioError)
        }
        matched = [known.get(name) for name in names]
    else:
        names, available = _read_table(source, layers)
        by_path = {os.path.abspath(clip.path): clip for clip in clips}
        matched = [by_path.get(os.path.abspath(name)) for name in names]
    if len(names) < MIN_POINTS:
        raise UsageError(f"{source}: {len(names)} recordings; a map needs at least {MIN_POINTS}")
    if clips and not any(matched):
        raise UsageError(f"{source}: none of its {len(names)} recordings is among the {len(clips)} that have labels")
    keys = sorted({key for clip in matched if clip for key in clip.labels})
    return MapPoints(
        [str(clip.path) if clip else name for name, clip in zip(names, matched)],
        available,
        {key: [clip.labels.get(key) if clip else None for clip in matched] for key in keys},
        [clip.split if clip else None for clip in matched],
    )


def project_points(
    vectors_ND: np.ndarray, fitted_N: np.ndarray | None = None, method: Method = "pca", seed: int = 0
) -> np.ndarray:
    """Return the points in two dimensions, float32 `[N, 2]`.

    Args:
        vectors_ND: the embeddings.
        fitted_N: the points that the axes are fitted on; None for all.
        method: `pca`, or `umap` [mcinnes2018] with 15 neighbours by cosine (fewer for fewer points).
        seed: of UMAP.

    Raises:
        UsageError: umap-learn is not installed, or the embeddings have one dimension.
    """
    vectors_ND = np.asarray(vectors_ND, np.float32)
    fitted_N = np.ones(len(vectors_ND), bool) if fitted_N is None else fitted_N
    if method == "pca":
        from sklearn.decomposition import PCA

        if vectors_ND.shape[1] < 2:
            raise UsageError("a map needs embeddings of at least two dimensions")
        axes = PCA(2, svd_solver="full").fit(vectors_ND[fitted_N].astype(np.float64))
        return np.asarray(axes.transform(vectors_ND.astype(np.float64)), np.float32)
    try:
        import umap
    except ImportError:
        raise UsageError("--method umap needs umap-learn: pip install 'carrara[maps]'") from None
    count = int(fitted_N.sum())
    # The default start, by eigenvectors, needs more points than dimensions.
    start = "spectral" if count > 2 * MIN_POINTS else "random"
    reducer = umap.UMAP(n_neighbors=min(15, count - 1), metric="cosine", random_state=seed, n_jobs=1, init=start)
    placed_N2 = np.empty((len(vectors_ND), 2), np.float32)
    placed_N2[fitted_N] = reducer.fit_transform(vectors_ND[fitted_N])
    if count < len(vectors_ND):
        placed_N2[~fitted_N] = reducer.transform(vectors_ND[~fitted_N])
    return placed_N2


def find_neighbours(vectors_ND: np.ndarray, count: int = NEIGHBOURS) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest other points of each point and their cosine distances, both `[N, K]`, nearest first."""
    from sklearn.neighbors import NearestNeighbors

    count = min(count, len(vectors_ND) - 1)
    search = NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute").fit(vectors_ND)
    distance_NK, index_NK = search.kneighbors()
    return index_NK, distance_NK


def measure_separation(vectors_ND: np.ndarray, labels: Sequence[Any], neighbours: int = NEIGHBOURS) -> Separation:
    """Return purity and silhouette of the points that have a label.

    Args:
        vectors_ND: the embeddings.
        labels: of each point; None where it has none.
        neighbours: how many nearest neighbours the purity looks at.

    Raises:
        UsageError: fewer than two labels, or as many labels as points.
    """
    from sklearn.metrics import silhouette_score

    chosen_N = np.array([row for row, label in enumerate(labels) if label is not None], int)
    if len(chosen_N) > MAX_MEASURED:
        chosen_N = np.sort(np.random.default_rng(0).choice(chosen_N, MAX_MEASURED, replace=False))
    vectors_ND = np.asarray(vectors_ND, np.float64)[chosen_N]
    names = [str(labels[row]) for row in chosen_N]
    counts = Counter(names)
    total = len(names)
    if not 2 <= len(counts) < total:
        raise UsageError(f"{total} labelled recordings with {len(counts)} labels: nothing to separate")
    name_N = np.array(names)
    index_NK, _ = find_neighbours(vectors_ND, neighbours)
    purity = float(np.mean(name_N[index_NK] == name_N[:, None]))
    chance = sum(count * (count - 1) for count in counts.values()) / (total * (total - 1))
    return Separation(purity, chance, float(silhouette_score(vectors_ND, name_N, metric="cosine")), total)


def write_map_table(path: Path, points: MapPoints, layer: str, placed_N2: np.ndarray) -> None:
    """Write one layer's map as Parquet, as embedding-atlas reads it.

    The columns are path, split and the labels, projection_x, projection_y, and neighbors: the row numbers (`ids`) and
    cosine `distances` of the nearest points.

    Raises:
        StoreError: it cannot be written.
    """
    import pyarrow
    import pyarrow.parquet

    index_NK, distance_NK = find_neighbours(points.layers[layer])
    neighbours = [{"ids": ids, "distances": far} for ids, far in zip(index_NK.tolist(), distance_NK.tolist())]
    taken = {"path", "split", "projection_x", "projection_y", "neighbors"}
    columns: dict[str, Any] = {"path": points.names, "split": pyarrow.array(points.splits, pyarrow.string())}
    columns |= {name: _label_column(values) for name, values in points.labels.items() if name not in taken}
    columns |= {"projection_x": placed_N2[:, 0], "projection_y": placed_N2[:, 1], "neighbors": neighbours}
    with atomic_write(path) as tmp:
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp)


def _label_column(values: Sequence[Any]) -> pyarrow.Array:
    import pyarrow

    try:
        return pyarrow.array(values)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError):
        return pyarrow.array([None if value is None else str(value) for value in values])


def _choose_layers(source: Path, available: Sequence[str], layers: Sequence[str]) -> list[str]:
    for layer in layers:
        if layer not in available:
            near = did_you_mean(layer, available)
            raise UsageError(f"--layer {layer}: {source} has the layers {', '.join(available)}.{near}")
    return list(layers or available)


def _read_store(folder: Path, layers: Sequence[str]) -> tuple[list[str], dict[str, np.ndarray]]:
    try:
        meta = read_json_object(folder / META)
        dims = {str(name): int(dim) for name, dim in meta.pop("dims").items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as problem:
        raise StoreError(f"{folder / META}: not of a feature store ({problem})") from None
    store = FeatureStore(folder, dims, meta)
    items: Mapping[str, Any] = {key: item for key, item in store.items.items() if item.rows}
    chosen = {}
    for name in _choose_layers(folder, list(dims), layers):
        rows_RD = store.layer(name)
        means = [rows_RD[item.offset : item.offset + item.rows].mean(0, dtype=np.float32) for item in items.values()]
        chosen[name] = np.stack(means) if means else np.zeros((0, dims[name]), np.float32)
    return list(items), chosen


def _read_table(path: Path, layers: Sequence[str]) -> tuple[list[str], dict[str, np.ndarray]]:
    available = _table_layers(path)
    names: list[str] = []
    chosen = {}
    for layer in _choose_layers(path, available, layers):
        table = EmbeddingTable(path, layer)
        row_names = table.path_R.to_pylist()
        names = list(dict.fromkeys(row_names))
        number = {name: index for index, name in enumerate(names)}
        point_R = np.array([number[name] for name in row_names])
        sum_ND = np.zeros((len(names), table.dim))
        for first, block_RD in table.blocks():
            np.add.at(sum_ND, point_R[first : first + len(block_RD)], block_RD)
        chosen[layer] = (sum_ND / np.bincount(point_R)[:, None]).astype(np.float32)
    return names, chosen


def _table_layers(path: Path) -> list[str]:
    import pyarrow
    import pyarrow.parquet

    files = sorted(path.glob("part-*.parquet")) if path.is_dir() else [path]
    if not path.exists() or not files:
        raise StoreError(f"{path}: no such table or feature store; make a table with `carrara embed`")
    if pipe := next((file for file in files if not file.is_file()), None):
        raise StoreError(f"{pipe}: a pipe or device, not a table; write it to a file first")
    layers: dict[str, None] = {}
    for file in files:
        try:
            layers |= dict.fromkeys(pyarrow.parquet.read_table(file, columns=["layer"])["layer"].unique().to_pylist())
        except (OSError, KeyError, pyarrow.ArrowException):
            raise StoreError(f"{path}: not a table that `carrara embed` wrote") from None
    return sorted(layers, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
