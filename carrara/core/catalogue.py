"""A registry as users of Python see it: a mapping from names to objects, and packages that act as one or as a function.

`carrara.bench` and `carrara.pretrain` are packages that can be called, since an import of one of their modules puts the
package in the place of any function of that name. `carrara.encoders` is a package and a catalogue.
"""

from __future__ import annotations

import fnmatch
import importlib
import inspect
from collections.abc import Callable, Iterator
from html import escape
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import pandas as pd

    from carrara.core.registry import Registry

T = TypeVar("T")
MAX_SHOWN = 6


class Catalogue(Generic[T]):
    """The registered objects of one kind by name; an object is imported when it is looked up.

    `catalogue["name"]` returns one, `catalogue("pattern*")` the names that match, `to_frame()` every summary.
    """

    def __init__(self, registry: Registry, lookup: Callable[[str], T]) -> None:
        """Create the catalogue of a registry; `lookup` returns the object of a name."""
        self._registry, self._lookup = registry, lookup

    def __call__(self, pattern: str = "*") -> list[str]:
        """Return the names that match a pattern such as `mert*`, sorted."""
        return fnmatch.filter(self._registry.names(), pattern.replace("_", "-"))

    def __getitem__(self, name: str) -> T:
        """Return the object of that name.

        Raises:
            UsageError: there is none; the message suggests similar names.
        """
        return self._lookup(self._registry.get_entry(name).name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._registry.names())

    def __len__(self) -> int:
        return len(self._registry.entries)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.strip().replace("_", "-") in self._registry.entries

    def keys(self) -> list[str]:
        """Return every name, sorted."""
        return self._registry.names()

    def values(self) -> Iterator[T]:
        """Return an iterator over the objects, in the order of their names."""
        return map(self.__getitem__, self)

    def items(self) -> Iterator[tuple[str, T]]:
        """Return an iterator over the names and objects, in the order of the names."""
        return ((name, self[name]) for name in self)

    def get(self, name: str, default: T | None = None) -> T | None:
        """Return the object of that name, or `default` where there is none."""
        return self[name] if name in self else default  # noqa: SIM401

    def to_frame(self) -> pd.DataFrame:
        """Return a DataFrame with the column `summary`, by name."""
        import pandas as pd

        summaries = {entry.name: entry.summary for entry in self._registry.entries.values()}
        return pd.DataFrame({"summary": summaries}).rename_axis("name")

    def __repr__(self) -> str:
        names = self._registry.names()
        shown = ", ".join(names[:MAX_SHOWN]) + (", …" if len(names) > MAX_SHOWN else "")
        return f"<{len(names)} {self._registry.kind}s: {shown}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(entry.name)}</td><td>{escape(entry.summary)}</td></tr>"
            for entry in self._registry.entries.values()
        )
        return f"<table><tr><th>{escape(self._registry.kind)}</th><th></th></tr>{rows}</table>"


class CallablePackage(ModuleType):
    """A package that is called as the function which its `CALL = "module:function"` names."""

    CALL: str

    def _function(self) -> Callable[..., Any]:
        module, _, name = self.CALL.partition(":")
        return getattr(importlib.import_module(module), name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the function."""
        return self._function()(*arguments, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function())

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self._function().__doc__
