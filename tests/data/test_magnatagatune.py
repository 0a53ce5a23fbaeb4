"""MagnaTagATune in its distributed form, generated: 188 tags, folders by digit, broken clips, shared artists."""

import csv
import io
import zipfile
from typing import ClassVar

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from carrara.bench.task_types.multilabel import TASK_TYPE
from carrara.bench.tasks.magnatagatune.tags import TASK
from carrara.bench.tasks.magnatagatune.tags_cleaned import TASK as CLEANED
from carrara.core.errors import DataError
from carrara.data import _base, magnatagatune
from carrara.data.magnatagatune import DATASET, TOP_50, UNDECODABLE, MagnaTagATune

TAGS = (*TOP_50, *(f"rare {number}" for number in range(138)))


def write(root, rows, infos):
    """Write both files as distributed: tab-separated, every value quoted."""
    heads = [
        "clip_id",
        "track_number",
        "title",
        "artist",
        "album",
        "url",
        "segmentStart",
        "segmentEnd",
        "original_url",
        "mp3_path",
    ]
    for name, head, lines in (
        ("annotations_final.csv", ["clip_id", *TAGS, "mp3_path"], rows),
        ("clip_info_final.csv", heads, infos),
    ):
        with (root / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL).writerows([head, *lines])


def row(name, path, *tags):
    return [name, *(int(tag in tags) for tag in TAGS), path]


def info(name, artist, path):
    return [name, 1, "a song", artist, "an album", "u", 117, 146, "u", path]


def small(root):
    clips = [
        (2, "0/a-song-0-29.mp3", "Ann", ("guitar", "rare 3")),
        (6, "b/b-song-0-29.mp3", "Bob", ()),
        (10, "c/c-song-0-29.mp3", "Ann", ("no vocals",)),
        (11, "d/d-song-0-29.mp3", "Cy", ("choral", "slow")),
        (22, "f/e-song-0-29.mp3", "Dee", ("rare 0",)),
        (35644, "6/broken-0-29.mp3", "Bob", ("rock",)),
    ]
    write(root, [row(n, p, *t) for n, p, _, t in clips], [info(n, a, p) for n, p, a, _ in clips])
    return clips


def test_folders_give_the_splits_and_both_schemes_leave_out_what_does_not_decode(tmp_path):
    small(tmp_path)
    splits = DATASET.splits(tmp_path)
    assert splits["official"] == {"2": "train", "6": "train", "10": "valid", "11": "test", "22": "test"}
    assert splits["cleaned"] == {"2": "train", "10": "valid", "11": "test"}
    clips = {clip.id: clip for clip in DATASET.index(tmp_path)}
    assert clips["2"].labels == {
        "tags": ["guitar", "rare 3"], "title": "a song", "album": "an album", "segment_start": 117.0
    }  # fmt: skip
    assert clips["2"].group == "Ann"
    assert set(clips) == {"2", "6", "10", "11", "22"}
    assert clips["2"].duration is None and clips["2"].start == 0


def test_the_tags_are_the_fifty_of_the_literature():
    assert len(TOP_50) == len(set(TOP_50)) == 50
    assert TOP_50[:3] == ("guitar", "classical", "slow") and TOP_50[-1] == "choral"
    assert "electro" not in TOP_50, "the 51st"


class Short(MagnaTagATune):
    """Five clips of a third of a second."""

    seconds = (0.2, 0.4)
    expected_counts: ClassVar = {
        "official": {"train": 2, "valid": 1, "test": 2},
        "cleaned": {"train": 1, "valid": 1, "test": 1},
    }
    known_leaks: ClassVar = {"official": 1, "cleaned": 1}


def write_audio(path, seconds=0.3, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).standard_normal(int(seconds * 16_000)) * 0.1
    soundfile.write(path, noise, 16_000, format="MP3")


def build(root, folder="mp3"):
    for name, path, _, _ in small(root)[:-1]:
        write_audio(root / folder / path, seed=name)
    (root / folder / "6").mkdir()
    (root / folder / "6/broken-0-29.mp3").write_bytes(b"")
    return root


@pytest.mark.parametrize("folder", [".", "mp3", "audio"])
def test_a_complete_copy_passes_with_broken_files_and_shared_artists(tmp_path, folder):
    report = Short().check(build(tmp_path, folder))
    assert report.ok and report.found == 5 and report.counts == Short.expected_counts
    assert report.extra == (str(tmp_path / folder / "6/broken-0-29.mp3"),)
    assert {(leak.split_scheme, leak.group, leak.splits) for leak in report.leaks} == {
        ("official", "Ann", ("train", "valid")),
        ("cleaned", "Ann", ("train", "valid")),
    }
    assert report.comparability == {
        "official": "MagnaTagATune, official split",
        "cleaned": "MagnaTagATune, cleaned split",
    }


def test_the_check_names_faulty_files(tmp_path):
    build(tmp_path)
    (tmp_path / "mp3/0/a-song-0-29.mp3").unlink()
    (tmp_path / "mp3/b/b-song-0-29.mp3").write_bytes(b"no audio at all")
    write_audio(tmp_path / "mp3/c/c-song-0-29.mp3", seconds=0.9)
    report = Short().check(tmp_path)
    assert not report.ok and report.missing == ("2",) and list(report.wrong_length) == ["10"]
    assert list(report.unreadable) == [str(tmp_path / "mp3/b/b-song-0-29.mp3")]
    assert "partial (2 of 5 clips)" in report.comparability["official"]
    assert "partial (1 of 3 clips)" in report.comparability["cleaned"]
    assert "official/train: 2 clips, should be 18706" in DATASET.check(tmp_path).differing


def test_clips_are_indexed_without_audio_and_tables_may_be_in_a_folder(tmp_path):
    small(tmp_path)
    before = DATASET.index(tmp_path)
    assert before[0].path == tmp_path / "mp3/0/a-song-0-29.mp3"
    (tmp_path / "annotations").mkdir()
    for name in ("annotations_final.csv", "clip_info_final.csv"):
        (tmp_path / name).rename(tmp_path / "annotations" / name)
    assert DATASET.index(tmp_path) == before and len(DATASET.clips(tmp_path, "cleaned")) == 3


def test_values_without_quotes_are_the_same(tmp_path):
    small(tmp_path)
    before = DATASET.index(tmp_path)
    for name in ("annotations_final.csv", "clip_info_final.csv"):
        path = tmp_path / name
        path.write_text(path.read_text().replace('"', ""))
    assert DATASET.index(tmp_path) == before


def test_the_folder_may_have_its_other_usual_names(tmp_path):
    assert DATASET.root(tmp_path) == tmp_path / "magnatagatune"
    (tmp_path / "MTT").mkdir()
    assert DATASET.root(tmp_path) == DATASET.root(tmp_path / "MTT") == tmp_path / "MTT"


def test_the_tasks_read_tags_as_ones_in_the_order_of_the_list(tmp_path):
    small(tmp_path)
    for task, expected in ((TASK, [{0}, set(), {21}, {2, 49}, set()]), (CLEANED, [{0}, {21}, {2, 49}])):
        clips = TASK_TYPE.truths(task, DATASET.clips(tmp_path, task.split_scheme))
        assert [set(np.flatnonzero(truth)) for truth in clips] == expected
        assert all(len(truth) == 50 for truth in clips)


@given(st.dictionaries(st.integers(0, 10**6), st.sets(st.sampled_from(TAGS), max_size=8), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_any_set_of_tags_is_read_back(tmp_path_factory, tagged):
    root = tmp_path_factory.mktemp("tags")
    paths = {number: f"{number % 16:x}/song.mp3" for number in tagged}
    write(root, [row(n, paths[n], *tagged[n]) for n in tagged], [info(n, "", paths[n]) for n in tagged])
    clips = DATASET.index(root)
    assert {int(clip.id): set(clip.labels["tags"]) for clip in clips} == {
        number: tags for number, tags in tagged.items() if str(number) not in UNDECODABLE
    }
    assert all(clip.group is None for clip in clips)


@pytest.mark.slow
def test_annotations_of_the_real_size_are_read_whole(tmp_path):
    digits = "0123456789abcdef"
    rows = [row(n, f"{digits[n % 16]}/song-{n}.mp3", TAGS[n % 188]) for n in range(25_863)]
    write(tmp_path, rows, [info(n, f"artist {n % 230}", "x") for n in range(25_863)])
    clips = DATASET.index(tmp_path)
    assert len(clips) == 25_863
    assert sum(len(clip.labels["tags"]) for clip in clips) == 25_863


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace("clip_id", "id", 1), "line 1"),
        (lambda text: text.replace('"choral"', '"coral"', 1), "line 1"),
        (lambda text: text.replace('"0/a-song', '"z/a-song'), "line 2: mp3_path is 'z/a-song"),
        (lambda text: text.replace('"0/a-song', '"0/../a-song'), "line 2: mp3_path is"),
        (lambda text: text.replace('"2"\t"1"', '"2"\t"yes"'), "line 2: a tag is 'yes'"),
        (lambda text: text.replace('"6"\t', '"2"\t', 1), "line 3: clip_id is '2'"),
        (lambda text: text.replace('"6"\t', '"six"\t', 1), "line 3: clip_id is 'six'"),
        (lambda text: text.replace('"6"\t', '"7"\t', 1), "line 3: clip_info_final.csv lacks clip 7"),
        (lambda text: "\n".join([*text.splitlines()[:2], '"6"\t"1"']), "line 3"),
        (lambda text: "", "line 1"),
    ],
)
def test_damaged_annotations_are_named(tmp_path, damage, message):
    small(tmp_path)
    path = tmp_path / "annotations_final.csv"
    path.write_text(damage(path.read_text()))
    with pytest.raises(DataError, match=f"annotations_final.csv, {message}"):
        DATASET.index(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"artist"', '"singer"', "line 1: lacks the column 'artist'"),
        ('"117"', '"1:57"', "line 2: segmentStart is '1:57'"),
        ('"an album"\t', "", "line 2: 9 values for 10 columns"),
    ],
)
def test_damaged_clip_info_is_named(tmp_path, old, new, message):
    small(tmp_path)
    path = tmp_path / "clip_info_final.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=f"clip_info_final.csv, {message}"):
        DATASET.index(tmp_path)


def test_download_unpacks_the_parts_once_and_resumes(tmp_path, monkeypatch):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("f/song.mp3", "sound")
    pieces = [packed.getvalue()[start : start + 50] for start in (0, 50)] + [packed.getvalue()[100:]]
    requested = []

    def fake_download(remote, root):
        requested.append(remote.path)
        number = int(remote.path[-1]) if remote.path.startswith("mp3") else 0
        if number == 3 and requested.count("mp3.zip.003") == 1:
            raise DataError("the connection is lost")
        (root / remote.path).write_bytes(pieces[number - 1] if number else b"a table")
        return root / remote.path

    monkeypatch.setattr(_base, "download", fake_download)
    monkeypatch.setattr(magnatagatune, "download", fake_download)
    tables, parts = ["annotations_final.csv", "clip_info_final.csv"], ["mp3.zip.001", "mp3.zip.002", "mp3.zip.003"]
    with pytest.raises(DataError, match="the connection is lost"):
        DATASET.download(tmp_path)
    assert DATASET.download(tmp_path) == "" and requested == [*tables, *parts] * 2
    assert (tmp_path / "mp3/f/song.mp3").read_text() == "sound" and not list(tmp_path.glob("mp3.zip*"))
    assert DATASET.download(tmp_path) == "" and requested[10:] == tables


def test_errors_of_missing_files_name_the_cure(tmp_path):
    with pytest.raises(DataError, match="carrara download magnatagatune"):
        DATASET.index(tmp_path)
    write(tmp_path, [row(2, "0/a.mp3")], [])
    (tmp_path / "clip_info_final.csv").write_bytes(b"clip_id\xff")
    with pytest.raises(DataError, match="clip_info_final.csv: cannot be read"):
        DATASET.index(tmp_path)
