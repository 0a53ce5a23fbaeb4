"""Which encoders are ready on this machine, and which files the others need; no encoder is imported to find out.

An encoder is ready if it needs no weights, was converted by `carrara import`, or is in the Hugging Face cache. A
family's file is parsed, not imported: its summary says whether weights are published, and a literal
`FILES = {variant: {address: SHA-256}}` lists them. An address is `org/repository/file` on the hub, or a URL.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from carrara.core.download import is_in_hub_cache
from carrara.core.errors import UsageError, WeightsError
from carrara.core.paths import encoders_home
from carrara.encoders import REGISTRY
from carrara.formats.magic import is_safetensors, read_magic

UNPUBLISHED = ("yours to train", "no weights are published")
WEIGHTS = "model.safetensors"
URL_PREFIX, HUB_HOST = "https://", "huggingface.co"


@dataclass(frozen=True)
class Availability:
    """Whether an encoder can be loaded now.

    Attributes:
        status: `ready`, `import` or `train`.
        needs: What exactly it needs, as a sentence; empty if it is ready.
        summary: The name of its one official file, or the number of files and their host.
    """

    status: str
    needs: str = ""
    summary: str = ""


def check_availability(name: str) -> Availability:
    """Return whether the encoder of that registered name is ready, and what it needs.

    Raises:
        UsageError: There is no such encoder.
    """
    entry = REGISTRY.get_entry(name)
    has_weights, files = read_published_files(entry.module)
    if not has_weights:
        return Availability("ready")
    folder = encoders_home() / entry.name
    if (folder / "config.json").is_file():
        if _is_complete(folder / WEIGHTS):
            return Availability("ready")
        return Availability(
            "import", f"{folder / WEIGHTS} is incomplete; run `carrara import {entry.name}` again", "incomplete"
        )
    if any(phrase in entry.summary for phrase in UNPUBLISHED):
        return Availability("train", "no weights are published; `carrara pretrain` makes a folder to load")
    addresses = list(files.get(entry.name, {}))
    if addresses and all(is_on_hub(address) and is_in_hub_cache(*split_hub_address(address)) for address in addresses):
        return Availability("ready")
    return needs_import(entry.name, addresses)


def check_is_loadable(name: str, addresses: Collection[str], allow_download: bool = False) -> None:
    """Check that an encoder with official files at these addresses can be loaded without an import.

    Raises:
        UsageError: no weights are published, or they are outside the hub and may not be downloaded.
    """
    if not addresses:
        raise UsageError(
            f"{name}: no weights of it are published; give the folder of one that you trained, or {name}:random for "
            "the same network with random weights"
        )
    has_urls = any(address.startswith(URL_PREFIX) for address in addresses)
    if not is_downloadable(addresses) or (has_urls and not allow_download):
        cure = f"`carrara import {name}` fetches and converts them" if has_urls else f"`carrara import {name} --file …`"
        raise UsageError(
            f"{name}: its weights ({', '.join(addresses)}) are not on this machine; {cure}, or give {name}:random for "
            "the same network with random weights"
        )


def needs_import(name: str, addresses: list[str]) -> Availability:
    """Return the availability of an encoder whose official files are at these addresses but not on this machine."""
    if not addresses:
        return Availability("import", f"`carrara import {name}` takes its official files")
    verb = "` fetches" if is_downloadable(addresses) else " --file …` takes"
    needs = f"`carrara import {name}{verb} {', '.join(addresses)}"
    if len(addresses) == 1:
        return Availability("import", needs, addresses[0].rpartition("/")[2])
    hosts = {
        HUB_HOST if is_on_hub(address) else address.removeprefix(URL_PREFIX).partition("/")[0] for address in addresses
    }
    return Availability("import", needs, f"{len(addresses)} files from {' and '.join(sorted(hosts))}")


def is_downloadable(addresses: Collection[str]) -> bool:
    """Return whether official files are all on the hub, or all at URLs elsewhere."""
    return all(map(is_on_hub, addresses)) or all(address.startswith(URL_PREFIX) for address in addresses)


def is_on_hub(address: str) -> bool:
    """Return whether an official file is on the hub."""
    return not address.startswith(URL_PREFIX) and address.count("/") >= 2


def split_hub_address(address: str) -> tuple[str, str]:
    """Return the repository and the file's path in it of an official file on the hub."""
    organisation, repository, file = address.split("/", 2)
    return f"{organisation}/{repository}", file


@cache
def read_published_files(module: str) -> tuple[bool, dict[str, dict[str, str]]]:
    """Return whether a family's encoders have weights, and its official files by the variant's name."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return True, {}
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"), filename=spec.origin)
    has_weights = not any(
        isinstance(node, ast.keyword) and node.arg == "has_weights" and _literal(node.value) is False
        for node in ast.walk(tree)
    )
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == "FILES" for target in targets):
            files = _literal(node.value)  # type: ignore[attr-defined]
            return has_weights, files if isinstance(files, dict) else {}
    return has_weights, {}


def _is_complete(weights: Path) -> bool:
    """Return whether a safetensors file is as long as its header says; its tensors are not read."""
    try:
        return is_safetensors(read_magic(weights))
    except WeightsError:
        return False


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None
