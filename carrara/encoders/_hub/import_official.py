"""`carrara import`: official files converted to folders, one for each encoder, where `load(NAME)` finds them.

A folder holds what `save_pretrained` writes, a model card that says from which file it was made, and the heads that
continued pre-training needs (heads.safetensors) if the source has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from carrara.core.errors import CarraraError, DataError, StoreError, UsageError, WeightsError
from carrara.core.hashing import sha256_of_file
from carrara.core.io import file_lock
from carrara.core.paths import encoders_home
from carrara.encoders import REGISTRY
from carrara.encoders._base import Card
from carrara.encoders._hub.load import model_card, save_pretrained
from carrara.encoders._hub.official import (
    HEADS,
    convert_official,
    download_paths,
    fetch_official,
    read_heads,
    verify_official_sha256,
)
from carrara.encoders._hub.spec import select_variants
from carrara.encoders._hubert.huggingface import SAFETENSORS, has_evidence, standardise_note
from carrara.encoders._hubert.network import HubertSettings
from carrara.formats.safe_pickle import verify_crc


@dataclass(frozen=True)
class ImportResult:
    """The result of an import.

    Attributes:
        folders: The new folders, by the encoder's name.
        failures: Why other encoders of a family were not imported, by name.
        remarks: Notes for the user about the new folders, a line each.
    """

    folders: dict[str, Path] = field(default_factory=dict)
    failures: dict[str, CarraraError] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def import_official(
    name: str, file: Path | None = None, output: Path | None = None, interpolate: bool = False
) -> ImportResult:
    """Convert official files to folders. A variant of a family that fails does not stop the others.

    Args:
        name: Registered name of a variant, or a family: then all its published variants, or those that the file holds.
        file: A file or folder as the authors publish it; None to download it.
        output: The folder to make; by default one per name below `encoders_home()`.
        interpolate: Whether to interpolate positions of another length to the variant's.

    Raises:
        UsageError: There is no such name, nothing is published, the file can hold one variant only but a family is
            named, or there are no positions to interpolate.
        WeightsError: The files are damaged, not weights, or another network's.
        DataError: A download failed.
        StoreError: A file cannot be read, or a folder cannot be written.
    """
    names = select_variants(name, file)
    if output is not None and len(names) > 1:
        raise UsageError(f"-o: {name} is several encoders; give one of {', '.join(names)} with it")
    with _wrap_os_errors(name):
        if file is not None and not file.expanduser().exists():
            raise UsageError(f"--file {file}: does not exist")
        if output is not None and output.exists() and not output.is_dir():
            raise StoreError(f"-o {output}: is a file; name a folder")
    result = ImportResult()
    downloads = {variant: download_paths(variant) if file is None else [] for variant in names}
    folders = sorted({path.parent for paths in downloads.values() for path in paths})
    try:
        with ExitStack() as locks, _wrap_os_errors(", ".join(names)):
            for folder in folders:
                locks.enter_context(file_lock(folder / ".lock"))
            for variant in names:
                try:
                    with _wrap_os_errors(variant):
                        target = output or encoders_home() / variant
                        result.remarks.extend(_import_variant(variant, file, target, interpolate))
                        result.folders[variant] = target
                except CarraraError as problem:
                    if len(names) == 1:
                        raise
                    result.failures[variant] = problem
            for path in {path for variant in result.folders for path in downloads[variant]}:
                path.unlink(missing_ok=True)
    finally:
        for folder in folders:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    return result


@contextmanager
def _wrap_os_errors(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise StoreError(f"{problem.filename or name}: cannot be used ({problem.strerror or problem})") from None


def _import_variant(name: str, file: Path | None, folder: Path, interpolate: bool) -> list[str]:
    """Write the folder and return notes for the user about it."""
    path = fetch_official(name) if file is None else file.expanduser()
    card, own_settings = REGISTRY.get(name).variants[name]
    try:
        verify_official_sha256(path, card)
        for zip_file in _zip_files(path, card):
            verify_crc(zip_file)
        encoder = convert_official(name, path, interpolate)
        remarks, heads = [], {}
        if isinstance(own_settings, HubertSettings) and isinstance(encoder.settings, HubertSettings):
            heads = read_heads(path)
            remarks = [standardise_note(name, path, own_settings, encoder.settings)]
            if file is not None and not has_evidence(path, card):
                remarks.append(f"{name}: nothing in {path} says which model it is, so its shapes alone were checked")
        sha256 = f" (SHA-256 {sha256_of_file(path)})" if path.is_file() else ""
        official = ", ".join(card.files) or "none known"
        origin = f"Converted by `carrara import` from {path.name}{sha256}; official files: {official}."
        if heads:
            origin += f" {HEADS} holds its pre-training heads."
        with file_lock(folder / ".lock"):  # or files of two encoders could be mixed
            save_pretrained(encoder, folder, f"{model_card(encoder.card)}\n{origin}\n", heads)
        return remarks
    except (WeightsError, DataError) as problem:
        # A download whose hash is known is the right file; the hub's cache and given files are not ours to remove.
        downloads = zip(download_paths(name), card.files.values()) if file is None else ()
        removed = [path for path, sha256 in downloads if not sha256 and path.is_file()]
        if not removed:
            raise
        for path in removed:
            path.unlink()
        cure = f"{', '.join(map(str, removed))}: removed, so that `carrara import {name}` fetches it anew"
        raise type(problem)(f"{problem}; {cure}") from None


def _zip_files(path: Path, card: Card) -> list[Path]:
    """Return the zip files that `convert_official` reads of a file or folder."""
    files = [path]
    if path.is_dir():
        names = {address.partition("?")[0].rpartition("/")[2] for address in card.files}
        pickles = [] if (path / SAFETENSORS).is_file() else path.glob("pytorch_model*.bin")
        files = sorted({*pickles, *(path / name for name in names if (path / name).is_file())})
    zip_files = []
    for file in files:
        with file.open("rb") as content:
            if content.read(2) == b"PK":
                zip_files.append(file)
    return zip_files
