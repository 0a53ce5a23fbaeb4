"""The shelves by the word a person types, and the search over all of them. Nothing behind them is imported."""

from __future__ import annotations

from carrara.bench import protocols, tasks
from carrara.bench.probes import heads
from carrara.bench.suites import SUITES
from carrara.core.errors import UsageError, did_you_mean
from carrara.core.registry import Entry, Registry
from carrara.data import REGISTRY as DATA
from carrara.encoders import REGISTRY as ENCODERS
from carrara.pretrain import recipes, targets
from carrara.reproduce import REGISTRY as STUDIES

REGISTRIES: dict[str, Registry] = {
    "encoders": ENCODERS,
    "tasks": tasks.REGISTRY,
    "data": DATA,
    "targets": targets.REGISTRY,
    "recipes": recipes.REGISTRY,
    "protocols": protocols.REGISTRY,
    "heads": heads.REGISTRY,
    "studies": STUDIES,
}
WORDS = (*REGISTRIES, "suites")


def entries(word: str) -> dict[str, Entry]:
    """Return what stands on a shelf, by name.

    Raises:
        UsageError: no such shelf.
    """
    if word == "suites":
        return {name: Entry(name, suite.summary, suite.summary, "", name) for name, suite in SUITES.items()}
    if word not in REGISTRIES:
        raise UsageError(f"there is no shelf {word!r}.{did_you_mean(word, WORDS)} The shelves are: {', '.join(WORDS)}.")
    return REGISTRIES[word].entries


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
    raise UsageError(
        f"there is nothing called {name!r}.{did_you_mean(wanted, known)} `carrara ls` shows what there is."
    )
