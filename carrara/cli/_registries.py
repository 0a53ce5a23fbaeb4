"""The registries that `carrara ls` lists by kind, and the search for a name in all of them; no entry is imported."""

from __future__ import annotations

from carrara.bench import protocols, tasks
from carrara.bench.probes import heads
from carrara.bench.suites import SUITES
from carrara.core.errors import UsageError, did_you_mean
from carrara.core.registry import Entry, Registry
from carrara.data import REGISTRY as DATA
from carrara.encoders import REGISTRY as ENCODERS
from carrara.pretrain import recipes, targets
from carrara.reproduce import REGISTRY as REPRODUCTIONS

REGISTRIES: dict[str, Registry] = {
    "encoders": ENCODERS,
    "tasks": tasks.REGISTRY,
    "data": DATA,
    "targets": targets.REGISTRY,
    "recipes": recipes.REGISTRY,
    "protocols": protocols.REGISTRY,
    "heads": heads.REGISTRY,
    "reproductions": REPRODUCTIONS,
}
KINDS = ("encoders", "tasks", "data", "targets", "recipes", "protocols", "heads", "suites", "reproductions")


def list_entries(kind: str) -> dict[str, Entry]:
    """Return the entries of a kind by name.

    Raises:
        UsageError: there is no such kind.
    """
    if kind == "suites":
        return {name: Entry(name, suite.summary, suite.summary, "", name) for name, suite in SUITES.items()}
    if kind not in REGISTRIES:
        raise UsageError(f"there is no kind {kind!r}.{did_you_mean(kind, KINDS)} The kinds are: {', '.join(KINDS)}.")
    return REGISTRIES[kind].entries


def resolve_entry(name: str) -> tuple[str, Entry]:
    """Return the kind and the entry of the first kind that has `name`; `KIND:NAME` selects the kind.

    Raises:
        UsageError: nothing has that name; the message suggests similar ones.
    """
    prefix, _, rest = name.partition(":")
    kinds, key = ((prefix,), rest) if rest and prefix in KINDS else (KINDS, name)
    key = key.replace("_", "-")
    for kind in kinds:
        if key in list_entries(kind):
            return kind, list_entries(kind)[key]
    similar = did_you_mean(key, [entry for kind in kinds for entry in list_entries(kind)])
    raise UsageError(f"there is nothing called {name!r}.{similar} `carrara ls` lists what there is.")
