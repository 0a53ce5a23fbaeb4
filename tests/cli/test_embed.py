"""`carrara embed` and `carrara cache` as a person meets them: rows, metadata, broken files, resuming, refusals."""

import json
import os
import resource
import subprocess
import sys
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
from carrara.features import parquet

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
    told = summary(music, "-e", "noise", "-o", out)
    assert (told["rows"], told["files"], told["heard"], told["failed"]) == (3, 3, 3, {})
    table = pq.read_table(out)
    assert table.column_names == ["path", "start", "duration", "layer", "embedding"]
    assert [Path(path).name for path in table["path"].to_pylist()] == ["a.wav", "b.flac", "c.wav"]
    assert table["duration"].to_pylist() == [2.0, 65.5, 0.05]
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[64]"
    told = table.schema.metadata
    encoder = load("noise")
    assert told[b"encoder"] == b"noise"
    assert told[b"weights"].decode() == encoder.card.weights_sha256
    assert told[b"carrara"].decode() == carrara.__version__
    assert json.loads(told[b"settings"])["layer"] == "mean"
    assert not list(tmp_path.glob("*.parts"))


def test_windows_and_frames_lie_where_they_should(tmp_path, music):
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
def test_frames_of_an_encoder_that_answers_once_a_clip_are_refused(tmp_path, music, encoder):
    result = run("embed", music, "-e", encoder, "-o", tmp_path / "out.parquet", "--per", "frame")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"carrara embed: --per frame: {encoder} answers once a clip; take --per window")
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("out.parquet*"))
    with pytest.raises(UsageError, match="answers once a clip"):
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


def test_the_function_gives_what_the_verb_writes(tmp_path, music):
    out = tmp_path / "out.parquet"
    summary(music, "-e", "mfcc", "-o", out)
    with pytest.warns(UserWarning, match="no such file"):
        table = carrara.embed([music, tmp_path / "none.wav"], "mfcc")
    assert table.to_pylist() == rows(out)


def test_broken_files_are_named_the_rest_go_on_and_the_exit_code_says_so(tmp_path, music):
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
    told = summary(music, "-e", "noise", "-o", out, "--per", "window", code=1)
    assert (told["heard"], told["kept"], len(told["failed"])) == (1, 3, 2)


def test_the_same_command_hears_only_what_is_new(tmp_path, music):
    out = tmp_path / "out.parquet"
    command = (music, "-e", "mfcc", "-o", out, "--per", "window", "--window", "7")
    summary(*command)
    stamp, first = out.stat().st_mtime_ns, rows(out)
    assert summary(*command)["heard"] == 0
    assert out.stat().st_mtime_ns == stamp
    soundfile.write(music / "aa.wav", np.zeros(RATE), RATE)
    soundfile.write(music / "a.wav", np.zeros(3 * RATE), RATE)
    (music / "deep" / "c.wav").unlink()
    told = summary(*command)
    assert (told["heard"], told["kept"]) == (2, 1)
    again = tmp_path / "again.parquet"
    summary(music, "-e", "mfcc", "-o", again, "--per", "window", "--window", "7")
    assert rows(out) == rows(again)
    assert [row for row in first if row["path"].endswith("b.flac")] == [
        row for row in rows(out) if row["path"].endswith("b.flac")
    ]


def test_an_interrupted_run_goes_on(tmp_path, music, monkeypatch):
    out = tmp_path / "out.parquet"
    original, count = parquet._until_end, []

    def interrupted(stream, writer):
        count.append(None)
        if len(count) == 3:
            raise KeyboardInterrupt
        original(stream, writer)

    monkeypatch.setattr(parquet, "_until_end", interrupted)
    result = run("embed", music, "-e", "noise", "-o", out)
    assert result.exit_code == 130
    assert "goes on" in result.stderr
    assert not out.exists()
    assert len(list(tmp_path.glob("out.parquet.parts/*.parquet"))) == 2
    told = summary(music, "-e", "noise", "-o", out)
    assert (told["heard"], told["kept"], told["rows"]) == (1, 2, 3)


def test_other_settings_are_refused_by_name(tmp_path, music):
    out = tmp_path / "out.parquet"
    summary(music, "-e", "noise", "-o", out)
    before = out.read_bytes()
    for options, key in [(("--per", "window"), "per"), (("--layer", "0"), "layer")]:
        result = run("embed", music, "-e", "noise", "-o", out, *options)
        assert result.exit_code == 1
        assert f"made with another {key}" in result.stderr
    assert "another encoder ('noise', now 'mfcc')" in run("embed", music, "-e", "mfcc", "-o", out).stderr
    assert out.read_bytes() == before
    other = tmp_path / "mine.parquet"
    other.write_text("precious")
    assert "not made by" in run("embed", music, "-e", "noise", "-o", other).stderr
    assert other.read_text() == "precious"


def test_nothing_to_hear_and_nowhere_to_write(tmp_path, music):
    (tmp_path / "bare").mkdir()
    result = run("embed", tmp_path / "bare", "-e", "noise", "-o", tmp_path / "x.parquet")
    assert result.exit_code == 1
    assert "bare: no sound files in it" in result.stderr
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


def test_a_full_disk_loses_nothing(tmp_path, music):
    out = tmp_path / "out.parquet"
    code = (
        "import resource, signal, sys; from carrara.cli._main import main; import carrara.features.parquet;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, -1)); main()"
    )
    command = ["embed", str(music), "-e", "noise", "-o", str(out), "--per", "frame"]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 1
    assert "cannot write here" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not out.exists()
    assert summary(*command[1:])["kept"] == 1
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_memory_stays_flat_however_long_the_recording(tmp_path):
    encoder = load("noise")
    process = psutil.Process()

    def grown(minutes):
        path = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(path, "w", RATE, 1, subtype="PCM_U8") as file:
            for minute in range(minutes):
                file.write(np.random.default_rng(minute).uniform(-0.5, 0.5, 60 * RATE))
        before = process.memory_info().rss
        peak = 0

        def watch(seconds):
            nonlocal peak
            peak = max(peak, process.memory_info().rss - before)

        from carrara.features.embed import EmbedConfig, embed_files

        heard = list(embed_files(encoder, [path], EmbedConfig(), advance=watch))
        assert heard[0].table["duration"].to_pylist() == [60.0 * minutes]
        return peak

    grown(6)
    # Three hours are 691 MB of float32 samples.
    assert grown(180) < 150e6


def test_the_cache_is_told_by_encoder_and_cleaned(tmp_path, music):
    from carrara.core.clip import Clip
    from carrara.features.extract import WindowSpec, extract

    for name in ("noise", "mfcc"):
        features = extract(load(name), [Clip("a", music / "a.wav")], WindowSpec())
    assert run("cache", "dir").stdout.strip() == str(tmp_path / "home")
    told = json.loads(run("cache", "size", "--json").stdout)
    assert {store["encoder"]: store["items"] for store in told["stores"]} == {"noise": 1, "mfcc": 1}
    assert "mfcc\t1 items" in run("cache", "size").stdout
    assert run("cache", "clean").exit_code == 2
    assert run("cache", "clean", "--encoder", "mfc", "--yes").exit_code == 2
    with features.store.writer():
        assert "another process is writing" in run("cache", "clean", "-e", "mfcc", "--yes").stderr
    assert run("cache", "clean", "-e", "mfcc", "--yes").exit_code == 0
    assert [store["encoder"] for store in json.loads(run("cache", "size", "--json").stdout)["stores"]] == ["noise"]
    assert run("cache", "clean", "--yes").exit_code == 0
    assert json.loads(run("cache", "size", "--json").stdout) == {"stores": [], "index": 0, "bytes": 0}
