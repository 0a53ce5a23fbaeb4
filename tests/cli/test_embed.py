"""`carrara embed` and `carrara cache` end to end: rows, metadata, broken files, resuming, errors."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from operator import itemgetter
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner

import carrara
from carrara.cli._main import app
from carrara.core.errors import UsageError
from carrara.encoders._hub.load import load
from carrara.features.embed import embed_files
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
    for name, seconds in [("a.wav", 2.0), ("b.flac", 65.5), ("deep/c.wav", 0.05)]:
        noise = np.random.default_rng(len(name)).uniform(-0.3, 0.3, round(seconds * RATE))
        soundfile.write(folder / name, noise, RATE)
    (folder / "cover.jpg").write_bytes(b"not sound")
    return folder


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def summary(*arguments, code=0):
    result = run("embed", *arguments, "--json")
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout)


def rows(path):
    return pq.read_table(path).to_pylist()


def test_one_row_a_recording_with_its_provenance(tmp_path, music):
    out = tmp_path / "out.parquet"
    report = summary(music, "-e", "noise", "-o", out)
    assert (report["rows"], report["files"], report["embedded"], report["failed"]) == (3, 3, 3, {})
    table = pq.read_table(out)
    assert table.column_names == ["path", "start", "duration", "layer", "embedding"]
    assert [Path(path).name for path in table["path"].to_pylist()] == ["a.wav", "b.flac", "c.wav"]
    assert table["duration"].to_pylist() == [2.0, 65.5, 0.05]
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[64]"
    metadata = table.schema.metadata
    assert metadata[b"encoder"] == b"noise"
    assert metadata[b"weights_sha256"].decode() == load("noise").card.weights_sha256
    assert metadata[b"carrara"].decode() == carrara.__version__
    assert json.loads(metadata[b"settings"])["layer"] == "mean"
    assert not list(tmp_path.glob("*.parts"))


def test_windows_and_frames_have_the_right_times(tmp_path, music):
    out = tmp_path / "w.parquet"
    summary(music / "b.flac", "-e", "noise", "-o", out, "--per", "window", "--window", "10")
    assert [(row["start"], row["duration"]) for row in rows(out)] == [(10.0 * i, 10.0) for i in range(6)] + [
        (60.0, 5.5)
    ]
    out = tmp_path / "f.parquet"
    summary(music / "b.flac", "-e", "noise", "-o", out, "--per", "frame", "--window", "10")
    starts = np.array([row["start"] for row in rows(out)])
    np.testing.assert_allclose(starts, np.arange(len(starts)) / 50.0)
    assert len(starts) == 65.5 * 50


@pytest.mark.parametrize("encoder", ["mfcc", "musicnn-msd:random"])
def test_frames_of_an_encoder_without_frames_are_refused(tmp_path, music, encoder):
    result = run("embed", music, "-e", encoder, "-o", tmp_path / "out.parquet", "--per", "frame")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(
        f"carrara embed: --per frame: {encoder} has one vector per window; use --per window"
    )
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("out.parquet*"))
    with pytest.raises(UsageError, match="has one vector per window"):
        carrara.embed(tmp_path / "none.wav", encoder, per="frame")


def test_layers_are_those_of_the_encoder_itself(tmp_path, music):
    import torch

    encoder = load("mert-tiny:random")
    samples_T = torch.from_numpy(soundfile.read(music / "a.wav", dtype="float32")[0])
    with torch.inference_mode():
        truth_LD = encoder(samples_T[None])[0].mean(dim=1).numpy()
        cnn_D = encoder.forward_with_cnn(samples_T[None])[1][0].mean(dim=0).numpy()
    truths = {"all": truth_LD, "0": truth_LD[:1], "2": truth_LD[2:3], "last": truth_LD[-1:], "cnn": cnn_D[None]}
    for layer, truth in {**truths, "mean": truth_LD.mean(axis=0)[None]}.items():
        table = carrara.embed(music / "a.wav", encoder, layer=layer)
        np.testing.assert_allclose(np.stack(table["embedding"].to_pylist()), truth, atol=2e-5)
        assert len(set(table["layer"].to_pylist())) == len(truth)
    result = run("embed", music, "-e", "mert-tiny:random", "-o", tmp_path / "x.parquet", "--layer", "13")
    assert result.exit_code == 2
    assert "0 to 4" in result.stderr


def test_the_function_returns_what_the_command_writes(tmp_path, music):
    out = tmp_path / "out.parquet"
    summary(music, "-e", "mfcc", "-o", out)
    with pytest.warns(UserWarning, match="no such file"):
        table = carrara.embed([music, tmp_path / "none.wav"], "mfcc")
    assert table.to_pylist() == rows(out)


def test_broken_files_are_reported_the_rest_go_on_and_the_exit_code_is_1(tmp_path, music):
    (music / "empty.wav").touch()
    whole = (music / "b.flac").read_bytes()
    (music / "short.flac").write_bytes(whole[: len(whole) // 2])
    soundfile.write(music / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    out = tmp_path / "out.parquet"
    result = run("embed", music, tmp_path / "none.wav", "-e", "noise", "-o", out, "--per", "window")
    assert result.exit_code == 1
    for reason in ("empty.wav: empty", "short.flac: cut short", "nan.wav: holds samples", "none.wav: no such file"):
        assert reason in result.stderr
    assert {Path(row["path"]).name for row in rows(out)} == {"a.wav", "b.flac", "c.wav"}
    (music / "short.flac").write_bytes(whole)
    report = summary(music, "-e", "noise", "-o", out, "--per", "window", code=1)
    assert (report["embedded"], report["reused"], len(report["failed"])) == (1, 3, 2)


def test_odd_names_and_pipes_do_not_end_the_run(tmp_path, music):
    latin, pipe = music / os.fsdecode(b"caf\xe9.wav"), music / "p.wav"
    latin.write_bytes((music / "a.wav").read_bytes())
    os.mkfifo(pipe)
    out = tmp_path / "out.parquet"
    report = summary(music, pipe, "-e", "noise", "-o", out, code=1)
    assert report["embedded"] == 3
    assert report["failed"] == {
        str(latin): f"{music}/caf\\xe9.wav: its name is not UTF-8; rename the file or its folder",
        str(pipe): f"{pipe}: a pipe or device, not an audio file; write its audio to a file first",
    }
    with pytest.warns(UserWarning, match="not UTF-8"):
        assert len(carrara.embed([latin, music / "a.wav"], "noise")) == 1


def test_the_same_command_embeds_only_what_is_new(tmp_path, music):
    out = tmp_path / "out.parquet"
    command = (music, "-e", "mfcc", "-o", out, "--per", "window", "--window", "7")
    summary(*command)
    stamp, first = out.stat().st_mtime_ns, rows(out)
    assert summary(*command)["embedded"] == 0
    assert out.stat().st_mtime_ns == stamp
    soundfile.write(music / "aa.wav", np.zeros(RATE), RATE)
    soundfile.write(music / "a.wav", np.zeros(3 * RATE), RATE)
    (music / "deep" / "c.wav").unlink()
    report = summary(*command)
    assert (report["embedded"], report["reused"], report["kept"], report["files"]) == (2, 1, 1, 4)
    report = summary(*command, "--overwrite")
    assert (report["embedded"], report["reused"], report["kept"], report["files"]) == (0, 3, 0, 3)
    again = tmp_path / "again.parquet"
    summary(music, "-e", "mfcc", "-o", again, "--per", "window", "--window", "7")
    assert sorted(rows(out), key=itemgetter("path", "start")) == rows(again)
    assert [row for row in first if row["path"].endswith("b.flac")] == [
        row for row in rows(out) if row["path"].endswith("b.flac")
    ]


@pytest.mark.parametrize("name", ["out.parquet", "out"])
def test_an_interrupted_run_continues(tmp_path, music, monkeypatch, name):
    out = tmp_path / name

    def interrupted(*arguments):
        ended = 0
        for chunk in embed_files(*arguments):
            if ended == 2:
                raise KeyboardInterrupt
            ended += chunk.table is None
            yield chunk

    with monkeypatch.context() as patch:
        patch.setattr("carrara.features.parquet.embed_files", interrupted)
        result = run("embed", music, "-e", "noise", "-o", out)
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert not (tmp_path / "out.parquet").exists()
    report = summary(music, "-e", "noise", "-o", out)
    assert (report["embedded"], report["reused"], report["rows"]) == (1, 2, 3)
    assert len(rows(out)) == 3


KILLED = """
import sys, time
from pathlib import Path
from carrara.encoders._hub.load import load
from carrara.features.embed_config import EmbedConfig
from carrara.features.parquet import write_embeddings

encoder = load("noise")
windows = []

def wait(*_):
    windows.append(1)
    if len(windows) == 16:  # of which 12 are written, until this process is killed
        time.sleep(600)

encoder.register_forward_pre_hook(wait)
files = sorted(Path(sys.argv[1]).iterdir())
write_embeddings(encoder, files, Path(sys.argv[2]), EmbedConfig(per="window"), batch_size=1, part_rows=3)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out.parquet", "out"])
def test_a_killed_run_loses_one_part_at_most(tmp_path, name):
    folder, out = tmp_path / "music", tmp_path / name
    folder.mkdir()
    for index in range(40):
        noise = np.random.default_rng(index).uniform(-0.3, 0.3, RATE)
        soundfile.write(folder / f"{index:02d}.wav", noise, RATE)
    parts = tmp_path / "out.parquet.parts" if name == "out.parquet" else out
    for part in (2, 5):
        with subprocess.Popen([sys.executable, "-c", KILLED, str(folder), str(out)]) as process:
            while not (parts / f"part-{part:05d}.parquet").exists() and process.poll() is None:
                time.sleep(0.005)
            process.kill()
        assert process.returncode == -signal.SIGKILL
    stored = sum(pq.read_metadata(file).num_rows for file in parts.glob("part-*.parquet"))
    assert 18 <= stored < 40
    files, encoder = sorted(folder.iterdir()), load("noise")
    report = write_embeddings(encoder, files, out, EmbedConfig(per="window"))
    assert (report.reused, report.embedded, report.failed) == (stored, 40 - stored, {})
    table = carrara.embed(folder, encoder, per="window")
    assert sorted(rows(out), key=itemgetter("path")) == table.to_pylist()
    assert {file.name for file in tmp_path.iterdir()} == {"music", "home", name}


def test_a_folder_of_parts_holds_the_same_rows_and_keeps_other_files(tmp_path, music):
    out = tmp_path / "out"
    out.mkdir()
    (out / "_notes.txt").write_text("precious")
    encoder, config = load("mfcc"), EmbedConfig(per="window", window_seconds=7)
    files = sorted(path for path in music.rglob("*") if path.suffix in {".wav", ".flac"})
    for count in (1, 3):
        report = write_embeddings(encoder, files[:count], out, config, part_rows=1)
        expected = carrara.embed(files[:count], encoder, per="window", window=7).to_pylist()
        assert rows(out) == expected
        assert report.rows == len(expected)
    stamps = {file: file.stat().st_mtime_ns for file in out.iterdir()}
    assert write_embeddings(encoder, files, out, config).reused == 3
    assert {file: file.stat().st_mtime_ns for file in out.iterdir()} == stamps
    assert {file.name for file in stamps} == {"_notes.txt", *(f"part-{index:05d}.parquet" for index in range(3))}
    # The rows of a recording that changes are replaced, those of one that is not given are dropped only if told to.
    soundfile.write(files[0], np.zeros(3 * RATE), RATE)
    report = write_embeddings(encoder, files[:2], out, config)
    assert (report.embedded, report.reused, report.recordings, report.kept) == (1, 1, 3, [str(files[2])])
    report = write_embeddings(encoder, files[:2], out, config, overwrite=True)
    assert (report.embedded, report.reused, report.recordings, report.kept) == (0, 2, 2, [])
    expected = carrara.embed(files[:2], encoder, per="window", window=7).to_pylist()
    assert sorted(rows(out), key=itemgetter("path", "start")) == expected
    assert (out / "_notes.txt").read_text() == "precious"


def test_an_empty_folder_is_taken_for_parts_only_with_a_slash(tmp_path, music):
    """A forgotten file name is refused before anything is embedded; the cures that the message names work."""
    folder = tmp_path / "folder"
    folder.mkdir()
    done = run("embed", music, "-e", "noise", "-o", folder)
    assert done.exit_code == 2 and done.stderr.count("\n") == 1
    cures = re.fullmatch(
        r"carrara embed: -o .*: an empty folder; give (\S+) for Parquet .* in it, or (\S+)\n", done.stderr
    )
    assert not list(folder.iterdir())
    assert run("embed", music, "-e", "noise", "-o", cures[2]).exit_code == 0
    expected = rows(folder / "NAME.parquet")
    (folder / "NAME.parquet").unlink()
    assert run("embed", music, "-e", "noise", "-o", cures[1]).exit_code == 0
    # Parts are completed without the slash, and a folder that is not there is made.
    for out in (folder, tmp_path / "new", f"{tmp_path}/fresh/"):
        done = run("embed", music, "-e", "noise", "-o", out)
        assert done.exit_code == 0, done.output
        assert rows(out) == expected
    # A first run without a single row leaves no folder that the second would refuse.
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    for _ in range(2):
        assert run("embed", tmp_path / "bad.wav", "-e", "noise", "-o", tmp_path / "none").exit_code == 1
    (tmp_path / "shards").mkdir()
    shard = ("--num-shards", 2, "--shard-index", 0)
    assert run("embed", music, "-e", "noise", "-o", tmp_path / "shards", *shard).exit_code == 0


def test_rows_of_a_recording_that_fails_late_are_removed(tmp_path):
    # The rows fill a row group before the end of the file is found to be missing.
    good, torn = tmp_path / "a.wav", tmp_path / "b.wav"
    soundfile.write(good, np.random.default_rng(0).uniform(-0.3, 0.3, 2 * RATE), RATE)
    soundfile.write(torn, np.random.default_rng(1).uniform(-0.3, 0.3, 300 * RATE), RATE)
    torn.write_bytes(torn.read_bytes()[: -4000 * 2])
    wide, config = load("noise"), EmbedConfig(per="window", window_seconds=0.05)
    report = write_embeddings(wide, [good, torn], tmp_path / "out.parquet", config)
    assert list(report.failed) == [str(torn)]
    assert report.rows == 40
    assert rows(tmp_path / "out.parquet") == carrara.embed(good, wide, per="window", window=0.05).to_pylist()


def test_other_settings_are_refused_by_name(tmp_path, music):
    out = tmp_path / "out.parquet"
    summary(music, "-e", "noise", "-o", out)
    before = out.read_bytes()
    for options, key in [(("--per", "window"), "per"), (("--layer", "0"), "layer")]:
        result = run("embed", music, "-e", "noise", "-o", out, *options)
        assert result.exit_code == 2
        assert f"made with another {key}" in result.stderr
    assert "another encoder ('noise', now 'mfcc')" in run("embed", music, "-e", "mfcc", "-o", out).stderr
    assert out.read_bytes() == before
    other = tmp_path / "mine.parquet"
    other.write_text("precious")
    assert "was not made by this command" in run("embed", music, "-e", "noise", "-o", other).stderr
    assert other.read_text() == "precious"
    before = {file: file.stat().st_mtime_ns for file in music.rglob("*")}
    assert "holds other files, such as a.wav" in run("embed", music, "-e", "noise", "-o", music).stderr
    assert {file: file.stat().st_mtime_ns for file in music.rglob("*") if file != music} == before


def test_no_audio_files_and_no_writable_folder(tmp_path, music):
    (tmp_path / "bare").mkdir()
    result = run("embed", tmp_path / "bare", "-e", "noise", "-o", tmp_path / "x.parquet")
    assert result.exit_code == 1
    assert "bare: no audio files in it" in result.stderr
    (tmp_path / "file").touch()
    result = run("embed", music, "-e", "noise", "-o", tmp_path / "file" / "x.parquet")
    assert result.exit_code == 1
    assert "cannot write here" in result.stderr
    assert run("embed", music, "-e", "nois", "-o", tmp_path / "x.parquet").exit_code == 2
    assert run("embed", music, "-e", "noise", "-o", tmp_path / "x.parquet", "--window", "0").exit_code == 2
    short = ("--per", "frame", "--window", "2", "--hop", "2")
    result = run("embed", music, "-e", "noise", "-o", tmp_path / "x.parquet", *short)
    assert result.exit_code == 2
    assert "must overlap" in result.stderr


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from carrara.cli._main import main
from carrara.features import parquet

write = parquet.write_embeddings
parquet.write_embeddings = lambda *arguments, **options: write(*arguments, **options, part_rows=1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, -1))
main()
"""


@pytest.mark.slow
def test_a_full_disk_loses_one_part_at_most(tmp_path, music):
    out = tmp_path / "out.parquet"
    command = ["embed", str(music), "-e", "noise", "-o", str(out), "--per", "frame"]
    done = subprocess.run([sys.executable, "-c", FULL_DISK, *command], capture_output=True, text=True)
    assert done.returncode == 1
    assert "cannot write here" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not out.exists()
    assert summary(*command[1:])["reused"] == 1


@pytest.mark.slow
def test_memory_stays_flat_however_long_the_recording(tmp_path):
    encoder = load("noise")
    process = psutil.Process()

    def peak_memory(minutes):
        path = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(path, "w", RATE, 1, subtype="PCM_U8") as file:
            for minute in range(minutes):
                file.write(np.random.default_rng(minute).uniform(-0.5, 0.5, 60 * RATE))
        before = process.memory_info().rss
        peak = 0

        def measure(seconds, note=""):
            nonlocal peak
            peak = max(peak, process.memory_info().rss - before)

        chunks = list(embed_files(encoder, [path], EmbedConfig(), advance=measure))
        assert chunks[0].table["duration"].to_pylist() == [60.0 * minutes]
        return peak

    peak_memory(6)
    # Three hours are 691 MB of float32 samples.
    assert peak_memory(180) < 150e6


def test_the_cache_is_listed_by_encoder_and_cleaned(tmp_path, music):
    from carrara.core.clip import Clip
    from carrara.features.extract import WindowSpec, extract

    for name in ("noise", "mfcc"):
        features = extract(load(name), [Clip("a", music / "a.wav")], WindowSpec())
    assert run("cache", "dir").stdout.strip() == str(tmp_path / "home")
    sizes = json.loads(run("cache", "size", "--json").stdout)
    assert {store["encoder"]: store["items"] for store in sizes["stores"]} == {"noise": 1, "mfcc": 1}
    assert "mfcc\t1 items" in run("cache", "size").stdout
    assert run("cache", "clean").exit_code == 2
    assert run("cache", "clean", "--encoder", "mfc", "--yes").exit_code == 2
    with features.store.writer():
        assert "another process has it open" in run("cache", "clean", "-e", "mfcc", "--yes").stderr
    del features
    assert run("cache", "clean", "-e", "mfcc", "--yes").exit_code == 0
    assert [store["encoder"] for store in json.loads(run("cache", "size", "--json").stdout)["stores"]] == ["noise"]
    assert run("cache", "clean", "--yes").exit_code == 0
    assert json.loads(run("cache", "size", "--json").stdout) == {"stores": [], "index": 0, "bytes": 0}
