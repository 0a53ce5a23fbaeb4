"""From a name on the shelf to the encoder in its authors' own files: fetched or given, checked, converted.

Files of the Hugging Face hub stay in the hub's cache. Others are downloaded below the imported encoders' folder, and
removed once they are converted. Where a file's SHA-256 is known it is checked, given files included if they bear the
official name. The family reads the files (`Family.official`); every tensor must find its place and hold numbers, and a
file of another size is named after the shelf's encoder that it would fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from carrara.core.download import Remote, download, sha256_of
from carrara.core.errors import UsageError, WeightsError
from carrara.core.paths import encoders_home
from carrara.encoders import REGISTRY
from carrara.encoders._base import Card, Encoder, EncoderFamily
from carrara.encoders._hub.availability import ADDRESS, is_downloadable, is_on_hub
from carrara.encoders._hubert.huggingface import CONFIG, PROCESSOR, config_folder, read_hubert_heads
from carrara.formats.weights import load_state_dict_strict, read_tensors, hash_tensors

HEADS = "heads.safetensors"
DOWNLOADS = ".downloads"


def fetch_official(name: str, allow_download: bool = True) -> Path:
    """Return where a variant's official files are after fetching what is not here: one file, or the folder of several.

    Args:
        name: of a variant on the shelf.
        with_addresses: whether files elsewhere than on the hub are downloaded too, rather than asked for.

    Raises:
        UsageError: none are published, or they cannot be had.
        WeightsError: a file with another SHA-256 than the official one's.
        DataError: a download that the host refuses.
    """
    card: Card = REGISTRY.get(name).variants[name][0]
    hub = [key for key in card.files if is_on_hub(key)]
    addresses = [key for key in card.files if key.startswith(ADDRESS)]
    if not card.files:
        raise UsageError(
            f"{name}: no weights of it are published; give the folder of one that you trained, or {name}:random for "
            "the same network with random weights"
        )
    if not is_downloadable(card.files) or (addresses and not allow_download):
        cure = (
            f"`carrara import {name}` fetches and converts them" if addresses else f"`carrara import {name} --file …`"
        )
        raise UsageError(
            f"{name}: its weights ({', '.join(card.files)}) are not on this machine; {cure}, or give {name}:random for "
            "the same network with random weights"
        )
    paths = _from_hub(name, hub) if hub else [_from_address(name, key, card.files[key]) for key in addresses]
    if hub:
        for path in paths:
            verify_official_sha256(path, card)
    return paths[0] if len(paths) == 1 else paths[0].parent


def convert_official(name: str, path: Path, interpolate: bool = False) -> Encoder:
    """Return a variant's encoder with the weights of its authors' files, in training mode.

    Args:
        name: of a variant on the shelf.
        path: a file or folder as the authors publish it.
        interpolate: whether positions of another length are stretched to the variant's.

    Raises:
        UsageError: no such name, a family whose authors publish nothing, or no positions to stretch.
        WeightsError: files that are not whole, not weights, or another network's; weights that are not finite, or a
            matrix of nothing but zeros.
    """
    name = REGISTRY.get_entry(name).name
    family: EncoderFamily = REGISTRY.get(name)
    if family.load_official is None:
        raise UsageError(f"{name}: there are no official files of it to read; `carrara show {name}` says what it is")
    card, settings = family.variants[name]
    if family.settings_from_files:
        settings = family.settings_from_files(name, settings, path)
    tensors = family.load_official(name, path)
    if family.resize_positions:
        tensors = family.resize_positions(tensors, settings, str(path), interpolate)
    elif interpolate:
        raise UsageError(f"--interpolate: {name} has no positions to stretch; it takes sound of any length")
    with torch.device("meta"):
        encoder = family.build(settings, card, 0)
    try:
        load_state_dict_strict(encoder, tensors, str(path))
    except WeightsError as problem:
        twins = _matching_variants(tensors, family) - {name}
        hint = f"; it would fit {' or '.join(sorted(twins))}" if twins else ""
        raise WeightsError(f"{problem}{hint}") from None
    _check_values(encoder, str(path))
    encoder.card = encoder.card.model_copy(update={"weights_sha256": hash_tensors(encoder.state_dict())})
    return encoder


def read_heads(spec: str | Path) -> dict[str, Tensor]:
    """Return what only pre-training needs of an encoder, on the CPU, by its authors' names; empty where there is none.

    From fairseq's checkpoints: `final_proj.weight`, `label_embs_concat` (four rows of special marks first in each
    book), `encoder_cqt_model.fc.weight`, data2vec's `final_proj.*` and its teacher `_ema.*` (names from inside the
    encoder, `carrara.encoders._hubert.fairseq.ours("encoder." + …)` is the network's name), and `dictionaries.0`, …: the code
    of each row of `label_embs_concat`, int64, -1 for special marks.

    Args:
        spec: an official file or folder, a folder made by Carrara, or the name of an imported encoder.

    Raises:
        WeightsError: a file that is not whole or not weights.
    """
    name = str(spec).strip().replace("_", "-")
    path = encoders_home() / name if name in REGISTRY.entries else Path(spec).expanduser()
    if (path / HEADS).is_file():
        return read_tensors(path / HEADS)
    return read_hubert_heads(path) if path.is_file() or config_folder(path) else {}


def verify_official_sha256(path: Path, card: Card) -> None:
    """Refuse a file that bears an official file's name but not its content, where the content's hash is known.

    Raises:
        WeightsError: another SHA-256.
    """
    wanted = {key.rpartition("/")[2]: sha256 for key, sha256 in card.files.items() if sha256}
    for file in [path] if path.is_file() else [path / name for name in wanted if (path / name).is_file()]:
        if (sha256 := wanted.get(file.name)) and not (found := sha256_of(file)).startswith(sha256):
            raise WeightsError(
                f"{file}: is not the official file of {card.name}: its SHA-256 is {found}, not {sha256}; fetch it "
                "again, or rename it if it is meant to be another"
            )


def download_paths(name: str) -> list[Path]:
    """Return where `fetched` downloads a variant's files to; empty where they are of the hub, or none are published."""
    card: Card = REGISTRY.get(name).variants[name][0]
    folder = encoders_home() / DOWNLOADS / REGISTRY.get_entry(name).family.replace("/", "-")
    return [folder / _file_name(key) for key in card.files if key.startswith(ADDRESS)]


def fetch_repository(repository: str, patterns: list[str]) -> Path:
    """Return the folder in the hub's cache with a repository's files of these patterns, fetched if they are not there.

    Raises:
        UsageError: it cannot be had; the message says why.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UsageError(f"{repository}: hub ids need huggingface_hub; pip install 'carrara[hub]'") from None
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns))
    except (OSError, ValueError, RuntimeError) as problem:
        reason = str(problem).strip().partition("\n")[0]
        raise UsageError(f"{repository}: no such folder, and the hub did not give it ({reason})") from None


def _from_hub(name: str, keys: list[str]) -> list[Path]:
    repository = "/".join(keys[0].split("/")[:2])
    inside = [key.split("/", 2)[2] for key in keys]
    try:
        folder = fetch_repository(repository, [*inside, CONFIG, PROCESSOR])
    except UsageError as problem:
        raise UsageError(
            f"{name}: its weights are not on this machine ({problem}); `carrara import {name} --file …` takes its file "
            f"or folder, and {name}:random is the same network with random weights"
        ) from None
    missing = [file for file in inside if not (folder / file).is_file()]
    if missing:
        raise UsageError(f"{name}: {repository} on the hub has no {missing[0]} any more; give a file with --file")
    return [folder / file for file in inside]


def _from_address(name: str, address: str, sha256: str) -> Path:
    family = REGISTRY.get_entry(name).family.replace("/", "-")
    return download(Remote(address, _file_name(address), sha256 or None), encoders_home() / DOWNLOADS / family)


def _file_name(address: str) -> str:
    return address.partition("?")[0].rpartition("/")[2]


def _check_values(encoder: Encoder, source: str) -> None:
    """Refuse what a torn file leaves: weights that are not finite, or a matrix of zeros.

    A bias may be all zero, and so may a head: MAEST's second one begins at zero and most of them never teach it.
    """
    matrices = {name for name, tensor in encoder.named_parameters() if tensor.dim() > 1 and "head" not in name}
    for name, tensor in encoder.state_dict().items():
        if not tensor.isfinite().all():
            raise WeightsError(f"{source}: its {name} holds numbers that are not finite; fetch it again")
        if name in matrices and not tensor.any():
            raise WeightsError(f"{source}: its {name} holds zeros alone, so a part of the file is lost; fetch it again")


def _matching_variants(tensors: Mapping[str, Tensor], family: EncoderFamily) -> set[str]:
    """Return the variants, of all families that read the same files, whose network has these names and shapes."""
    found = set()
    for name in REGISTRY.names():
        other: EncoderFamily = REGISTRY.get(name)
        if other.load_official is not family.load_official:
            continue
        card, settings = other.variants[name]
        with torch.device("meta"):
            network = other.build(settings, card, 0)
        try:
            load_state_dict_strict(network, {key: tensor.to("meta") for key, tensor in tensors.items()}, "")
        except WeightsError:
            continue
        found.add(name)
    return found
