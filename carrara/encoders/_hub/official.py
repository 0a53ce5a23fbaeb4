"""Official files of an encoder's authors: fetch them, check them, and convert them to the encoder.

Files of the Hugging Face hub stay in its cache. Others are downloaded below the folder of imported encoders and removed
after conversion. If a file's SHA-256 is known it is checked, also for given files with the official name. The family
reads the files (`EncoderFamily.load_official`); every tensor must match the network and hold numbers, and the message
about a file of another size names the variant that it would fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from carrara.core.download import Remote, download, download_from_hub
from carrara.core.errors import UsageError, WeightsError
from carrara.core.hashing import sha256_of_file
from carrara.core.paths import encoders_home
from carrara.encoders import REGISTRY
from carrara.encoders._base import Card, Encoder, EncoderFamily, build_with_weights
from carrara.encoders._hub.availability import URL_PREFIX, check_is_loadable, split_hub_address
from carrara.encoders._hubert.huggingface import CONFIG, PROCESSOR, config_folder, read_hubert_heads
from carrara.encoders._text.tower import TextEncoder, read_tokenizer
from carrara.formats.weights import load_state_dict_strict, read_tensors, release_memory

HEADS = "heads.safetensors"
DOWNLOADS = ".downloads"


def fetch_official(name: str, allow_download: bool = True) -> Path:
    """Return the path of a variant's official file, or the folder of several, after fetching what is missing.

    Args:
        name: Registered name of a variant.
        allow_download: Whether files outside the hub may be downloaded; otherwise the error says how to get them.

    Raises:
        UsageError: No weights are published, or they cannot be fetched.
        WeightsError: A file's SHA-256 is not the official one.
        DataError: The download failed.
    """
    family: EncoderFamily = REGISTRY.get(name)
    card: Card = family.variants[name][0]
    if not family.has_weights:
        raise UsageError(f"{name}: has no weights; it loads by its name without an import")
    check_is_loadable(name, card.files, allow_download)
    if any(address.startswith(URL_PREFIX) for address in card.files):
        remotes = zip(download_paths(name), card.files.items())
        paths = [download(Remote(url, path.name, sha256 or None), path.parent) for path, (url, sha256) in remotes]
        return paths[0] if len(paths) == 1 else paths[0].parent
    repository = split_hub_address(next(iter(card.files)))[0]
    files = [file for source, file in map(split_hub_address, card.files) if source == repository]
    # A text tower's vocabulary may be in the repository of the network that it began from.
    others = [(source, file) for source, file in map(split_hub_address, card.files) if source != repository]
    try:
        for source, file in others:
            download_from_hub(source, [file])
        folder = download_from_hub(repository, [*files, CONFIG, PROCESSOR])
    except UsageError as problem:
        licence = (
            f" to fetch it, log in at https://huggingface.co/{repository}, accept the licence ({card.license}), and "
            "give a token of https://huggingface.co/settings/tokens by `hf auth login` or in HF_TOKEN;"
            if card.is_gated
            else ""
        )
        raise UsageError(
            f"{name}: its weights are not on this machine ({problem});{licence} `carrara import {name} --file …` takes "
            f"its file or folder, and {name}:random is the same network with random weights"
        ) from None
    for file in files:
        if not (folder / file).is_file():
            raise UsageError(f"{name}: {repository} on the hub has no {file} any more; give a file with --file")
        verify_official_sha256(folder / file, card)
    return folder / files[0] if len(card.files) == 1 else (folder / files[0]).parent


def convert_official(name: str, path: Path, interpolate: bool = False) -> Encoder:
    """Return a variant's encoder with the weights of its authors' files, in training mode.

    Args:
        name: Registered name of a variant.
        path: A file or folder as the authors publish it.
        interpolate: Whether to interpolate positions of another length to the variant's.

    Raises:
        UsageError: There is no such variant, it has no official files, or it has no positions to interpolate.
        WeightsError: The files are damaged, not weights, or another network's; weights are not finite, or a matrix is
            all zeros.
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
        raise UsageError(f"--interpolate: {name} has no positions to interpolate; it takes audio of any length")
    try:
        encoder = build_with_weights(family.build, settings, card, tensors, str(path))
    except WeightsError as problem:
        others = _matching_variants(tensors, family) - {name}
        hint = f"; it would fit {' or '.join(sorted(others))}" if others else ""
        raise WeightsError(f"{problem}{hint}") from None
    # Biases and heads may be all zeros: MAEST's second head starts at zero and is seldom trained.
    matrices = {key for key, parameter in encoder.named_parameters() if parameter.dim() > 1 and "head" not in key}
    for key, tensor in encoder.state_dict().items():
        if not tensor.isfinite().all():
            raise WeightsError(f"{path}: its {key} holds numbers that are not finite; fetch it again")
        if key in matrices and not tensor.any():
            raise WeightsError(f"{path}: its {key} holds zeros alone, so a part of the file is lost; fetch it again")
        release_memory(tensor)
    if isinstance(encoder, TextEncoder):
        encoder.tokenizer_json = read_tokenizer(card, path if path.is_dir() else path.parent)
    return encoder


def read_heads(spec: str | Path) -> dict[str, Tensor]:
    """Return an encoder's pre-training heads by its authors' names, on the CPU; empty if there are none.

    From fairseq's checkpoints these are `final_proj.weight`, `label_embs_concat` (each codebook starts with four
    special symbols), `encoder_cqt_model.fc.weight`, data2vec's `final_proj.*` and its teacher `_ema.*` (with names
    relative to the encoder, so `map_fairseq_name("encoder." + …)` is the network's name), and `dictionaries.0`, …: the
    class of each row of `label_embs_concat`, int64, -1 for special symbols.

    Args:
        spec: An official file or folder, a folder made by Carrara, or the name of an imported encoder.

    Raises:
        WeightsError: A file is damaged or not weights.
    """
    name = str(spec).strip().replace("_", "-")
    path = encoders_home() / name if name in REGISTRY.entries else Path(spec).expanduser()
    if (path / HEADS).is_file():
        return read_tensors(path / HEADS)
    return read_hubert_heads(path) if path.is_file() or config_folder(path) else {}


def verify_official_sha256(path: Path, card: Card) -> None:
    """Check a file, or the files in a folder, that have an official file's name and a known SHA-256.

    Raises:
        WeightsError: The SHA-256 differs.
    """
    expected = {address.rpartition("/")[2]: sha256 for address, sha256 in card.files.items() if sha256}
    for file in [path] if path.is_file() else [path / name for name in expected if (path / name).is_file()]:
        if file.name in expected and not (sha256 := sha256_of_file(file)).startswith(expected[file.name]):
            raise WeightsError(
                f"{file}: is not the official file of {card.name}: its SHA-256 is {sha256}, not {expected[file.name]}; "
                "fetch it again, or rename it if it is meant to be another"
            )


def download_paths(name: str) -> list[Path]:
    """Return where `fetch_official` downloads a variant's files to; empty for files of the hub."""
    card: Card = REGISTRY.get(name).variants[name][0]
    folder = encoders_home() / DOWNLOADS / REGISTRY.get_entry(name).family.replace("/", "-")
    urls = [address for address in card.files if address.startswith(URL_PREFIX)]
    return [folder / url.partition("?")[0].rpartition("/")[2] for url in urls]


def _matching_variants(tensors: Mapping[str, Tensor], family: EncoderFamily) -> set[str]:
    """Return the variants, of all families that read the same files, whose network has these names and shapes."""
    matches = set()
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
        matches.add(name)
    return matches
