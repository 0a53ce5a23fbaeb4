"""What a user calls an encoder: a registered name, a folder or a hub id; nothing is imported to find out."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from carrara.core.errors import UsageError, did_you_mean
from carrara.encoders import REGISTRY

INT8, LATE = ":int8", ":late"
CONFIG = "config.json"
RANDOM = re.compile(r"^(?P<spec>.+):random(-(?P<seed>\d+))?$")
HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder as a user names it.

    Attributes:
        kind: where it is looked for.
        source: its registered name, folder or hub id.
        seed: of random weights; None for its own.
        is_int8: whether its linear layers and waveform front end multiply in int8.
    """

    kind: Literal["registered", "folder", "hub"]
    source: str
    seed: int | None = None
    is_int8: bool = False


def parse_encoder_spec(spec: str | Path) -> EncoderSpec:
    """Return what a spec names: a registered name, else an existing folder, else a hub id `org/name`.

    A missing folder whose parent exists, or that begins with `.`, `~` or `/`, is no hub id.

    Raises:
        UsageError: it is none of these; the message suggests similar names.
    """
    text = str(spec)
    if text.endswith(INT8):
        return replace(parse_encoder_spec(text.removesuffix(INT8)), is_int8=True)
    random = RANDOM.match(text)
    source, seed = (random["spec"], int(random["seed"] or 0)) if random else (text, None)
    if source.strip().replace("_", "-") in REGISTRY.entries:
        return EncoderSpec("registered", REGISTRY.get_entry(source).name, seed)
    folder = Path(source).expanduser()
    if folder.is_dir():
        return EncoderSpec("folder", str(folder), seed)
    if folder.exists():
        raise UsageError(
            f"{source}: is a file; give the folder that holds config.json and model.safetensors, or make one of an "
            f"official file with `carrara import NAME --file {source}`"
        )
    if HUB_ID.match(source) and not source.startswith((".", "~", "/")):
        if Path(source).parent.is_dir():
            siblings = [path.name for path in folder.parent.iterdir() if path.is_dir()]
            raise UsageError(f"{source}: there is no such folder.{did_you_mean(folder.name, siblings)}")
        return EncoderSpec("hub", source, seed)
    raise UsageError(
        f"there is no registered encoder {source!r} and no such folder.{did_you_mean(source, REGISTRY.names())} "
        "`carrara ls encoders` shows every encoder."
    )


def require_config(folder: Path) -> None:
    """Check that a folder can be an encoder's.

    Raises:
        UsageError: it has no config.json.
    """
    if not (folder / CONFIG).exists():
        raise UsageError(f"{folder}: holds no {CONFIG}; give a folder made by save_pretrained, or official files")


def check_repository(repository: str) -> None:
    """Check that a name is one of a repository on the hub.

    Raises:
        UsageError: it is not org/name.
    """
    if repository.count("/") != 1:
        raise UsageError(f"{repository}: is no repository of the hub; write it as org/name")


def split_fusion(spec: str | Path) -> list[str]:
    """Return the specs of the parts of a fusion; empty where it is none, such as a folder with a + in its name."""
    text = str(spec).removesuffix(LATE)
    parts = [part.strip() for part in text.split("+")]
    return [] if len(parts) < 2 or Path(str(spec)).expanduser().exists() else parts


def select_variants(name: str, file: Path | None) -> list[str]:
    """Return the variants that a variant's or family's name and an optional file select.

    Raises:
        UsageError: There is no such name, nothing is published, or the file could be any of several variants'.
    """
    key = name.strip().replace("_", "-")
    if key in REGISTRY.entries:
        return [key]
    members = [entry.name for entry in REGISTRY.entries.values() if entry.family == key]
    if not members:
        known = {*REGISTRY.entries, *(entry.family for entry in REGISTRY.entries.values())}
        raise UsageError(
            f"there is no encoder {name!r} to import.{did_you_mean(key, known)} "
            "`carrara ls encoders` shows every encoder."
        )
    files = {member: set(REGISTRY.get(member).variants[member][0].files) for member in members}
    published = [member for member in members if files[member]]
    if not published:
        raise UsageError(f"{name}: no weights of it are published; `carrara pretrain` trains some")
    if file is None or len(published) == 1:
        return published
    addresses = {
        address for member in published for address in files[member] if address.rpartition("/")[2] == file.name
    }
    if len(addresses) != 1:
        raise UsageError(f"--file {file}: could be of several; give one of {', '.join(published)} instead of {name}")
    return [member for member in published if addresses <= files[member]]
