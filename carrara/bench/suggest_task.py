"""What task a folder of recordings could be: its labels, counts, task type and splits, as a commented task file."""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carrara.core.clip import SPLITS, Clip
from carrara.core.errors import DataError, UsageError, did_you_mean
from carrara.data.folder import FolderDataset

MIN_VALUES = 2
MAX_CLASSES = 200
MAX_SHOWN = 8
# Of tasks scored frame by frame: as of gtzan/beats, chords1217/chords and harmonix/structure.
TRAINING_SECONDS = {"beat_tracking": 10.0, "chord_recognition": 15.0, "melody": 10.0, "structure": 30.0}


@dataclass(frozen=True)
class TaskSuggestion:
    """A task that a folder could be.

    Attributes:
        label: the column of the truth.
        task_type: the type that its values suggest.
        columns: all columns that could be the label, with the types that their values suggest.
        clips: with their splits.
        split_scheme: `given`, or `hashed` where the folder gives no splits.
    """

    label: str
    task_type: str
    columns: dict[str, str]
    clips: list[Clip]
    split_scheme: str


def suggest_task(folder: Path, label: str | None = None) -> TaskSuggestion:
    """Return the task that a folder's labels suggest.

    Args:
        folder: of recordings with labels.csv, metadata.csv, one folder for each class, or text files beside the audio.
        label: the column of the truth. None means the only one, or the first that looks like a label.

    Raises:
        DataError: the folder has no labels, or they cannot be read.
        UsageError: there is no such column, or none whose values vary.
    """
    dataset = FolderDataset(folder)
    split_scheme = next(iter(dataset.splits(folder)))
    clips = dataset.clips(folder, split_scheme)
    columns: dict[str, str] = {}
    for name in dict.fromkeys(name for clip in clips for name in clip.labels):
        values = [clip.labels[name] for clip in clips if clip.labels.get(name) is not None]
        if task_type := _suggest_type(name, values):
            columns[name] = task_type
    if not columns:
        raise DataError(f"{folder}: no column that a task could predict; `carrara show folder` explains them")
    if label is not None and label not in columns:
        near = did_you_mean(label, columns)
        raise UsageError(
            f"{folder}: no column {label!r} that a task could predict.{near} There are {', '.join(columns)}."
        )
    chosen = label or next(iter(columns))
    return TaskSuggestion(chosen, columns[chosen], columns, clips, split_scheme)


def _suggest_type(name: str, values: list[Any]) -> str:
    """Return the type of task that predicts the values of a column; empty where none can."""
    if not values:
        return ""
    if all(isinstance(value, list) for value in values):
        items = [item for value in values for item in value]
        if items and all(isinstance(item, list) and len(item) == 3 for item in items):
            if all(_is_number(item[2]) for item in items):
                return "melody"
            return "chord_recognition" if name == "chords" else "structure"
        if items and all(isinstance(item, int | float) for item in items):
            return "beat_tracking"
        return "multilabel" if len(set(map(str, items))) >= MIN_VALUES else ""
    distinct = set(map(str, values))
    if len(distinct) < MIN_VALUES:
        return ""
    if all(_is_number(value) for value in values) and any("." in text or "e" in text for text in distinct):
        return "regression"
    return "multiclass" if len(distinct) <= min(MAX_CLASSES, max(MIN_VALUES, len(values) // 2)) else ""


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def task_file_text(suggestion: TaskSuggestion, folder: Path, output: Path) -> str:
    """Return a task file with comments on what was seen in the folder.

    Args:
        suggestion: the task.
        folder: the folder, which the file names relative to itself.
        output: where the file will be.
    """
    clips, label = suggestion.clips, suggestion.label
    data = os.path.relpath(folder.resolve(), output.resolve().parent)
    splits = Counter(clip.split for clip in clips)
    counts = ", ".join(f"{splits[split]} {split}" for split in SPLITS)
    groups = {clip.group for clip in clips if clip.group}
    how = "as the folder gives them"
    if suggestion.split_scheme == "hashed":
        how = "by a hash of each clip's " + (
            "group" if groups else "path; a column `group` keeps an artist in one split"
        )
    lines = [
        f"# {len(clips)} clips: {counts}; split {how}.",
        f"# Groups, none of which may be in two splits: {len(groups) or 'none given'}.",
        f"# Measure an encoder on it: {bench_command(suggestion.task_type, output)}",
        "",
        f"data = {json.dumps(data, ensure_ascii=False)}  # the folder, relative to this file",
        f'task_type = "{suggestion.task_type}"',
        f"label = {json.dumps(label, ensure_ascii=False)}  # the column of the truth",
    ]
    others = [f"{name} ({kind})" for name, kind in suggestion.columns.items() if name != label]
    lines += [f"# Other columns that could be it: {', '.join(others)}."] * bool(others)
    values = [clip.labels[label] for clip in clips if clip.labels.get(label) is not None]
    if suggestion.task_type in ("multiclass", "multilabel", "chord_recognition", "structure"):
        items = [item for value in values for item in (value if isinstance(value, list) else [value])]
        classes = Counter(str(item[2]) if isinstance(item, list) else str(item) for item in items)
        shown = ", ".join(f"{name} {count}" for name, count in classes.most_common(MAX_SHOWN))
        more = f", … ({len(classes)} in all)" if len(classes) > MAX_SHOWN else ""
        lines.append(f"# Its values and how often each occurs: {shown}{more}.")
    lines += [f"# {len(clips) - len(values)} clips have no value and are left out."] * (len(values) < len(clips))
    empty = [split for split in SPLITS if splits[split] < MIN_VALUES]
    lines += [f"# Too few clips in {' and '.join(empty)}: a split needs two at least."] * bool(empty)
    window = "# window_seconds = 10.0  # cut clips into windows; without it an encoder gets whole clips"
    if suggestion.task_type in TRAINING_SECONDS:
        seconds = TRAINING_SECONDS[suggestion.task_type]
        window = f"window_seconds = {seconds}  # length of the training excerpts; whole recordings are evaluated"
    lines += [
        "",
        window,
        "# max_epochs = 100  # of the probe; `carrara show pebble/key` has every field",
    ]
    return "\n".join(lines) + "\n"


def bench_command(task_type: str, task_file: Path) -> str:
    """Return a command that measures an encoder which needs no weights, and has frames where the task needs them."""
    encoder = "mert-tiny:random" if task_type in TRAINING_SECONDS else "chroma-mfcc"
    return f"carrara bench {encoder} -t {shlex.quote(str(task_file))}"
