"""The names of the styles of MAEST and EffNet-Discogs: from a file beside a checkpoint, which holds none itself.

`labels.json` is a list, a table from number to name, or the metadata that Essentia publishes with a model (`classes`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from carrara.core.errors import UsageError, did_you_mean
from carrara.core.strict_json import read_json
from carrara.encoders._base import Encoder

LABELS = "labels.json"


def add_labels_from_file(name: str, settings: Any, path: Path) -> Any:
    """Return the settings with the labels in a file beside a checkpoint, or unchanged if there is no such file.

    Raises:
        UsageError: the labels do not match the classes.
    """
    file = (path if path.is_dir() else path.parent) / LABELS
    if not file.is_file():
        return settings
    return settings.model_copy(update={"labels": read_label_names(file, settings.classes)})


def read_label_names(path: Path, classes: int) -> tuple[str, ...]:
    """Return the names of the styles in a JSON file.

    Raises:
        UsageError: the file cannot be read, or the names do not match the classes.
    """
    try:
        content = read_json(Path(path))
    except (OSError, ValueError) as problem:
        raise UsageError(f"{path}: cannot be read ({problem})") from None
    if isinstance(content, dict) and "classes" in content:
        content = content["classes"]
    return parse_label_names(dict(enumerate(content)) if isinstance(content, list) else content, classes, str(path))


def require_same_labels(labels: Sequence[str], encoder: Encoder, source: str) -> None:
    """Refuse labels that are not those of an encoder's head.

    Raises:
        UsageError: they differ; the message says which.
    """
    own = getattr(encoder.settings, "labels", ())
    if not own or tuple(labels) == own:
        return
    unknown, missing = [name for name in labels if name not in own], [name for name in own if name not in labels]
    reasons = [
        f"{len(names)} {what} ({', '.join(map(repr, names[:3]))}{', …' if len(names) > 3 else ''})"
        for names, what in ((unknown, "that it does not have"), (missing, "of its own missing"))
        if names
    ]
    hint = did_you_mean(unknown[0], missing) if unknown else ""
    reason = "; ".join(reasons) or "the same in another order"
    raise UsageError(f"{source}: not the labels of {encoder.card.name}: {reason}.{hint}")


def parse_label_names(table: Any, classes: int, source: str) -> tuple[str, ...]:
    """Return a table from number to name as a tuple; empty if the names are placeholders.

    Raises:
        UsageError: the table holds no names, or they do not match the classes.
    """
    if not isinstance(table, Mapping) or not all(isinstance(name, str) for name in table.values()):
        raise UsageError(f"{source}: holds no names of styles; give a list of them, or a table from number to name")
    names = {str(number): name for number, name in table.items()}
    if all(name == f"LABEL_{number}" for number, name in names.items()):
        return ()
    numbers = [str(number) for number in range(classes)]
    missing = [number for number in numbers if number not in names]
    extra = [name for number, name in names.items() if number not in set(numbers)]
    duplicates = sorted({name for name in names.values() if list(names.values()).count(name) > 1})
    if missing or extra or duplicates:
        reasons = [
            f"none for style {', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}" if missing else "",
            f"{', '.join(map(repr, extra[:3]))}{', …' if len(extra) > 3 else ''} beyond it" if extra else "",
            f"{', '.join(map(repr, duplicates[:3]))} twice" if duplicates else "",
        ]
        raise UsageError(
            f"{source}: {len(names)} names for a head of {classes} styles: {'; '.join(filter(None, reasons))}; "
            "give the labels on which this head was trained"
        )
    return tuple(names[number] for number in numbers)
