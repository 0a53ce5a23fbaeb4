"""Which encoders are ready on this machine, and what each of the others would need, told without importing one.

Ready is what needs no weights, what `carrara import` has converted, and what lies in the hub's cache. A family's file
is read, not imported: its line says whether weights are published, and it names them in a literal
`FILES = {variant: {address: SHA-256}}`; an address is `org/repository/file` on the hub, or a full one.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import struct
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from carrara.core.paths import encoders_home
from carrara.encoders import REGISTRY

UNPUBLISHED = ("yours to train", "no weights are published")
WEIGHTS = "model.safetensors"
ADDRESS, HUB = "https://", "huggingface.co"


@dataclass(frozen=True)
class Availability:
    """Whether an encoder can be loaded here and now.

    Attributes:
        word: `ready`, `import` or `train`.
        needs: what exactly it needs, in words; empty where it is ready.
        briefly: the same as the name of its one official file, or how many lie where.
    """

    status: str
    needs: str = ""
    summary: str = ""


def check_availability(name: str) -> Availability:
    """Return whether the encoder of that name on the shelf is ready, and what it needs.

    Raises:
        UsageError: no such name.
    """
    entry = REGISTRY.get_entry(name)
    trained, files = _read(entry.module)
    if not trained:
        return Availability("ready")
    folder = encoders_home() / entry.name
    if (folder / "config.json").is_file():
        if _is_complete(folder / WEIGHTS):
            return Availability("ready")
        return Availability("import", f"{folder / WEIGHTS} is not whole; `carrara import {entry.name}` again", "not whole")
    if any(phrase in entry.summary for phrase in UNPUBLISHED):
        return Availability("train", "no weights are published; `carrara pretrain` makes a folder to load")
    addresses = list(files.get(entry.name, {}))
    hub = [address for address in addresses if is_on_hub(address)]
    if hub and len(hub) == len(addresses) and all(map(_in_cache, hub)):
        return Availability("ready")
    return Availability("import", _needs(entry.name, addresses), _summarize(addresses))


def _needs(name: str, addresses: list[str]) -> str:
    if not addresses:
        return f"`carrara import {name}` takes its official files"
    verb = "` fetches" if is_downloadable(addresses) else " --file …` takes"
    return f"`carrara import {name}{verb} {', '.join(addresses)}"


def _summarize(addresses: list[str]) -> str:
    if len(addresses) < 2:
        return "".join(addresses).rpartition("/")[2]
    hosts = {HUB if is_on_hub(address) else address.removeprefix(ADDRESS).partition("/")[0] for address in addresses}
    return f"{len(addresses)} files from {' and '.join(sorted(hosts))}"


def is_downloadable(addresses: Collection[str]) -> bool:
    """Return whether official files all lie on the hub, or all elsewhere."""
    return all(map(is_on_hub, addresses)) or all(address.startswith(ADDRESS) for address in addresses)


def is_on_hub(address: str) -> bool:
    """Return whether an official file lies on the hub."""
    return not address.startswith(ADDRESS) and address.count("/") >= 2


def _is_complete(weights: Path) -> bool:
    """Return whether a safetensors file is as long as its header says; its tensors are not read."""
    try:
        with weights.open("rb") as file:
            size = weights.stat().st_size
            (length,) = struct.unpack("<Q", file.read(8))
            table = json.loads(file.read(min(length, size)))
        ends = [row["data_offsets"][1] for key, row in table.items() if key != "__metadata__"]
        return bool(size == 8 + length + max(ends, default=0))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, struct.error):
        return False


@cache
def _read(module: str) -> tuple[bool, dict[str, dict[str, str]]]:
    """Return whether a family's encoders are trained, and its official files by the variant's name."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return True, {}
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"), filename=spec.origin)
    untrained = any(
        isinstance(node, ast.keyword) and node.arg == "has_weights" and _value(node.value) is False
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
