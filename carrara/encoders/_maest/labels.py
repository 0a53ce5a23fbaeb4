"""The names of a MAEST's styles: from a file beside a checkpoint, which holds none itself; and whether two sets agree.

`labels.json` is a list, a table from number to name, or the metadata that Essentia publishes with a model (`classes`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from carrara.core.errors import UsageError, did_you_mean
from carrara.encoders._base import Encoder
from carrara.encoders._maest.network import MaestSettings

LABELS = "labels.json"


def labels_beside(name: str, settings: MaestSettings, path: Path) -> MaestSettings:
    """Return the settings with the labels that stand beside a checkpoint, where there are some.

    Raises:
        UsageError: they are not one a style.
    """
    beside = (path if path.is_dir() else path.parent) / LABELS
    labels = read_labels(beside, settings.classes) if beside.is_file() else ()
    return settings.model_copy(update={"labels": labels})


def read_labels(path: Path, classes: int) -> tuple[str, ...]:
    """Return the names of the styles in a JSON file.

    Raises:
        UsageError: it cannot be read, or has not one name a style.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise UsageError(f"{path}: cannot be read ({problem})") from None
    if isinstance(found, dict) and "classes" in found:
        found = found["classes"]
    return named(dict(enumerate(found)) if isinstance(found, list) else found, classes, str(path))


def agree(labels: Sequence[str], encoder: Encoder, source: str) -> None:
    """Refuse labels that are not those of an encoder's head.

    Raises:
        UsageError: they differ; the message says which.
    """
    own = getattr(encoder.settings, "labels", ())
    if not own or tuple(labels) == own:
        return
    unknown, missing = [name for name in labels if name not in own], [name for name in own if name not in labels]
    said = [
        f"{len(names)} {what} ({', '.join(map(repr, names[:3]))}{', …' if len(names) > 3 else ''})"
        for names, what in ((unknown, "that it does not have"), (missing, "of its own missing"))
        if names
    ]
    hint = did_you_mean(unknown[0], missing) if unknown else ""
    raise UsageError(
        f"{source}: not the labels of {encoder.card.name}: {'; '.join(said) or 'the same in another order'}.{hint}"
    )


def named(found: Any, classes: int, source: str) -> tuple[str, ...]:
    """Return a table from number to name as a tuple; empty where the names are placeholders."""
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found.values()):
        raise UsageError(f"{source}: holds no names of styles; give a list of them, or a table from number to name")
    table = {str(place): name for place, name in found.items()}
    if all(name == f"LABEL_{place}" for place, name in table.items()):
        return ()
    lacking = [place for place in map(str, range(classes)) if place not in table]
    beyond = [table[place] for place in table if place not in set(map(str, range(classes)))]
    twice = sorted({name for name in table.values() if list(table.values()).count(name) > 1})
    if lacking or beyond or twice:
        said = [
            f"none for style {', '.join(lacking[:3])}{', …' if len(lacking) > 3 else ''}" if lacking else "",
            f"{', '.join(map(repr, beyond[:3]))}{', …' if len(beyond) > 3 else ''} beyond it" if beyond else "",
            f"{', '.join(map(repr, twice[:3]))} twice" if twice else "",
        ]
        raise UsageError(
            f"{source}: {len(table)} names for a head of {classes} styles: {'; '.join(filter(None, said))}; "
            "give the labels that this head was taught"
        )
    return tuple(table[str(place)] for place in range(classes))
