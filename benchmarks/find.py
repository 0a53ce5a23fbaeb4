"""Measure neighbours on clustered random vectors: recall@10, ms a query on one core, resident memory; prints JSON.

    python benchmarks/find.py --rows 1000000 --dim 768 --threads 2 [--output docs/find.json]

The vectors are no music: 1,000 centres from a normal distribution, and around each equal numbers of vectors at a
distance of the centres' own length. Truth is NumPy's exact search in float64 over the table that is indexed. Memory is
measured in a fresh process that has opened the index and answered nothing yet, over one that has only imported. Queries
use one thread; `--threads` is for building and updating.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import parquet

from carrara.core.io import write_text
from carrara.features.embedding_table import EmbeddingTable
from carrara.features.neighbour_index import (
    CONNECTIVITY,
    EXPANSION_ADD,
    EXPANSION_SEARCH,
    NeighbourIndex,
    update_index,
)

COUNT, CENTRES, BLOCK, NEW = 10, 1000, 10_000, 1000
SETTINGS = {"encoder": "random-vectors", "weights_sha256": "", "output_version": 1, "encoder_settings": {}}
IDLE = """
import os, sys
def resident():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
import numpy, pyarrow.ipc, pyarrow.compute, usearch.index
from carrara.features.neighbour_index import NeighbourIndex
before = resident()
index = NeighbourIndex(sys.argv[1])
print(before, resident())
"""


def draw_vectors(rows: int, dim: int, seed: int) -> np.ndarray:
    """Return clustered random vectors, float32 `[rows, dim]`."""
    centres = np.random.default_rng(0).standard_normal((CENTRES, dim), np.float32)
    rng = np.random.default_rng(seed)
    return centres[rng.integers(0, CENTRES, rows)] + rng.standard_normal((rows, dim), np.float32)


def write_table(path: Path, rows: int, dim: int) -> None:
    """Write random vectors as a table of `carrara embed`."""
    names = {"path": pyarrow.string(), "start": pyarrow.float64(), "duration": pyarrow.float64()}
    types = {**names, "layer": pyarrow.string(), "embedding": pyarrow.list_(pyarrow.float32(), dim)}
    schema = pyarrow.schema(types).with_metadata({"settings": json.dumps(SETTINGS)})
    with parquet.ParquetWriter(path, schema, compression="none") as writer:
        for begin in range(0, rows, BLOCK):
            count = min(BLOCK, rows - begin)
            values = pyarrow.array(draw_vectors(count, dim, 1 + begin).reshape(-1))
            embedding = pyarrow.FixedSizeListArray.from_arrays(values, dim)
            paths = [f"{row}.flac" for row in range(begin, begin + count)]
            columns = [paths, np.zeros(count), np.full(count, 200.0), ["mean"] * count, embedding]
            writer.write_table(pyarrow.table(columns, schema=schema))
        files = [[f"{row}.flac", str(row)] for row in range(rows)]
        writer.add_key_value_metadata({"files": json.dumps(files)})


def exact_neighbours(table: EmbeddingTable, queries_QD: np.ndarray) -> np.ndarray:
    """Return the rows nearest to queries by cosine in float64, `[Q, COUNT]`."""
    best_QK = np.full((len(queries_QD), COUNT), -np.inf)
    rows_QK = np.zeros((len(queries_QD), COUNT), np.int64)
    for begin, vectors_ND in table.blocks():
        wide_ND = vectors_ND.astype(np.float64)
        similarity_QN = queries_QD @ (wide_ND / np.linalg.norm(wide_ND, axis=1, keepdims=True)).T
        rows_QN = np.broadcast_to(begin + np.arange(len(wide_ND)), similarity_QN.shape)
        both_Q, both_rows_Q = np.hstack([best_QK, similarity_QN]), np.hstack([rows_QK, rows_QN])
        order_QK = np.argsort(-both_Q, axis=1, kind="stable")[:, :COUNT]
        best_QK = np.take_along_axis(both_Q, order_QK, 1)
        rows_QK = np.take_along_axis(both_rows_Q, order_QK, 1)
    return rows_QK


def nearest(library: EmbeddingTable | NeighbourIndex, query_D: np.ndarray) -> list[int]:
    """Return the first rows that a table or an index gives."""
    ranked = library.nearest(query_D)
    return [next(ranked)[0] for _ in range(COUNT)]


def build(folder: Path, rows: int, dim: int, threads: int) -> dict:
    """Return what building the table's index took; a folder that has both keeps them, and what they took."""
    record = folder / "build.json"
    size = {"rows": rows, "dim": dim, "threads": threads}
    if record.exists():
        values = json.loads(record.read_text())
        if not size.items() <= values.items():
            sys.exit(f"{record}: was made with other options; choose another --folder")
        return dict(values)
    write_table(folder / "table.parquet", rows, dim)
    start, start_cpu, loads = time.perf_counter(), time.process_time(), [os.getloadavg()[0]]
    update_index(EmbeddingTable(folder / "table.parquet"), folder / "table.index", threads=threads)
    values = {
        **size,
        "build_cpu_seconds": round(time.process_time() - start_cpu, 1),
        "build_wall_seconds": round(time.perf_counter() - start, 1),
        "build_load": [round(load, 1) for load in (*loads, os.getloadavg()[0])],
        "build_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
        "build_date": time.strftime("%Y-%m-%d"),
    }
    write_text(record, json.dumps(values, indent=1) + "\n")
    return values


def update(folder: Path, rows: int, dim: int, threads: int) -> dict:
    """Return what it takes to add new recordings to a copy of the index."""
    path, copy = folder / "longer.parquet", folder / "longer.index"
    if not path.exists():
        write_table(path, rows + NEW, dim)
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder / "table.index", copy, copy_function=os.link)  # an update replaces files or appends to them
    start, start_cpu = time.perf_counter(), time.process_time()
    report = update_index(EmbeddingTable(path), copy, threads=threads)
    return {
        "new_recordings": report.added,
        "update_cpu_seconds": round(time.process_time() - start_cpu, 1),
        "update_wall_seconds": round(time.perf_counter() - start, 1),
    }


def measure(folder: Path, rows: int, dim: int, queries: int, threads: int) -> dict:
    """Return the measurements of one size."""
    built = build(folder, rows, dim, threads)
    index_path = folder / "table.index"
    table, index = EmbeddingTable(folder / "table.parquet"), NeighbourIndex(index_path)
    drawn_QD = draw_vectors(queries, dim, 10**9)
    unit_QD = drawn_QD / np.linalg.norm(drawn_QD, axis=1, keepdims=True)
    truth_QK = exact_neighbours(table, unit_QD.astype(np.float64))
    nearest(index, unit_QD[0])  # pages come in
    recalls, cpu_seconds, wall_seconds = [], [], []
    for query_D, truth_K in zip(unit_QD, truth_QK):
        wall, cpu = time.perf_counter(), time.process_time()
        rows_K = nearest(index, query_D)
        cpu_seconds.append(time.process_time() - cpu)
        wall_seconds.append(time.perf_counter() - wall)
        recalls.append(len(set(rows_K) & set(truth_K.tolist())) / COUNT)
    start = time.process_time()
    exact_rows = [nearest(table, query_D) for query_D in unit_QD[:3]]
    exact_seconds = (time.process_time() - start) / len(exact_rows)
    command = [sys.executable, "-c", IDLE, str(index_path)]
    imported, idle = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    return {
        "recall_at_10": round(float(np.mean(recalls)), 4),
        "index_cpu_ms": round(1000 * float(np.median(cpu_seconds)), 2),
        "index_wall_ms": round(1000 * float(np.median(wall_seconds)), 2),
        "index_wall_ms_95_percent": round(1000 * float(np.quantile(wall_seconds, 0.95)), 2),
        "exact_cpu_ms": round(1000 * exact_seconds, 1),
        "exact_recall_at_10": float(
            np.mean([len(set(a) & set(b)) / COUNT for a, b in zip(exact_rows, truth_QK.tolist())])
        ),
        "exact_over_index": round(exact_seconds / float(np.median(cpu_seconds)), 1),
        "resident_idle_mb": round(idle, 1),
        "resident_imports_mb": round(imported, 1),
        "index_mb": round(sum(file.stat().st_size for file in index_path.iterdir()) / 1e6, 1),
        **built,
        **update(folder, rows, dim, threads),
    }


def main() -> None:
    """Print the measurements as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where tables and index stay and are used again; a temporary one")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        values = measure(folder, arguments.rows, arguments.dim, arguments.queries, arguments.threads)
    loads.append(os.getloadavg()[0])
    result = {
        "data": f"clustered random vectors: {CENTRES} centres, normal, distance of a vector as long as a centre",
        "rows": arguments.rows,
        "dim": arguments.dim,
        "queries": arguments.queries,
        "connectivity": CONNECTIVITY,
        "expansion_add": EXPANSION_ADD,
        "expansion_search": EXPANSION_SEARCH,
        **values,
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": [round(load, 1) for load in loads],
    }
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.output:
        write_text(arguments.output, text + "\n")


if __name__ == "__main__":
    main()
