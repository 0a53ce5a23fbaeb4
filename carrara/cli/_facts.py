"""Facts about registered entries that only an import of their files, and so of torch, can tell; stored between runs.

The store is `$CARRARA_HOME/facts`, a file for each kind. It holds the facts that importing gave, and is computed again
when any source file has changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carrara.cli._registries import REGISTRIES
from carrara.core import __version__
from carrara.core.hashing import sha256_of_json
from carrara.core.paths import home
from carrara.core.strict_json import parse_json_object, read_json_object

if TYPE_CHECKING:
    from carrara.core.settings import Settings

FACTS = "facts"
PACKAGE = Path(__file__).parents[1]
# Kinds whose files import torch.
STORED_KINDS = ("encoders", "protocols", "targets", "recipes", "heads", "reproductions")


def read_facts(kind: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return facts by name, as JSON has them: card, settings, rows or scales, and `table`, that of the settings.

    Args:
        kind: One of `STORED_KINDS`.
        names: Registered names of that kind.

    Raises:
        Exception: What importing an entry's file raises.
    """
    stored = _stored_facts(kind)
    return {name: parse_json_object(stored[name]) if name in stored else _collect_facts(kind, name) for name in names}


def _stored_facts(kind: str) -> dict[str, str]:
    """Return the facts of every entry of a kind that can be imported, each as JSON, of which most are not read."""
    path = home() / FACTS / f"{kind}.json"
    sources = identify_sources(kind)
    with suppress(OSError, ValueError):
        stored = read_json_object(path)
        if stored["sources"] == sources:
            return stored["facts"]
    facts = {}
    for name in REGISTRIES[kind].names():
        # `read_facts` raises this where the entry is needed; another package's file must not hide the rest.
        with suppress(Exception):
            facts[name] = json.dumps(_collect_facts(kind, name), ensure_ascii=False)
    _write_facts(path, {"sources": sources, "facts": facts})
    return facts


def _write_facts(path: Path, content: dict[str, Any]) -> None:
    from carrara.core.io import write_text

    with suppress(OSError):  # a home that cannot be written to costs time, no facts
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(content, ensure_ascii=False))


def identify_sources(kind: str) -> str:
    """Return a hash of the version, and of size and time of every source file of the package and of plug-ins."""
    files = [*PACKAGE.rglob("*.py")]
    for module in {entry.module for entry in REGISTRIES[kind].entries.values()}:
        if not module.startswith("carrara."):
            spec = find_spec(module)
            files += [Path(spec.origin)] if spec and spec.origin else []
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(files)]
    return sha256_of_json([__version__, stats])


def _collect_facts(kind: str, name: str) -> dict[str, Any]:
    """Return an entry's facts from its object."""
    from carrara.cli._layout import settings_rows

    definition = REGISTRIES[kind].get(name)
    facts: dict[str, Any] = dict(_describe(kind, name, definition))
    settings = _default_settings(kind, name, definition)
    table = list(settings_rows(settings)) if settings else []
    # As JSON has it: a fact must not depend on whether it was stored.
    return json.loads(json.dumps(facts | {"table": [row for row in table if kind != "heads" or row[0] != "head"]}))


def _describe(kind: str, name: str, definition: Any) -> Iterator[tuple[str, Any]]:
    if kind == "encoders":
        card, settings = definition.variants[name]
        yield "card", card.model_dump(mode="json")
        yield "settings", settings.model_dump(mode="json")
    elif kind in ("protocols", "targets"):
        settings_type = definition.settings if kind == "protocols" else definition.settings_type
        yield "settings", settings_type().model_dump(mode="json")
    elif kind == "reproductions":
        yield "rows", [row.label for row in definition.rows]
    elif kind == "recipes":
        yield "settings", definition.variants[name].model_dump(mode="json")
        yield "scales", list(definition.scales)


def _default_settings(kind: str, name: str, definition: Any) -> Settings | None:
    """Return the default settings of an entry; None for a kind that has none."""
    if kind == "heads":
        return REGISTRIES["protocols"].get("semi-constrained").settings(head=name)
    if kind == "encoders":
        return definition.variants[name][1]
    if kind == "recipes":
        return definition.variants[name]
    if kind == "protocols":
        return definition.settings()
    return definition.settings_type() if kind == "targets" else None
