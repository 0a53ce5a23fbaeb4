"""MULE's weights out of files in Keras's format, written here layer by layer with names that say nothing."""

import io
import json
import random
import re
import sys
import zipfile

import numpy as np
import pytest
import torch

from carrara.core.errors import UsageError, WeightsError
from carrara.encoders.mule import ENCODER, MuleSettings, convert_keras_file
from carrara.formats.weights import load_state_dict_strict

h5py = pytest.importorskip("h5py")

# Its fast path's first two stages have a shortcut of the same shape as their last convolution, as the real one's have.
TINY = MuleSettings(
    blocks=(1, 2, 2),
    slow_stem=(4, 4, 8, 16),
    fast_stem=(2, 2, 4, 8),
    slow_channels=(16, 32, 32),
    fast_channels=(16, 32, 24),
    slow_group=8,
    fast_group=4,
    lateral_channels=(8, 8, 16),
    lateral_outputs=(8, 16, 32),
)
# How keras 3.15 spells these classes in its files.
SPELLED = {"WSConv2D": "ws_conv2d", "SkipGain": "skip_gain", "SqueezeExcite": "squeeze_excite"}
CONV, DENSE, ADD = "WSConv2D", "Dense", "Add"


class File:
    """Writes a functional model as Keras 3 does, layer by layer, in whatever order they are given."""

    def __init__(self, tensors):
        self.tensors, self.layers = tensors, []

    def add(self, kind, *inputs, **arrays):
        """A layer; arrays by the name of the layer inside it, "own" for its own."""
        name = f"layer_{len(self.layers) * 7919 % 1009}"
        self.layers.append({"class_name": kind, "name": name, "inputs": list(inputs), "arrays": arrays})
        return name

    def weights(self, place, *names):
        tensors = [self.tensors[f"network.{place}.{name}"].numpy() for name in names]
        return [array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T for array in tensors]

    def conv(self, place, source):
        return self.add("WSConv2D", source, own=self.weights(place, "weight", "bias", "gain"))

    def act(self, source):
        return self.add("ScaledGelu", source)

    def chain(self, place, source, count, activated):
        for number in range(count):
            source = self.conv(f"{place}.{number}", self.act(source) if activated and number else source)
        return source

    def block(self, place, source, pooled):
        active = self.add("Scale", self.act(source))
        shortcut = source
        if f"network.{place}.shortcut.weight" in self.tensors:
            shortcut = self.conv(f"{place}.shortcut", self.add("AveragePooling2D", active) if pooled else active)
        made = self.conv(f"{place}.narrow", active)
        for part in ("along_time", "along_frequency", "widen"):
            made = self.conv(f"{place}.{part}", self.act(made))
        mean = self.add("GlobalAveragePooling2D", made)
        factor = self.excitation(f"{place}.excitation", mean)
        gained = self.add("SkipGain", self.add("Multiply", made, factor), own=self.weights(place, "gain"))
        return self.add("Add", self.add("StochasticDepth", gained), shortcut)

    def excitation(self, place, source):
        hidden = self.add("Dense", source, own=self.weights(f"{place}.squeeze", "weight", "bias"))
        return self.add("Dense", hidden, own=self.weights(f"{place}.excite", "weight", "bias"))

    def model(self, blocks):
        sound = self.add("InputLayer")
        fast, slow = self.chain("fast_stem", sound, 4, True), self.chain("slow_stem", sound, 4, True)
        for stage, count in enumerate(blocks):
            lateral = self.chain(f"laterals.{stage}", fast, 2, False)
            slow = self.add("Concatenate", slow, lateral)
            for block in range(count):
                fast = self.block(f"fast_stages.{stage}.{block}", fast, stage and not block)
                slow = self.block(f"slow_stages.{stage}.{block}", slow, stage and not block)
        both = self.add("Concatenate", *(self.add("GlobalAveragePooling2D", path) for path in (slow, fast)))
        self.act(both)
        return self

    def shuffled(self, seed):
        """Another order in which every layer still comes after those that feed it."""
        waiting, done, generator = list(self.layers), [], random.Random(seed)
        while waiting:
            known = {layer["name"] for layer in done}
            done.append(generator.choice([layer for layer in waiting if known.issuperset(layer["inputs"])]))
            waiting.remove(done[-1])
        self.layers = done
        return self

    def config(self, old):
        def call(layer):
            if old:
                return [[[name, 0, 0, {}] for name in layer["inputs"]]]
            tensors = [{"config": {"dtype": "float32", "keras_history": [name, 0, 0]}} for name in layer["inputs"]]
            return [{"args": [tensors] if len(tensors) > 1 else tensors, "kwargs": {"mask": None}}]

        listed = [
            {key: layer[key] for key in ("name", "class_name")} | {"inbound_nodes": call(layer)}
            for layer in self.layers
        ]
        return {"class_name": "Functional", "config": {"name": "model", "layers": listed}, "compile_config": None}

    def arrays(self, old):
        content, counts = io.BytesIO(), {}
        with h5py.File(content, "w") as file:
            for layer in self.layers:
                kind = SPELLED.get(layer["class_name"], layer["class_name"].lower())
                counts[kind] = counts.get(kind, -1) + 1
                root = "_layer_checkpoint_dependencies" if old else "layers"
                slot = f"{root}/{kind}_{counts[kind]}" if counts[kind] else f"{root}/{kind}"
                file.create_group(f"{slot}/vars").attrs["name"] = layer["name"]
                for inside, arrays in layer["arrays"].items():
                    for number, array in enumerate(arrays):
                        file[f"{slot}/{'' if inside == 'own' else inside + '/'}vars/{number}"] = array
            file["layers/stochastic_depth/seed_generator/vars/0"] = np.zeros(2, dtype=np.uint32)
            file["optimizer/vars/1"] = np.zeros(3, dtype=np.float32)
            file.create_group("vars")
        return content.getvalue()

    def write(self, path, old=False):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("metadata.json", json.dumps({"keras_version": "3.4.1"}))
            archive.writestr("config.json", json.dumps(self.config(old)))
            archive.writestr("model.weights.h5", self.arrays(old))
        return path


@pytest.fixture(scope="module")
def tensors():
    card = ENCODER.variants["mule"][0]
    network = ENCODER.build(TINY, ENCODER.update_card(card, TINY), 3)
    generator = torch.Generator().manual_seed(3)
    return {
        name: 0.3 * torch.randn(tensor.shape, generator=generator) + name.endswith("gain")
        for name, tensor in network.state_dict().items()
    }


@pytest.fixture
def model(tensors):
    return File(tensors).model(TINY.blocks)


def refusal(model, path, settings=TINY):
    with pytest.raises(WeightsError) as caught:
        convert_keras_file(model.write(path / "model.keras"), settings)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_arrays_are_matched_in_any_order_of_the_layers(tensors, model, tmp_path, seed, old):
    model = model if seed is None else model.shuffled(seed)
    read = convert_keras_file(model.write(tmp_path / "model.keras", old), TINY)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor), name


def test_an_excitation_that_is_one_layer_with_two_inside_is_read(tensors, tmp_path):
    class Folded(File):
        def excitation(self, place, source):
            weights = {part: self.weights(f"{place}.{part}", "weight", "bias") for part in ("squeeze", "excite")}
            return self.add("SqueezeExcite", source, b_first=weights["squeeze"], a_second=weights["excite"])

    read = convert_keras_file(Folded(tensors).model(TINY.blocks).write(tmp_path / "model.keras"), TINY)
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_weights_are_loaded_into_a_network_on_the_meta_device(tensors, model, tmp_path):
    card = ENCODER.update_card(ENCODER.variants["mule"][0], TINY)
    with torch.device("meta"):
        encoder = ENCODER.build(TINY, card, 0)
    load_state_dict_strict(encoder, convert_keras_file(model.write(tmp_path / "model.keras"), TINY), "model.keras")
    with torch.inference_mode():
        features = encoder.eval()(torch.sin(torch.arange(50_000.0))[None])
    assert features.shape == (1, 1, 1, card.dim)
    assert torch.isfinite(features).all()
    assert features.std() > 0


def first(model, kind, shape=None):
    return next(
        layer
        for layer in model.layers
        if layer["class_name"] == kind and (shape is None or layer["arrays"]["own"][0].shape == shape)
    )


def test_a_missing_layer_is_named(model, tmp_path):
    first(model, CONV, (3, 1, 4, 4))["arrays"] = {}
    assert "no layer is left that fits slow_stem.1 (arrays of (3, 1, 4, 4) and 4 and 4)" in refusal(model, tmp_path)


def test_an_unmatched_layer_of_the_file_is_named(model, tmp_path):
    name = model.add(DENSE, model.layers[-1]["name"], own=[np.zeros((56, 10)), np.zeros(10)])
    assert f"1 layers match none of its, first {name} (arrays of (56, 10) and 10)" in refusal(model, tmp_path)


def test_ambiguous_layers_are_named(model, tmp_path):
    twin = first(model, CONV, (3, 1, 4, 8))
    name = model.add(CONV, *twin["inputs"], own=twin["arrays"]["own"])
    complaint = refusal(model, tmp_path)
    assert f"{twin['name']} and {name} both fit slow_stem.2, with equal shapes and inputs" in complaint


def test_layers_in_another_order_are_named(model, tmp_path):
    # The second block of a stage fed past the first.
    summed = [layer for layer in model.layers if layer["class_name"] == ADD]
    before, after = summed[2]["name"], summed[0]["name"]
    for layer in model.layers:
        layer["inputs"] = [after if name == before else name for name in layer["inputs"]]
    assert re.search(
        r"(slow|fast)_stages\.1\.1\.narrow .* comes after layer_\d+.*, but layer_\d+ after", refusal(model, tmp_path)
    )


def test_gains_and_biases_in_the_wrong_order_are_refused(model, tmp_path):
    for layer in model.layers:
        if layer["class_name"] == CONV:
            kernel, bias, gain = layer["arrays"]["own"]
            layer["arrays"]["own"] = [kernel, gain, bias]
    assert "in another order" in refusal(model, tmp_path)


def test_a_network_of_another_size_is_refused(model, tmp_path):
    assert "no layer is left that fits slow_stem.0" in refusal(model, tmp_path, MuleSettings())


def test_arrays_of_layers_that_are_not_listed_are_refused(model, tmp_path):
    model.config_of = model.config

    def without_last_gain(old):
        config = model.config_of(old)
        listed = config["config"]["layers"]
        listed.remove([layer for layer in listed if layer["class_name"] == "SkipGain"][-1])
        return config

    model.config = without_last_gain
    assert "has a layer 'skip_gain_9' that config.json does not list" in refusal(model, tmp_path)


def test_without_h5py_the_extra_is_named(model, tmp_path, monkeypatch):
    path = model.write(tmp_path / "model.keras")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match=r"pip install 'carrara\[keras\]'"):
        convert_keras_file(path, TINY)


def test_a_model_without_a_graph_is_refused(model, tmp_path):
    model.config = lambda old: {"class_name": "Mule", "config": {"name": "mule"}}
    assert "only functional" in refusal(model, tmp_path)


def test_a_model_is_found_in_a_folder_and_other_files_are_named(tensors, model, tmp_path, monkeypatch):
    monkeypatch.setitem(ENCODER.variants, "mule", (ENCODER.variants["mule"][0], TINY))
    path = model.write(tmp_path / "model.keras")
    assert (
        ENCODER.load_official("mule", tmp_path).keys() == ENCODER.load_official("mule", path).keys() == tensors.keys()
    )
    content = path.read_bytes()
    with zipfile.ZipFile(tmp_path / "bare.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with zipfile.ZipFile(tmp_path / "torn.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(model.config(False)))
        archive.writestr("model.weights.h5", model.arrays(False)[:5000])
    wrong = {
        "gone.keras": (None, "cannot be read"),
        "empty.keras": (b"", "is empty"),
        "pointer.keras": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1da1\n", "git lfs pull"),
        "page.keras": (b"<!DOCTYPE html><html></html>", "web page"),
        "cut.keras": (content[: len(content) // 2], "cut short"),
        "spoilt.keras": (content.replace(b"WSConv2D", b"WSConv3D", 1), "CRC"),
        "bare.keras": (None, "not a .keras file"),
        "torn.keras": (None, "not whole or not an HDF5 file"),
    }
    for name, (bytes_, complaint) in wrong.items():
        if bytes_ is not None:
            (tmp_path / name).write_bytes(bytes_)
        with pytest.raises(WeightsError, match=complaint) as caught:
            ENCODER.load_official("mule", tmp_path / name)
        assert name in str(caught.value)
    path.unlink()
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(WeightsError, match="is a SavedModel, which is not read here; give model.keras"):
        ENCODER.load_official("mule", tmp_path)
