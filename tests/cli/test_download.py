"""`carrara download`: files are downloaded once, and steps that are left by hand are printed."""

import functools
import hashlib
import http.server
import threading
import zipfile

import pytest
from typer.testing import CliRunner

from carrara.cli._main import app
from carrara.core.download import Remote
from carrara.data import REGISTRY
from carrara.data.pebble import Pebble

LIST = b"a list"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files without a log."""

    def log_message(self, *arguments):
        pass


@pytest.fixture
def host(tmp_path):
    """Serve a folder with a list and an archive, and return the folder and its address."""
    folder = tmp_path / "host"
    folder.mkdir()
    (folder / "list.txt").write_bytes(LIST)
    with zipfile.ZipFile(folder / "sound.zip", "w") as archive:
        archive.writestr("a.wav", b"sound")
    handler = functools.partial(QuietHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def register(monkeypatch, host):
    """Return the function that registers a dataset with these remotes and steps as Pebble."""

    def register_as_pebble(steps="", sha256=hashlib.sha256(LIST).hexdigest()):
        class Downloaded(Pebble):
            remotes = (
                Remote(f"{host[1]}/list.txt", "lists/list.txt", sha256),
                Remote(f"{host[1]}/sound.zip", "sound.zip", unpack="sound"),
            )

            def download(self, root, size=None):
                return super(Pebble, self).download(root, size)

        Downloaded.manual_steps = steps
        monkeypatch.setitem(REGISTRY.loaded, REGISTRY.get_entry("pebble").module, Downloaded())

    return register_as_pebble


def download(tmp_path, *options):
    return CliRunner().invoke(app, ["download", *options, "--data-dir", str(tmp_path / "data")])


def test_a_dataset_is_downloaded_below_the_data_folder(register, tmp_path):
    register()
    root = tmp_path / "data/pebble/demo"
    done = download(tmp_path, "pebble")
    assert done.exit_code == 0 and done.stdout == f"{root}\n" and str(root) in done.stderr
    assert (root / "lists/list.txt").read_bytes() == LIST and (root / "sound/a.wav").read_bytes() == b"sound"
    assert f"`carrara check pebble --data-dir {tmp_path / 'data'}`" in done.stderr
    small = download(tmp_path, "pebble", "--size", "small")
    # The command that it names checks this size, not the default one.
    assert small.stdout == f"{root.parent}/small\n" and f"--data-dir {root.parent}/small`" in small.stderr
    assert REGISTRY.get("pebble").root(root.parent / "small") == root.parent / "small"


def test_existing_files_are_not_downloaded_again(register, host, tmp_path):
    register()
    download(tmp_path, "pebble")
    for file in host[0].iterdir():
        file.unlink()
    assert download(tmp_path, "pebble").exit_code == 0


def test_steps_by_hand_are_printed_with_exit_code_1(register, tmp_path):
    register(steps="1. Buy the record.\n2. Put it into sound/.")
    done = download(tmp_path, "pebble")
    root = tmp_path / "data/pebble/demo"
    assert done.exit_code == 1 and done.stdout == f"{root}\n"
    assert "1. Buy the record.\n2. Put it into sound/." in done.stderr
    assert (root / "lists/list.txt").read_bytes() == LIST


def test_steps_by_hand_fit_the_terminal_and_check_the_same_folder(register, tmp_path, monkeypatch):
    register(steps="1. Buy the record, and then put every one of its twelve sides into the folder sound/, "
             "one file for each.\n2. carrara check pebble")  # fmt: skip
    monkeypatch.setenv("COLUMNS", "60")
    lines = download(tmp_path, "pebble").stderr.splitlines()
    assert (
        lines[1].startswith("1. Buy the record") and lines[2] == "   sides into the folder sound/, one file for each."
    )
    assert max(map(len, lines[1:3])) <= 60
    assert f"carrara check pebble --data-dir {tmp_path / 'data'}" in " ".join(map(str.strip, lines))


def test_steps_by_hand_are_printed_even_if_the_host_cannot_be_reached(register, host, tmp_path):
    register(steps="1. Buy the record.")
    (host[0] / "list.txt").unlink()
    done = download(tmp_path, "pebble")
    assert done.exit_code == 1 and done.stdout == ""
    steps, error = done.stderr.split("carrara download: ")
    assert "left by hand" in steps and "1. Buy the record." in steps and "list.txt" in error


def test_a_failed_download_is_one_line(register, tmp_path):
    register(sha256="0" * 64)
    done = download(tmp_path, "pebble")
    assert done.exit_code == 1 and done.stdout == ""
    assert done.stderr.startswith("carrara download: http://") and done.stderr.count("\n") == 1
    assert "0" * 64 in done.stderr and hashlib.sha256(LIST).hexdigest() in done.stderr


def test_size_is_refused_for_a_dataset_without_sizes(tmp_path):
    done = download(tmp_path, "nsynth", "--size", "small")
    assert done.exit_code == 2 and "nsynth does not come in sizes; leave --size out" in done.stderr
    done = download(tmp_path, "pebble", "--size", "smal")
    assert done.exit_code == 2 and "'small'" in done.stderr


def test_an_unknown_dataset_is_misuse(tmp_path):
    done = download(tmp_path, "pebbel")
    assert done.exit_code == 2 and "'pebble'" in done.stderr and not (tmp_path / "data").exists()
