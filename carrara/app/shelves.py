"""The shelves by the word a person types, and the search over all of them. Nothing behind them is imported."""

from __future__ import annotations

import fnmatch

from carrara.bench import protocols, tasks
from carrara.bench.suites import SUITES
from carrara.core.errors import UsageError, near
from carrara.core.registry import Entry, Shelf
from carrara.data import SHELF as DATA
from carrara.encoders import SHELF as ENCODERS
from carrara.pretrain import recipes, targets

SHELVES: dict[str, Shelf] = {
    "encoders": ENCODERS,
    "tasks": tasks.SHELF,
    "data": DATA,
    "targets": targets.SHELF,
    "recipes": recipes.SHELF,
    "protocols": protocols.SHELF,
}
WORDS = (*SHELVES, "suites")


def entries(word: str) -> dict[str, Entry]:
    """Return what stands on a shelf, by name.

    Raises:
        UsageError: no such shelf.
    """
    if word == "suites":
        return {name: Entry(name, suite.summary, suite.summary, "", name) for name, suite in SUITES.items()}
    if word not in SHELVES:
        raise UsageError(f"there is no shelf {word!r}.{near(word, WORDS)} The shelves are: {', '.join(WORDS)}.")
    return SHELVES[word].entries


def find(name: str) -> tuple[str, Entry]:
    """Return the shelf's word and the entry of the first thing called `name`; `shelf:name` picks the shelf.

    Raises:
        UsageError: nothing has that name; the near ones are offered.
    """
    chosen, colon, rest = name.partition(":")
    words = (chosen,) if colon and chosen in WORDS else WORDS
    wanted = (rest if colon and chosen in WORDS else name).replace("_", "-")
    for word in words:
        if wanted in entries(word):
            return word, entries(word)[wanted]
    known = [entry for word in words for entry in entries(word)]
    raise UsageError(f"there is nothing called {name!r}.{near(wanted, known)} `carrara ls` shows what there is.")


def chosen_tasks(suite: str | None, patterns: list[str] | None) -> list[str]:
    """Return the names of the tasks of a suite, or of those that match the patterns; the suite pebble if neither.

    Raises:
        UsageError: no such suite, or a pattern that matches no task.
    """
    if not patterns:
        wanted = suite or "pebble"
        if wanted not in SUITES:
            raise UsageError(f"there is no suite {wanted!r}.{near(wanted, SUITES)} The suites: {', '.join(SUITES)}.")
        return list(SUITES[wanted].tasks)
    known = SHELVES["tasks"].names()
    names: list[str] = []
    for pattern in (part.strip() for text in patterns for part in text.split(",") if part.strip()):
        matches = fnmatch.filter(known, pattern.replace("_", "-"))
        names += [name for name in matches or [SHELVES["tasks"].entry(pattern).name] if name not in names]
    return names
