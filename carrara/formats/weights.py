"""Weight files: read without running anything in them, hashed by content, loaded strictly.

Safetensors, and pickles through torch's restricted unpickler (`weights_only=True`); `carrara.formats.safe_pickle`
reads training checkpoints, which hold more than tensors. A file that is not weights is named for what it is: empty, cut
short, a web page, a Git LFS pointer, a text, a program.

Weight-normalised convolutions have three spellings (torch's old `weight_g` and `weight_v`, its new
`parametrizations.weight.original0` and `1`, and folded to a plain `weight`); all three load. So do the `state_dict` of
a checkpoint of Lightning or of a training script, and names with the prefixes of torch.compile and of
DistributedDataParallel.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import mmap
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from carrara.core.errors import StoreError, WeightsError, did_you_mean
from carrara.core.io import atomic_write
from carrara.formats.magic import is_pickle, read_magic, wrap_errors

NEW_GAIN, NEW_DIRECTION = ".parametrizations.weight.original0", ".parametrizations.weight.original1"
OLD_GAIN, OLD_DIRECTION = ".weight_g", ".weight_v"
COMPILED, PARALLEL, LIGHTNING = "_orig_mod.", "module.", "model."
METADATA = {"format": "pt"}  # transformers 4 does not open a file without it
BLOCK_BYTES = 2**24
# Of a page in Linux's /proc/PID/pagemap.
PAGE_IN_MEMORY, PAGE_SWAPPED, PAGE_OF_FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file or of a pickled dictionary, by name, on the CPU.

    A .safetensors file is mapped, so tensors that are not used, such as those of a text tower when audio is encoded,
    take no memory.

    Raises:
        WeightsError: The file is missing, empty, cut short, not weights, or a pickle that would run code.
    """
    path = Path(path)
    if not is_pickle(read_magic(path)):
        with wrap_errors(path, "safetensors"):
            return strip_wrappers(load_file(path), str(path))
    with wrap_errors(path, "a torch file"):
        try:
            # Given a path, torch would take every .safetensors for that format. Nor is the file mapped: torch would not
            # compare its checksums.
            with open(path, "rb") as file:
                content = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as problem:
            function = str(problem).replace("\n", " ").partition("GLOBAL ")[2].split(" ")[0]
            reason = f"would run code ({function})" if function else "holds more than tensors"
            raise WeightsError(
                f"{path}: this pickle {reason}, so it was not opened; save its tensors alone (of a checkpoint its "
                "state_dict), or convert them to safetensors"
            ) from None
        wrapped = content.get("state_dict") if isinstance(content, Mapping) else None
        if isinstance(wrapped, Mapping):
            content = wrapped
        if not isinstance(content, Mapping) or not all(_is_plain(*entry) for entry in content.items()):
            raise WeightsError(
                f"{path}: is not a plain dictionary of tensors, nor a checkpoint with one as its state_dict; "
                "convert it to safetensors"
            )
        tensors = strip_wrappers(content, str(path))
        if wrapped is not None and all(name.startswith(LIGHTNING) for name in tensors):
            return {name.removeprefix(LIGHTNING): tensor for name, tensor in tensors.items()}
        return tensors


def strip_wrappers(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return tensors without what torch.compile and DistributedDataParallel put before their names.

    Raises:
        WeightsError: Two names become one.
    """
    stripped = {name.replace(COMPILED, ""): tensor for name, tensor in tensors.items()}
    while stripped and all(name.startswith(PARALLEL) for name in stripped):
        stripped = {name.removeprefix(PARALLEL): tensor for name, tensor in stripped.items()}
    if len(stripped) < len(tensors):
        raise WeightsError(f"{source}: has tensors with the prefix {COMPILED} and without it; save one of the two")
    return stripped


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, atomically.

    Raises:
        StoreError: The file cannot be written.
    """
    with atomic_write(Path(path)) as tmp:
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, tmp, METADATA)
        except SafetensorError as problem:
            raise StoreError(f"{path}: cannot write here ({problem})") from None


def is_expanded(tensor: Tensor) -> bool:
    """Return whether a tensor repeats elements of its storage, so that a copy could exhaust the memory."""
    # numel() may overflow.
    return math.prod(tensor.shape) * tensor.element_size() > tensor.untyped_storage().nbytes()


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes, independent of the order: 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        for part in tensor.reshape(-1).view(torch.uint8).split(BLOCK_BYTES):
            digest.update(part.numpy().data)
            release_memory(part)
    return digest.hexdigest()


def release_memory(tensor: Tensor) -> None:
    """Give the memory of a tensor back if it is an unchanged part of a mapped file, from which it is then read again.

    Without effect on other tensors, on those that were written to, and where there is no Linux.
    """
    if tensor.device.type != "cpu" or not tensor.nbytes:
        return
    first, end = tensor.data_ptr() // mmap.PAGESIZE, -(-(tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE)
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            file.seek(8 * first)
            entries = np.frombuffer(file.read(8 * (end - first)), np.uint64)
    except OSError:
        return
    # A page that was written to is no longer the file's; it would be lost.
    is_lost = ((entries & PAGE_IN_MEMORY) != 0) & ((entries & PAGE_OF_FILE) == 0) | ((entries & PAGE_SWAPPED) != 0)
    if len(entries) == end - first and not is_lost.any():
        address, size = first * mmap.PAGESIZE, (end - first) * mmap.PAGESIZE
        ctypes.CDLL(None).madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), mmap.MADV_DONTNEED)


def load_state_dict_strict(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load tensors into a module; names and shapes must be exactly the module's. A module on "meta" is materialised.

    Args:
        module: The network; it keeps its dtypes.
        tensors: Tensors by the module's names; weight-normalised convolutions in any of the three spellings.
        source: Name of the tensors in messages, for example the file's path.

    Raises:
        WeightsError: Names are missing or unknown, or shapes differ. The module is then unchanged.
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
        complaints.append(
            f"{len(unknown)} unknown ({_first_names(unknown)}){did_you_mean(unknown[0], missing or expected)}"
        )
    if wrong:
        name = wrong[0]
        shapes = f"{tuple(given[name].shape)} where {tuple(expected[name].shape)} is expected"
        complaints.append(f"{len(wrong)} of another shape ({name}: {shapes})")
    if complaints:
        raise WeightsError(f"{source}: not the weights of this network: {'; '.join(complaints)}")
    module.load_state_dict(
        {name: tensor.to(expected[name].dtype) for name, tensor in given.items()},
        assign=any(tensor.is_meta for tensor in expected.values()),
    )


def _is_plain(name: object, value: object) -> bool:
    if not isinstance(name, str) or not isinstance(value, Tensor):
        return False
    return value.layout == torch.strided and value.device.type == "cpu" and not is_expanded(value)


def _match_weight_norm_names(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with weight-normalised convolutions in the spelling of the expected names."""
    given = dict(tensors)
    for gain in [name for name in expected if name.endswith(NEW_GAIN)]:
        stem = gain.removesuffix(NEW_GAIN)
        direction = stem + NEW_DIRECTION
        if stem + OLD_GAIN in given and stem + OLD_DIRECTION in given:
            given[gain], given[direction] = given.pop(stem + OLD_GAIN), given.pop(stem + OLD_DIRECTION)
        elif stem + ".weight" in given and given[stem + ".weight"].shape == expected[direction].shape:
            folded = given.pop(stem + ".weight")
            dims = tuple(axis for axis, size in enumerate(expected[gain].shape) if size == 1)
            given[gain] = folded.float().norm(dim=dims, keepdim=True)
            # A tap of zeros has no direction and torch would divide by its norm; any direction with gain 0 is right.
            given[direction] = torch.where(given[gain] == 0, torch.ones_like(folded), folded)
    return given


def _first_names(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
