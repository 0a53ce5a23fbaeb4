"""`run.json`: the resolved recipe and the corpus of a run, so that only the same run is resumed."""

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
# Settings that do not affect the result, so a resumed run may have others.
FREE_RUN_SETTINGS = ("checkpoint_every", "log_every", "timeout_seconds")


def prepare_run_file(
    folder: Path, recipe: Settings, corpus: Corpus, resume: bool, initialization: Mapping[str, Any] | None = None
) -> None:
    """Write `run.json`, or check that an existing one has the same recipe, corpus and initial weights.

    Args:
        folder: of the run.
        recipe: resolved.
        corpus: of the run.
        resume: whether a run may exist.
        initialization: record of the initial weights (initialize.py); None or empty for random ones.

    Raises:
        StoreError: the folder is a file, cannot be written, holds a run and `resume` is false, or holds one of another
            recipe, corpus or initial weights.
    """
    content: dict[str, Any] = {
        "recipe": recipe.model_dump(mode="json"),
        "corpus": {
            "identity": corpus.identity(),
            "files": len(corpus.items),
            "seconds": round(corpus.seconds, 1),
            "short": corpus.short,
            "unreadable": list(corpus.unreadable),
        },
        "carrara": __version__,
        **({"initialization": dict(initialization)} if initialization else {}),
    }
    path = folder / RUN
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder}: is a file; choose a folder with -o")
    if path.exists():
        if not resume:
            raise StoreError(f"{folder}: holds a run already; go on with --resume, or choose another folder with -o")
        _check_same(path, content, type(recipe))
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _check_same(path: Path, new: Mapping[str, Any], recipe_type: type[Settings]) -> None:
    folder = path.parent
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        # Settings that an earlier version did not have get their defaults.
        old_recipe = parse_settings(recipe_type, old["recipe"], str(path)).model_dump(mode="json")
        old_corpus, new_corpus = old["corpus"], new["corpus"]
        same_corpus = old_corpus["identity"] == new_corpus["identity"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise StoreError(f"{path}: cannot be read ({problem}); choose another folder with -o") from None
    new_recipe = new["recipe"]
    names = dict.fromkeys([*iter_paths(old_recipe), *iter_paths(new_recipe)])
    differing = [
        name for name in names if name not in FREE_RUN_SETTINGS and _value(old_recipe, name) != _value(new_recipe, name)
    ]
    if differing:
        first = differing[0]
        change = f"{first} was {_value(old_recipe, first)}, now {_value(new_recipe, first)}"
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise StoreError(
            f"{folder}: has another recipe: {change}{more}; use the former settings, or choose another folder with -o"
        )
    if not same_corpus:
        raise StoreError(
            f"{folder}: has another corpus: {old_corpus['files']} files of {old_corpus['seconds']} s then, "
            f"{new_corpus['files']} of {new_corpus['seconds']} s now; give the same, or choose another folder with -o"
        )
    before, now = old.get("initialization", {}), new.get("initialization", {})
    was, given = before.get("from"), now.get("from")
    if was != given:
        cure = f"give --from {was}" if was else "leave --from out"
        raise StoreError(
            f"{folder}: started from {was or 'random weights'}, not {given or 'random weights'}; {cure}, or "
            "choose another folder with -o"
        )
    if before.get("weights_sha256") != now.get("weights_sha256"):
        raise StoreError(f"{folder}: {was} had other weights when this run started; choose another folder with -o")


def _value(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree.get(key, "nothing") if isinstance(tree, dict) else "nothing"
    return "set" if isinstance(tree, dict) else tree
