"""The shelves by the word a person types, and the search over all of them. Nothing behind them is imported."""

from __future__ import annotations

from carrara.app.studies import SHELF as STUDIES
from carrara.bench import heads, protocols, tasks
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
    "heads": heads.SHELF,
    "studies": STUDIES,
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
