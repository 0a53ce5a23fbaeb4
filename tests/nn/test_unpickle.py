"""Training checkpoints: their tensors come back, their programs stay inert, in both of torch's file kinds."""

import argparse
import builtins
import collections
import io
import os
import sys
import tarfile

import pytest
import torch

from carrara.core.errors import WeightsError
from carrara.nn.unpickle import Inert, Unpickler, read_checkpoint

KINDS = pytest.mark.parametrize("zipped", [True, False])


def write(content, path, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


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
def test_tensors_come_back_and_objects_become_inert(tmp_path, zipped):
    base = torch.arange(12.0)
    content = {
        "model": collections.OrderedDict(
            turned=base.view(3, 4).T, row=base[4:8], half=torch.ones(3).half(), count=torch.tensor(7)
        ),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "args": argparse.Namespace(width=768, names=["a"]),
        "kinds": [torch.float16, torch.Size([2, 3]), None, True, 1.5, "text", (1, 2)],
        "counts": collections.defaultdict(list, {"a": [1]}),
    }
    found = read_checkpoint(write(content, tmp_path / "x.pt", zipped))
    for name, tensor in content["model"].items():
        assert torch.equal(found["model"][name], tensor) and found["model"][name].dtype == tensor.dtype
    assert type(found["model"]) is collections.OrderedDict
    assert torch.equal(found["parameter"], torch.ones(2))
    assert isinstance(found["args"], Inert) and found["args"].kind == "argparse.Namespace"
    assert found["args"].state == {"width": 768, "names": ["a"]}
    assert found["kinds"] == content["kinds"]
    assert found["counts"].items == [("a", [1])]


@KINDS
@pytest.mark.parametrize("how", ["system", "exec", "getattr", "state"])
def test_nothing_that_a_file_asks_for_is_run(tmp_path, zipped, how):
    sprung = tmp_path / "sprung"
    trap = {
        "system": Call(os.system, f"touch {sprung}"),
        "exec": Call(builtins.exec, f"open({str(sprung)!r}, 'w')"),
        "getattr": Call(builtins.getattr, Call(os.mkdir, str(sprung)), "__globals__"),
        "state": Stated(os.mkdir, (str(sprung),), {"a": Call(os.mkdir, str(sprung))}),
    }[how]
    found = read_checkpoint(write({"trap": trap, "x": torch.ones(2)}, tmp_path / "x.pt", zipped))
    assert not sprung.exists()
    assert isinstance(found["trap"], Inert) and torch.equal(found["x"], torch.ones(2))


@KINDS
def test_no_module_that_a_file_names_is_imported(tmp_path, monkeypatch, zipped):
    (tmp_path / "author.py").write_text("class Settings:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import author  # type: ignore[import-not-found]

    write({"args": author.Settings()}, tmp_path / "x.pt", zipped)
    del sys.modules["author"]
    (tmp_path / "author.py").write_text("raise SystemExit('the module was imported')\n")
    assert read_checkpoint(tmp_path / "x.pt")["args"].kind == "author.Settings"
    assert "author" not in sys.modules


@pytest.mark.parametrize("state", [b"}(Vmark\nI1\nu", b"(N}(Vmark\nI1\nut"])
def test_what_a_file_sets_on_a_known_function_does_not_outlive_it(state):
    global_ = b"ctorch._utils\n_rebuild_parameter\n"
    marked = Unpickler(io.BytesIO(global_ + state + b"b.")).load()
    assert marked.mark == 1
    assert not hasattr(Unpickler(io.BytesIO(global_ + b".")).load(), "mark")
    assert not hasattr(torch._utils._rebuild_parameter, "mark")


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@KINDS
def test_a_view_beyond_its_storage_is_refused(tmp_path, zipped):
    reach = Call(torch._utils._rebuild_tensor_v2, torch.ones(2).storage(), 0, (4,), (1,), False, {})
    with pytest.raises(WeightsError, match="x.pt: not whole") as caught:
        read_checkpoint(write({"x": reach}, tmp_path / "x.pt", zipped))
    assert "\n" not in str(caught.value)


@KINDS
@pytest.mark.parametrize("part", [0.1, 0.5, 0.95])
def test_a_file_cut_short_is_refused(tmp_path, zipped, part):
    path = write({"x": torch.randn(2000)}, tmp_path / "x.pt", zipped)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(WeightsError, match="cut short" if zipped else "x.pt: not whole") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_what_is_no_checkpoint_is_named(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    with pytest.raises(WeightsError, match="TorchScript"):
        read_checkpoint(tmp_path / "script.pt")
    (tmp_path / "page.pt").write_text("<html>sign in</html>")
    with pytest.raises(WeightsError, match="web page"):
        read_checkpoint(tmp_path / "page.pt")
    with tarfile.open(tmp_path / "old.pt", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("\udc80"))
    with pytest.raises(WeightsError, match="no torch checkpoint|first file kind"):
        read_checkpoint(tmp_path / "old.pt")
