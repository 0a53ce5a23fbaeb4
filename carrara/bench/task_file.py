"""A task in a file of your own: a few lines of TOML about a folder of recordings, or a Python file as in the registry.

    # mood.toml
    data = "my-music"           # a folder with labels.csv (`carrara show folder`), relative to this file
    task_type = "multiclass"    # or multilabel, regression, beat_tracking, chord_recognition,
                                # melody, structure, tempo, retrieval, source_separation
    label = "mood"              # the column that holds the truth; source_separation needs none

Any field of a task (`carrara show pebble/key` has them all) may be added. By default `labels` are those of the training
clips, sorted; for regression the label itself; for chords N and the 24 major and minor triads; for melodies the
semitones from the lowest to the highest of the training clips; for source separation the columns that name files beside
the mixture or streams of it, such as vocals.wav or stream:1. `metrics` and `monitor` are by default the usual ones of
the task type. A Python file defines `TASK`, and `DATASET` where its dataset is not in the registry; it is run, so use
only what you wrote.
"""

from __future__ import annotations

import importlib.util
import math
import tomllib
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from carrara.audio.stems import is_stem
from carrara.bench.suggest_task import suggest_task, task_file_text
from carrara.core.clip import Clip
from carrara.core.errors import DataError, UsageError, did_you_mean
from carrara.core.settings import parse_settings
from carrara.core.task import Task
from carrara.data._base import Dataset
from carrara.data._pebble.labels import CHORDS
from carrara.data.folder import FolderDataset

EXAMPLE = 'data = "my-music", task_type = "multiclass", label = "mood"'
SEPARATION_WINDOW_SECONDS = 6.0  # as of musdb18/stems
# Metrics and monitored metric by task type; those of regression and separation follow from the labels.
USUAL_METRICS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "multiclass": (("accuracy",), "accuracy"),
    "multilabel": (("roc_auc", "average_precision"), "roc_auc"),
    "regression": ((), "r2"),
    "beat_tracking": (("beat_f_70ms",), "beat_f_70ms"),
    "chord_recognition": (("chord_majmin",), "chord_majmin"),
    "melody": (("melody_raw_pitch",), "melody_raw_pitch"),
    "structure": (("boundary_f_500ms", "segment_label_accuracy"), "segment_label_accuracy"),
    "tempo": (("tempo_accuracy1", "tempo_accuracy2"), "tempo_accuracy1"),
    "retrieval": (("map",), "map"),
    "source_separation": ((), "sdr"),
}


def read_task(path: Path) -> tuple[Task, Dataset | None]:
    """Return the task that a file defines, named after the file, and its dataset (None for one of the registry).

    Raises:
        UsageError: no such file, or it does not define a task; the message names the key and the cure.
        DataError: the folder that it names does not exist, or its labels cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such task file")
    task, dataset = _read_python(path) if path.suffix == ".py" else _read_toml(path)
    return task.model_copy(update={"name": path.stem}), dataset


def _read_folder(folder: Path) -> tuple[Task, Dataset | None]:
    """Return the task of a folder that has one column of labels."""
    suggestion = suggest_task(folder)
    if len(set(suggestion.columns) - {"downbeats"}) > 1:  # which files of beats may hold as well
        raise UsageError(
            f"{folder}: has several labels, {', '.join(suggestion.columns)}; `carrara new task {folder} --label "
            f"{suggestion.label}` writes a task file for one of them"
        )
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / "task.toml"
        path.write_text(task_file_text(suggestion, folder, path), encoding="utf-8")
        task, _ = _read_toml(path)
    return task.model_copy(update={"name": folder.resolve().name}), FolderDataset(folder)


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
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as problem:
        reason = str(problem) if isinstance(problem, tomllib.TOMLDecodeError | UnicodeDecodeError) else "a value"
        raise UsageError(f"{path}: not TOML ({reason})") from None
    folder = values.pop("data", None)
    if folder is None:
        if "dataset" not in values:
            raise UsageError(f"{path}: names neither data (a folder with labels.csv) nor dataset; write {EXAMPLE}")
        return parse_settings(Task, values, str(path)), None
    root = path.parent / str(folder)
    if not root.is_dir():
        raise DataError(f"{path}: data = {str(folder)!r}: there is no folder {root}")
    task_type = str(values.get("task_type", "")).replace("-", "_")
    if task_type not in USUAL_METRICS:
        given = f"task_type is {task_type!r}" if task_type else "lacks task_type"
        known = ", ".join(USUAL_METRICS)
        raise UsageError(f"{path}: {given}; it is one of {known}.{did_you_mean(task_type, USUAL_METRICS)}")
    dataset = FolderDataset(root)
    split_scheme = next(iter(dataset.splits(root)))
    metrics, monitor = USUAL_METRICS[task_type]
    defaults = {
        "version": 1,
        "dataset": root.resolve().name,
        "category": "high-level",
        "split_scheme": split_scheme,
        "monitor": monitor,
        **({"metrics": metrics} if metrics else {}),
        **({"label": "stems", "window_seconds": SEPARATION_WINDOW_SECONDS} if task_type == "source_separation" else {}),
    }
    values = {**defaults, **values, "task_type": task_type}
    clips = dataset.clips(root, str(values["split_scheme"]))
    columns = sorted({name for clip in clips for name in clip.labels})
    label = values.get("label")
    if task_type != "source_separation" and label not in columns and "labels" not in values:
        given = "lacks label" if label is None else f"label is {label!r}"
        near = did_you_mean(str(label), columns)
        raise UsageError(
            f"{path}: {given}; the columns of {root} that can be one: {', '.join(columns) or 'none'}.{near}"
        )
    values.setdefault("labels", _labels(clips, root, task_type, str(label)))
    if task_type == "regression":
        values.setdefault("metrics", tuple(f"r2_{name}" for name in values["labels"]))
    if task_type == "source_separation":
        values.setdefault("metrics", tuple(f"sdr_{name}" for name in values["labels"]))
    return parse_settings(Task, values, str(path)), dataset


def _labels(clips: Sequence[Clip], root: Path, task_type: str, label: str) -> tuple[str, ...]:
    if task_type == "beat_tracking":
        return ("downbeat",) if label == "downbeats" else ("beat",)
    if task_type == "chord_recognition":
        return CHORDS
    if task_type in ("tempo", "retrieval"):
        return ("tempo",) if task_type == "tempo" else ("similarity",)
    if task_type == "regression":
        return (label,)
    training = [clip for clip in clips if clip.split == "train"]
    if task_type == "source_separation":
        stems = {name for clip in training for name, value in clip.labels.items() if is_stem(clip.path, value)}
        if not stems:
            raise DataError(f"{root}: no column names stems: files beside the mixture, or streams of it as stream:1")
        return tuple(sorted(stems))
    values = [clip.labels[label] for clip in training if clip.labels.get(label) is not None]
    items = [item for value in values for item in (value if isinstance(value, list) else [value])]
    if not items:
        raise DataError(f"{root}: no training clip has a label {label!r}")
    if task_type in ("melody", "structure"):
        try:
            items = [value for _, _, value in items]
            if task_type == "melody":
                pitches = [round(69 + 12 * math.log2(float(hertz) / 440)) for hertz in items]
                return ("rest", *map(str, range(min(pitches), max(pitches) + 1)))
        except (TypeError, ValueError):
            expected = "[start, end, hertz]" if task_type == "melody" else "[start, end, section]"
            raise DataError(f"{root}: {label} is no list of {expected} in every training clip") from None
    names = tuple(sorted({name for name in map(str, items) if name.strip()}))
    _warn_of_spellings(names, label, root)
    return names


def _warn_of_spellings(names: Sequence[str], label: str, root: Path) -> None:
    """Warn of classes that differ only in case, blanks or the encoding of an accent: most likely slips."""
    spellings: dict[str, list[str]] = {}
    for name in names:
        spellings.setdefault(" ".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    if several := next((alike for alike in spellings.values() if len(alike) > 1), None):
        shown = " and ".join(map(ascii, several))
        warnings.warn(f"{root}: the values {shown} of {label} differ in spelling only, and count as {len(several)} "
                      "classes; write them alike if they are one", stacklevel=4)  # fmt: skip
