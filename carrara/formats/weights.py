"""Weights read without running anything that a file contains, named by their content, and loaded whole or not at all.

Safetensors, and pickles through torch's restricted unpickler (`weights_only=True`), which builds tensors and plain
containers only (carrara/formats/safe_pickle.py opens training checkpoints, which hold more). What is not weights is named for
what it is: empty, cut short, a web page, a Git LFS pointer, a message, a program.

Weight-normalised convolutions are spelled three ways in the wild (torch's old `weight_g`/`weight_v`, its new
`parametrizations.weight.original0`/`1`, and folded to a plain `weight`); all three load.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from carrara.core.errors import CarraraError, StoreError, WeightsError, did_you_mean
from carrara.core.io import atomic_write

NEW_GAIN, NEW_DIRECTION = ".parametrizations.weight.original0", ".parametrizations.weight.original1"
OLD_GAIN, OLD_DIRECTION = ".weight_g", ".weight_v"
METADATA = {"format": "pt"}  # without it, transformers 4 does not open the file
MAX_HEADER_BYTES = 10**8  # of safetensors, which takes no longer one
UTF8_BOM = b"\xef\xbb\xbf"  # with which some texts in UTF-8 begin


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a .safetensors file or a pickled table of tensors, by name, on the CPU.

    Raises:
        WeightsError: the file is missing, empty, cut short, not weights, or a pickle that would run code.
    """
    path = Path(path)
    if not is_pickle(read_magic(path)):
        with wrap_errors(path, "safetensors"):
            return load_file(path)
    with wrap_errors(path, "a torch file"):
        try:
            # An opened file, because by its path torch would take every .safetensors for one.
            with open(path, "rb") as file:
                content = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as problem:
            asked = str(problem).replace("\n", " ").partition("GLOBAL ")[2].split(" ")[0]
            reason = f"asks to run code ({asked})" if asked else "holds more than tensors"
            said = f"{path}: this pickle {reason}, so it was not opened; convert it to safetensors"
            raise WeightsError(said) from None
        if not isinstance(content, Mapping) or not all(_is_plain(*entry) for entry in content.items()):
            raise WeightsError(f"{path}: holds no plain table of tensors")
        return dict(content)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, whole or not at all.

    Raises:
        StoreError: it cannot be written.
    """
    with atomic_write(Path(path)) as draft:
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, draft, METADATA)
        except SafetensorError as problem:
            raise StoreError(f"{path}: cannot write here ({problem})") from None


def read_magic(path: Path) -> bytes:
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
    if not _is_safetensors(head):
        _refuse_text(path, head.removeprefix(UTF8_BOM))
    with wrap_errors(path, "a file of weights"):
        _check_length(path, head)
    return head


def is_pickle(head: bytes) -> bool:
    """Return whether a file that opens like this is a torch file (zip or the older kind) or a plain pickle."""
    return (head[:2] == b"PK" or head[:1] == b"\x80") and not _is_safetensors(head)


@contextmanager
def wrap_errors(source: Path | str, kind: str) -> Iterator[None]:
    """Turn whatever a reader raises at a damaged file into one line.

    Args:
        source: what the message calls the file.
        kind: what the file should be, for example "an ONNX file".

    Raises:
        WeightsError: instead of any of it; errors that are one line already pass.
    """
    try:
        yield
    except CarraraError:
        raise
    except Exception as problem:
        line = " ".join(str(problem).split())[:200] or type(problem).__name__
        raise WeightsError(f"{source}: not whole or not {kind} ({line}); fetch it again") from None


def is_expanded(tensor: Tensor) -> bool:
    """Return whether a tensor shows numbers of its storage more than once, so that a copy may fill the memory."""
    # Not numel(), which may run over.
    return math.prod(tensor.shape) * tensor.element_size() > tensor.untyped_storage().nbytes()


def format_bytes(size: int) -> str:
    """Return a number of bytes as it is told: 12 bytes, 1.2 kB, 1.2 MB."""
    if size < 1000:
        return f"{size} bytes"
    return f"{size / 1e3:.1f} kB" if size < 1e6 else f"{size / 1e6:.1f} MB"


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, kinds, shapes and bytes, whatever the order: 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_state_dict_strict(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Put the tensors into a module, every one of them and nothing else; a module on the meta device comes to life.

    Args:
        module: the network; its floating-point kind is kept.
        tensors: by the module's names, weight-normalised convolutions in any of the three spellings.
        source: what messages call the tensors, for example the file's path.

    Raises:
        WeightsError: names are missing or unknown, or shapes differ; the module is unchanged.
    """
    expected = module.state_dict()
    given = _match_weight_norm_names(tensors, expected)
    missing = [name for name in expected if name not in given]
    unknown = [name for name in given if name not in expected]
    wrong = [name for name in expected if name in given and given[name].shape != expected[name].shape]
    complaints = []
    if missing:
        complaints.append(f"{len(missing)} missing ({_first_names(missing)})")
    if unknown:
        complaints.append(f"{len(unknown)} unknown ({_first_names(unknown)}){did_you_mean(unknown[0], missing or expected)}")
    if wrong:
        name = wrong[0]
        shapes = f"{tuple(given[name].shape)} where {tuple(expected[name].shape)} is wanted"
        complaints.append(f"{len(wrong)} of another shape ({name}: {shapes})")
    if complaints:
        raise WeightsError(f"{source}: not the weights of this network: {'; '.join(complaints)}")
    module.load_state_dict(
        {name: tensor.to(expected[name].dtype) for name, tensor in given.items()},
        assign=any(tensor.is_meta for tensor in expected.values()),
    )


def _is_safetensors(head: bytes) -> bool:
    """Return whether a file that opens like this is safetensors: the length of a table, then the table.

    To be asked before anything else about a file: the length's first bytes may be those of any other kind.
    """
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES


def _is_plain(name: object, value: object) -> bool:
    if not isinstance(name, str) or not isinstance(value, Tensor):
        return False
    return value.layout == torch.strided and value.device.type == "cpu" and not is_expanded(value)


def _refuse_text(path: Path, head: bytes) -> None:
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path}: is a Git LFS pointer, not the weights; run `git lfs pull` in its folder")
    if head.lstrip()[:1] == b"<":
        raise WeightsError(f"{path}: is a web page, not weights; fetch it again, signed in if the site asks for it")
    if head[:24].translate(None, b"\r\n\t").decode("ascii", errors="replace").isprintable():
        said = head[:60].decode("utf-8", errors="replace").strip().partition("\n")[0].rstrip()
        raise WeightsError(f"{path}: is text ({said!r}), not safetensors nor another kind of weights; fetch it again")


def _check_length(path: Path, head: bytes) -> None:
    size = path.stat().st_size
    if is_pickle(head) and head[:2] == b"PK" and not zipfile.is_zipfile(path):
        raise WeightsError(f"{path}: is cut short after {format_bytes(size)} (its end is missing); fetch it again")
    if not _is_safetensors(head):
        return
    (length,) = struct.unpack("<Q", head[:8])
    whole_size = 8 + length
    if whole_size <= size:
        with open(path, "rb") as file:
            file.seek(8)
            table = json.loads(file.read(length))
        whole_size += max((row["data_offsets"][1] for name, row in table.items() if name[:2] != "__"), default=0)
    if size < whole_size:
        raise WeightsError(f"{path}: is cut short, {format_bytes(size)} of {format_bytes(whole_size)}; fetch it again")


def _match_weight_norm_names(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    given = dict(tensors)
    for gain in [name for name in wanted if name.endswith(NEW_GAIN)]:
        stem = gain.removesuffix(NEW_GAIN)
        direction = stem + NEW_DIRECTION
        if stem + OLD_GAIN in given and stem + OLD_DIRECTION in given:
            given[gain], given[direction] = given.pop(stem + OLD_GAIN), given.pop(stem + OLD_DIRECTION)
        elif stem + ".weight" in given and given[stem + ".weight"].shape == wanted[direction].shape:
            folded = given.pop(stem + ".weight")
            spread = tuple(axis for axis, size in enumerate(wanted[gain].shape) if size == 1)
            given[gain] = folded.float().norm(dim=spread, keepdim=True)
            # A tap of zeros has no direction, and torch would divide by its length: any direction with gain 0 does.
            given[direction] = torch.where(given[gain] == 0, torch.ones_like(folded), folded)
    return given


def _first_names(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
