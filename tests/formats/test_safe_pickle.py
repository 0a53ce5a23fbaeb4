"""Training checkpoints: their tensors come back, their objects do nothing, in both of torch's file kinds."""

import argparse
import builtins
import collections
import contextlib
import io
import os
import pickle
import struct
import sys
import tarfile
import warnings
import zipfile

import pytest
import torch

from carrara.core.errors import WeightsError
from carrara.formats.safe_pickle import SafeUnpickler, UnknownObject, read_torch_checkpoint, verify_crc
from carrara.formats.weights import read_tensors, save_tensors

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # what torch writes at the head of its older kind
KINDS = pytest.mark.parametrize("zipped", [True, False])


def write(content, path, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def older(main, keys=(), storages=b""):
    """A file of the older kind around a pickle."""
    machine = {"protocol_version": VERSION, "little_endian": True, "type_sizes": {}}
    return (
        b"".join(pickle.dumps(part, 2) for part in (MAGIC, VERSION, machine))
        + main
        + pickle.dumps(list(keys), 2)
        + storages
    )


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Stated:
    """Pickles as one call whose result is given a state."""

    def __init__(self, function, arguments, state):
        self.parts = function, arguments, state

    def __reduce__(self):
        return self.parts


@KINDS
def test_tensors_are_read_and_objects_become_unknown_objects(tmp_path, zipped):
    base = torch.arange(12.0)
    content = {
        "model": collections.OrderedDict(
            turned=base.view(3, 4).T, row=base[4:8], half=torch.ones(3).half(), count=torch.tensor(7)
        ),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "args": argparse.Namespace(dim=768, names=["a"]),
        "kinds": [torch.float16, torch.Size([2, 3]), None, True, 1.5, "text", (1, 2)],
        "counts": collections.defaultdict(list, {"a": [1]}),
    }
    content_read = read_torch_checkpoint(write(content, tmp_path / "x.pt", zipped))
    for name, tensor in content["model"].items():
        assert torch.equal(content_read["model"][name], tensor) and content_read["model"][name].dtype == tensor.dtype
    assert type(content_read["model"]) is collections.OrderedDict
    assert torch.equal(content_read["parameter"], torch.ones(2))
    assert isinstance(content_read["args"], UnknownObject) and content_read["args"].kind == "argparse.Namespace"
    assert content_read["args"].state == {"dim": 768, "names": ["a"]}
    assert content_read["kinds"] == content["kinds"]
    assert content_read["counts"].items == [("a", [1])]


@KINDS
@pytest.mark.parametrize("function", ["system", "exec", "getattr", "state"])
def test_nothing_in_a_file_is_run(tmp_path, zipped, function):
    sprung = tmp_path / "sprung"
    trap = {
        "system": Call(os.system, f"touch {sprung}"),
        "exec": Call(builtins.exec, f"open({str(sprung)!r}, 'w')"),
        "getattr": Call(builtins.getattr, Call(os.mkdir, str(sprung)), "__globals__"),
        "state": Stated(os.mkdir, (str(sprung),), {"a": Call(os.mkdir, str(sprung))}),
    }[function]
    content_read = read_torch_checkpoint(write({"trap": trap, "x": torch.ones(2)}, tmp_path / "x.pt", zipped))
    assert not sprung.exists()
    assert isinstance(content_read["trap"], UnknownObject) and torch.equal(content_read["x"], torch.ones(2))


@KINDS
def test_no_module_that_a_file_names_is_imported(tmp_path, monkeypatch, zipped):
    (tmp_path / "author.py").write_text("class Settings:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import author  # type: ignore[import-not-found]

    write({"args": author.Settings()}, tmp_path / "x.pt", zipped)
    del sys.modules["author"]
    (tmp_path / "author.py").write_text("raise SystemExit('the module was imported')\n")
    assert read_torch_checkpoint(tmp_path / "x.pt")["args"].kind == "author.Settings"
    assert "author" not in sys.modules


NAMES = [b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n", b"ctorch\nfloat16\n"]
NAMES += [b"ccollections\nOrderedDict\n", b"ctorch\nSize\n", b"cauthor\nSettings\n"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("state", [b"}(Vmark\nI1\nu", b"(N}(Vmark\nI1\nut", b"}(V__call__\nI1\nu"])
def test_a_file_cannot_set_attributes_of_existing_objects(name, state):
    plain = dir(SafeUnpickler(io.BytesIO(name + b".")).load())
    with contextlib.suppress(TypeError, AttributeError):
        SafeUnpickler(io.BytesIO(name + state + b"b.")).load()
    again = SafeUnpickler(io.BytesIO(name + b".")).load()
    assert dir(again) == plain and not hasattr(again, "mark")
    assert not hasattr(torch._utils._rebuild_parameter, "mark")


@pytest.mark.parametrize("memory_map", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_module_with_its_source_text_makes_torch_write_no_patch(tmp_path, memory_map, name):
    # Torch compares that text with the module's source, and if a module requests it writes the difference to a file.
    target = tmp_path / "written"
    state = b"(}(Vdump_patches\nI01\nu}(V__name__\nV" + str(target).encode() + b"\nutb"
    path = tmp_path / "x.pt"
    for set_first in (state, b""):
        path.write_bytes(
            older(
                b"\x80\x02" + name + b"q\x00" + set_first + b"0(Vmodule\nh\x00Vfile\nVtext of the attacker\nt" + b"Q."
            )
        )
        with contextlib.suppress(WeightsError), warnings.catch_warnings():
            warnings.simplefilter("error")
            assert isinstance(read_torch_checkpoint(path, memory_map), UnknownObject)
        assert os.listdir(tmp_path) == ["x.pt"]


@pytest.mark.parametrize("memory_map", [False, True])
def test_the_storages_of_legacy_files_are_located(tmp_path, memory_map):
    """Two kinds of numbers in a storage, part of a storage as torch before 0.4 has it, one at an odd address."""

    class Writer(pickle.Pickler):
        def persistent_id(self, value):
            return value.pid if isinstance(value, Piece) else None

    class Piece:
        def __init__(self, *pid):
            self.pid = ("storage", *pid)

    def tensor(piece, count):
        return Call(torch._utils._rebuild_tensor_v2, piece, 0, (count,), (1,), False, collections.OrderedDict())

    content = {
        "byte": tensor(Piece(torch.ByteStorage, "0", "cpu", 3, None), 3),
        "float": tensor(Piece(torch.FloatStorage, "1", "cuda:0", 4, None), 4),
        "part": tensor(Piece(torch.FloatStorage, "1", "cpu", 4, ("2", 1, 2)), 2),
        "same": tensor(Piece(torch.ShortStorage, "1", "cpu", 8, None), 8),
    }
    main = io.BytesIO()
    Writer(main, 2).dump(content)
    numbers = struct.pack("<4f", 1.5, -2.0, 3.25, 4.0)
    storages = struct.pack("<q", 3) + bytes([7, 8, 9]) + struct.pack("<q", 4) + numbers
    (tmp_path / "x.pt").write_bytes(older(main.getvalue(), ["0", "1"], storages))
    tensors = read_torch_checkpoint(tmp_path / "x.pt", memory_map)
    content_read = {name: tensor.clone() for name, tensor in tensors.items()}
    assert content_read["byte"].tolist() == [7, 8, 9]
    assert content_read["float"].tolist() == [1.5, -2.0, 3.25, 4.0]
    assert content_read["same"].tolist() == list(struct.unpack("<8h", numbers))
    assert content_read["part"].tolist() == [-2.0, 3.25]
    if not memory_map:
        assert all(tensor.data_ptr() % tensor.element_size() == 0 for tensor in tensors.values())


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@KINDS
@pytest.mark.parametrize("stated", [((10**12,), (0,)), ((2**62, 4), (0, 0)), ((2, 2), (0, 1))])
def test_a_tensor_that_repeats_what_the_file_holds_is_refused(tmp_path, zipped, stated):
    bomb = Call(torch._utils._rebuild_tensor_v2, torch.ones(2).storage(), 0, *stated, False, collections.OrderedDict())
    for read in (read_torch_checkpoint, read_tensors):
        with pytest.raises(WeightsError, match="x.pt: ") as caught:
            read(write({"x": bomb}, tmp_path / "x.pt", zipped))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("put", [b"r\xff\xff\xff\x03", b"p60000000\n"])
def test_a_pickle_that_would_make_a_list_of_a_gigabyte_is_refused(tmp_path, put):
    main = b"\x80\x02}" + put + b"."
    (tmp_path / "older.pt").write_bytes(older(main))
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("x/data.pkl", main)
    for path in (tmp_path / "older.pt", tmp_path / "zip.pt"):
        with pytest.raises(WeightsError, match="has a memo index of 6"):
            read_torch_checkpoint(path)


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@KINDS
def test_a_view_beyond_its_storage_is_refused(tmp_path, zipped):
    reach = Call(torch._utils._rebuild_tensor_v2, torch.ones(2).storage(), 0, (4,), (1,), False, {})
    with pytest.raises(WeightsError, match="x.pt: not whole") as caught:
        read_torch_checkpoint(write({"x": reach}, tmp_path / "x.pt", zipped))
    assert "\n" not in str(caught.value)


@KINDS
@pytest.mark.parametrize("part", [0.1, 0.5, 0.95])
def test_a_file_cut_short_is_refused(tmp_path, zipped, part):
    path = write({"x": torch.randn(2000)}, tmp_path / "x.pt", zipped)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(WeightsError, match="x.pt: (is cut short|not whole)") as caught:
        read_torch_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_checkpoint_is_named(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    with pytest.raises(WeightsError, match="TorchScript"):
        read_torch_checkpoint(tmp_path / "script.pt")
    (tmp_path / "page.pt").write_text("<html>sign in</html>")
    with pytest.raises(WeightsError, match="web page"):
        read_torch_checkpoint(tmp_path / "page.pt")
    with tarfile.open(tmp_path / "old.pt", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("\udc80"))
    with pytest.raises(WeightsError, match="no torch checkpoint|not whole or not a torch file"):
        read_torch_checkpoint(tmp_path / "old.pt")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("notes.txt", "nothing")
    with pytest.raises(WeightsError, match="a zip of other files"):
        read_torch_checkpoint(tmp_path / "other.zip")


def test_a_zip_is_read_under_any_name_and_refused_when_packed_again(tmp_path):
    path = write({"x": torch.arange(900.0)}, tmp_path / "x.safetensors")
    assert torch.equal(read_torch_checkpoint(path)["x"], torch.arange(900.0))
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "y.pt", "w", zipfile.ZIP_DEFLATED) as target:
        for record in source.infolist():
            target.writestr(record.filename, source.read(record))
    with pytest.raises(WeightsError, match="compressed"):
        read_torch_checkpoint(tmp_path / "y.pt")


def test_every_record_of_a_zip_is_compared_with_its_checksum(tmp_path):
    path = write({"a": torch.randn(600_000), "b": torch.randn(3000)}, tmp_path / "x.pt")
    verify_crc(path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    assert len(records) > 4
    for record in records:
        extra = int.from_bytes(whole[record.header_offset + 28 : record.header_offset + 30], "little")
        offset = record.header_offset + 30 + len(record.filename) + extra
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1]) + whole[offset + 1 :])
        with pytest.raises(
            WeightsError, match=f"x.pt: its record '{record.filename}'.*CRC-32.*fetch it again"
        ) as caught:
            verify_crc(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(whole[: len(whole) // 2] + bytes(4000) + whole[len(whole) // 2 + 4000 :])
    assert read_torch_checkpoint(path)["a"].shape == (600_000,)
    with pytest.raises(WeightsError, match="its record 'x/data/"):
        verify_crc(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="cut short"):
        verify_crc(path)


def test_kinds_without_checksums_pass(tmp_path):
    verify_crc(write({"a": torch.ones(3)}, tmp_path / "older.pt", zipped=False))
    save_tensors({"a": torch.ones(3)}, tmp_path / "x.safetensors")
    verify_crc(tmp_path / "x.safetensors")
