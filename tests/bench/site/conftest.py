"""Records with predictions for the site: a few systems on multiclass, multilabel and regression tasks."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from carrara.core.record import Record, write_record

UNITS = 40
FEATURE_SECONDS = {"poor": 2.0}
TASKS = {
    "pebble/key": ("multiclass", "high-level", ["accuracy"], ["a", "b", "c"]),
    "pebble/genre": ("multiclass", "high-level", ["accuracy"], ["a", "b", "c"]),
    "pebble/tags": ("multilabel", "acoustic", ["average_precision"], ["x", "y"]),
    "pebble/emotion": ("regression", "performance", ["r2_valence", "r2_arousal"], ["valence", "arousal"]),
}
SYSTEMS = {
    "good": {"parameters": 5_000_000, "license": "MIT", "trained_on": ["pebble"]},
    "fair": {"parameters": 90_000_000, "license": "CC-BY-NC-4.0", "trained_on": ["own"]},
    "poor": {"parameters": 300_000_000, "license": "MIT"},
}


def write_site_record(folder, system, task, score, partial=False, protocol="constrained", dataset="pebble", layers=4):
    """Write a record without predictions and return its path."""
    task_type, level, metrics, labels = TASKS.get(task, ("multiclass", "acoustic", ["accuracy"], ["a", "b"]))
    values = {
        "task": {"name": task, "version": 1, "fingerprint": task, "task": {
            "version": 1, "dataset": dataset, "split_scheme": "s", "task_type": task_type, "label": "l",
            "labels": labels, "metrics": metrics, "monitor": metrics[0], "category": level, "name": task}},
        "data": {"name": dataset, "index": "i", "n": {"train": 3, "valid": 1, "test": UNITS}},
        "encoder": {"name": system, "weights_sha256": "0" * 64, "output_version": 1, "parameters": 0,
                    **SYSTEMS.get(system, {})},
        "protocol": {"name": protocol, "version": 1, "tried": layers, "chosen": {"layer": "1"}, "monitor": "valid"},
        "grid": [{"layer": str(n), "learning_rate": 0.1, "valid": score - 0.01 * (n - 1) ** 2, "epoch": 1, "epochs": 2}
                 for n in range(layers)],
        "scores": {name: {"value": score, "low": score - 0.05, "high": score + 0.05, "unit": "clip", "n": UNITS}
                   for name in metrics},
        "run": {"seed": 0, "device": "cpu", "seconds": {"features": FEATURE_SECONDS.get(system, 60.0), "probe": 30.0},
                "versions": {}, "git": "", "date": "2026-11-21", "command": f"carrara bench {system} -t {task}"},
        "partial": partial,
        "robustness": {"noise:20db": {name: {"value": score - 0.2, "low": 0, "high": 1, "unit": "clip", "n": UNITS}
                                      for name in metrics}},
    }  # fmt: skip
    return write_record(Record.model_validate(values), folder)


def write_site_predictions(path, task, score, seed):
    """Write predictions beside a record; return the truths and the predictions."""
    task_type, _, _, labels = TASKS[task]
    truth, noise = np.random.default_rng(0), np.random.default_rng(seed)
    if task_type == "multiclass":
        truths = truth.integers(0, len(labels), UNITS)
        predictions = np.where(noise.random(UNITS) < score, truths, (truths + 1) % len(labels))
    elif task_type == "multilabel":
        truths = truth.integers(0, 2, (UNITS, len(labels)))
        predictions = np.clip(score * truths + noise.random((UNITS, len(labels))), 0, 1)
    else:
        truths = truth.normal(size=(UNITS, len(labels)))
        predictions = truths + (1 - score) * noise.normal(size=(UNITS, len(labels)))
    columns = {
        "id": [f"clip-{unit:02}" for unit in range(UNITS)],
        "group": [f"song-{unit // 2}" for unit in range(UNITS)],
        "seed": [0] * UNITS,
        "truth": [json.dumps(each) for each in truths.tolist()],
        "prediction": [json.dumps(each) for each in predictions.tolist()],
    }
    pq.write_table(pa.table(columns), path.with_suffix(".predictions.parquet"))
    return truths, predictions


@pytest.fixture(scope="package")
def site_results(tmp_path_factory):
    """A folder of records with predictions, and the truths and predictions by system and task."""
    folder = tmp_path_factory.mktemp("results")
    written = {}
    for number, (system, score) in enumerate({"good": 0.9, "fair": 0.6, "poor": 0.3}.items()):
        for offset, task in enumerate(TASKS):
            shown = score - 0.02 * offset
            path = write_site_record(folder, system, task, shown, partial=(system, task) == ("poor", "pebble/tags"))
            written[system, task] = write_site_predictions(path, task, shown, 10 * number + offset)
    write_site_record(folder, "good", "pebble/key", 0.7, protocol="linear")
    write_site_record(folder, "fair", "gtzan/genre", 0.7, dataset="gtzan")
    return folder, written


@pytest.fixture(scope="package")
def write_record_of():
    return write_site_record
