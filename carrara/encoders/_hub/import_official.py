"""Official files made into folders of Carrara's own, one for each encoder, where `load(NAME)` finds them.

A folder holds what `save_pretrained` writes, a model card that says from which file it was made, and, where the source
has them, the heads that pre-training needs to go on (heads.safetensors).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from carrara.core.errors import CarraraError, DataError, StoreError, UsageError, WeightsError, did_you_mean
from carrara.core.hashing import sha256_of_file
from carrara.core.io import file_lock
from carrara.core.paths import encoders_home
from carrara.encoders import REGISTRY
from carrara.encoders._base import Card, EncoderFamily
from carrara.encoders._hub.load import model_card, save_pretrained
from carrara.encoders._hub.official import (
    HEADS,
    convert_official,
    download_paths,
    fetch_official,
    read_heads,
    verify_official_sha256,
)
from carrara.encoders._hubert.huggingface import SAFE, has_evidence, standardise_note
from carrara.encoders._hubert.network import HubertSettings
from carrara.formats.safe_pickle import verify_crc


@dataclass(frozen=True)
class ImportResult:
    """What came of an import.

    Attributes:
        folders: that were made, by the encoder's name.
        failures: why others of a family were not, by the encoder's name.
        remarks: what a person should know of those that were made, a line each.
    """

    folders: dict[str, Path] = field(default_factory=dict)
    failures: dict[str, CarraraError] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def import_official(
    name: str, file: Path | None = None, output: Path | None = None, interpolate: bool = False
) -> ImportResult:
    """Convert official files to folders; of a family, one member that cannot be had does not keep the others away.

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
        StoreError: a file that cannot be read, or a folder that cannot be written.
    """
    names = _variants(name, file)
    if output is not None and len(names) > 1:
        raise UsageError(f"-o: {name} is several encoders; give one of {', '.join(names)} with it")
    with _one_line(name):
        if file is not None and not file.expanduser().exists():
            raise UsageError(f"--file {file}: is not there")
        if output is not None and output.exists() and not output.is_dir():
            raise StoreError(f"-o {output}: is a file; name a folder")
    done = ImportResult()
    with _downloading(names if file is None else [], done):
        for variant in names:
            try:
                with _one_line(variant):
                    _import(done, variant, file, output or encoders_home() / variant, interpolate)
            except CarraraError as problem:
                if len(names) == 1:
                    raise
                done.failures[variant] = problem
    return done


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise StoreError(f"{problem.filename or name}: cannot be used ({problem.strerror or problem})") from None


@contextmanager
def _downloading(names: list[str], done: ImportResult) -> Iterator[None]:
    """Hold the lock of the families' downloads; at the end remove the files that were converted."""
    paths = {path for name in names for path in download_paths(name)}
    folders = sorted({path.parent for path in paths})
    try:
        with ExitStack() as locks, _one_line(", ".join(names)):
            for folder in folders:
                locks.enter_context(file_lock(folder / ".lock"))
            yield
            for path in {path for name in done.folders for path in download_paths(name)} & paths:
                path.unlink(missing_ok=True)
    finally:
        for folder in folders:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _import(done: ImportResult, name: str, file: Path | None, folder: Path, interpolate: bool) -> None:
    path = fetch_official(name) if file is None else file.expanduser()
    try:
        remarks = _convert(name, path, folder, interpolate, given=file is not None)
    except (WeightsError, DataError) as problem:
        removed = _removed(name) if file is None else []
        if not removed:
            raise
        cure = f"{', '.join(map(str, removed))}: removed, so that `carrara import {name}` fetches it anew"
        raise type(problem)(f"{problem}; {cure}") from None
    done.folders[name] = folder
    done.remarks.extend(remarks)


def _convert(name: str, path: Path, folder: Path, interpolate: bool, given: bool) -> list[str]:
    """Make the folder and return what a person should know of it."""
    family: EncoderFamily = REGISTRY.get(name)
    card, own = family.variants[name]
    verify_official_sha256(path, card)
    for file in _zips(path, card):
        verify_crc(file)
    encoder = convert_official(name, path, interpolate)
    remarks, kept = [], {}
    if isinstance(own, HubertSettings) and isinstance(encoder.settings, HubertSettings):
        kept = read_heads(path)
        remarks = standardise_note(name, own, encoder.settings)
        if given and not has_evidence(path, card):
            remarks.append(f"{name}: nothing in {path} says which model it is, so its shapes alone were checked")
    readme = f"{model_card(encoder.card)}\n{_origin(encoder.card, path, bool(kept))}\n"
    save_pretrained(encoder, folder, readme, kept)
    return remarks


def _zips(path: Path, card: Card) -> list[Path]:
    """Return the zip checkpoints that a file or a folder is read from."""
    names = {key.partition("?")[0].rpartition("/")[2] for key in card.files}
    found = [path]
    if path.is_dir():
        pickles = [] if (path / SAFE).is_file() else path.glob("pytorch_model*.bin")
        found = sorted({*pickles, *(path / name for name in names if (path / name).is_file())})
    return [file for file in found if _opens_as_zip(file)]


def _opens_as_zip(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(2) == b"PK"


def _removed(name: str) -> list[Path]:
    """Remove a variant's downloads of unknown content, and return which; those of a known hash are what they should be.

    The hub's cache and given files are nobody's to remove.
    """
    card: Card = REGISTRY.get(name).variants[name][0]
    known = {path for path, sha256 in zip(download_paths(name), card.files.values()) if sha256}
    removed = [path for path in download_paths(name) if path not in known and path.is_file()]
    for path in removed:
        path.unlink()
    return removed


def _origin(card: Card, path: Path, with_heads: bool) -> str:
    sha256 = f" (SHA-256 {sha256_of_file(path)})" if path.is_file() else ""
    official = ", ".join(card.files) or "none known"
    tail = f" {HEADS} holds its pre-training heads." if with_heads else ""
    return f"Converted by `carrara import` from {path.name}{sha256}; official files: {official}.{tail}"


def _variants(name: str, file: Path | None) -> list[str]:
    """Return the variants that a name and a file mean."""
    wanted = name.strip().replace("_", "-")
    if wanted in REGISTRY.entries:
        return [wanted]
    members = [entry.name for entry in REGISTRY.entries.values() if entry.family == wanted]
    if not members:
        known = {*REGISTRY.entries, *(entry.family for entry in REGISTRY.entries.values())}
        raise UsageError(
            f"there is no encoder {name!r} to import.{did_you_mean(wanted, known)} `carrara ls encoders` shows every encoder."
        )
    files = {member: set(REGISTRY.get(member).variants[member][0].files) for member in members}
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
