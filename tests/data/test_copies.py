"""Copies of recordings across splits are found whatever their codec, level and start, and nothing else is."""

import json

import av
import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from carrara.audio.decode import load_audio
from carrara.audio.fingerprint import RATE, audio_fingerprint, find_copies
from carrara.cli._main import app
from carrara.data.folder import DATASET, FolderDataset

SOURCE_RATE = 24_000


def music(seed, seconds=8.0):
    """Return chords of plucked tones, a bass and noise bursts: another piece for each seed, at one tempo."""
    rng = np.random.default_rng(seed)
    samples_T = np.zeros(int(seconds * SOURCE_RATE))
    for beat in np.arange(0, seconds, 0.25):
        begin = int(beat * SOURCE_RATE)
        time = np.arange(min(SOURCE_RATE // 2, len(samples_T) - begin)) / SOURCE_RATE
        for pitch in rng.choice(np.arange(40, 88), 3, replace=False):
            hertz = 440 * 2 ** ((pitch - 69) / 12)
            tone = sum(np.sin(2 * np.pi * hertz * n * time) / n for n in range(1, 6))
            samples_T[begin : begin + len(time)] += 0.05 * tone * np.exp(-6 * time)
        burst = rng.standard_normal(len(time)) * np.exp(-40 * time)
        samples_T[begin : begin + len(time)] += 0.03 * rng.random() * burst
    return samples_T


def write_mp3(path, samples_T, bit_rate=64_000):
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libmp3lame", rate=SOURCE_RATE, layout="mono")
        stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(samples_T[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = SOURCE_RATE
        queue = av.AudioFifo()
        queue.write(frame)
        while (part := queue.read(stream.codec_context.frame_size or 1152) or queue.read()) is not None:
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))


CHANGES = {
    "codec": lambda x: x,
    "level": lambda x: 0.1 * x,
    "start": lambda x: x[int(1.29 * SOURCE_RATE) :],
    "excerpt of 2 s": lambda x: x[3 * SOURCE_RATE : 5 * SOURCE_RATE],
}


@pytest.mark.parametrize("change", CHANGES)
def test_copies_are_found_with_their_offset_and_nothing_else_is(tmp_path, change):
    pieces = [music(seed) for seed in range(8)]
    prints = []
    for number, piece in enumerate(pieces):
        soundfile.write(tmp_path / "a.flac", piece, SOURCE_RATE)
        write_mp3(tmp_path / "b.mp3", CHANGES[change](piece), 48_000)
        prints.insert(number, audio_fingerprint(load_audio(tmp_path / "a.flac", RATE)))
        prints.append(audio_fingerprint(load_audio(tmp_path / "b.mp3", RATE)))
    copies = find_copies(prints)
    assert [(copy.first, copy.second) for copy in copies] == [(n, n + 8) for n in range(8)]
    expected = {"start": 1.29, "excerpt of 2 s": 3.0}.get(change, 0.0)
    assert all(abs(copy.offset_seconds - expected) < 0.08 for copy in copies)


@pytest.mark.parametrize("samples_T", [np.zeros(0), np.zeros(RATE), np.zeros(20 * RATE), np.ones(100)])
def test_silence_and_shortness_are_no_copies(samples_T):
    assert find_copies([audio_fingerprint(samples_T), audio_fingerprint(samples_T.copy())]) == []
    assert find_copies([]) == []


@pytest.fixture
def folder(tmp_path):
    for number in range(4):
        soundfile.write(tmp_path / f"{number}.flac", music(number), SOURCE_RATE)
    write_mp3(tmp_path / "again.mp3", 0.5 * music(0)[SOURCE_RATE:])
    lines = ["path,split,id,start,duration,mood", "0.flac,train,one,,,a", "again.mp3,test,two,,,b", "1.flac,train,,,,b"]
    lines += ["2.flac,train,first half,0,4,a", "2.flac,test,second half,4,4,b", "3.flac,valid,,,,b"]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    (tmp_path / "mood.toml").write_text('data = "."\ntask_type = "multiclass"\nlabel = "mood"\n')
    return tmp_path


def test_a_folder_with_copies_across_splits_is_not_as_expected(folder):
    report = DATASET.check(folder)
    assert not report.ok and len(report.copies) == 1 and report.copies[0].startswith("one ~ two (")
    leaks = [leak.group for leak in report.leaks]
    assert leaks == ["first half and second half (of one file)", report.copies[0]]
    text = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(text.replace("again.mp3,test", "again.mp3,train"))
    assert [leak.group for leak in DATASET.check(folder).leaks] == leaks[:1]
    assert FolderDataset.finds_copies and DATASET.check(folder).copies


def run(*arguments):
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def test_the_command_takes_a_folder_or_a_task_file(folder):
    for name in (folder, folder / "mood.toml"):
        done = run(name)
        assert done.exit_code == 1 and "copies: one ~ two (" in done.stdout and "leak: first half and" in done.stdout
        assert json.loads(run(name, "--json").stdout)["copies"]
    (folder / "labels.csv").write_text((folder / "labels.csv").read_text().replace(",a", ",").replace(",b", ","))
    done = run(folder / "mood.toml")
    assert done.exit_code == 2 and "label is 'mood'" in done.stderr


def test_a_missing_folder_is_named(tmp_path):
    for name in (tmp_path / "none", "./none"):
        done = run(name)
        assert done.exit_code == 2 and "no such folder or task file" in done.stderr
    assert "Did you mean 'pebble'" in run("pebbel").stderr
