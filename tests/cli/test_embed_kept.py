"""`carrara embed` completes its output: rows that are not named stay, foreign files too, and a kill loses nothing."""

import json
import os
import shutil
from operator import itemgetter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner

import carrara
from carrara.cli._main import app
from carrara.core.io import file_lock
from carrara.encoders._hub.load import load
from carrara.features.embed_config import EmbedConfig
from carrara.features.parquet import write_embeddings

RATE = 16_000


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))


@pytest.fixture
def music(tmp_path):
    folder = tmp_path / "music"
    (folder / "deep").mkdir(parents=True)
    for name, seconds in [("a.wav", 2.0), ("b.flac", 5.5), ("deep/c.wav", 0.05)]:
        noise = np.random.default_rng(len(name)).uniform(-0.3, 0.3, round(seconds * RATE))
        soundfile.write(folder / name, noise, RATE)
    return folder


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def summary(*arguments):
    result = run("embed", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def rows(path):
    return pq.read_table(path).to_pylist()


@pytest.mark.parametrize("name", ["out.parquet", "out"])
def test_recordings_that_are_not_named_or_not_readable_any_more_keep_their_rows(tmp_path, music, name):
    out, a, b, c = tmp_path / name, music / "a.wav", music / "b.flac", music / "deep" / "c.wav"
    summary(a, b, "-e", "noise", "-o", out)
    before = rows(out)
    result = run("embed", c, "-e", "noise", "-o", out)
    assert result.exit_code == 0
    assert "3 rows of 3 files" in result.stdout
    assert "kept the rows of 2 recordings that were not named; --overwrite drops them" in result.stderr
    assert sorted(rows(out), key=itemgetter("path"))[:2] == before
    for damage in (b"no sound", None):
        b.unlink() if damage is None else b.write_bytes(damage)
        result = run("embed", a, b, c, "-e", "noise", "-o", out)
        assert result.exit_code == 1
        assert "b.flac: " in result.stderr and "; its former rows are kept" in result.stderr
        assert "3 rows of 3 files" in result.stdout
        assert sorted(rows(out), key=itemgetter("path"))[:2] == before
    report = summary(c, "-e", "noise", "-o", out, "--overwrite")
    assert (report["files"], report["kept"]) == (1, 0)
    assert [row["path"] for row in rows(out)] == [str(c)]


def test_the_same_file_by_another_path_has_one_row(tmp_path, music, monkeypatch):
    monkeypatch.chdir(music)
    summary("a.wav", "deep/c.wav", "-e", "noise", "-o", tmp_path / "out.parquet")
    report = summary(music / "a.wav", "-e", "noise", "-o", tmp_path / "out.parquet")
    assert (report["files"], report["kept"]) == (2, 1)
    assert {row["path"] for row in rows(tmp_path / "out.parquet")} == {str(music / "a.wav"), "deep/c.wav"}


def test_overwrite_replaces_an_output_of_other_settings_once_the_new_one_is_there(tmp_path, music):
    for name in ("out.parquet", "out"):
        out = tmp_path / name
        summary(music, "-e", "noise", "-o", out)
        before = rows(out)
        options = ("-e", "noise", "--per", "window", "-o", out, "--overwrite")
        assert run("embed", tmp_path / "none.wav", *options).exit_code == 1
        assert rows(out) == before
        assert summary(music / "a.wav", *options)["files"] == 1
        assert rows(out) == carrara.embed(music / "a.wav", "noise", per="window").to_pylist()
    (tmp_path / "mine.parquet").write_text("precious")
    assert run("embed", music, "-e", "noise", "-o", tmp_path / "mine.parquet", "--overwrite").exit_code == 1
    assert (tmp_path / "mine.parquet").read_text() == "precious"


def test_foreign_files_beside_the_parts_stay(tmp_path, music):
    out, parts = tmp_path / "out.parquet", tmp_path / "out.parquet.parts"
    names = {"notes.txt", ".hidden", ".part-00001.parquet.bak", ".part-x.parquet.tmp", "part-old.parquet", "_x"}
    (parts / "folder").mkdir(parents=True)
    for name in names:
        (parts / name).write_text("precious")
    for leftover in (".part-00000.parquet.tmp", ".part-00003.parquet.copy"):
        (parts / leftover).write_text("of a killed process")
    assert summary(music, "-e", "noise", "-o", out)["files"] == 3
    assert {path.name for path in parts.iterdir()} == names | {"folder"}
    assert all((parts / name).read_text() == "precious" for name in names)


def test_a_link_stays_a_link_and_a_pipe_is_refused(tmp_path, music):
    (tmp_path / "deep").mkdir()
    link, pipe = tmp_path / "out.parquet", tmp_path / "pipe.parquet"
    link.symlink_to("deep/real.parquet")
    for paths in ([music / "a.wav"], [music]):
        summary(*paths, "-e", "noise", "-o", link)
    assert link.is_symlink()
    assert len(rows(tmp_path / "deep" / "real.parquet")) == 3
    os.mkfifo(pipe)
    assert "pipe.parquet: a pipe or device" in run("embed", music, "-e", "noise", "-o", pipe).stderr


@pytest.mark.parametrize("command", [("embed", "-e", "noise"), ("tag", "-e", "musicnn-mtt:random")])
def test_an_output_folder_that_is_a_file_or_device_is_named_as_one(tmp_path, music, command):
    (tmp_path / "file").write_text("precious")
    for output in (tmp_path / "file", "/dev/null"):
        result = run(*command, music / "a.wav", "-o", output)
        assert result.exit_code == 1 and f"{output}: " in result.stderr and "a file or device" in result.stderr
    assert (tmp_path / "file").read_text() == "precious" and Path("/dev/null").is_char_device()


def test_killed_at_any_step_of_the_join_nothing_is_lost(tmp_path, monkeypatch):
    """What SIGKILL leaves is what is on the disk, so the folder is copied before each rename and removal."""
    folder, work, kills = tmp_path / "music", tmp_path / "work", tmp_path / "kills"
    for path in (folder, work, kills):
        path.mkdir()
    for index in range(4):
        soundfile.write(folder / f"{index}.wav", np.random.default_rng(index).uniform(-0.3, 0.3, RATE), RATE)
    files, encoder, config = sorted(folder.iterdir()), load("noise"), EmbedConfig()
    write_embeddings(encoder, files[:2], work / "x.parquet", config)
    before = rows(work / "x.parquet")

    def copying(function):
        def run(*arguments, **options):
            shutil.copytree(work, kills / str(len(list(kills.iterdir()))))
            return function(*arguments, **options)

        return run

    with monkeypatch.context() as patch:
        for name in ("replace", "unlink", "rmdir"):
            patch.setattr(os, name, copying(getattr(os, name)))
        write_embeddings(encoder, files, work / "x.parquet", config, part_rows=1)
    truth = rows(work / "x.parquet")
    assert len(truth) == 4 and len(list(kills.iterdir())) > 5
    for kill in kills.iterdir():
        former = rows(kill / "x.parquet")
        assert former in (before, sorted(former, key=itemgetter("path")))
        assert before == [row for row in former if row in before]
        write_embeddings(encoder, files, kill / "x.parquet", config)
        assert sorted(rows(kill / "x.parquet"), key=itemgetter("path")) == truth
        assert [path.name for path in kill.iterdir()] == ["x.parquet"]


def test_a_second_process_on_one_output_is_told_and_changes_nothing(tmp_path, music):
    out = tmp_path / "out.parquet"
    with file_lock(tmp_path / "out.parquet.parts" / ".lock"):
        result = run("embed", music, "-e", "noise", "-o", out)
    assert result.exit_code == 1
    assert "another process is writing here" in result.stderr
    assert not out.exists()
