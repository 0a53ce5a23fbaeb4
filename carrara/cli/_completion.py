"""Completion of registered names in the shell; nothing is imported but the lists of names."""

from __future__ import annotations

from collections.abc import Callable


def complete_names(*kinds: str) -> Callable[[str], list[str]]:
    """Return a function from what was typed to the names that begin so, of these kinds or all; it may end a list."""

    def complete(incomplete: str) -> list[str]:
        from carrara.cli._registries import KINDS, list_entries

        before, comma, last = incomplete.rpartition(",")
        names = {name for kind in kinds or KINDS for name in list_entries(kind)}
        return sorted(f"{before}{comma}{name}" for name in names if name.startswith(last))

    return complete


def complete_kinds(incomplete: str) -> list[str]:
    """Return the kinds of names that begin as typed."""
    from carrara.cli._registries import KINDS

    return [kind for kind in KINDS if kind.startswith(incomplete)]
