"""Weights files: read without running them, named for what is wrong with them, loaded whole or not at all."""

import hashlib
import os
import pickle
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from carrara.core.errors import StoreError, UsageError, WeightsError
from carrara.formats.magic import format_bytes, wrap_errors
from carrara.formats.weights import hash_tensors, load_state_dict_strict, read_tensors, save_tensors

MB = 2**20
TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3), "half": torch.ones(4).bfloat16()}


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def mapped_megabytes(path):
    """Return how much of a file is in this process's memory, as Linux counts it."""
    mappings = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())
    return sum(int(re.search(r"Rss: +(\d+)", own)[1]) for own in mappings if str(path) in own) / 1024


def same(first, other):
    assert first.keys() == other.keys()
    assert all(torch.equal(first[name], other[name]) and first[name].dtype == other[name].dtype for name in first)


def test_safetensors_and_pickles_are_read_as_written(tmp_path):
    save_tensors(TENSORS, tmp_path / "w.safetensors")
    torch.save(TENSORS, tmp_path / "new.bin")
    torch.save(TENSORS, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for name in ("w.safetensors", "new.bin", "old.bin"):
        same(read_tensors(tmp_path / name), TENSORS)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path, zipped):
    trap = tmp_path / "sprung"
    torch.save({"a": Trap(str(trap))}, tmp_path / "w.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="run code.*mkdir") as caught:
        read_tensors(tmp_path / "w.bin")
    assert "\n" not in str(caught.value) and "w.bin" in str(caught.value)
    assert not trap.exists()


def test_a_plain_pickle_that_would_run_code_is_refused(tmp_path):
    trap = tmp_path / "sprung"
    (tmp_path / "w.pt").write_bytes(pickle.dumps(Trap(str(trap))))
    with pytest.raises(WeightsError):
        read_tensors(tmp_path / "w.pt")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>Sign in</html>", "web page"),
        (b"\n <html>", "web page"),
        (b"nothing of the kind, but some text", "not safetensors"),
        (b"\xef\xbb\xbf<!DOCTYPE html>\r\n<html>", "web page"),
        (b"\xef\xbb\xbfversion https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"Not Found\nsorry\n", "is text \\('Not Found'\\)"),
        (b'{\r\n\t"error": "gone"\r\n}', "is text \\('{'\\)"),
        (b'\xef\xbb\xbf{"error": "gone"}\n', 'is text \\(\'{"error": "gone"}\'\\)'),
        (b"\n\nNot Found", "is text \\('Not Found'\\)"),
    ],
)
def test_a_file_that_is_not_weights_is_named(tmp_path, content, message):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read_tensors(tmp_path / "w.safetensors")
    assert "\n" not in str(caught.value)


# The low bytes of a header's length that are those of a pickle, of a zip and, after a blank, of a web page.
@pytest.mark.parametrize("low", [b"\x80", b"PK", b" <"])
@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
def test_a_long_safetensors_header_is_read(tmp_path, low, name):
    path = tmp_path / name
    save_file(TENSORS, path, {"note": ""})
    short = int.from_bytes(path.read_bytes()[:8], "little")
    more = (int.from_bytes(low, "little") - short) % 256 ** len(low)
    save_file(TENSORS, path, {"note": "x" * more})
    content = path.read_bytes()
    assert content.startswith(low)
    same(read_tensors(path), TENSORS)
    for length in (len(content) - 1, len(content) - 40, 40):
        path.write_bytes(content[:length])
        with pytest.raises(WeightsError, match=f"{name}: is cut short, .* of .*; fetch it again") as caught:
            read_tensors(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_read_under_the_name_of_safetensors(tmp_path, zipped):
    torch.save(TENSORS, tmp_path / "w.safetensors", _use_new_zipfile_serialization=zipped)
    same(read_tensors(tmp_path / "w.safetensors"), TENSORS)


@pytest.mark.parametrize(
    "table",
    [b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[]}}', b"{" + b'"a":{' * 90_000, b'{"a":[]}', b'{"a":{}}', b"{]"],
    ids=["no offsets", "deep", "list", "empty", "no JSON"],
)
def test_a_malformed_safetensors_header_is_reported_in_one_line(tmp_path, table):
    (tmp_path / "w.safetensors").write_bytes(len(table).to_bytes(8, "little") + table + bytes(8))
    with pytest.raises(WeightsError, match=r"w\.safetensors: not whole or not .*; fetch it again") as caught:
        read_tensors(tmp_path / "w.safetensors")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("size", "message"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (10**6, "1.0 MB"), (10**9, "1000.0 MB")]
)
def test_sizes_have_a_fitting_unit(size, message):
    assert format_bytes(size) == message


def test_any_error_of_a_reader_is_reported_in_one_line():
    for problem in (KeyError("a\nb"), MemoryError(), RecursionError("deep"), OSError(5, "broken"), AssertionError()):
        message = "^here: not whole or not a table .*; fetch it again$"
        with pytest.raises(WeightsError, match=message) as caught, wrap_errors("here", "a table"):
            raise problem
        assert "\n" not in str(caught.value)
    for problem in (UsageError("no h5py"), WeightsError("is another's"), KeyboardInterrupt()):
        with pytest.raises(type(problem)) as passed, wrap_errors("here", "a table"):
            raise problem
        assert passed.value is problem


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("part", [0.2, 0.5, 0.95])
def test_a_file_cut_short_is_refused(tmp_path, kind, part):
    path = tmp_path / "w"
    tensors = {"a": torch.randn(2000)}
    if kind == "safetensors":
        save_tensors(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(WeightsError) as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_table_of_other_things(tmp_path):
    with pytest.raises(WeightsError, match="cannot be read"):
        read_tensors(tmp_path / "none")
    torch.save({"model": {"a": torch.ones(1)}}, tmp_path / "nested.pt")
    with pytest.raises(WeightsError, match="not a plain dictionary of tensors"):
        read_tensors(tmp_path / "nested.pt")
    with pytest.raises(StoreError):
        (tmp_path / "file").touch()
        save_tensors(TENSORS, tmp_path / "file" / "w.safetensors")


def test_the_hash_depends_on_name_dtype_shape_and_bytes_but_not_order():
    first = hash_tensors(TENSORS)
    assert hash_tensors(dict(reversed(TENSORS.items()))) == first
    changed = [
        {**TENSORS, "b": torch.tensor(4)},
        {**TENSORS, "b": torch.tensor(3, dtype=torch.int32)},
        {**TENSORS, "a.weight": TENSORS["a.weight"].reshape(3, 2)},
        {("c" if name == "b" else name): tensor for name, tensor in TENSORS.items()},
    ]
    assert len({first, *map(hash_tensors, changed)}) == 5
    transposed = {**TENSORS, "a.weight": TENSORS["a.weight"].T.contiguous().T}
    assert hash_tensors(transposed) == first


def conv():
    return nn.ModuleDict({"conv": nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 4, 3), dim=2)})


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_hashing_weights_of_a_file_keeps_none_of_it_in_memory_and_loses_no_change(tmp_path):
    path = tmp_path / "w.safetensors"
    save_tensors({"a": torch.arange(6 * MB).float(), "b": torch.ones(6 * MB), "c": torch.tensor(3)}, path)
    tensors = read_tensors(path)
    tensors["a"][:10] = -1

    def expected():
        digest = hashlib.sha256()
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode() + tensor.numpy().tobytes())
        return digest.hexdigest()

    assert hash_tensors(tensors) == expected() == hash_tensors(tensors)
    # Of "a" the part that was written to stays, 16 MB; the rest is given back.
    assert mapped_megabytes(path) < 20
    assert tensors["a"][:10].eq(-1).all() and tensors["a"][10:].equal(torch.arange(10, 6 * MB).float())
    assert tensors["b"].eq(1).all() and mapped_megabytes(path) > 40


@pytest.mark.parametrize("spelling", ["new", "old", "folded"])
def test_three_spellings_of_a_weight_normalised_convolution(spelling):
    source, target = conv(), conv()
    state = source.state_dict()
    gain, direction = (state.pop(f"conv.parametrizations.weight.original{i}") for i in (0, 1))
    names = {
        "new": {"conv.parametrizations.weight.original0": gain, "conv.parametrizations.weight.original1": direction},
        "old": {"conv.weight_g": gain, "conv.weight_v": direction},
        "folded": {"conv.weight": source["conv"].weight.detach()},
    }
    load_state_dict_strict(target, {**state, **names[spelling]}, "here")
    torch.testing.assert_close(target["conv"].weight, source["conv"].weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_folded_convolution_with_a_tap_of_zeros_keeps_it(dtype):
    weight = torch.randn(4, 4, 3).to(dtype)
    weight[:, :, 1] = 0
    target = conv()
    load_state_dict_strict(target, {"conv.weight": weight, "conv.bias": torch.zeros(4)}, "here")
    torch.testing.assert_close(
        target["conv"].weight, weight.float(), atol=1e-3 if dtype == torch.float16 else 1e-6, rtol=0
    )
    assert not target["conv"].weight[:, :, 1].any()
    assert not weight[:, :, 1].any()


def test_weights_that_do_not_fit_are_reported_in_one_line_and_change_nothing():
    module = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    tensors = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    tensors["0.wieght"] = tensors.pop("0.weight")
    tensors["1.bias"] = torch.zeros(5)
    with pytest.raises(WeightsError) as caught:
        load_state_dict_strict(module, tensors, "file.safetensors")
    message = str(caught.value)
    assert "\n" not in message and message.startswith("file.safetensors: ")
    assert "1 missing (0.weight)" in message and "1 unknown (0.wieght) Did you mean '0.weight'" in message
    assert "(5,) where (2,)" in message
    same(module.state_dict(), before)


def test_a_module_on_the_meta_device_is_loaded_in_its_own_dtype():
    with torch.device("meta"):
        module = nn.Linear(3, 2)
    load_state_dict_strict(module, {"weight": torch.ones(2, 3).half(), "bias": torch.zeros(2)}, "here")
    assert module.weight.dtype == torch.float32 and module.weight.requires_grad
    assert module(torch.ones(1, 3)).tolist() == [[3, 3]]
