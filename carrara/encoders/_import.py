"""Official files made into folders of Carrara's own, one for each encoder, where `load(NAME)` finds them.

A folder holds what `save_pretrained` writes, a model card that says from which file it was made, and, where the source
has them, the heads that pre-training needs to go on (heads.safetensors).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from carrara.core.download import sha256_of
from carrara.core.errors import UsageError, near
from carrara.core.home import encoders_home
from carrara.encoders import SHELF
from carrara.encoders._base import Card, Family
from carrara.encoders._hubert import HubertSettings
from carrara.encoders._load import model_card, save_pretrained
from carrara.encoders._official import DOWNLOADS, HEADS, convert, fetched, heads, refuse_changed
from carrara.nn.weights import save_tensors


def import_official(
    name: str, file: Path | None = None, output: Path | None = None, interpolate: bool = False
) -> dict[str, Path]:
    """Convert official files and return the folders made, by the encoder's name.

    Args:
        name: of a variant on the shelf, or of a family: then all its variants that are published, or that the file
            holds.
        file: a file or folder as the authors publish it; none: fetched.
        output: the folder to make; none: one a name below `encoders_home()`.
        interpolate: whether positions of another length are stretched to the variant's.

    Raises:
        UsageError: no such name, nothing published, a family where the file can be one variant only, or no positions
            to stretch.
        WeightsError: files that are not whole, not weights, or another network's.
        DataError: a download that failed.
        StoreError: a folder that cannot be written.
    """
    names = _variants(name, file)
    if output is not None and len(names) > 1:
        raise UsageError(f"-o: {name} is several encoders; give one of {', '.join(names)} with it")
    if file is not None and not file.expanduser().exists():
        raise UsageError(f"--file {file}: is not there")
    made = {}
    for variant in names:
        path = fetched(variant) if file is None else file.expanduser()
        folder = output or encoders_home() / variant
        _import(variant, path, folder, interpolate)
        made[variant] = folder
    if file is None:
        for family in {SHELF.entry(variant).family.replace("/", "-") for variant in names}:
            shutil.rmtree(encoders_home() / DOWNLOADS / family, ignore_errors=True)
    return made


def _import(name: str, path: Path, folder: Path, interpolate: bool) -> None:
    family: Family = SHELF.get(name)
    refuse_changed(path, family.variants[name][0])
    encoder = convert(name, path, interpolate)
    kept = heads(path) if isinstance(encoder.settings, HubertSettings) else {}
    (folder / HEADS).unlink(missing_ok=True)
    save_pretrained(encoder, folder, readme=f"{model_card(encoder.card)}\n{_origin(encoder.card, path, bool(kept))}\n")
    if kept:
        save_tensors(kept, folder / HEADS)


def _origin(card: Card, path: Path, with_heads: bool) -> str:
    sha256 = f" (SHA-256 {sha256_of(path)})" if path.is_file() else ""
    official = ", ".join(card.files) or "none known"
    tail = f" {HEADS} holds its pre-training heads." if with_heads else ""
    return f"Converted by `carrara import` from {path.name}{sha256}; official files: {official}.{tail}"


def _variants(name: str, file: Path | None) -> list[str]:
    """Return the variants that a name and a file mean."""
    wanted = name.strip().replace("_", "-")
    if wanted in SHELF.entries:
        return [wanted]
    members = [entry.name for entry in SHELF.entries.values() if entry.family == wanted]
    if not members:
        known = {*SHELF.entries, *(entry.family for entry in SHELF.entries.values())}
        raise UsageError(
            f"there is no encoder {name!r} to import.{near(wanted, known)} `carrara ls encoders` shows every encoder."
        )
    files = {member: set(SHELF.get(member).variants[member][0].files) for member in members}
    published = [member for member in members if files[member]]
    if not published:
        raise UsageError(f"{name}: no weights of it are published; `carrara pretrain` makes some")
    if file is None:
        return published
    if len(published) == 1:
        return published
    keys = {key for member in published for key in files[member] if key.rpartition("/")[2] == file.name}
    if len(keys) != 1:
        raise UsageError(f"--file {file}: which one is it? Give one of {', '.join(published)} instead of {name}")
    return [member for member in published if keys <= files[member]]
