"""The files that musicnn's authors publish, read into tensors by our names.

A checkpoint's three files begin with a dot, because its folder's name is their common beginning: `MTT_musicnn/.index`.
Variables have the names that TensorFlow's layers gave them, numbered in the order in which they were made.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from torch import Tensor

from carrara.core.errors import WeightsError
from carrara.formats.tensorflow import read_tensorflow_checkpoint
from carrara.formats.magic import read_magic

# Names of the folders in the wheel and in the repository.
FOLDERS = {
    "musicnn-mtt": "MTT_musicnn",
    "musicnn-msd": "MSD_musicnn",
    "musicnn-msd-big": "MSD_musicnn_big",
    "musicnn-mtt-vgg": "MTT_vgg",
    "musicnn-msd-vgg": "MSD_vgg",
}
INDEX, DATA = ".index", ".data-00000-of-00001"
ELSEWHERE = (
    "; the wheel musicnn 0.1.0 holds all but MSD_musicnn_big, which is at github.com/jordipons/musicnn; give either "
    "one, or the folder of one checkpoint"
)
PARTS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def _layers(convolutions: list[str], blocks: list[str], after: list[str]) -> dict[str, str]:
    """Return our layers by their official names; norms are numbered in the order in which they were made."""
    norms = ["input_norm", *(f"{block}.norm" for block in blocks), *after]
    numbered = {"batch_normalization" + (f"_{i}" if i else ""): norm for i, norm in enumerate(norms)}
    return numbered | {official: f"{block}.conv" for official, block in zip(convolutions, blocks)}


LAYERS = {
    "musicnn": _layers(
        ["conv2d", *(f"conv2d_{i}" for i in range(1, 8))],
        ["timbral.0", "timbral.1", *(f"temporal.{i}" for i in range(3)), *(f"middle.{i}" for i in range(3))],
        ["pool_norm", "dense_norm"],
    )
    | {"dense": "dense", "dense_1": "tags"},
    "vgg": _layers([f"{i}CNN" for i in range(1, 6)], [f"blocks.{i}" for i in range(5)], []) | {"dense": "tags"},
}


def official_tensors(folder: str, kind: str, path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a checkpoint, by our names where they are known, and what to call the checkpoint.

    Args:
        folder: name of the checkpoint's folder.
        kind: "musicnn" or "vgg".
        path: the wheel, a folder, one of the checkpoint's files or their common beginning.

    Raises:
        WeightsError: the checkpoint is not there, not whole, or another one.
    """
    if path.is_file() and zipfile.is_zipfile(path):
        source = f"{path}: {folder}"
        tensors = read_tensorflow_checkpoint(*_of_wheel(folder, path), source, _wanted)
    else:
        source = _beginning(folder, path)
        files = [Path(source + end) for end in (INDEX, DATA)]
        try:
            tensors = read_tensorflow_checkpoint(files[0].read_bytes(), files[1].read_bytes(), source, _wanted)
        except (WeightsError, OSError):
            for file in files:
                read_magic(file)  # names what it is in the place of weights
            raise
    return dict(_renamed(name, tensor, kind) for name, tensor in tensors.items()), source


def _beginning(folder: str, path: Path) -> str:
    """Return the common beginning of the checkpoint's files."""
    places = (path / folder, path / "musicnn" / folder, path)
    found = next((one for one in map(_indices, places) if len(one) == 1), [])
    if not path.is_dir():
        found = [Path(str(path).removesuffix(INDEX).removesuffix(DATA) + INDEX)]
        if not found[0].is_file():
            read_magic(path)
            raise WeightsError(f"{path}: is neither the wheel musicnn 0.1.0 nor part of a checkpoint, or is cut short")
    if not found:
        raise WeightsError(f"{path}: holds no {folder}{ELSEWHERE}")
    holder = found[0].resolve().parent.name
    if holder in FOLDERS.values() and holder != folder:
        raise WeightsError(f"{found[0].parent}: holds {holder}, not {folder}; give the folder of that one")
    return str(found[0]).removesuffix(INDEX)


def _indices(place: Path) -> list[Path]:
    return list(place.glob("*" + INDEX)) if place.is_dir() else []


def _of_wheel(folder: str, path: Path) -> tuple[bytes, bytes]:
    try:
        with zipfile.ZipFile(path) as wheel:
            if f"musicnn/{folder}/{INDEX}" not in wheel.namelist():
                raise WeightsError(f"{path}: holds no {folder}{ELSEWHERE}")
            return wheel.read(f"musicnn/{folder}/{INDEX}"), wheel.read(f"musicnn/{folder}/{DATA}")
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, OSError, RuntimeError) as problem:
        raise WeightsError(f"{path}: cannot be read ({problem}); fetch it again") from None


def _wanted(name: str) -> bool:
    """Return whether a variable is of the network, not of its training."""
    return not name.endswith(("/Adam", "/Adam_1")) and name not in ("beta1_power", "beta2_power")


def _renamed(name: str, tensor: Tensor, kind: str) -> tuple[str, Tensor]:
    """Return our name and layout of an official tensor; an unknown name stays, to be complained of."""
    layer, _, part = name.partition("/")
    known, part = LAYERS[kind].get(layer), PARTS.get(part, "")
    if known is None or not part:
        return name, tensor
    if tensor.ndim == 4:
        tensor = tensor.permute(3, 2, 0, 1)
        if known.startswith("middle"):
            # Theirs is as tall as all channels of an image of one channel.
            tensor = tensor.squeeze(1).mT
    return f"network.{known}.{part}", tensor.mT if tensor.ndim == 2 else tensor
