"""`carrara get`: what may be downloaded is, what is left is told step by step."""

import pytest
from typer.testing import CliRunner

from carrara.app.cli import app
from carrara.core.download import Remote
from carrara.data import SHELF
from carrara.data.pebble import Pebble


@pytest.fixture
def two_files(tmp_path, monkeypatch):
    """A dataset of one downloadable file, whose sound is to be had by hand, in the place of Pebble."""
    (tmp_path / "host").mkdir()
    (tmp_path / "host/list.txt").write_text("a list")

    class Half(Pebble):
        remotes = (Remote((tmp_path / "host/list.txt").as_uri(), "lists/list.txt"),)
        steps = "1. Buy the record.\n2. Put it into sound/."

        def get(self, root, size=None):
            return super(Pebble, self).get(root, size)

    monkeypatch.setitem(SHELF._loaded, SHELF.entry("pebble").module, Half())
    return tmp_path


def test_steps_by_hand_are_told_and_the_exit_code_says_so(two_files):
    done = CliRunner().invoke(app, ["get", "pebble", "--data-dir", str(two_files / "data")])
    root = two_files / "data/pebble/demo"
    assert done.exit_code == 1 and done.stdout == f"{root}\n"
    assert "1. Buy the record.\n2. Put it into sound/." in done.stderr
    assert (root / "lists/list.txt").read_text() == "a list"


def test_a_dataset_without_sizes_says_so(tmp_path):
    done = CliRunner().invoke(app, ["get", "nsynth", "--size", "small", "--data-dir", str(tmp_path)])
    assert done.exit_code == 2 and "nsynth does not come in sizes; leave --size out" in done.stderr
    done = CliRunner().invoke(app, ["get", "pebble", "--size", "smal", "--data-dir", str(tmp_path)])
    assert done.exit_code == 2 and "'small'" in done.stderr
