"""EmoMusic in every known layout, its split by artist against JukeMIR's, and damaged annotations."""

import csv
from typing import ClassVar

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from carrara.bench.task_types.regression import TASK_TYPE
from carrara.bench.tasks.emomusic.emotion import TASK
from carrara.core.errors import DataError
from carrara.data import REGISTRY
from carrara.data.emomusic import DATASET, EmoMusic, artist_name, artist_split, parse_min_sec

HEADS = (
    "song_id", "file_name", "Artist", "Song title", "start of the segment (min.sec)", "end of the segment (min.sec)",
    "Genre", "Mediaeval 2013 set",
)  # fmt: skip
# Real artists, starts and sets; ratings of my own but for songs 2 and 3.
SONGS = (
    ("2", "2.mp3", "The New Mystikal Troubadours", "Tonight  A Lonely Century", "0.48", "1.33", "Blues", "development"),
    ("3", "3.mp3", "Kevin MacLeod", "DD Groove", "0.36", "1.21", "Blues", "evaluation"),
    ("7", "7.mp3", "Vieux Farka Touré", "One", "0.2", "1.05", "Folk", "development"),
    ("10", "10.mp3", "vieux  farka touré!", "Two, with a comma", "2.1", "2.55", "Folk", "evaluation"),
    ("1000", "1000.mp3", "Sláinte", "Three", "1", "1.45", "Folk", "development"),
)
RATINGS = (("2", "3.1", "3"), ("3", "3.5", "3.3"), ("7", "5", "6.25"), ("10", "8.4", "1.6"), ("1000", "1.6", "8.1"))


class Small(EmoMusic):
    """Five clips of a third of a second."""

    expected_counts: ClassVar = {"artist": {"train": 1, "valid": 2, "test": 2}}
    known_leaks: ClassVar = {"artist": 1}
    seconds = (0.3, 0.5)


def table(path, heads, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(heads)
        writer.writerows([f" {value}\t" for value in row] for row in rows)


def write_audio(path, seconds=0.35, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 44100))
    soundfile.write(path, noise, 44100, format="MP3")


def build(root, clips="clips_45seconds", annotations="annotations"):
    table(root / annotations / "songs_info.csv", HEADS, SONGS)
    heads = ("song_id", "mean_arousal", "std_arousal", "mean_valence", "std_valence")
    rows = [(number, arousal, "0.99443", valence, "0.66667") for number, arousal, valence in RATINGS]
    table(root / annotations / "static_annotations.csv", heads, rows)
    for seed, song in enumerate(SONGS):
        write_audio(root / clips / song[1], seed=seed)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build(tmp_path_factory.mktemp("data") / "emomusic")


@pytest.mark.parametrize("annotations", ["annotations", ".", "annotations/annotations"])
@pytest.mark.parametrize("clips", ["clips_45seconds", "clips_45sec/clips_45seconds", "clips_45sec", "."])
def test_every_known_layout_is_read(tmp_path, clips, annotations):
    read_clips = DATASET.index(build(tmp_path, clips, annotations))
    assert [clip.id for clip in read_clips] == ["2", "3", "7", "10", "1000"]
    assert [clip.path for clip in read_clips] == [tmp_path / clips / song[1] for song in SONGS]


def test_clips_are_indexed_without_audio(tmp_path):
    table(tmp_path / "songs_info.csv", HEADS, SONGS)
    table(tmp_path / "static_annotations.csv", ("song_id", "mean_arousal", "mean_valence"), RATINGS)
    assert [clip.path.name for clip in DATASET.index(tmp_path)] == [song[1] for song in SONGS]
    assert DATASET.check(tmp_path).missing == ("2", "3", "7", "10", "1000")


def test_labels_are_as_rated_and_without_blanks(root):
    first, _, third, fourth, last = DATASET.clips(root, "artist")
    assert first.labels == {
        "arousal": 3.1, "valence": 3.0, "genre": "Blues", "artist": "The New Mystikal Troubadours",
        "title": "Tonight  A Lonely Century", "segment_start": 48.0,
    }  # fmt: skip
    assert first.start == 0 and first.duration is None and first.group == "the new mystikal troubadours"
    assert (third.labels["segment_start"], fourth.labels["segment_start"], last.labels["segment_start"]) == (
        20,
        130,
        60,
    )
    assert third.group == fourth.group == "vieux farka tour"


def test_the_evaluation_set_is_the_test_split_for_any_artist(root):
    assert [clip.split for clip in DATASET.clips(root, "artist")] == ["valid", "test", "train", "test", "valid"]


@pytest.mark.parametrize(
    ("artist", "split"),
    [
        ("The New Mystikal Troubadours", "valid"),
        ("Kevin MacLeod", "valid"),
        ("Vieux Farka Touré", "train"),
        ("Sláinte", "valid"),
        ("Caühaüs", "train"),
        ("Björn & Gorden", "train"),
        ("…And You Will Know Us By The Trail Of Dead", "train"),
        ("My Bubba & Mi", "train"),
        ("WHO'S PANDA", "train"),
        ("Mr. & Mrs. Smith", "valid"),
        ("Cooper-Moore & Assif Tsahar", "valid"),
        ("Silver Process-Skid", "valid"),
        ("The New York Underground Orchestra (Conducted By Assif Tsahar)", "train"),
    ],
)
def test_an_artist_is_in_the_split_that_jukemir_published(artist, split):
    assert artist_split(artist) == split


@given(st.text(max_size=40))
def test_artists_are_matched_ignoring_case_and_spacing(printed):
    name = artist_name(printed)
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz ") and name == name.strip() and "  " not in name
    assert artist_name(f" {name.upper()} .,0é".replace(" ", " \t ")) == name


@given(st.integers(0, 99), st.integers(0, 59))
def test_minutes_and_seconds_are_read_as_a_spreadsheet_prints_them(minutes, seconds):
    number = f"{minutes}.{seconds:02d}"
    for printed in {number, f"{float(number):g}"}:
        assert parse_min_sec(printed) == 60 * minutes + seconds


@pytest.mark.parametrize("printed", ["", "1.2.3", "0.60", "0.6", "-1.0", "1,30", "1.300", "one"])
def test_other_times_are_refused(printed):
    with pytest.raises(ValueError, match="minutes.seconds"):
        parse_min_sec(printed)


def test_the_task_reads_valence_then_arousal(root):
    clips = DATASET.clips(root, "artist")
    assert np.array_equal(
        TASK_TYPE.truths(TASK, clips), [[float(valence), float(arousal)] for _, arousal, valence in RATINGS]
    )


def test_a_complete_copy_passes_and_its_known_leak_is_reported(root):
    report = Small().check(root)
    assert report.ok and report.found == 5 and not report.extra and report.counts == Small.expected_counts
    assert [(leak.group, leak.splits) for leak in report.leaks] == [("vieux farka tour", ("test", "train"))]
    assert report.comparability == {"artist": "EmoMusic, artist split"}


def test_a_copy_of_another_size_or_with_another_leak_fails(root):
    report = DATASET.check(root)
    assert not report.ok
    assert "artist/train: 1 clips, should be 504" in report.differing
    assert report.wrong_length.keys() == {"2", "3", "7", "10", "1000"}


def test_the_check_names_faulty_files(tmp_path):
    root = build(tmp_path / "emomusic")
    folder = root / "clips_45seconds"
    (folder / "2.mp3").unlink()
    (folder / "3.mp3").write_bytes(b"no audio at all")
    write_audio(folder / "7.mp3", seconds=0.8)
    write_audio(folder / "11.mp3")
    report = Small().check(root)
    assert not report.ok and report.missing == ("2",) and list(report.unreadable) == [str(folder / "3.mp3")]
    assert list(report.wrong_length) == ["7"] and report.extra == (str(folder / "11.mp3"),)
    assert "partial (2 of 5 clips)" in report.comparability["artist"]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("songs_info", " 1000\t", "thousand", "songs_info.csv, line 6: song_id is 'thousand'"),
        ("songs_info", " 1000\t", "7", "songs_info.csv, line 6: song 7 is already on line 4"),
        ("songs_info", " 0.2\t", "0.75", "songs_info.csv, line 4: start of the segment .* is '0.75'"),
        ("songs_info", " 1000.mp3\t,", "", "songs_info.csv, line 6: 7 values for 8 columns"),
        ("songs_info", "Mediaeval 2013 set", "set", "songs_info.csv, line 1: lacks the column 'Mediaeval 2013 set'"),
        ("songs_info", " development\t\r\n 3", "train\r\n 3", "songs_info.csv, line 2: Mediaeval 2013 set is 'train'"),
        ("static_annotations", " 8.4\t", "9.4", "static_annotations.csv, line 5: mean_arousal is '9.4'"),
        ("static_annotations", " 6.25\t", "nan", "static_annotations.csv, line 4: mean_valence is 'nan'"),
        ("static_annotations", " 1000\t", "999", "songs_info.csv: lacks song 999.*carrara download emomusic"),
        ("static_annotations", " 3.1\t", "é", "static_annotations.csv, line 2: mean_arousal is 'é'"),
    ],
)
def test_errors_of_damaged_annotations_name_file_and_line(tmp_path, file, old, new, message):
    root = build(tmp_path)
    path = root / "annotations" / f"{file}.csv"
    text = path.read_bytes().decode()
    assert text.count(old) == 1
    path.write_bytes(text.replace(old, new).encode())
    with pytest.raises(DataError, match=message):
        DATASET.clips(root, "artist"), DATASET.index(root)


def test_missing_and_undecodable_annotations_are_reported(tmp_path):
    with pytest.raises(DataError, match=r"annotations/songs_info.csv: missing; run `carrara download emomusic`"):
        DATASET.index(tmp_path)
    root = build(tmp_path)
    (root / "annotations" / "static_annotations.csv").write_bytes(b"song_id\xff")
    with pytest.raises(DataError, match="static_annotations.csv: cannot be read"):
        DATASET.splits(root)


def test_it_is_registered():
    assert REGISTRY.get("emomusic") is DATASET
