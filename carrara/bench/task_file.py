"""A task in a file of one's own: a few lines of TOML over a folder of recordings, or a Python file as on the shelf.

    # mood.toml
    data = "my-music"      # a folder with labels.csv (`carrara show folder`), from this file's place
    task_type = "multiclass"      # multiclass, multilabel, numbers or events
    label = "mood"         # the column that holds the truth

Any field of a task (`carrara show pebble/key` has them all) may be added. What is left out: `labels` are those of the
training clips, sorted (for numbers the label itself); `scores` and `watch` are the usual ones of the kind of answer. A
Python file defines `TASK`, and `DATASET` where the dataset is no shelf's; it is run, so use only what you wrote.
"""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from carrara.core.errors import DataError, UsageError
from carrara.core.settings import parse_settings
from carrara.core.task import Task
from carrara.data._base import Dataset
from carrara.data.folder import Folder

SCORES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "multiclass": (("accuracy",), "accuracy"),
    "multilabel": (("roc_auc", "average_precision"), "roc_auc"),
    "regression": ((), "r2"),
    "beat_tracking": (("beat_f_70ms",), "beat_f_70ms"),
}


def read_task(path: Path) -> tuple[Task, Dataset | None]:
    """Return the task that a file defines, named after the file, and its dataset (none: one of the shelf's).

    Raises:
        UsageError: no such file, or it does not define a task; the message names the key and the cure.
        DataError: the folder that it names is not there or its labels cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such file of a task")
    task, dataset = _python(path) if path.suffix == ".py" else _toml(path)
    return task.model_copy(update={"name": path.stem}), dataset


def _python(path: Path) -> tuple[Task, Dataset | None]:
    spec = importlib.util.spec_from_file_location(f"carrara_task_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not isinstance(getattr(module, "TASK", None), Task):
        raise UsageError(f"{path}: it defines no TASK = Task(...); carrara/bench/tasks/pebble/key.py is an example")
    return module.TASK, getattr(module, "DATASET", None)


def _toml(path: Path) -> tuple[Task, Dataset | None]:
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
    dataset = Folder(root)
    usual = {
        "version": 1,
        "dataset": root.resolve().name,
        "category": "high-level",
        "split": next(iter(dataset.splits(root))),
    }
    scores, watch = SCORES.get(str(values.get("answer")), ((), ""))
    values = {**usual, **({"scores": scores} if scores else {}), "monitor": watch, **values}
    values.setdefault("labels", _labels(dataset, root, values))
    if values.get("answer") == "regression":
        values.setdefault("scores", tuple(f"r2_{name}" for name in values["labels"]))
    return parse_settings(Task, values, str(path)), dataset


def _labels(dataset: Folder, root: Path, values: Mapping[str, Any]) -> tuple[str, ...]:
    kind, label = values.get("answer"), str(values.get("label"))
    if kind == "beat_tracking":
        return ("beat",)
    if kind == "regression":
        return (label,)
    found: set[str] = set()
    for clip in dataset.clips(root, str(values["split"])):
        value = clip.labels.get(label)
        if clip.split == "train" and value is not None:
            found.update(map(str, value) if isinstance(value, list) else [str(value)])
    if not found:
        raise DataError(f"{root}: no training clip has a label {label!r}; its columns are those of the labels file")
    return tuple(sorted(found))
