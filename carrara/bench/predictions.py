"""Truths and predictions of the test clips, stored beside a record: a new metric or a comparison needs no new run.

Parquet with the columns id, group, seed, truth and prediction, the last two as JSON; one line for each seed and clip.
Clips of one group are no independent evidence (`carrara/bench/interval.py`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from carrara.bench.interval import unit_groups
from carrara.core.clip import Clip
from carrara.core.errors import StoreError
from carrara.core.io import atomic_write
from carrara.core.record import Record
from carrara.core.strict_json import parse_json

if TYPE_CHECKING:
    import pyarrow as pa


def predictions_path(record: Record, results: Path) -> Path:
    """Return the file of a record's predictions below a folder of results."""
    return record.path(results).with_suffix(".predictions.parquet")


def write_predictions(
    path: Path,
    clips: Sequence[Clip],
    truths: Sequence[Any],
    predictions_S: Sequence[Sequence[Any]],
    seeds: Sequence[int],
) -> None:
    """Write each seed's predictions with the truths and groups of their clips.

    Raises:
        StoreError: the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "id": [clip.id for clip in clips] * len(seeds),
            "group": unit_groups(clips) * len(seeds),
            "seed": [seed for seed in seeds for _ in clips],
            "truth": [json.dumps(truth, default=_to_json) for truth in truths] * len(seeds),
            "prediction": [
                json.dumps(value, default=_to_json) for predictions in predictions_S for value in predictions
            ],
        }
    )
    with atomic_write(path) as tmp:
        pq.write_table(table, tmp)


def read_predictions(path: Path) -> dict[int, dict[str, tuple[Any, Any]]]:
    """Return for each seed truth and prediction by clip; arrays come back as lists.

    Raises:
        StoreError: there is no such file, or it holds no predictions.
    """
    table = _read_table(path)
    by_seed: dict[int, dict[str, tuple[Any, Any]]] = {}
    try:
        for line in table.to_pylist():
            pair = parse_json(line["truth"]), parse_json(line["prediction"])
            by_seed.setdefault(int(line["seed"]), {})[str(line["id"])] = pair
    except (TypeError, ValueError) as problem:
        raise StoreError(f"{path}: damaged predictions ({problem}); run this task again") from None
    if not by_seed:
        raise StoreError(f"{path}: no predictions in it; run this task again")
    return by_seed


def to_metric_input(value: Any) -> Any:
    """Return a truth or a prediction that was read: a list of numbers as an array, lists of segments as they are."""
    if isinstance(value, list) and all(isinstance(each, int | float) for each in value):
        return np.asarray(value)
    return value


def _read_table(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, ValueError, pa.ArrowException) as problem:
        reason = str(problem).partition("\n")[0]
        raise StoreError(f"{path}: cannot read predictions ({reason}); run this task again") from None
    if lacking := {"id", "seed", "truth", "prediction"} - set(table.column_names):
        raise StoreError(f"{path}: predictions without {', '.join(sorted(lacking))}; run this task again")
    return table


def read_groups(path: Path) -> dict[str, str]:
    """Return each clip's group; itself in files older than this column, which take clips to be independent.

    Raises:
        StoreError: there is no such file, or it holds no predictions.
    """
    table = _read_table(path)
    ids = table.column("id").to_pylist()
    return dict(zip(ids, table.column("group").to_pylist() if "group" in table.column_names else ids))


def _to_json(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else vars(value)
