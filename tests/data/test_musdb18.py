"""MUSDB18 in both editions: the validation list is mus.yaml's, folders determine the splits, faults are reported."""

import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from carrara.audio.stems import StemSource, load_stem, parse_stem
from carrara.bench.tasks.musdb18.stems import TASK
from carrara.core.errors import DataError
from carrara.data.musdb18 import DATASET, STEMS, STREAMS, VALIDATION

SPLITS = {
    "train/Music Delta - Rock": "train",
    "train/Patrick Talbot - Set Me Free": "train",
    "train/Patrick Talbot - A Reason To Leave": "valid",
    "train/Johnny Lokke - Promises & Lies": "valid",
    "test/Georgia Wonder - Siren": "test",
    "test/M.E.R.C. Music - Knockout": "test",
}


def tone(number, seconds=0.3):
    time = np.arange(round(seconds * 44100)) / 44100
    return np.stack([0.1 * (number + 1) * np.sin(2 * np.pi * 220 * (number + 1) * time), np.zeros_like(time)])


def write_song(root, song, seconds=0.3):
    path = root / song
    path.mkdir(parents=True)
    waves = {stem: tone(STREAMS[stem], seconds) for stem in STEMS}
    for name, samples in {"mixture": sum(waves.values()), **waves}.items():
        soundfile.write(path / f"{name}.wav", samples.T, 44100, "PCM_16")


def write_stem_mp4(path, seconds=0.3):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        streams = [container.add_stream("aac", rate=44100, layout="stereo") for _ in range(5)]
        for number, stream in enumerate(streams):
            samples = tone(number, seconds).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = 44100, 0, Fraction(1, 44100)
            for packet in (*stream.encode(frame), *stream.encode(None)):
                container.mux(packet)


@pytest.fixture
def root(tmp_path):
    for song in SPLITS:
        write_song(tmp_path / "musdb18", song)
    return tmp_path / "musdb18"


@pytest.mark.needs_fixtures
def test_the_validation_songs_and_the_streams_are_those_of_mus_yaml(fixtures_dir):
    text = (fixtures_dir / "musdb18" / "mus.yaml").read_text(encoding="utf-8")
    listed = re.findall(r"^- '(.+)'$", text.split("validation_tracks:")[1], re.MULTILINE)
    assert len(listed) == 14 and set(listed) == VALIDATION
    numbers = text.split("stem_ids:")[1].split("#")[0]
    assert {name: int(n) for name, n in re.findall(r"(\w+): (\d)", numbers)} == {"mixture": 0, **STREAMS}


@pytest.mark.needs_fixtures
def test_the_list_alone_is_no_dataset_and_the_error_names_what_is_expected(fixtures_dir):
    assert DATASET.root(fixtures_dir) == fixtures_dir / "musdb18"
    with pytest.raises(DataError, match=r"train: no songs <song>\.stem\.mp4.*`carrara download musdb18`"):
        DATASET.index(fixtures_dir / "musdb18")


def test_the_folders_and_the_list_determine_the_splits(root):
    clips = DATASET.clips(root, "official")
    assert {clip.id: clip.split for clip in clips} == {song.split("/")[1]: split for song, split in SPLITS.items()}
    assert [clip.id for clip in clips] == sorted(clip.id for clip in clips)
    assert all(clip.group == clip.id for clip in clips)
    assert DATASET.expected_counts["official"] == {"train": 100 - len(VALIDATION), "valid": 14, "test": 50}


def test_the_expected_number_of_songs_passes_and_fewer_fail(root):
    class Small(type(DATASET)):
        expected_counts = {"official": {"train": 2, "valid": 2, "test": 2}}  # noqa: RUF012

    assert Small().check(root).duplicates  # every song is made of the same tones
    assert not Small().check(root).differing
    report = DATASET.check(root)
    assert not report.ok and "official/train: 2 clips, should be 86" in report.differing


@pytest.mark.parametrize("layout", ["valid-folder", "nested"])
def test_other_layouts_give_the_same_songs(tmp_path, root, layout):
    other = tmp_path / "other"
    for song, split in SPLITS.items():
        top, name = song.split("/")
        write_song(
            other / "MUSDB18-HQ" if layout == "nested" else other, f"{top if layout == 'nested' else split}/{name}"
        )
    assert DATASET.splits(other) == DATASET.splits(root)


def test_a_song_in_both_editions_is_read_from_its_folder(root):
    write_stem_mp4(root / "train" / "Music Delta - Rock.stem.mp4")
    write_stem_mp4(root / "train" / "Actions - Devil's Words.stem.mp4")
    (root / "train" / "._Ghost.stem.mp4").write_bytes(b"x")
    clips = {clip.id: clip for clip in DATASET.index(root)}
    assert len(clips) == 7
    assert clips["Music Delta - Rock"].path.name == "mixture.wav"
    assert clips["Music Delta - Rock"].labels == {stem: f"{stem}.wav" for stem in STEMS}
    song = clips["Actions - Devil's Words"]
    assert song.labels == {"vocals": "stream:4", "drums": "stream:1", "bass": "stream:2", "other": "stream:3"}
    assert DATASET.paths(song) == (song.path,)
    assert len(DATASET.paths(clips["Music Delta - Rock"])) == 5


def test_each_label_names_its_stem(tmp_path):
    write_song(tmp_path, "train/a")
    write_stem_mp4(tmp_path / "test" / "b.stem.mp4")
    for clip in DATASET.index(tmp_path):
        for stem in STEMS:
            samples = load_stem(parse_stem(clip.path, clip.labels[stem]), 4000, 4410)
            loudest = np.abs(np.fft.rfft(samples[0])).argmax() * 10
            assert loudest == 220 * (STREAMS[stem] + 1)
            assert np.abs(samples[1]).max() < 0.01
    assert load_stem(StemSource(clip.path, 0)).shape[0] == 2


def test_the_check_names_faulty_files(root):
    (root / "train" / "Music Delta - Rock" / "bass.wav").unlink()
    (root / "test" / "Georgia Wonder - Siren" / "drums.wav").write_bytes(b"RIFF")
    soundfile.write(root / "stray.wav", np.zeros(10), 8000)
    report = DATASET.check(root)
    assert report.missing == ("Music Delta - Rock",)
    assert [Path(path).parts[-2:] for path in report.unreadable] == [("Georgia Wonder - Siren", "drums.wav")]
    assert report.extra == (str(root / "stray.wav"),)
    assert "partial" in report.comparability["official"]


def test_a_song_in_both_folders_is_refused(root):
    write_song(root, "test/Music Delta - Rock")
    with pytest.raises(DataError, match=r"test/Music Delta - Rock/mixture\.wav: .* is also in train/"):
        DATASET.index(root)


def test_the_task_has_the_four_stems_of_this_dataset():
    assert TASK.labels == STEMS and TASK.metrics == tuple(f"sdr_{stem}" for stem in STEMS)
    assert (TASK.window_seconds, TASK.examples_per_clip, TASK.max_epochs) == (6.0, 64, 50)
