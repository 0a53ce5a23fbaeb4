"""Models in Keras's own format (.keras) without Keras: their layers, what feeds each, their arrays; nothing is run.

The file is a zip. config.json lists the layers of a functional model with the layers that each is called on;
model.weights.h5 holds their arrays. There a layer is known by its class and a number, counted in the order of the list
(`layers/dense/vars/0`, `layers/dense_1/vars/0`), its arrays by the order in which they were made; layers inside a layer
stand below it by the name of their attribute. Keras 2 wrote `_layer_checkpoint_dependencies` where Keras 3 writes
`layers`. Classes of the model's own are in it by name only, so what a layer does is not known, only what it holds.

Names in such files are often automatic and say nothing. `placed` finds each layer by what does not change: the shapes
of its arrays and the convolutions that feed it. What fits twice or not at all is refused by name.

Not read: models that are no functional ones, and TensorFlow's SavedModel folders.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from carrara.core.errors import WeightsError
from carrara.formats.hdf5 import read_hdf5
from carrara.formats.weights import format_bytes, read_magic, wrap_errors

CONFIG, ARRAYS = "config.json", "model.weights.h5"
ARRAY = re.compile(r"(?:layers|_layer_checkpoint_dependencies)/(?P<slot>[^/]+)/(?P<inside>.+/)?vars/(?P<number>\d+)")
EXPANSION = 100  # times that a file may grow when it is unpacked; zip's own limit is 1,000
ArraySizes = tuple[tuple[int, ...] | int, ...]


class KerasLayer(NamedTuple):
    """A layer of the list, or one inside it, that holds arrays.

    Attributes:
        name: in the list; for one inside, followed by its attribute.
        arrays: in the order in which they were made.
        kernels: names of the nearest layers before it that hold a convolution's kernel.
    """

    name: str
    arrays: tuple[Tensor, ...]
    input_convs: frozenset[str]


class LayerSlot(NamedTuple):
    """Where a layer belongs.

    Attributes:
        name: of the place.
        sizes: shape of the first array, `()` for a single number, and how many numbers each further array has.
        kernels: names of the places of the nearest convolutions before it, which come earlier in the list of places.
    """

    name: str
    sizes: ArraySizes
    input_convs: frozenset[str]


def read_keras(path: Path) -> list[KerasLayer]:
    """Return the layers that hold arrays of a functional model, in the order of its list.

    Raises:
        UsageError: h5py is not installed.
        WeightsError: the file is not whole, not of this format, or not a functional model.
    """
    read_magic(path)
    with wrap_errors(path, "a .keras file"):
        return _layers(path)


def match_layers(layers: Sequence[KerasLayer], slots: Sequence[LayerSlot], source: str) -> dict[str, tuple[Tensor, ...]]:
    """Return the arrays by the name of their place: every layer has one and every place is taken.

    Args:
        layers: of the file.
        places: of the network, each after those that feed it.
        source: what messages call the file.

    Raises:
        WeightsError: a place that no layer or more than one fits, or a layer without a place.
    """
    left = {layer.name: layer for layer in layers}
    found: dict[str, str] = {}
    taken = {}
    for place in slots:
        alike = [layer for layer in left.values() if array_sizes(layer.arrays) == place.sizes]
        kernels = {found[kernel] for kernel in place.input_convs}
        fitting = [layer for layer in alike if layer.input_convs == kernels]
        if len(fitting) != 1:
            raise WeightsError(
                f"{source}: not the weights of this network: {_complaint(place, kernels, alike, fitting)}"
            )
        found[place.name] = fitting[0].name
        taken[place.name] = left.pop(fitting[0].name).arrays
    if left:
        layer = next(iter(left.values()))
        raise WeightsError(
            f"{source}: not the weights of this network: {len(left)} layers have no place in it, first {layer.name} "
            f"(arrays of {_spelled(array_sizes(layer.arrays))})"
        )
    return taken


def array_sizes(arrays: Sequence[Tensor]) -> ArraySizes:
    """Return what a layer is recognised by: the first array's shape and how many numbers the others have."""
    first, *others = arrays
    return (tuple(first.shape) if first.numel() > 1 else (), *(array.numel() for array in others))


def _layers(path: Path) -> list[KerasLayer]:
    with zipfile.ZipFile(path) as archive:
        size = sum(archive.getinfo(name).file_size for name in (CONFIG, ARRAYS))
        if size > EXPANSION * path.stat().st_size:
            raise WeightsError(f"{path}: would grow to {format_bytes(size)} when unpacked; give the official file")
        config = json.loads(archive.read(CONFIG))
        stored = io.BytesIO(archive.read(ARRAYS))
    listed = config.get("config") if isinstance(config, dict) else None
    listed = listed.get("layers") if isinstance(listed, dict) else None
    if not isinstance(listed, list) or not all(
        isinstance(layer, dict) and "inbound_nodes" in layer for layer in listed
    ):
        raise WeightsError(f"{path}: is a Keras model that does not say what its layers are fed by; only functional do")
    arrays = read_hdf5(stored, f"{path}: its {ARRAYS}")
    arrays = {key: array for key, array in arrays.items() if not key.startswith("optimizer/")}
    held = _layers_by_slot(listed, _by_slot(arrays, path), path)
    feeds = {_name(layer): sorted(set(_sources(layer["inbound_nodes"]))) for layer in listed}
    nearest: dict[str, frozenset[str]] = {}
    layers = []
    for name in (_name(layer) for layer in listed):
        before = frozenset().union(*(nearest.get(source, frozenset()) for source in feeds[name]))
        own = {name + inside: arrays for inside, arrays in held.get(name, {}).items()}
        layers += [KerasLayer(part, arrays, before) for part, arrays in own.items()]
        nearest[name] = frozenset(part for part, arrays in own.items() if arrays[0].dim() == 4) or before
    return layers


def _name(layer: dict[str, Any]) -> str:
    return str(layer.get("name") or layer.get("config", {}).get("name"))


def _sources(calls: Any) -> Iterator[str]:
    """Yield the names of the layers that calls are fed by; a tensor is written as [layer, call, output, …]."""
    if isinstance(calls, dict):
        calls = list(calls.values())
    if not isinstance(calls, list):
        return
    if [type(value) for value in calls[:3]] == [str, int, int]:
        yield calls[0]
    else:
        for value in calls:
            yield from _sources(value)


def _by_slot(arrays: dict[str, Tensor], path: Path) -> dict[str, dict[str, tuple[Tensor, ...]]]:
    """Return the arrays by the name that their layer has in the file, then by the layer inside it ("": its own)."""
    slots: dict[str, dict[str, dict[int, Tensor]]] = {}
    for key, array in arrays.items():
        match = ARRAY.fullmatch(key)
        if not match:
            raise WeightsError(f"{path}: holds an array {key!r} that belongs to none of its layers")
        inside = "/" + match["inside"].rstrip("/") if match["inside"] else ""
        slots.setdefault(match["slot"], {}).setdefault(inside, {})[int(match["number"])] = array
    return {
        slot: {inside: tuple(array for _, array in sorted(numbered.items())) for inside, numbered in parts.items()}
        for slot, parts in slots.items()
    }


def _layers_by_slot(
    listed: list[dict[str, Any]], slots: dict[str, dict[str, tuple[Tensor, ...]]], path: Path
) -> dict[str, dict[str, tuple[Tensor, ...]]]:
    """Return the same by the layers' names in the list."""
    seen: Counter[str] = Counter()
    held = {}
    for layer in listed:
        kind = _snake_case(str(layer.get("class_name")))
        slot = f"{kind}_{seen[kind]}" if seen[kind] else kind
        seen[kind] += 1
        if slot in slots:
            held[_name(layer)] = slots.pop(slot)
    if slots:
        raise WeightsError(f"{path}: {ARRAYS} has a layer {next(iter(slots))!r} that {CONFIG} does not list")
    return held


def _snake_case(name: str) -> str:
    """Return a class's name as it stands in files: WSConv2D is ws_conv2d, GlobalPooling is global_pooling."""
    return re.sub(r"(?<=.)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", re.sub(r"\W", "", name)).lower()


def _complaint(place: LayerSlot, kernels: set[str], alike: list[KerasLayer], fitting: list[KerasLayer]) -> str:
    if fitting:
        names = " and ".join(layer.name for layer in fitting[:2])
        return f"{names} cannot be told apart, {place.name} fits both"
    wanted = f"{place.name} (arrays of {_spelled(place.sizes)})"
    if not alike:
        return f"no layer is left that fits {wanted}"
    after = ", ".join(sorted(kernels)) or "the input"
    instead = ", ".join(sorted(alike[0].input_convs)) or "the input"
    return f"{wanted} comes after {after}, but {alike[0].name} after {instead}"


def _spelled(wanted: ArraySizes) -> str:
    return " and ".join(str(size) for size in wanted)
