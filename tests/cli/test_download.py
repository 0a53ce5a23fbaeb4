"""`carrara get`: what may be downloaded is, what is left is told step by step."""

import hashlib
import zipfile

import pytest
from typer.testing import CliRunner

from carrara.cli._main import app
from carrara.core.download import Remote
from carrara.data import REGISTRY
from carrara.data.pebble import Pebble

LIST = b"a list"


@pytest.fixture
def host(tmp_path):
    """A folder that stands for a host, with a list and an archive."""
    folder = tmp_path / "host"
    folder.mkdir()
    (folder / "list.txt").write_bytes(LIST)
    with zipfile.ZipFile(folder / "sound.zip", "w") as archive:
        archive.writestr("a.wav", b"sound")
    return folder


@pytest.fixture
def on_shelf(monkeypatch, host):
    """A function that puts a dataset of these remotes and steps in Pebble's place."""

    def put(steps="", sha256=hashlib.sha256(LIST).hexdigest()):
        class Downloaded(Pebble):
            remotes = (
                Remote((host / "list.txt").as_uri(), "lists/list.txt", sha256),
                Remote((host / "sound.zip").as_uri(), "sound.zip", unpack="sound"),
            )

            def get(self, root, size=None):
                return super(Pebble, self).get(root, size)

        Downloaded.steps = steps
        monkeypatch.setitem(REGISTRY._loaded, REGISTRY.entry("pebble").module, Downloaded())

    return put


def get(tmp_path, *options):
    return CliRunner().invoke(app, ["get", *options, "--data-dir", str(tmp_path / "data")])


def test_a_dataset_that_may_be_downloaded_is_put_below_the_data_folder(on_shelf, tmp_path):
    on_shelf()
    root = tmp_path / "data/pebble/demo"
    done = get(tmp_path, "pebble")
    assert done.exit_code == 0 and done.stdout == f"{root}\n" and str(root) in done.stderr
    assert (root / "lists/list.txt").read_bytes() == LIST and (root / "sound/a.wav").read_bytes() == b"sound"
    assert get(tmp_path, "pebble", "--size", "small").stdout == f"{root.parent}/small\n"


def test_what_is_there_is_not_asked_for_again(on_shelf, host, tmp_path):
    on_shelf()
    get(tmp_path, "pebble")
    for file in host.iterdir():
        file.unlink()
    assert get(tmp_path, "pebble").exit_code == 0


def test_steps_by_hand_are_told_and_the_exit_code_says_so(on_shelf, tmp_path):
    on_shelf(steps="1. Buy the record.\n2. Put it into sound/.")
    done = get(tmp_path, "pebble")
    root = tmp_path / "data/pebble/demo"
    assert done.exit_code == 1 and done.stdout == f"{root}\n"
    assert "1. Buy the record.\n2. Put it into sound/." in done.stderr
    assert (root / "lists/list.txt").read_bytes() == LIST


def test_a_download_that_fails_is_one_line_and_nothing_is_said_to_be_there(on_shelf, tmp_path):
    on_shelf(sha256="0" * 64)
    done = get(tmp_path, "pebble")
    assert done.exit_code == 1 and done.stdout == ""
    assert done.stderr.startswith("carrara get: file://") and done.stderr.count("\n") == 1
    assert "0" * 64 in done.stderr and hashlib.sha256(LIST).hexdigest() in done.stderr


def test_a_dataset_without_sizes_says_so(tmp_path):
    done = get(tmp_path, "nsynth", "--size", "small")
    assert done.exit_code == 2 and "nsynth does not come in sizes; leave --size out" in done.stderr
    done = get(tmp_path, "pebble", "--size", "smal")
    assert done.exit_code == 2 and "'small'" in done.stderr


def test_a_dataset_that_nobody_knows_is_a_misuse(tmp_path):
    done = get(tmp_path, "pebbel")
    assert done.exit_code == 2 and "'pebble'" in done.stderr and not (tmp_path / "data").exists()
