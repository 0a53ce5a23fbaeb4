"""A registry: a folder whose public files each define one object under one agreed name.

The file name is the registered name (`mtg_jamendo.py` is `mtg-jamendo`, `pebble/key.py` is `pebble/key`), and the first
line of the docstring is the summary in `carrara ls`. A file of a family lists its variants in a literal
`VARIANTS = {name: summary}`; they are registered instead of the file. Listing reads files and imports nothing; `get`
imports one file. Other packages add files through an entry-point group (`carrara.tasks`, …) whose values name a module.
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
    """A registered object: its name, summary, documentation, the module that defines it, and its family's name."""

    name: str
    summary: str
    text: str
    module: str
    family: str


@dataclass(frozen=True)
class Registry:
    """The registered objects of one kind.

    Attributes:
        kind: What one of them is called in messages, for example "task".
        package: The package that holds the files, for example "carrara.bench.tasks".
        attribute: The agreed name that each file defines, for example "TASK".
        group: The entry-point group through which other packages add files; empty for none.
        loaded: The objects that `get` has imported, by module.
    """

    kind: str
    package: str
    attribute: str
    group: str = ""
    loaded: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Return every entry by name, sorted; files are read, not imported."""
        entries: dict[str, Entry] = {}
        spec = importlib.util.find_spec(self.package)
        for folder in map(Path, (spec and spec.submodule_search_locations) or ()):
            for path in sorted(folder.rglob("*.py")):
                parts = path.relative_to(folder).with_suffix("").parts
                if not any(part.startswith("_") for part in parts):
                    module = ".".join((self.package, *parts))
                    entries |= _read_entries(path, "/".join(parts).replace("_", "-"), module)
        for point in entry_points(group=self.group) if self.group else ():
            spec = importlib.util.find_spec(point.value)
            if spec and spec.origin:
                entries |= _read_entries(Path(spec.origin), point.name, point.value)
        return dict(sorted(entries.items()))

    def names(self) -> list[str]:
        """Return the registered names, sorted."""
        return list(self.entries)

    def get_entry(self, name: str) -> Entry:
        """Return the entry called `name`; underscores count as hyphens.

        Raises:
            UsageError: no such name; the message suggests similar ones.
        """
        key = str(name).strip().replace("_", "-")
        if key not in self.entries:
            similar = did_you_mean(key, self.entries)
            raise UsageError(f"there is no {self.kind} {name!r}.{similar} `carrara ls` shows every {self.kind}.")
        return self.entries[key]

    def get(self, name: str) -> Any:
        """Import the file of `name` and return its object (for a variant, the object of its family).

        Raises:
            UsageError: no such name.
            AttributeError: the file does not define the agreed name.
        """
        module = self.get_entry(name).module
        if module not in self.loaded:
            self.loaded[module] = getattr(importlib.import_module(module), self.attribute)
        return self.loaded[module]


def _read_entries(path: Path, name: str, module: str) -> dict[str, Entry]:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    text = ast.get_docstring(tree) or ""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == "VARIANTS" for target in targets):
            variants = ast.literal_eval(node.value)  # type: ignore[attr-defined]
            if variants:
                return {variant: Entry(variant, line, text, module, name) for variant, line in variants.items()}
    return {name: Entry(name, text.partition("\n")[0].strip(), text, module, name)}
