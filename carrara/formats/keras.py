"""Models in Keras's own format (.keras) read without Keras: their layers, each layer's inputs and arrays.

The file is a zip. config.json lists the layers of a functional model, each with the layers that feed it;
model.weights.h5 holds the arrays. There a layer is named by its class and a number, counted in the order of the list
(`layers/dense/vars/0`, `layers/dense_1/vars/0`), its arrays are numbered in the order of creation, and a layer inside
another has that one's path followed by the name of its attribute. Keras 2 wrote `_layer_checkpoint_dependencies` where
Keras 3 writes `layers`. Nothing in a file is run: custom classes appear by name only, so what a layer computes is
unknown.

Names of layers in such files are mostly generated and carry no information. `match_layers` therefore matches layers by
the shapes of their arrays and the convolutions that feed them; the error for an ambiguous or impossible match names the
layers.

Not supported: models that are not functional, and TensorFlow's SavedModel folders.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from carrara.core.errors import WeightsError
from carrara.core.strict_json import parse_json
from carrara.formats.hdf5 import read_hdf5
from carrara.formats.magic import format_bytes, read_magic, wrap_errors

CONFIG, ARRAYS = "config.json", "model.weights.h5"
ARRAY_PATH = re.compile(
    r"(?:layers|_layer_checkpoint_dependencies)/(?P<layer>[^/]+)/(?P<inside>.+/)?vars/(?P<number>\d+)"
)
MAX_EXPANSION = 100  # of the zip when unpacked; deflate itself reaches 1,000
ArraySizes = tuple[tuple[int, ...] | int, ...]
_ArraysByPart = dict[str, tuple[Tensor, ...]]  # by the part of a layer that holds them; "" is the layer itself


class KerasLayer(NamedTuple):
    """A layer with arrays: one of the list, or one inside it.

    Attributes:
        name: Name in the list, followed by the attribute for one inside.
        arrays: In the order of creation.
        input_convs: Names of the nearest layers before it that hold a convolution kernel.
    """

    name: str
    arrays: tuple[Tensor, ...]
    input_convs: frozenset[str]


class LayerSlot(NamedTuple):
    """A layer of the network, to be filled from a layer of the file.

    Attributes:
        name: Name in the network.
        sizes: Shape of the first array (`()` for a single number) and the number of elements of each further array.
        input_convs: Names of the slots of the nearest convolutions before it; they come earlier in the list of slots.
    """

    name: str
    sizes: ArraySizes
    input_convs: frozenset[str]


def read_keras(path: Path) -> list[KerasLayer]:
    """Return the layers with arrays of a functional model, in the order of its list.

    Raises:
        UsageError: h5py is not installed.
        WeightsError: The file is damaged, of another format, or not a functional model.
    """
    read_magic(path)
    with wrap_errors(path, "a .keras file"):
        with zipfile.ZipFile(path) as archive:
            size = sum(archive.getinfo(name).file_size for name in (CONFIG, ARRAYS))
            if size > MAX_EXPANSION * path.stat().st_size:
                raise WeightsError(f"{path}: would grow to {format_bytes(size)} when unpacked; give the official file")
            config = parse_json(archive.read(CONFIG))
            arrays = read_hdf5(io.BytesIO(archive.read(ARRAYS)), f"{path}: its {ARRAYS}")
        listed = config.get("config") if isinstance(config, dict) else None
        listed = listed.get("layers") if isinstance(listed, dict) else None
        if not isinstance(listed, list) or not all(
            isinstance(layer, dict) and "inbound_nodes" in layer for layer in listed
        ):
            raise WeightsError(f"{path}: does not say what feeds its layers; only functional models do")
        parts_by_layer = _parts_by_layer(listed, arrays, path)
        nearest_convs: dict[str, frozenset[str]] = {}
        layers = []
        for layer in listed:
            name = _layer_name(layer)
            sources = sorted(set(_sources(layer["inbound_nodes"])))
            before = frozenset().union(*(nearest_convs.get(source, frozenset()) for source in sources))
            parts = {name + part: arrays for part, arrays in parts_by_layer.get(name, {}).items()}
            layers += [KerasLayer(part, arrays, before) for part, arrays in parts.items()]
            convs = frozenset(part for part, arrays in parts.items() if arrays[0].dim() == 4)
            nearest_convs[name] = convs or before
        return layers


def match_layers(
    layers: Sequence[KerasLayer], slots: Sequence[LayerSlot], source: str
) -> dict[str, tuple[Tensor, ...]]:
    """Return the arrays by the name of their slot; every layer has one slot and every slot one layer.

    Args:
        layers: Layers of the file.
        slots: Layers of the network, each after those that feed it.
        source: Name of the file in messages.

    Raises:
        WeightsError: No layer or more than one fits a slot, or a layer fits none.
    """
    remaining = {layer.name: layer for layer in layers}
    layer_of_slot: dict[str, str] = {}
    arrays = {}
    for slot in slots:
        same_size = [layer for layer in remaining.values() if array_sizes(layer.arrays) == slot.sizes]
        convs = {layer_of_slot[conv] for conv in slot.input_convs}
        matches = [layer for layer in same_size if layer.input_convs == convs]
        if len(matches) != 1:
            expected = f"{slot.name} (arrays of {_format_sizes(slot.sizes)})"
            if matches:
                names = " and ".join(layer.name for layer in matches[:2])
                reason = f"{names} both fit {slot.name}, with equal shapes and inputs"
            elif not same_size:
                reason = f"no layer is left that fits {expected}"
            else:
                after = ", ".join(sorted(convs)) or "the input"
                instead = ", ".join(sorted(same_size[0].input_convs)) or "the input"
                reason = f"{expected} comes after {after}, but {same_size[0].name} after {instead}"
            raise WeightsError(f"{source}: not the weights of this network: {reason}")
        layer_of_slot[slot.name] = matches[0].name
        arrays[slot.name] = remaining.pop(matches[0].name).arrays
    if remaining:
        layer = next(iter(remaining.values()))
        raise WeightsError(
            f"{source}: not the weights of this network: {len(remaining)} layers match none of its, first "
            f"{layer.name} (arrays of {_format_sizes(array_sizes(layer.arrays))})"
        )
    return arrays


def array_sizes(arrays: Sequence[Tensor]) -> ArraySizes:
    """Return the first array's shape (`()` for a single number) and the number of elements of the others."""
    first, *others = arrays
    return (tuple(first.shape) if first.numel() > 1 else (), *(array.numel() for array in others))


def _layer_name(layer: dict[str, Any]) -> str:
    return str(layer.get("name") or layer.get("config", {}).get("name"))


def _sources(calls: Any) -> Iterator[str]:
    """Yield the names of the layers that feed the calls; a tensor is written as [layer, call, output, …]."""
    if isinstance(calls, dict):
        calls = list(calls.values())
    if not isinstance(calls, list):
        return
    if [type(value) for value in calls[:3]] == [str, int, int]:
        yield calls[0]
    else:
        for value in calls:
            yield from _sources(value)


def _parts_by_layer(listed: list[dict[str, Any]], arrays: dict[str, Tensor], path: Path) -> dict[str, _ArraysByPart]:
    """Return the arrays by the layers' names in the list, then by the part of the layer."""
    numbered: dict[str, dict[str, dict[int, Tensor]]] = {}
    for key, array in arrays.items():
        if key.startswith("optimizer/"):
            continue
        match = ARRAY_PATH.fullmatch(key)
        if not match:
            raise WeightsError(f"{path}: holds an array {key!r} that belongs to none of its layers")
        part = "/" + match["inside"].rstrip("/") if match["inside"] else ""
        numbered.setdefault(match["layer"], {}).setdefault(part, {})[int(match["number"])] = array
    counts: Counter[str] = Counter()
    parts_by_layer = {}
    for layer in listed:
        # In file names, WSConv2D is ws_conv2d and GlobalPooling is global_pooling.
        name = re.sub(r"\W", "", str(layer.get("class_name")))
        name = re.sub(r"(?<=.)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", name).lower()
        stored_name = f"{name}_{counts[name]}" if counts[name] else name
        counts[name] += 1
        if stored_name in numbered:
            parts = numbered.pop(stored_name).items()
            parts_by_layer[_layer_name(layer)] = {
                part: tuple(array for _, array in sorted(by_number.items())) for part, by_number in parts
            }
    if numbered:
        raise WeightsError(f"{path}: {ARRAYS} has a layer {next(iter(numbered))!r} that {CONFIG} does not list")
    return parts_by_layer


def _format_sizes(sizes: ArraySizes) -> str:
    return " and ".join(str(size) for size in sizes)
