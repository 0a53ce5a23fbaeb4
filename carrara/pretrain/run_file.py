"""`run.json`: the resolved recipe and the corpus of a run, so that only the same run is ever gone on with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from carrara.core import __version__
from carrara.core.errors import StoreError
from carrara.core.io import write_text
from carrara.core.settings import Settings, iter_paths, parse_settings
from carrara.pretrain.corpus.stream import Corpus

RUN = "run.json"
# These say how a run is watched, not what it makes, so a resumed run may have others.
FREE = ("checkpoint_every", "journal_every", "timeout_seconds")


def prepare_run_file(
    folder: Path, recipe: Settings, corpus: Corpus, resume: bool, start: Mapping[str, Any] | None = None
) -> None:
    """Write `run.json`, or see that the one there is of the same recipe, corpus and start (see start.py).

    Raises:
        StoreError: the folder is a file, cannot be written, holds a run and `resume` is false, or holds one of another
            recipe, corpus or start.
    """
    wanted: dict[str, Any] = {
        "recipe": recipe.model_dump(mode="json"),
        "corpus": {
            "identity": corpus.identity(),
            "files": len(corpus.items),
            "seconds": round(corpus.seconds, 1),
            "short": corpus.short,
            "unreadable": list(corpus.unreadable),
        },
        "carrara": __version__,
        **({"start": dict(start)} if start else {}),
    }
    path = folder / RUN
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder}: is a file; choose a folder with -o")
    if path.exists():
        if not resume:
            raise StoreError(f"{folder}: holds a run already; go on with --resume, or choose another folder with -o")
        _compare(path, wanted, type(recipe))
    write_text(path, json.dumps(wanted, indent=2, ensure_ascii=False) + "\n")


def _compare(path: Path, wanted: Mapping[str, Any], kind: type[Settings]) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        # What an earlier version did not know has its default.
        before, corpus = parse_settings(kind, found["recipe"], str(path)).model_dump(mode="json"), found["corpus"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise StoreError(f"{path}: cannot be read ({problem}); choose another folder with -o") from None
    now = wanted["recipe"]
    names = dict.fromkeys([*iter_paths(before), *iter_paths(now)])
    differing = [name for name in names if name not in FREE and _leaf(before, name) != _leaf(now, name)]
    if differing:
        first = differing[0]
        change = f"{first} was {_leaf(before, first)}, now {_leaf(now, first)}"
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise StoreError(
            f"{path.parent}: made with another recipe: {change}{more}; "
            "use the former settings, or choose another folder with -o"
        )
    if corpus["identity"] != wanted["corpus"]["identity"]:
        raise StoreError(
            f"{path.parent}: made from another corpus: {corpus['files']} files of {corpus['seconds']} s then, "
            f"{wanted['corpus']['files']} of {wanted['corpus']['seconds']} s now; give the same, or another folder"
        )
    _compare_start(path, found.get("start", {}), wanted.get("start", {}))


def _compare_start(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    was, given = before.get("from"), now.get("from")
    if was != given:
        cure = f"give --from {was}" if was else "leave --from out"
        raise StoreError(
            f"{path.parent}: started from {was or 'random weights'}, not {given or 'random weights'}; {cure}, or "
            "choose another folder with -o"
        )
    if before.get("weights") != now.get("weights"):
        raise StoreError(
            f"{path.parent}: {was} held other weights when this run started; choose another folder with -o"
        )


def _leaf(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree.get(key, "nothing") if isinstance(tree, dict) else "nothing"
    return "set" if isinstance(tree, dict) else tree
