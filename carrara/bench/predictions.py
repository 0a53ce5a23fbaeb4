"""The test clips' truths and answers beside a record, so that a new metric or a comparison needs no new run.

Parquet with the columns id, seed, truth and answer, the last two as JSON; a row a seed and clip.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from carrara.bench.protocols._base import ProtocolResult
from carrara.core.errors import StoreError
from carrara.core.io import atomic_write
from carrara.core.record import Record


def predictions_path(record: Record, results: Path) -> Path:
    """Return where the test clips' truths and answers of a record stand."""
    return record.path(results).with_suffix(".predictions.parquet")


def write_predictions(path: Path, ids: Sequence[str], outcome: ProtocolResult, seeds: Sequence[int]) -> None:
    """Write every seed's answers with their clips' truths.

    Raises:
        StoreError: the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    truths = [json.dumps(truth, default=_plain) for truth in outcome.truths]
    table = pa.table(
        {
            "id": [*ids] * len(seeds),
            "seed": [seed for seed in seeds for _ in ids],
            "truth": truths * len(seeds),
            "answer": [json.dumps(given, default=_plain) for answers in outcome.answers for given in answers],
        }
    )
    with atomic_write(path) as draft:
        pq.write_table(table, draft)


def read_predictions(path: Path) -> dict[int, dict[str, tuple[Any, Any]]]:
    """Return for each seed truth and answer by clip, lists where arrays were written.

    Raises:
        StoreError: there is no such file, or it is not one of predictions.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as problem:
        reason = str(problem).partition("\n")[0]
        raise StoreError(f"{path}: no predictions to read ({reason}); measure this row again") from None
    if lacking := {"id", "seed", "truth", "answer"} - set(table.column_names):
        raise StoreError(f"{path}: predictions without {', '.join(sorted(lacking))}; measure this row again")
    rows = table.to_pylist()
    found: dict[int, dict[str, tuple[Any, Any]]] = {}
    for row in rows:
        found.setdefault(row["seed"], {})[row["id"]] = (json.loads(row["truth"]), json.loads(row["answer"]))
    return found


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else vars(value)
