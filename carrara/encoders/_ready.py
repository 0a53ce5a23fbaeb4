"""Which encoders are ready on this machine, and what each of the others would need, told without importing one.

Ready is what needs no weights, what `carrara import` has converted, and what lies in the hub's cache. A family's file
is read, not imported: its line says whether weights are published, and where they are on the hub it names them in a
literal `FILES = {variant: {"org/repository/file": SHA-256}}`.
"""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from carrara.core.home import encoders_home
from carrara.encoders import SHELF

UNPUBLISHED = ("yours to train", "no weights are published")


@dataclass(frozen=True)
class State:
    """Whether an encoder can be loaded here and now: `ready`; or `import` or `train`, and what exactly it needs."""

    word: str
    needs: str = ""


def state(name: str) -> State:
    """Return whether the encoder of that name on the shelf is ready, and what it needs.

    Raises:
        UsageError: no such name.
    """
    entry = SHELF.entry(name)
    trained, files = _read(entry.module)
    if not trained or (encoders_home() / entry.name / "config.json").is_file():
        return State("ready")
    if any(phrase in entry.summary for phrase in UNPUBLISHED):
        return State("train", "no weights are published; `carrara pretrain` makes a folder to load")
    hub = files.get(entry.name, {})
    if hub and all(_in_cache(key) for key in hub):
        return State("ready")
    where = f" fetches {', '.join(hub)}" if hub else " takes its official files"
    return State("import", f"`carrara import {entry.name}`{where}")


@cache
def _read(module: str) -> tuple[bool, dict[str, dict[str, str]]]:
    """Return whether a family's encoders are trained, and its files on the hub by the variant's name."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return True, {}
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"), filename=spec.origin)
    untrained = any(
        isinstance(node, ast.keyword) and node.arg == "trained" and _value(node.value) is False
        for node in ast.walk(tree)
    )
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == "FILES" for to in node.targets):
            found = _value(node.value)
            return not untrained, found if isinstance(found, dict) else {}
    return not untrained, {}


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _in_cache(key: str) -> bool:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return False
    organisation, repository, file = key.split("/", 2)
    return isinstance(try_to_load_from_cache(f"{organisation}/{repository}", file), str)
