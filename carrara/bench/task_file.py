"""A task in a file of your own: a few lines of TOML about a folder of recordings, or a Python file as in the registry.

    # mood.toml
    data = "my-music"           # a folder with labels.csv (`carrara show folder`), relative to this file
    task_type = "multiclass"    # multiclass, multilabel, regression or beat_tracking
    label = "mood"              # the column that holds the truth

Any field of a task (`carrara show pebble/key` has them all) may be added. By default `labels` are those of the training
clips, sorted (for regression the label itself), and `metrics` and `monitor` are the usual ones of the task type. A
Python file defines `TASK`, and `DATASET` where its dataset is not in the registry; it is run, so use only what you
wrote.
"""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Mapping
from pathlib import Path

from carrara.core.errors import DataError, UsageError
from carrara.core.settings import parse_settings
from carrara.core.task import Task
from carrara.data._base import Dataset
from carrara.data.folder import FolderDataset

# Metrics and monitored metric by task type; those of a regression follow from its labels.
USUAL_METRICS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "multiclass": (("accuracy",), "accuracy"),
    "multilabel": (("roc_auc", "average_precision"), "roc_auc"),
    "regression": ((), "r2"),
    "beat_tracking": (("beat_f_70ms",), "beat_f_70ms"),
}


def read_task(path: Path) -> tuple[Task, Dataset | None]:
    """Return the task that a file defines, named after the file, and its dataset (None for one of the registry).

    Raises:
        UsageError: no such file, or it does not define a task; the message names the key and the cure.
        DataError: the folder that it names does not exist, or its labels cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such task file")
    task, dataset = _read_python(path) if path.suffix == ".py" else _read_toml(path)
    return task.model_copy(update={"name": path.stem}), dataset


def _read_python(path: Path) -> tuple[Task, Dataset | None]:
    spec = importlib.util.spec_from_file_location(f"carrara_task_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not isinstance(getattr(module, "TASK", None), Task):
        raise UsageError(f"{path}: it defines no TASK = Task(...); carrara/bench/tasks/pebble/key.py is an example")
    return module.TASK, getattr(module, "DATASET", None)


def _read_toml(path: Path) -> tuple[Task, Dataset | None]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise UsageError(f"{path}: not TOML ({problem})") from None
    folder = values.pop("data", None)
    if folder is None:
        return parse_settings(Task, values, str(path)), None
    root = path.parent / str(folder)
    if not root.is_dir():
        raise DataError(f"{path}: data = {str(folder)!r}: there is no folder {root}")
    dataset = FolderDataset(root)
    defaults = {
        "version": 1,
        "dataset": root.resolve().name,
        "category": "high-level",
        "split_scheme": next(iter(dataset.splits(root))),
    }
    task_type = str(values.get("task_type")).replace("-", "_")
    metrics, monitor = USUAL_METRICS.get(task_type, ((), ""))
    values = {**defaults, **({"metrics": metrics} if metrics else {}), "monitor": monitor, **values}
    values.setdefault(
        "labels", _labels(dataset, root, task_type, str(values.get("label")), str(values["split_scheme"]))
    )
    if task_type == "regression":
        values.setdefault("metrics", tuple(f"r2_{name}" for name in values["labels"]))
    return parse_settings(Task, values, str(path)), dataset


def _labels(dataset: FolderDataset, root: Path, task_type: str, label: str, split_scheme: str) -> tuple[str, ...]:
    if task_type == "beat_tracking":
        return ("beat",)
    if task_type == "regression":
        return (label,)
    labels: set[str] = set()
    for clip in dataset.clips(root, split_scheme):
        value = clip.labels.get(label)
        if clip.split == "train" and value is not None:
            labels.update(map(str, value) if isinstance(value, list) else [str(value)])
    if not labels:
        raise DataError(f"{root}: no training clip has a label {label!r}; its columns are those of the labels file")
    return tuple(sorted(labels))
