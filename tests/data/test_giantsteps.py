"""GiantSteps key: the split song by song against JukeMIR's, every known layout, and damaged annotations."""

import hashlib
from collections import Counter
from typing import ClassVar

import mir_eval
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from carrara.bench.task_types.multiclass import TASK_TYPE
from carrara.bench.tasks.giantsteps.key import TASK
from carrara.core.errors import DataError
from carrara.data import REGISTRY, _base, giantsteps
from carrara.data.giantsteps import COMMITS, DATASET, KEYS, GiantSteps, group_artists, key_name, split_artists

HEADS = "ID\tMANUAL KEY\tC", "ID\tARTIST\tSONG TITLE\tMIX\tLABEL\tBP GENRE\tBP BPM\tBP KEY"
# Real artists, both in train; keys of every kind that the annotators wrote.
TRACKS = (
    ("5061", "D# minor", "2", "Slam", "Trance", "132"),
    ("5881", "A major ", "2", "Percy X, Slam", "Drum & Bass", ""),
    ("7217", "F minor / G# major", "2", "Slam", "Chill Out", "128"),
    ("297010", "-", "0", "Percy X", "", "90"),
    ("297011", "C# minor", "1", "Percy X", "Hip-Hop", "90"),
)
TESTS = (("10089", "D major"), ("9", "Db minor"))


class Small(GiantSteps):
    """Seven tracks of a third of a second."""

    expected_counts: ClassVar = {"artist": {"train": 2, "valid": 0, "test": 2}}
    seconds = (0.3, 0.5)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def write_audio(path, seconds=0.35, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 44100))
    soundfile.write(path, noise, 44100, format=path.suffix[1:].upper())


def build(root, test="giantsteps-key-dataset", train="giantsteps-mtg-key-dataset", audio=None, suffix="mp3"):
    keys = [f"{name}\t{key}\t{confidence}" for name, key, confidence, *_ in TRACKS]
    songs = [f"{name}\t{who}\tTitle\tMix\tLabel\t{genre}\t{bpm}\tC major" for name, _, _, who, genre, bpm in TRACKS]
    for file, head, rows in (("annotations", HEADS[0], keys), ("beatport_metadata", HEADS[1], songs)):
        write(root / train / "annotations" / f"{file}.txt", "\n".join([head, *rows, ""]))
    for name, key in TESTS:
        write(root / test / "annotations/key" / f"{name}.LOFI.key", key)
        write(root / test / "annotations/genre" / f"{name}.LOFI.genre", "deep-house")
    for seed, (name, *_) in enumerate((*TRACKS, *TESTS)):
        folder = audio or f"{test if seed >= len(TRACKS) else train}/audio"
        write_audio(root / folder / f"{name}.LOFI.{suffix}", seed=seed)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build(tmp_path_factory.mktemp("data") / "giantsteps")


@pytest.mark.needs_fixtures
def test_every_song_has_the_split_and_the_key_that_jukemir_published(fixtures_dir):
    root = DATASET.root(fixtures_dir)
    clips = sorted(DATASET.clips(root, "artist"), key=lambda clip: int(clip.id))
    assert root == fixtures_dir and Counter(clip.split for clip in clips) == DATASET.expected_counts["artist"]
    lines = "\n".join(f"{clip.id} {clip.split} {clip.labels['key']}" for clip in clips)
    # Of id, split and y of JukeMIR's metadata/giantsteps_clips.json.gz at 2415556, one line a song, by rising id.
    assert hashlib.sha256(lines.encode()).hexdigest() == (
        "765ec43f2f0a2b4f52b46a0871644f01f76206228688a6b94f94539c911d78a0"
    )


@pytest.mark.needs_fixtures
def test_the_counts_are_those_of_the_real_annotations(fixtures_dir):
    clips = DATASET.clips(fixtures_dir, "artist")
    keys = Counter(clip.labels["key"] for clip in clips)
    assert keys["F minor"] == 176 and keys["B major"] == 27
    assert Counter(key.split()[1] for key in keys.elements()) == {"minor": 1293, "major": 470}
    every = DATASET.index(fixtures_dir)
    assert len({clip.id for clip in every}) == len(every) == 1486 + 604
    assert sum("key" not in clip.labels for clip in every) == 72 + 63 + 2
    assert Counter(clip.labels.get("confidence") for clip in every) == {2: 1182, 1: 208, 0: 96, None: 604}


@pytest.mark.needs_fixtures
def test_no_artist_and_no_group_is_in_two_splits(fixtures_dir):
    splits, groups = {}, {}
    clips = {clip.id: clip for clip in DATASET.clips(fixtures_dir, "artist")}
    table = (fixtures_dir / "giantsteps-mtg-key/annotations/beatport_metadata.txt").read_text(encoding="utf-8")
    for line in table.split("\n")[1:]:
        name, *rest = line.split("\t")
        if name not in clips:
            continue
        groups.setdefault(clips[name].group, set()).add(clips[name].split)
        for artist in rest[0].split(","):
            splits.setdefault(artist.strip().lower(), set()).add(clips[name].split)
    assert len(splits) > len(groups) > 900
    assert all(len(values) == 1 for values in (*splits.values(), *groups.values()))


@pytest.mark.parametrize("suffix", ["mp3", "wav"])
@pytest.mark.parametrize("audio", [None, "audio"])
@pytest.mark.parametrize(
    ("test", "train"),
    [
        ("giantsteps-key", "giantsteps-mtg-key"),
        ("giantsteps-key-dataset", "giantsteps-mtg-key-dataset"),
        tuple(f"{name}-dataset-{commit}" for name, commit in COMMITS.items()),
    ],
)
def test_every_known_layout_is_read(tmp_path, test, train, audio, suffix):
    build(tmp_path, test, train, audio, suffix)
    clips = DATASET.index(DATASET.root(tmp_path))
    assert [clip.id for clip in clips] == ["5061", "5881", "7217", "297010", "297011", "9", "10089"]
    assert all(clip.path.is_file() for clip in clips)


def test_the_folder_is_below_the_data_or_is_the_data(tmp_path):
    assert DATASET.root(tmp_path) == DATASET.root(tmp_path / "giantsteps") == tmp_path / "giantsteps"
    build(tmp_path)
    assert DATASET.root(tmp_path) == tmp_path
    build(tmp_path / "giantsteps")
    assert DATASET.root(tmp_path) == tmp_path / "giantsteps"


def test_labels_are_as_annotated_and_keys_spelt_with_flats(root):
    first, second, third, fourth, fifth, sixth, _ = DATASET.index(root)
    assert first.labels == {"key": "Eb minor", "confidence": 2, "genre": "trance", "bpm": 132}
    assert second.labels == {"key": "A major", "confidence": 2, "genre": "drum-and-bass"}
    assert third.labels == {"confidence": 2, "genre": "chill-out", "bpm": 128}
    assert fourth.labels == {"confidence": 0, "bpm": 90}
    assert fifth.labels["key"] == "Db minor" and fifth.labels["confidence"] == 1
    assert sixth.labels == {"key": "Db minor", "genre": "deep-house"} and sixth.group is None
    assert {clip.group for clip in (first, second, third, fourth, fifth)} == {"percy x"}


def test_only_sure_single_keys_are_in_the_split_and_the_task_reads_them(root):
    clips = DATASET.clips(root, "artist")
    assert [(clip.id, clip.split) for clip in clips] == [
        ("5061", "train"), ("5881", "train"), ("9", "test"), ("10089", "test")
    ]  # fmt: skip
    assert list(TASK_TYPE.truths(TASK, clips)) == [12 + 3, 9, 12 + 1, 2]


def test_the_labels_of_the_task_are_mir_evals_keys_major_then_minor_from_c():
    pitches = [mir_eval.key.KEY_TO_SEMITONE[key.split()[0].lower()] for key in KEYS]
    assert pitches == [*range(12), *range(12)]
    assert [key.split()[1] for key in KEYS] == ["major"] * 12 + ["minor"] * 12


@given(st.sampled_from("CDEFGAB"), st.sampled_from(("", "#", "b")), st.sampled_from(("major", "minor")))
def test_a_key_is_the_same_pitch_however_it_is_spelt(letter, sign, mode):
    pitch = mir_eval.key.KEY_TO_SEMITONE.get((letter + sign).lower())
    if letter + sign in ("Cb", "Fb", "E#", "B#"):
        with pytest.raises(ValueError, match="is not a key"):
            key_name(f"{letter}{sign} {mode}")
    else:
        assert KEYS.index(key_name(f" {letter}{sign} {mode} ")) == pitch + 12 * (mode == "minor")


def test_valid_takes_artists_of_common_tracks_in_two_passes():
    def remainder(name):
        return int.from_bytes(hashlib.sha1(name.lower().encode()).digest(), "big") % 116

    names = [f"Künstler {number}" for number in range(400)]
    valid = next(name for name in names if remainder(name) == 100)
    last, one, two, three = [next(name for name in names if remainder(name) == at) for at in (99, 0, 1, 2)]
    tracks = [[two, three], [one, two], [last], [valid, one]]
    assert split_artists(tracks[:3]) == dict.fromkeys((one, two, three, last), "train")
    assert split_artists(tracks) == {valid: "valid", one: "valid", two: "valid", three: "train", last: "train"}


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=3), max_size=8))
def test_groups_are_the_connected_artists(tracks):
    groups = group_artists(tracks)
    reached = {name: {name} for artists in tracks for name in artists}
    for _ in range(8):
        for name in reached:
            reached[name] |= {two for artists in tracks if reached[name] & set(artists) for two in artists}
    assert groups == {name: min(members) for name, members in reached.items()}


def test_a_complete_copy_passes(root):
    report = Small().check(root)
    assert report.ok and report.found == 7 and not report.extra and not report.leaks
    assert report.comparability == {"artist": "GiantSteps key, artist split"}
    assert "artist/train: 2 clips, should be 923" in DATASET.check(root).differing


def test_the_check_names_faulty_files(tmp_path):
    root = build(tmp_path / "giantsteps")
    folder = root / "giantsteps-mtg-key-dataset/audio"
    (folder / "5061.LOFI.mp3").unlink()
    (folder / "297010.LOFI.mp3").write_bytes(b"no audio at all")
    for name in ("5881", "7217", "12"):
        write_audio(folder / f"{name}.LOFI.mp3", seconds=0.8, seed=int(name))
    report = Small().check(root)
    assert not report.ok and report.missing == ("5061",)
    assert list(report.unreadable) == [str(folder / "297010.LOFI.mp3")]
    assert list(report.wrong_length) == ["5881"] and report.extra == (str(folder / "12.LOFI.mp3"),)
    assert "partial (2 of 4 clips)" in report.comparability["artist"]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("annotations", "D# minor", "D# dorian", "annotations.txt, line 2: key is 'D# dorian'"),
        ("annotations", "D# minor", "E# minor", "annotations.txt, line 2: key is 'E# minor'"),
        ("annotations", "\t1", "\t3", "annotations.txt, line 6: C is '3'"),
        ("annotations", "\t1", "", "annotations.txt, line 6: 2 values for 3 columns"),
        ("annotations", "5881", "5061", "annotations.txt, line 3: ID is '5061'"),
        ("annotations", "5881", "x", "annotations.txt, line 3: ID is 'x'"),
        ("annotations", "5881", "5882", "annotations.txt, line 3: beatport_metadata.txt lacks track 5882"),
        ("annotations", "MANUAL KEY", "KEY", "annotations.txt, line 1: lacks the column 'MANUAL KEY'"),
        ("beatport_metadata", "\t132", "\tfast", "beatport_metadata.txt, line 2: BP BPM is 'fast'"),
        ("beatport_metadata", "Percy X, Slam\t", "", "beatport_metadata.txt, line 3: 7 values for 8 columns"),
    ],
)
def test_errors_of_damaged_tables_name_file_and_line(tmp_path, file, old, new, message):
    path = build(tmp_path) / "giantsteps-mtg-key-dataset/annotations" / f"{file}.txt"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    with pytest.raises(DataError, match=message):
        DATASET.index(tmp_path)


@pytest.mark.parametrize("text", ["D", "", "D major / D minor"])
def test_the_error_of_a_wrong_test_key_names_the_file(tmp_path, text):
    write(build(tmp_path) / "giantsteps-key-dataset/annotations/key/9.LOFI.key", text)
    with pytest.raises(DataError, match=r"9\.LOFI\.key, line 1"):
        DATASET.clips(tmp_path, "artist")


def test_missing_and_undecodable_annotations_are_reported(tmp_path):
    with pytest.raises(DataError, match="beatport_metadata.txt: missing; run `carrara download giantsteps`"):
        DATASET.index(tmp_path)
    build(tmp_path)
    (tmp_path / "giantsteps-mtg-key-dataset/annotations/annotations.txt").write_bytes(b"ID\xff")
    with pytest.raises(DataError, match="annotations.txt: cannot be read"):
        DATASET.index(tmp_path)
    build(tmp_path)
    for path in (tmp_path / "giantsteps-key-dataset/annotations/key").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="annotations/key: no files <id>.LOFI.key in it"):
        DATASET.index(tmp_path)


def test_download_fetches_missing_audio_and_refuses_another_md5(tmp_path, monkeypatch):
    root = build(tmp_path / "giantsteps")
    requested = []

    def fake_download(remote, root):
        requested.append(remote.url)
        write(root / remote.path, "sound")
        return root / remote.path

    monkeypatch.setattr(_base, "download", lambda remote, root: requested.append(remote.path))
    monkeypatch.setattr(giantsteps, "download", fake_download)
    for path in ("giantsteps-mtg-key-dataset/audio/5061.LOFI.mp3", "giantsteps-key-dataset/audio/9.LOFI.mp3"):
        (root / path).unlink()
    write(root / "giantsteps-mtg-key-dataset/md5/5061.LOFI.md5", hashlib.md5(b"sound").hexdigest() + "\n")
    assert DATASET.download(root) == ""
    assert requested == [
        *(f"{name}-dataset-{commit}.zip" for name, commit in COMMITS.items()),
        "https://www.cp.jku.at/datasets/giantsteps/mtg_key_backup/5061.LOFI.mp3",
        "https://www.cp.jku.at/datasets/giantsteps/backup/9.LOFI.mp3",
    ]
    (root / "giantsteps-key-dataset/audio/9.LOFI.mp3").unlink()
    write(root / "giantsteps-key-dataset/md5/9.LOFI.md5", "0" * 32)
    with pytest.raises(DataError, match=r"9\.LOFI\.mp3: its MD5 is not that"):
        DATASET.download(root)
    assert not (root / "giantsteps-key-dataset/audio/9.LOFI.mp3").exists()


def test_it_is_registered():
    assert REGISTRY.get("giantsteps") is DATASET
