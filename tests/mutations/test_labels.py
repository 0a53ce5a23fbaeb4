"""Mutated labels of one's own folder, task files and datasets' annotations."""

import json

import numpy as np
import pytest
import soundfile

from carrara.bench import task_types
from carrara.bench.task_file import read_task
from carrara.data.folder import FolderDataset
from carrara.data.gtzan import DATASET as GTZAN
from carrara.pretrain.corpus.manifest import read_manifest

SPLITS = ["train", "valid", "test"]
ROWS = [
    {"path": f"{n}.wav", "split": SPLITS[n % 3], "group": f"g{n}", "start": 0.5, "duration": 1.0, "mood": "ab"[n % 2],
     "level": n / 4, "tags": ["x", "y z"][: 1 + n % 2], "beats": [0.1, 0.5], "key": ["C:maj", "Am"][n % 2]}
    for n in range(6)
]  # fmt: skip
TASKS = {"multiclass": "mood", "multilabel": "tags", "regression": "level", "beat_tracking": "beats"}


def csv_text(delimiter):
    lines = [
        delimiter.join(["path", "split", "group", "start", "duration", "mood", "level", "tags[]", "beats[]", "key"])
    ]
    for row in ROWS:
        values = [
            '"' + ";".join(map(str, value)) + '"' if isinstance(value, list) else str(value) for value in row.values()
        ]
        lines.append(delimiter.join(values))
    return "\n".join(lines) + "\n"


def read_all(root):
    """Read the index, its splits and the truths of every kind of task."""
    dataset = FolderDataset(root)
    dataset.splits(root)
    for task_type, label in TASKS.items():
        (root.parent / "own.toml").write_text(f'data = "folder"\ntask_type = "{task_type}"\nlabel = "{label}"\n')
        task, _ = read_task(root.parent / "own.toml")
        task_types.REGISTRY.get(task_type).check(task)
        task_types.REGISTRY.get(task_type).truths(task, dataset.clips(root, task.split_scheme))


@pytest.mark.parametrize("name", ["labels.jsonl", "commas", "semicolons", "tabs"])
def test_labels(tmp_path, survive, name):
    root = tmp_path / "folder"
    root.mkdir()
    path = root / (name if name.endswith(".jsonl") else "labels.csv")
    if name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        path.write_text(csv_text({"commas": ",", "semicolons": ";", "tabs": "\t"}[name]))
    # A label that no task can take is named by its clip, not by the file.
    assert survive(path, lambda: read_all(root), name, names=False) > 20


def test_task_files(tmp_path, survive):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    path = tmp_path / "own.toml"
    path.write_text(
        'data = "folder"\ntask_type = "multiclass"\nlabel = "mood"\nmax_epochs = 3\nwindow_seconds = 2.5\n'
        'metrics = ["accuracy"]\nlabels = ["a", "b"]\n'
    )
    assert survive(path, lambda: read_task(path), "task", names=False) > 20


@pytest.mark.parametrize("kind", ["jams", "beats"])
def test_annotations_of_beats(tmp_path, survive, kind):
    for split in SPLITS:
        (tmp_path / f"{split}_filtered.txt").write_text("blues/blues.00029.wav\n" if split == "train" else "")
    events = [{"time": 0.5 * n, "value": n % 4 + 1, "duration": 0, "confidence": None} for n in range(8)]
    if kind == "jams":
        path = tmp_path / "jams/blues.00029.wav.jams"
        text = json.dumps({"annotations": [{"namespace": "beat", "sandbox": {}, "data": events}]})
    else:
        path = tmp_path / "beats/gtzan_blues_00029.beats"
        text = "".join(f"{event['time']}\t{event['value']}\n" for event in events)
    path.parent.mkdir()
    path.write_text(text)
    assert survive(path, lambda: GTZAN.index(tmp_path), kind) > 20


def test_lists_of_gtzan(tmp_path, survive):
    for split in SPLITS:
        (tmp_path / f"{split}_filtered.txt").write_text("blues/blues.00029.wav\n" * (split == "train"))
    path = tmp_path / "train_filtered.txt"
    assert survive(path, lambda: GTZAN.clips(tmp_path, "fault-filtered"), "lists") > 20


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_manifests(tmp_path, survive, suffix):
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / f"manifest.{suffix}"
    rows = {
        "path": [f"{n}.wav" for n in range(5)],
        "start": [0.0, 1.5, 2, 3, 4],
        "seconds": [9.0] * 5,
        "id": list("abcde"),
    }
    if suffix == "csv":
        lines = [",".join(rows), *(",".join(map(str, row)) for row in zip(*rows.values()))]
        path.write_text("\n".join(lines) + "\n")
    else:
        parquet.write_table(pyarrow.table(rows), path)
    assert survive(path, lambda: read_manifest(str(path)), suffix) > 20


def test_the_files_of_a_folder_are_checked_whatever_their_labels_say(tmp_path, survive):
    root = tmp_path / "folder"
    root.mkdir()
    for n in range(6):
        soundfile.write(root / f"{n}.wav", 0.1 * np.random.default_rng(n).standard_normal(8000 * 2), 8000)
    path = root / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    survive(path, lambda: FolderDataset(root).check(root), "check", times=40, names=False)
