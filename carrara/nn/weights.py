"""Weights read without running anything that a file contains, named by their content, and loaded whole or not at all.

Safetensors, and pickles through torch's restricted unpickler (`weights_only=True`), which builds tensors and plain
containers only (carrara/nn/unpickle.py opens training checkpoints, which hold more). What is not weights is named for
what it is: empty, cut short, a web page, a Git LFS pointer, a message, a program.

Weight-normalised convolutions are spelled three ways in the wild (torch's old `weight_g`/`weight_v`, its new
`parametrizations.weight.original0`/`1`, and folded to a plain `weight`); all three load.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from carrara.core.errors import StoreError, WeightsError, near
from carrara.core.files import whole

NEW_GAIN, NEW_DIRECTION = ".parametrizations.weight.original0", ".parametrizations.weight.original1"
OLD_GAIN, OLD_DIRECTION = ".weight_g", ".weight_v"
PLAIN = {"format": "pt"}  # without it, transformers 4 does not open the file
MEGABYTE = 10**6


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a .safetensors file or a pickled table of tensors, by name, on the CPU.

    Raises:
        WeightsError: the file is missing, empty, cut short, not weights, or a pickle that would run code.
    """
    path = Path(path)
    head = opening(path)
    if not is_pickle(head):
        try:
            return load_file(path)
        except SafetensorError as problem:
            raise WeightsError(f"{path}: not whole or not safetensors ({problem}); fetch it again") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        asked = str(problem).replace("\n", " ").partition("GLOBAL ")[2].split(" ")[0]
        reason = f"asks to run code ({asked})" if asked else "holds more than tensors"
        raise WeightsError(f"{path}: this pickle {reason}, so it was not opened; convert it to safetensors") from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as problem:
        line = str(problem).partition("\n")[0]
        raise WeightsError(f"{path}: not whole or not a torch file ({line}); fetch it again") from None
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path}: holds no plain table of tensors")
    return dict(content)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, whole or not at all.

    Raises:
        StoreError: it cannot be written.
    """
    with whole(Path(path)) as draft:
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, draft, PLAIN)
        except SafetensorError as problem:
            raise StoreError(f"{path}: cannot write here ({problem})") from None


def opening(path: Path) -> bytes:
    """Return the first 512 bytes of a file that can be weights.

    Raises:
        WeightsError: it is missing, empty, a Git LFS pointer, a web page or a text in the weights' place, or cut short.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as problem:
        raise WeightsError(f"{path}: cannot be read ({problem.strerror})") from None
    if not head:
        raise WeightsError(f"{path}: is empty; fetch it again")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path}: is a Git LFS pointer, not the weights; run `git lfs pull` in its folder")
    if head.lstrip()[:1] == b"<":
        raise WeightsError(f"{path}: is a web page, not weights; fetch it again, signed in if the site asks for it")
    if head[:24].decode("ascii", errors="replace").isprintable():
        said = head[:60].decode("utf-8", errors="replace").partition("\n")[0]
        raise WeightsError(f"{path}: is text ({said!r}), not safetensors nor another kind of weights; fetch it again")
    _refuse_cut(path, head)
    return head


def is_pickle(head: bytes) -> bool:
    """Return whether a file that opens like this is a torch file (zip or the older kind) or a plain pickle."""
    return head[:2] == b"PK" or head[:1] == b"\x80"


def tensors_identity(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, kinds, shapes and bytes, whatever the order: 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Put the tensors into a module, every one of them and nothing else; a module on the meta device comes to life.

    Args:
        module: the network; its floating-point kind is kept.
        tensors: by the module's names, weight-normalised convolutions in any of the three spellings.
        source: what messages call the tensors, for example the file's path.

    Raises:
        WeightsError: names are missing or unknown, or shapes differ; the module is unchanged.
    """
    wanted = module.state_dict()
    given = _respell(tensors, wanted)
    missing = [name for name in wanted if name not in given]
    unknown = [name for name in given if name not in wanted]
    wrong = [name for name in wanted if name in given and given[name].shape != wanted[name].shape]
    complaints = []
    if missing:
        complaints.append(f"{len(missing)} missing ({_some(missing)})")
    if unknown:
        complaints.append(f"{len(unknown)} unknown ({_some(unknown)}){near(unknown[0], missing or wanted)}")
    if wrong:
        name = wrong[0]
        shapes = f"{tuple(given[name].shape)} where {tuple(wanted[name].shape)} is wanted"
        complaints.append(f"{len(wrong)} of another shape ({name}: {shapes})")
    if complaints:
        raise WeightsError(f"{source}: not the weights of this network: {'; '.join(complaints)}")
    module.load_state_dict(
        {name: tensor.to(wanted[name].dtype) for name, tensor in given.items()},
        assign=any(tensor.is_meta for tensor in wanted.values()),
    )


def _refuse_cut(path: Path, head: bytes) -> None:
    size = path.stat().st_size
    if head[:2] == b"PK":
        if not zipfile.is_zipfile(path):
            raise WeightsError(
                f"{path}: is cut short after {size / MEGABYTE:.1f} MB (its end is missing); fetch it again"
            )
        return
    if is_pickle(head) or head[8:9] != b"{":
        return
    (length,) = struct.unpack("<Q", head[:8])
    with open(path, "rb") as file:
        file.seek(8)
        text = file.read(length) if length <= size else b""
    try:
        table = json.loads(text)
        whole_size = (
            8 + length + max((row["data_offsets"][1] for name, row in table.items() if name[:2] != "__"), default=0)
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        whole_size = 0 if text else 8 + length
    if size < whole_size:
        raise WeightsError(
            f"{path}: is cut short, {size / MEGABYTE:.1f} of {whole_size / MEGABYTE:.1f} MB; fetch it again"
        )


def _respell(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    given = dict(tensors)
    for gain in [name for name in wanted if name.endswith(NEW_GAIN)]:
        stem = gain.removesuffix(NEW_GAIN)
        direction = stem + NEW_DIRECTION
        if stem + OLD_GAIN in given and stem + OLD_DIRECTION in given:
            given[gain], given[direction] = given.pop(stem + OLD_GAIN), given.pop(stem + OLD_DIRECTION)
        elif stem + ".weight" in given and given[stem + ".weight"].shape == wanted[direction].shape:
            folded = given.pop(stem + ".weight")
            spread = tuple(axis for axis, size in enumerate(wanted[gain].shape) if size == 1)
            given[gain], given[direction] = folded.float().norm(dim=spread, keepdim=True), folded
    return given


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
