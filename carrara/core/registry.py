"""A shelf: a folder whose public files each define one thing under one agreed name.

The file's name is the registration (`mtg_jamendo.py` is `mtg-jamendo`, `pebble/key.py` is `pebble/key`), the first line
of its docstring is its line in `carrara ls`. A family's file may name variants in a literal `VARIANTS = {name: line}`;
then the variants stand on the shelf in its place. Listing reads files and imports nothing; `get` imports one file.
Other packages add to a shelf through an entry-point group (`carrara.tasks`, …) whose values name a module.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from carrara.core.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Entry:
    """One thing on a shelf: its name, its one line, its paragraph, the module that makes it, and its family's name."""

    name: str
    summary: str
    text: str
    module: str
    family: str


@dataclass(frozen=True)
class Registry:
    """A folder of one-thing files.

    Attributes:
        kind: what one of them is called in messages, e.g. "task".
        package: the package that holds the files, e.g. "carrara.bench.tasks".
        attribute: the agreed name that each file defines, e.g. "TASK".
        group: the entry-point group through which other packages add files; empty for none.
    """

    kind: str
    package: str
    attribute: str
    group: str = ""
    _loaded: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Return every entry by name, sorted; files are read, not imported."""
        found: dict[str, Entry] = {}
        for folder in _folder(self.package):
            for path in sorted(folder.rglob("*.py")):
                parts = path.relative_to(folder).with_suffix("").parts
                if any(part.startswith("_") for part in parts):
                    continue
                module = ".".join((self.package, *parts))
                found.update(_read(path, "/".join(parts).replace("_", "-"), module))
        if self.group:
            for point in entry_points(group=self.group):
                for path in _source(point.value):
                    found.update(_read(path, point.name, point.value))
        return dict(sorted(found.items()))

    def names(self) -> list[str]:
        """Return the names on the shelf, sorted."""
        return list(self.entries)

    def entry(self, name: str) -> Entry:
        """Return the entry called `name`; underscores count as hyphens.

        Raises:
            UsageError: no such name; the message offers the near ones.
        """
        wanted = name.strip().replace("_", "-")
        if wanted not in self.entries:
            raise UsageError(
                f"there is no {self.kind} {name!r}.{did_you_mean(wanted, self.entries)} `carrara ls` shows every {self.kind}."
            )
        return self.entries[wanted]

    def get(self, name: str) -> Any:
        """Import the file behind `name` and return what it defines (for a variant: its family's object).

        Raises:
            UsageError: no such name.
            AttributeError: the file does not define the agreed name.
        """
        entry = self.entry(name)
        if entry.module not in self._loaded:
            self._loaded[entry.module] = getattr(importlib.import_module(entry.module), self.attribute)
        return self._loaded[entry.module]


def _folder(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    return [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []


def _source(module: str) -> list[Path]:
    spec = importlib.util.find_spec(module)
    return [Path(spec.origin)] if spec and spec.origin else []


def _read(path: Path, name: str, module: str) -> dict[str, Entry]:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    text = ast.get_docstring(tree) or ""
    summary = text.partition("\n")[0].strip()
    variants = _variants(tree)
    if not variants:
        return {name: Entry(name, summary, text, module, name)}
    return {variant: Entry(variant, line, text, module, name) for variant, line in variants.items()}


def _variants(tree: ast.Module) -> dict[str, str]:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == "VARIANTS" for target in targets):
            return ast.literal_eval(node.value)  # type: ignore[attr-defined]
    return {}
