"""By how much runs that should be equal differ: same encoder, tasks and seed, other threads, or features in two parts.

    python benchmarks/equal_runs.py chroma-mfcc mert-tiny:random --tasks pebble/genre,pebble/key --data-dir PEBBLE/tiny
    python benchmarks/equal_runs.py mert-tiny:random --limit 100

Each run is `carrara bench` in a process and with a home of its own. `in parts` extracts the features of six clips of
each split first, so that the batches of the others are composed otherwise. Compared with the first run, of one thread:
the fraction of stored half-precision features that differ, and the largest difference relative to their layer's
largest value; then over the tasks the validation score of every point of the grid, how often the chosen layer and
learning rate differ, and the test score. Scores are in hundredths. The table is in docs/intervals.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from carrara.core.record import Record, read_records
from carrara.core.strict_json import parse_json_object
from carrara.features.store import HALF, LOG

COLUMNS = ("encoder", "run", "features differ", "by at most", "grid: mean change", "grid: largest", "chosen differ",
           "validation: largest", "test: mean change", "test: largest")  # fmt: skip
IN_PARTS_LIMIT = 6


def run_bench(home: Path, threads: int, arguments: list[str], encoder: str) -> list[Record]:
    """Return the records of a new process with a home and a number of threads of its own."""
    variables = {"CARRARA_HOME": str(home), "OMP_NUM_THREADS": str(threads), "CARRARA_PROGRESS": "0"}
    command = [sys.executable, "-m", "carrara", "bench", encoder, *arguments, "-o", str(home / "results")]
    subprocess.run(command, check=True, env=os.environ | variables, stdout=subprocess.DEVNULL)
    return list(read_records(home / "results"))


def read_features(home: Path) -> dict[tuple[str, str], np.ndarray]:
    """Return the rows of every clip, by store with layer and by the clip's key."""
    rows = {}
    for log in sorted((home / "features").rglob(LOG)):
        items = [parse_json_object(line) for line in log.read_bytes().splitlines()]
        for path in sorted(log.parent.glob("layer-*")):
            total = sum(item["rows"] for item in items)
            layer = np.fromfile(path, HALF).reshape(total, -1) if total else np.zeros((0, 1), HALF)
            name = path.relative_to(home).as_posix()
            for item in items:
                rows[name, item["key"]] = layer[item["offset"] : item["offset"] + item["rows"]].astype(np.float32)
    return rows


def compare_features(first: Path, other: Path) -> tuple[float, float]:
    """Return the fraction of values that differ and the largest difference, relative to its layer's largest value."""
    ours, theirs = read_features(first), read_features(other)
    assert ours.keys() == theirs.keys()
    largest: dict[str, float] = {}
    for (layer, _), rows in ours.items():
        largest[layer] = max(largest.get(layer, 0.0), float(np.abs(rows).max(initial=0)))
    count = sum(rows.size for rows in ours.values())
    differing = sum(int((rows != theirs[key]).sum()) for key, rows in ours.items())
    worst = max(float(np.abs(rows - theirs[key]).max(initial=0)) / largest[key[0]] for key, rows in ours.items())
    return differing / count, worst


def compare_records(first: list[Record], other: list[Record]) -> list[str]:
    """Return the cells of the table about scores."""
    grid, chosen, valid, test = [], 0, [], []
    for ours, theirs in zip(*(sorted(records, key=lambda record: record.task.name) for records in (first, other))):
        assert ours.task == theirs.task
        points = [
            {(point.layer, point.learning_rate): point.valid for point in record.grid} for record in (ours, theirs)
        ]
        grid += [abs(score - points[1][name]) for name, score in points[0].items() if name in points[1]]
        chosen += any(ours.protocol.chosen[name] != theirs.protocol.chosen[name] for name in ("layer", "learning_rate"))
        valid.append(abs(max(points[0].values()) - max(points[1].values())))
        test += [abs(score.value - theirs.scores[name].value) for name, score in ours.scores.items()]
    hundredths = [100 * np.mean(grid), 100 * max(grid), 100 * max(valid), 100 * np.mean(test), 100 * max(test)]
    cells = [f"{value:.2f}" for value in hundredths]
    return [*cells[:2], f"{chosen} of {len(first)}", *cells[2:]]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("encoders", nargs="+")
    parser.add_argument("--tasks", default="pebble/*")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--also", nargs="*", default=["in parts", "again"], help="other runs of the first's threads")
    options, passed = parser.parse_known_args()
    arguments = ["--tasks", options.tasks, "--device", "cpu", *passed]
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    for encoder in options.encoders:
        with tempfile.TemporaryDirectory() as folder:
            first = Path(folder) / "first"
            records = run_bench(first, options.threads[0], arguments, encoder)
            for label in (*options.threads[1:], *options.also):
                home, threads = Path(folder) / str(label), label if isinstance(label, int) else options.threads[0]
                if label == "in parts":
                    run_bench(home, threads, [*arguments, "--limit", str(IN_PARTS_LIMIT)], encoder)
                others = run_bench(home, threads, arguments, encoder)
                fraction, worst = compare_features(first, home)
                cells = [encoder, f"{label} threads" if isinstance(label, int) else label, f"{100 * fraction:.3f} %",
                         f"{worst:.1e}", *compare_records(records, others)]  # fmt: skip
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
