"""The files that musicnn's authors publish, read into tensors by our names.

A checkpoint's three files begin with a dot, because their common prefix is the folder's name: `MTT_musicnn/.index`.
Variables have the names that TensorFlow's layers gave them, numbered in the order of their creation.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from torch import Tensor

from carrara.core.errors import WeightsError
from carrara.formats.magic import read_magic
from carrara.formats.tensorflow import read_tensorflow_checkpoint

# Names of the folders in the wheel and in the repository.
FOLDERS = {
    "musicnn-mtt": "MTT_musicnn",
    "musicnn-msd": "MSD_musicnn",
    "musicnn-msd-big": "MSD_musicnn_big",
    "musicnn-mtt-vgg": "MTT_vgg",
    "musicnn-msd-vgg": "MSD_vgg",
}
INDEX, DATA = ".index", ".data-00000-of-00001"
CURE = (
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


def _name_layers(convolutions: list[str], blocks: list[str], other_norms: list[str]) -> dict[str, str]:
    """Return our layers by their official names; norms are numbered in the order of their creation."""
    norms = ["input_norm", *(f"{block}.norm" for block in blocks), *other_norms]
    names = {"batch_normalization" + (f"_{index}" if index else ""): norm for index, norm in enumerate(norms)}
    return names | {official: f"{block}.conv" for official, block in zip(convolutions, blocks)}


LAYERS = {
    "musicnn": _name_layers(
        ["conv2d", *(f"conv2d_{index}" for index in range(1, 8))],
        ["timbral.0", "timbral.1", *(f"temporal.{i}" for i in range(3)), *(f"middle.{i}" for i in range(3))],
        ["pool_norm", "dense_norm"],
    )
    | {"dense": "dense", "dense_1": "tags"},
    "vgg": _name_layers([f"{i}CNN" for i in range(1, 6)], [f"blocks.{i}" for i in range(5)], []) | {"dense": "tags"},
}


def read_musicnn_tensors(folder: str, network: str, path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a checkpoint by our names, unknown ones by theirs, and the checkpoint's name for messages.

    Args:
        folder: name of the checkpoint's folder.
        network: "musicnn" or "vgg".
        path: the wheel, a folder, one of the checkpoint's files or their common prefix.

    Raises:
        WeightsError: the checkpoint is missing, damaged, or another one.
    """
    if path.is_file() and zipfile.is_zipfile(path):
        source = f"{path}: {folder}"
        tensors = read_tensorflow_checkpoint(*_read_wheel(folder, path), source, _is_of_network)
    else:
        source = _find_prefix(folder, path)
        index, data = Path(source + INDEX), Path(source + DATA)
        try:
            tensors = read_tensorflow_checkpoint(index.read_bytes(), data.read_bytes(), source, _is_of_network)
        except (WeightsError, OSError):
            for file in (index, data):
                read_magic(file)  # names what the file is instead of weights
            raise
    return dict(_convert(name, tensor, network) for name, tensor in tensors.items()), source


def _find_prefix(folder: str, path: Path) -> str:
    """Return the common prefix of the checkpoint's files."""
    index = None
    if path.is_dir():
        for candidate in (path / folder, path / "musicnn" / folder, path):
            files = list(candidate.glob("*" + INDEX)) if candidate.is_dir() else []
            if len(files) == 1:
                index = files[0]
                break
        if index is None:
            raise WeightsError(f"{path}: holds no {folder}{CURE}")
    else:
        index = Path(str(path).removesuffix(INDEX).removesuffix(DATA) + INDEX)
        if not index.is_file():
            read_magic(path)
            raise WeightsError(f"{path}: is neither the wheel musicnn 0.1.0 nor part of a checkpoint, or is cut short")
    holder = index.resolve().parent.name
    if holder in FOLDERS.values() and holder != folder:
        raise WeightsError(f"{index.parent}: holds {holder}, not {folder}; give the folder of that one")
    return str(index).removesuffix(INDEX)


def _read_wheel(folder: str, path: Path) -> tuple[bytes, bytes]:
    try:
        with zipfile.ZipFile(path) as wheel:
            if f"musicnn/{folder}/{INDEX}" not in wheel.namelist():
                raise WeightsError(f"{path}: holds no {folder}{CURE}")
            return wheel.read(f"musicnn/{folder}/{INDEX}"), wheel.read(f"musicnn/{folder}/{DATA}")
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, OSError, RuntimeError) as problem:
        raise WeightsError(f"{path}: cannot be read ({problem}); fetch it again") from None


def _is_of_network(name: str) -> bool:
    """Return whether a variable belongs to the network, not to its training."""
    return not name.endswith(("/Adam", "/Adam_1")) and name not in ("beta1_power", "beta2_power")


def _convert(name: str, tensor: Tensor, network: str) -> tuple[str, Tensor]:
    """Return our name and layout of an official tensor; an unknown name stays, for strict loading to report."""
    layer, _, part = name.partition("/")
    our_layer, our_part = LAYERS[network].get(layer), PARTS.get(part)
    if our_layer is None or our_part is None:
        return name, tensor
    if tensor.ndim == 4:
        tensor = tensor.permute(3, 2, 0, 1)
        if our_layer.startswith("middle"):
            # Theirs is as tall as all channels of an image of one channel.
            tensor = tensor.squeeze(1).mT
    return f"network.{our_layer}.{our_part}", tensor.mT if tensor.ndim == 2 else tensor
