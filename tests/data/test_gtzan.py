"""GTZAN in every known layout, its lists and beats against the published numbers, and damaged annotations."""

import hashlib
import json
import math
import shutil
from collections import Counter
from typing import ClassVar

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from carrara.bench.task_types.beat_tracking import TASK_TYPE as BEAT_TRACKING
from carrara.bench.task_types.multiclass import TASK_TYPE as MULTICLASS
from carrara.bench.tasks.gtzan.beats import TASK as BEATS
from carrara.bench.tasks.gtzan.genre import TASK as GENRE
from carrara.core.errors import DataError
from carrara.data import REGISTRY
from carrara.data.gtzan import DATASET, GENRES, GTZAN

LISTS = {
    "train": ("blues/blues.00029.wav", "hiphop/hiphop.00099.wav", "jazz/jazz.00054.wav"),
    "valid": ("country/country.00000.wav",),
    "test": ("rock/rock.00003.wav",),
}
IDS = ["blues.00029", "country.00000", "hiphop.00099", "jazz.00054", "rock.00003"]
FOLDERS = ("genres", "genres_original", "Data/genres_original", "gtzan_genre/genres", ".")
SCHEMES = ("fault-filtered", "fault-filtered-downbeats")


class Small(GTZAN):
    """Five clips of a fifth of a second."""

    expected_counts: ClassVar = {"fault-filtered": {"train": 3, "valid": 1, "test": 1}}
    downbeats_count: ClassVar = 5
    seconds = (0.19, 0.21)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_audio(path, seconds=0.2, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 22050))
    soundfile.write(path, noise, 22050, "PCM_16", format=path.suffix[1:].upper())


def jams(path, **kinds):
    annotations = [
        {
            "namespace": "beat",
            "sandbox": {"annotation_type": kind.replace("_", "-")},
            "data": [{"time": time, "duration": 0.0, "value": 1, "confidence": 1.0} for time in times],
        }
        for kind, times in kinds.items()
    ]
    write(path, json.dumps({"annotations": [{"namespace": "tempo", "data": []}, *annotations], "sandbox": {}}))


def build(root, folder="genres/{genre}", suffix="wav", hiphop="hiphop", beats="beats"):
    for split, lines in LISTS.items():
        write(root / f"{split}_filtered.txt", "\n".join((*lines, "")))
    for seed, name in enumerate(IDS):
        genre, number = name.replace("hiphop", hiphop).split(".")
        write_audio(root / folder.format(genre=genre) / f"{genre}.{number}.{suffix}", seed=seed)
        if beats:
            write(root / beats / f"gtzan_{name.replace('.', '_')}.beats", "0.5\t4\n1.0\t1\n\n1.5\t2\n")
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build(tmp_path_factory.mktemp("data") / "gtzan")


@pytest.mark.needs_fixtures
def test_the_lists_are_those_that_were_pinned_and_give_the_published_counts(fixtures_dir):
    root = DATASET.root(fixtures_dir)
    for remote in DATASET.remotes[:3]:
        assert hashlib.sha256((root / remote.path).read_bytes()).hexdigest() == remote.sha256
    clips = DATASET.clips(root, "fault-filtered")
    assert Counter(clip.split for clip in clips) == {"train": 443, "valid": 197, "test": 290}
    by_genre = {split: Counter(clip.labels["genre"] for clip in clips if clip.split == split) for split in LISTS}
    assert [by_genre["train"][genre] for genre in GENRES] == [46, 48, 45, 42, 47, 43, 44, 41, 43, 44]
    assert [by_genre["valid"][genre] for genre in GENRES] == [23, 20, 23, 22, 18, 17, 20, 13, 17, 24]
    assert [by_genre["test"][genre] for genre in GENRES] == [31, 31, 30, 29, 27, 27, 27, 30, 26, 32]


@pytest.mark.needs_fixtures
def test_beats_are_as_many_as_were_published(fixtures_dir):
    clips = DATASET.clips(fixtures_dir / "gtzan", "fault-filtered")
    beats = Counter()
    for clip, times in zip(clips, BEAT_TRACKING.truths(BEATS, clips)):
        beats[clip.split] += len(times)
        assert set(clip.labels.get("downbeats", [])) <= set(clip.labels["beats"])
    assert beats == {"train": 26540, "valid": 12019, "test": 17059}
    assert Counter(clip.split for clip in clips if not clip.labels.get("downbeats")) == {"train": 3, "valid": 3}
    with_downbeats = Counter(DATASET.splits(fixtures_dir / "gtzan")["fault-filtered-downbeats"].values())
    assert with_downbeats == {"train": 440, "valid": 194, "test": 290}
    first = [clip.labels["beats"][0] for clip in clips]
    assert min(first) == 0 and 2.0 < max(first) <= 2.05


@pytest.mark.needs_fixtures
def test_a_real_recording_has_the_length_that_is_expected(tmp_path, fixtures_dir):
    root = tmp_path / "gtzan"
    (root / "genres/country").mkdir(parents=True)
    for split in LISTS:
        shutil.copy(fixtures_dir / f"gtzan/{split}_filtered.txt", root)
    shutil.copy(fixtures_dir / "audio/country.00000.wav", root / "genres/country")
    report = DATASET.check(root)
    assert report.found == 1 and len(report.missing) == 929 and "country.00000" not in report.missing
    assert not (report.extra or report.unreadable or report.wrong_length or report.differing or report.leaks)
    assert "partial (1 of 930 clips)" in report.comparability["fault-filtered"]


@pytest.mark.parametrize("hiphop", ["hiphop", "hip-hop"])
@pytest.mark.parametrize("suffix", ["wav", "au"])
@pytest.mark.parametrize("folder", [f"{folder}{inside}" for folder in FOLDERS for inside in ("", "/{genre}")])
def test_every_known_layout_is_read(tmp_path, folder, suffix, hiphop):
    clips = DATASET.index(build(tmp_path, folder, suffix, hiphop))
    assert [clip.id for clip in clips] == IDS
    assert all(clip.path.is_file() for clip in clips)
    assert [clip.labels["genre"] for clip in clips] == ["blues", "country", "hiphop", "jazz", "rock"]


@pytest.mark.parametrize("name", ["gtzan", "GTZAN", "gtzan_genre"])
def test_the_folder_may_have_other_usual_names(tmp_path, name):
    assert DATASET.root(tmp_path) == tmp_path / "gtzan"
    (tmp_path / name).mkdir()
    assert DATASET.root(tmp_path) == DATASET.root(tmp_path / name) == tmp_path / name


@pytest.mark.parametrize("beats", ["beats", "gtzan_tempo_beat-main/beats", "."])
def test_beats_are_read_with_their_positions(tmp_path, beats):
    first = DATASET.index(build(tmp_path, beats=beats))[0]
    assert first.labels == {"genre": "blues", "beats": [0.5, 1.0, 1.5], "downbeats": [1.0]}


def test_beats_without_positions_give_no_downbeats(tmp_path):
    write(build(tmp_path) / "beats/gtzan_blues_00029.beats", "5.000000000000000000e-01\n1.5\n")
    assert DATASET.index(tmp_path)[0].labels == {"genre": "blues", "beats": [0.5, 1.5]}


@pytest.mark.parametrize("folder", ["jams", "GTZAN-Rhythm_v2/jams", "genres/blues", "genres", "."])
def test_jams_are_read_unless_there_is_a_text_file(tmp_path, folder):
    build(tmp_path, beats=None)
    jams(tmp_path / folder / "blues.00029.wav.jams", beat=[2.0, 1.0], downbeat=[2.0], **{"8th_note": [1.5]})
    assert DATASET.index(tmp_path)[0].labels == {"genre": "blues", "beats": [1.0, 2.0], "downbeats": [2.0]}
    write(tmp_path / "beats/gtzan_blues_00029.beats", "3.0")
    assert DATASET.index(tmp_path)[0].labels["beats"] == [3.0]


@given(st.lists(st.tuples(st.floats(0, 40, allow_nan=False), st.integers(1, 5)), min_size=1, max_size=20))
def test_times_are_read_as_written(tmp_path_factory, rows):
    root = tmp_path_factory.mktemp("gtzan")
    for split, lines in LISTS.items():
        write(root / f"{split}_filtered.txt", "\n".join(lines))
    write(root / "beats/gtzan_blues_00029.beats", "".join(f"{time!r}\t{position}\r\n" for time, position in rows))
    labels = DATASET.index(root)[0].labels
    assert labels["beats"] == sorted(time for time, _ in rows)
    assert labels["downbeats"] == sorted(time for time, position in rows if position == 1)


def test_the_tasks_read_genre_and_beats(root):
    clips = DATASET.clips(root, "fault-filtered")
    alphabet = sorted(GENRES)
    assert list(MULTICLASS.truths(GENRE, clips)) == [alphabet.index(clip.id.split(".")[0]) for clip in clips]
    assert all(np.array_equal(times, [0.5, 1.0, 1.5]) for times in BEAT_TRACKING.truths(BEATS, clips))


def test_without_beats_the_genre_task_works_and_the_beats_task_explains_why_not(tmp_path):
    clips = DATASET.clips(build(tmp_path, beats=None), "fault-filtered")
    assert len(MULTICLASS.truths(GENRE, clips)) == 5
    with pytest.raises(DataError, match="it has no label 'beats'"):
        BEAT_TRACKING.truths(BEATS, clips)
    assert Small().check(tmp_path).ok


def test_a_complete_copy_passes_and_the_seventy_others_are_not_extra(tmp_path):
    root = build(tmp_path / "gtzan")
    write_audio(root / "genres/pop/pop.00000.wav", seed=9)
    report = Small().check(root)
    assert report.ok and report.found == 6 and not report.extra
    assert report.comparability == {name: f"GTZAN, {name} split" for name in SCHEMES}
    assert "pop.00000" not in DATASET.splits(root)["fault-filtered"]


def test_the_check_names_faulty_files(tmp_path):
    root = build(tmp_path / "gtzan")
    folder = root / "genres"
    (folder / "blues/blues.00029.wav").unlink()
    (folder / "jazz/jazz.00054.wav").write_bytes(b"no audio at all")
    write_audio(folder / "rock/rock.00003.wav", seconds=0.4)
    for name in ("pop/pop.00100.wav", "pop/tune.wav", "polka/polka.00001.wav"):
        write_audio(folder / name, seed=len(name))
    (root / "beats/gtzan_rock_00003.beats").unlink()
    report = Small().check(root)
    assert not report.ok and report.missing == ("blues.00029",)
    assert list(report.unreadable) == [str(folder / "jazz/jazz.00054.wav")] and list(report.wrong_length) == [
        "rock.00003"
    ]
    assert len(report.extra) == 3 and report.differing == ("beats: 1 of 5 clips have no file of beats: rock.00003 …",)
    assert "partial (2 of 5 clips)" in report.comparability["fault-filtered"]
    assert "partial (2 of 5 clips)" in report.comparability["fault-filtered-downbeats"]


@pytest.mark.parametrize("beats", ["beats", ""])
def test_a_copy_whose_clips_are_all_of_a_wrong_length_may_be_called_nothing(tmp_path, beats):
    root = build(tmp_path / "gtzan", beats=beats)
    for path in (root / "genres").rglob("*.wav"):
        write_audio(path, seconds=0.1)
    report = Small().check(root)
    assert not report.ok and len(report.wrong_length) == 5
    for name in SCHEMES:
        assert report.comparability[name].startswith(f"GTZAN, {name} split, partial (0 of 5 clips): not comparable")


@pytest.mark.parametrize("left_in_list", [True, False])
def test_a_copy_with_the_broken_jazz_clip_is_partial_however_it_was_repaired(tmp_path, left_in_list):
    root = build(tmp_path / "gtzan", "Data/genres_original/{genre}")
    (root / "Data/genres_original/jazz/jazz.00054.wav").unlink()
    if not left_in_list:
        write(root / "train_filtered.txt", "\n".join(LISTS["train"][:2]))
    report = Small().check(root)
    assert not report.ok and "partial (4 of 5 clips)" in report.comparability["fault-filtered"]
    assert report.missing == (("jazz.00054",) if left_in_list else ())


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "train_filtered.txt",
            "blues/blues.00029.wav\n\nblues/polka.wav",
            "train_filtered.txt, line 3: 'blues/polka.wav'",
        ),
        ("train_filtered.txt", "polka/polka.00001.wav", "train_filtered.txt, line 1: 'polka/polka.00001.wav'"),
        (
            "test_filtered.txt",
            "rock/rock.00003.wav\nblues/blues.00029.wav",
            "line 2: blues.00029 is already in train",
        ),
        ("beats/gtzan_blues_00029.beats", "0.5\t1\nsoon\t2", "gtzan_blues_00029.beats, line 2: 'soon' is not a time"),
        ("beats/gtzan_blues_00029.beats", "-0.5\t1", "gtzan_blues_00029.beats, line 1: '-0.5' is not a time"),
        ("beats/gtzan_blues_00029.beats", "nan", "gtzan_blues_00029.beats, line 1: 'nan' is not a time"),
        ("beats/gtzan_blues_00029.beats", "0.5\tone", "gtzan_blues_00029.beats, line 1: .* position in the bar"),
        ("beats/gtzan_blues_00029.beats", "0.5 1 2", "gtzan_blues_00029.beats, line 1: .* position in the bar"),
        ("beats/gtzan_blues_00029.beats", "\n", "gtzan_blues_00029.beats: no beats in it"),
    ],
)
def test_errors_of_damaged_annotations_name_file_and_line(tmp_path, file, text, message):
    write(build(tmp_path) / file, text)
    with pytest.raises(DataError, match=message):
        DATASET.index(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"annotations": 3}', '{"annotations": [{"namespace": "beat"}]}', "{\n]"])
def test_errors_of_damaged_jams_name_the_file(tmp_path, text):
    write(build(tmp_path, beats=None) / "jams/blues.00029.wav.jams", text)
    with pytest.raises(DataError, match=r"blues\.00029\.wav\.jams.*not J"):
        DATASET.index(tmp_path)
    jams(tmp_path / "jams/blues.00029.wav.jams", beat=[1.0, math.inf])
    with pytest.raises(DataError, match=r"blues\.00029\.wav\.jams: Infinity is no finite"):
        DATASET.index(tmp_path)
    jams(tmp_path / "jams/blues.00029.wav.jams", downbeat=[1.0])
    with pytest.raises(DataError, match=r"blues\.00029\.wav\.jams: no beats in it"):
        DATASET.index(tmp_path)


def test_missing_and_undecodable_lists_are_reported(tmp_path):
    with pytest.raises(DataError, match="train_filtered.txt: missing; run `carrara download gtzan`"):
        DATASET.index(tmp_path)
    (build(tmp_path) / "valid_filtered.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match="valid_filtered.txt: cannot be read"):
        DATASET.splits(tmp_path)


def test_it_is_registered():
    assert REGISTRY.get("gtzan") is DATASET


def test_one_annotation_of_beats_without_a_type_is_read_and_two_are_refused(tmp_path):
    events = [{"time": 0.5 * n, "value": n % 4 + 1} for n in range(8)]
    annotation = {"namespace": "beat", "sandbox": {}, "data": events}
    path = tmp_path / "jams/blues.00029.wav.jams"
    write(build(tmp_path, beats=None) / "jams/blues.00029.wav.jams", json.dumps({"annotations": [annotation]}))
    labels = next(clip.labels for clip in DATASET.index(tmp_path) if clip.id == "blues.00029")
    assert labels["beats"] == [0.5 * n for n in range(8)] and labels["downbeats"] == [0.0, 2.0]
    path.write_text(json.dumps({"annotations": [annotation, {**annotation, "sandbox": None}]}))
    with pytest.raises(
        DataError, match=r"2 annotations of beats.*sandbox\.annotation_type.*write 'beat' or 'downbeat'"
    ):
        DATASET.index(tmp_path)
