"""Pebble on disk: layout, splits, label sets, determinism and resumption."""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import pairwise

import mir_eval
import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from carrara.bench.provenance import index_identity
from carrara.bench.run import bench
from carrara.cli._main import app
from carrara.core.errors import DataError, UsageError
from carrara.data import REGISTRY
from carrara.data._pebble import labels, sizes, theory
from carrara.data._pebble.clips import COLLECTIONS, NOTE_PRESETS, create_clip, note_presets, theory_instrument
from carrara.data._pebble.sizes import BEATS_EVERY, SIZES, split_counts
from carrara.data._pebble.suite import write
from carrara.data.pebble import DATASET, Pebble

pytestmark = pytest.mark.slow


def test_it_is_registered_once():
    assert [name for name in REGISTRY.names() if "pebble" in name] == ["pebble"]
    assert REGISTRY.get("pebble") is DATASET


def test_the_root_is_the_folder_of_a_size(tmp_path):
    assert DATASET.root(tmp_path) == tmp_path / "pebble" / "demo"
    assert DATASET.root(tmp_path / "pebble", "small") == tmp_path / "pebble" / "small"
    assert DATASET.root(tmp_path / "pebble" / "full") == tmp_path / "pebble" / "full"
    with pytest.raises(UsageError, match="'demo'"):
        DATASET.root(tmp_path, "dem")


@pytest.fixture(scope="module")
def demo():
    """Every clip of the demo size as composed, none rendered."""
    return [create_clip(collection, n) for collection, count in SIZES["demo"].items() for n in range(count)]


def count_splits(clips):
    counts = defaultdict(Counter)
    for clip in clips:
        for scheme, split in clip.splits.items():
            counts[scheme][split] += 1
    counts["timbre"] = counts["intervals"] + counts["qualities"]
    songs = [clip.splits["songs"] for clip in clips if "songs" in clip.splits]
    counts["beats"] = Counter(songs[::BEATS_EVERY])
    return counts


def test_the_demo_and_the_tiny_size_have_the_expected_counts(demo):
    tiny = [create_clip(collection, n) for collection, count in SIZES["tiny"].items() for n in range(count)]
    for size, clips in (("demo", demo), ("tiny", tiny)):
        assert count_splits(clips) == {scheme: +Counter(counts) for scheme, counts in split_counts(size).items()}
    assert DATASET.expected_counts["songs"] == {"train": 300, "valid": 100, "test": 200}
    assert DATASET.expected_counts["beats"] == {"train": 60, "valid": 20, "test": 40}
    assert DATASET.expected_counts["scales"] == {"train": 180, "valid": 60, "test": 120}
    assert DATASET.expected_counts["covers"] == {"train": 12, "valid": 24, "test": 36}
    assert DATASET.expected_counts["forms"] == {"train": 36, "valid": 12, "test": 24}
    assert split_counts("small")["singer"] == {"train": 1200, "valid": 400, "test": 800}
    assert DATASET.expected_counts_at(DATASET.root(size="full")) == split_counts("full")


def test_the_check_finds_everything_and_no_leak(pebble_root):
    report = DATASET.check(pebble_root)
    assert report.found == 246 and not report.missing and not report.unreadable and not report.leaks


@pytest.mark.parametrize(
    "split",
    [
        "songs",
        "notes",
        "technique",
        "singer",
        "stems",
        "unlabelled",
        "meters",
        "pieces",
        "composers",
        "covers",
        "forms",
    ],
)
def test_no_group_is_in_two_splits(pebble_root, split):
    splits = defaultdict(set)
    for clip in DATASET.clips(pebble_root, split):
        splits[clip.group].add(clip.split)
    assert splits and None not in splits
    assert all(len(values) == 1 for values in splits.values())


def test_each_scheme_separates_its_groups(pebble_root):
    assert {c.group for c in DATASET.clips(pebble_root, "technique")} == {"f1", "f2", "f3", "f4"}
    assert {c.split for c in DATASET.clips(pebble_root, "singer") if c.labels["singer"] == "f1"} == {
        "train", "valid", "test",
    }  # fmt: skip
    for family in NOTE_PRESETS:
        by_split = [set(note_presets(family, split)) for split in ("train", "valid", "test")]
        assert all(by_split) and len(set().union(*by_split)) == sum(map(len, by_split))


def test_timbre_has_the_intervals_and_chords_with_the_instrument_that_plays_them(demo, pebble_root):
    on_disk = {clip.id: clip for clip in DATASET.clips(pebble_root, "timbre")}
    both = [clip for kind in ("intervals", "qualities") for clip in DATASET.clips(pebble_root, kind)]
    assert {clip.id: (clip.split, clip.group, clip.path) for clip in both} == {
        id: (clip.split, clip.group, clip.path) for id, clip in on_disk.items()
    }
    for id, clip in on_disk.items():
        number = int(id.removeprefix("theory-"))
        song = theory.compose_theory(*kind_and_place(number), clip.split, np.random.default_rng([1, 5, number]))
        assert clip.labels == {"instrument": song.tracks[0].instrument} and len(song.tracks) == 1
        assert len({note.pitch for note in song.tracks[0].notes}) > 1
    chosen = Counter(
        (clip.splits.get("intervals") or clip.splits["qualities"], theory_instrument(int(clip.id[-5:])))
        for clip in demo
        if {"intervals", "qualities"} & clip.splits.keys()
    )
    assert all(chosen["train", name] > 15 and chosen["test", name] > 8 for name in labels.INSTRUMENTS_OF_THEORY)


def kind_and_place(number):
    """Return the kind of an example of theory and its number within its split, which follow from its own number."""
    index = number // 5
    turn, place = divmod(index, 6)
    split = ("train", "test", "train", "valid", "train", "test")
    return ("intervals", "scales", "qualities", "progressions", "meters")[number % 5], turn * split.count(
        split[place]
    ) + split[:place].count(split[place])


def test_labels_are_in_the_label_sets(pebble_root):
    for clip in DATASET.clips(pebble_root, "songs"):
        song = clip.labels
        assert song["key"] in labels.KEYS and song["genre"] in labels.GENRES and song["genre"] == song["genres"][0]
        assert set(song["instruments"]) <= set(labels.INSTRUMENTS) and set(song["moods"]) <= set(labels.MOODS)
        assert set(song["tags"]) <= set(labels.TAGS) and len(set(song["tags"])) == len(song["tags"])
        assert 1 <= song["valence"] <= 9 and 1 <= song["arousal"] <= 9
        assert ("drums" in song["tags"]) != ("no drums" in song["tags"])
        beats = np.array(song["beats"])
        assert (np.diff(beats) > 0.2).all() and beats[0] >= 0 and beats[-1] < clip.duration
        assert set(song["downbeats"]) <= set(song["beats"])
        assert 60 / np.median(np.diff(beats)) == pytest.approx(song["tempo"], rel=0.03)
    for clip in DATASET.clips(pebble_root, "notes"):
        assert clip.labels["family"] in labels.FAMILIES and clip.labels["pitch"] in labels.PITCHES
    for clip in DATASET.clips(pebble_root, "singer"):
        assert clip.labels["singer"] in labels.SINGERS and clip.labels["technique"] in labels.TECHNIQUES
    assert all(not clip.labels for clip in DATASET.clips(pebble_root, "unlabelled"))


def test_classes_are_balanced_in_the_demo(demo):
    songs = [clip.labels for clip in demo if "songs" in clip.splits]
    genres, keys = Counter(x["genre"] for x in songs), Counter(x["key"] for x in songs)
    tags = Counter(tag for x in songs for tag in x["tags"])
    assert set(genres.values()) == {50} and set(genres) == set(labels.GENRES)
    assert set(keys) == set(labels.KEYS) and min(keys.values()) >= 10 and max(keys.values()) <= 45
    assert set(tags) == set(labels.TAGS) and min(tags.values()) >= 25


def test_files_have_their_lengths(pebble_root, read_audio):
    for name in DATASET.splits(pebble_root):
        for clip in DATASET.clips(pebble_root, name)[:4]:
            samples = read_audio(clip.path)
            assert len(samples) == round(clip.duration * 24000)
            assert 0.02 < np.abs(samples).max() < 1
            assert abs(samples.mean()) < 2e-3


def test_the_mixture_is_the_sum_of_its_stems(pebble_root):
    for clip in DATASET.clips(pebble_root, "stems"):
        mixture, _ = soundfile.read(clip.path, dtype="int16")
        stems = [soundfile.read(clip.path.parent / clip.labels[stem], dtype="int16")[0] for stem in labels.STEMS]
        assert np.array_equal(mixture, np.sum(stems, axis=0))
        assert all(np.abs(stem.astype(int)).max() > 300 for stem in stems)


def test_labels_of_scores_are_well_formed(pebble_root):
    for clip in DATASET.clips(pebble_root, "pieces"):
        piece = clip.labels
        chords, melody = piece["chords"], piece["melody"]
        assert chords[0][0] == 0 and chords[-1][1] == clip.duration
        assert all(first[1] == second[0] and first[2] != second[2] for first, second in pairwise(chords))
        for _, _, chord in chords:
            mir_eval.chord.validate_chord_label(chord)
        assert len(melody) > 3 and all(first[1] <= second[0] for first, second in pairwise(melody))
        assert all(0 <= start < end <= clip.duration and 60 < hz < 4000 for start, end, hz in melody)
        gaps = np.diff([piece["beats"].index(beat) for beat in piece["downbeats"]])
        assert set(gaps.tolist()) <= {int(piece["meter"])}
        words = (piece["genre"], piece["key"], piece["moods"][0])
        assert all(word in piece["caption"] for word in words) and piece["caption"].endswith(".")
    for clip in DATASET.clips(pebble_root, "forms"):
        structure = clip.labels["structure"]
        assert structure[0][0] == 0 and structure[-1][1] == clip.duration and len(structure) >= 3
        assert all(first[1] == second[0] for first, second in pairwise(structure))
        assert {name for _, _, name in structure} <= set(labels.SECTIONS)
    for kind, label in theory.LABELS.items():
        examples = [clip.labels for clip in DATASET.clips(pebble_root, kind)]
        assert len(examples) == 12 and all(example[label] in theory.CLASSES[kind] for example in examples)
    versions = defaultdict(list)
    for clip in DATASET.clips(pebble_root, "covers"):
        versions[clip.labels["song"]].append(clip.labels["key"].split()[0])
    assert len(versions) == 6 and all(len(set(keys)) == 4 for keys in versions.values())


def test_a_folder_without_some_collections_serves_the_others_and_names_the_cure(pebble_root, tmp_path, monkeypatch):
    root = tmp_path / "pebble" / "tiny"
    monkeypatch.setitem(sizes.SIZES, "tiny", {"songs": 6, "covers": 4, "unlabelled": 1})
    DATASET.download(root, "tiny", ("beats", "unlabelled"))
    before, index = digests(root), (root / "index.jsonl").read_text()
    assert {name.split("/")[1] for name in before} == {"songs", "unlabelled"}
    songs, identity = DATASET.clips(root, "songs"), index_identity(DATASET.clips(root, "songs"))
    with pytest.raises(DataError, match="has no covers yet: `carrara download pebble --data-dir") as refused:
        DATASET.clips(root, "covers")
    checked = CliRunner().invoke(app, ["check", "pebble", "--data-dir", str(root)])
    assert checked.exit_code == 0 and "not rendered yet" in checked.stdout and "covers, forms" in checked.stdout
    assert checked.stdout.count("scores on this copy") == checked.stdout.count("Pebble, songs, unlabelled, beats") == 1
    stamps = {path: path.stat().st_mtime_ns for path in root.rglob("*.flac")}
    command = re.search(r"`carrara ([^`]*)`", str(refused.value)).group(1)
    assert CliRunner().invoke(app, shlex.split(command)).exit_code == 0
    assert len(DATASET.clips(root, "covers")) == 4 and DATASET.clips(root, "songs") == songs
    assert index_identity(DATASET.clips(root, "songs")) == identity
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps, "nothing was rendered twice"
    whole = (root / "index.jsonl").read_text()
    assert whole.startswith(index) and whole != index
    first = digests(pebble_root)
    assert digests(root) == before | {name: first[name] for name in digests(root) if "covers" in name}
    DATASET.download(root, "tiny", ("songs",))
    assert (root / "index.jsonl").read_text() == whole, "what was there stays there"


def test_a_missing_file_names_the_command_that_renders_it(pebble_root, tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    root = tmp_path / "my data" / "pebble" / "demo"
    counts = {"notes": 30}
    shutil.copytree(pebble_root / "audio/notes", root / "audio/notes")
    write(root, "demo", counts, processes=1)
    lost = root / "audio/notes/notes-00004.flac"
    lost.unlink()
    with pytest.raises(DataError, match=r"1 \(notes-00004\) of \d+ clips.*`carrara check pebble") as refused:
        bench("noise", "pebble/pitch", data_dir=tmp_path / "my data", results=tmp_path / "out")
    # Few clips instead of all of demo's, which the command renders.
    monkeypatch.setattr(Pebble, "download", lambda self, root, size: write(root, "demo", counts, processes=1) or "")
    command = re.search(r"`carrara (download pebble [^`]*)` renders what is missing", str(refused.value)).group(1)
    assert CliRunner().invoke(app, shlex.split(command)).exit_code == 0
    assert digests(root)["audio/notes/notes-00004.flac"] == digests(pebble_root)["audio/notes/notes-00004.flac"]


def digests(root):
    return {f.relative_to(root).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in root.rglob("*.flac")}


def test_another_process_renders_the_same_bytes(pebble_root, tmp_path):
    code = (
        "import sys, pathlib; from carrara.data._pebble.suite import write;"
        "write(pathlib.Path(sys.argv[1]), 'demo', {'songs': 3, 'notes': 3, 'voices': 3, 'stems': 1}, processes=1)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=400)
    again, first = digests(tmp_path), digests(pebble_root)
    assert len(again) == 3 * 3 + 5
    assert again == {name: first[name] for name in again}


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_neither_order_nor_repetition_changes_a_clip(collection):
    clip = create_clip(collection, 5)
    first = clip.render()
    create_clip("songs", 17).render()
    for again in (clip.render(), create_clip(collection, 5).render()):
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_several_processes_render_the_same_suite_and_an_interrupted_one_resumes(pebble_root, tmp_path):
    few = {"notes": 33, "voices": 8}
    write(tmp_path, "demo", few, processes=2)
    first = digests(pebble_root)
    assert digests(tmp_path) == {name: first[name] for name in digests(tmp_path)}
    meta = json.loads((tmp_path / "meta.json").read_text())
    truncated, deleted, *rest = sorted((tmp_path / "audio").rglob("*.flac"))
    times = {file: file.stat().st_mtime_ns for file in rest}
    truncated.write_bytes(truncated.read_bytes()[:2000])
    deleted.unlink()
    # As after a kill: neither the index nor the identity was written.
    (tmp_path / "index.jsonl").unlink()
    (tmp_path / "meta.json").write_text(json.dumps({k: v for k, v in meta.items() if k != "identity"}))
    with pytest.raises(DataError, match="carrara download pebble"):
        DATASET.index(tmp_path)
    write(tmp_path, "demo", few, processes=1)
    assert (
        digests(tmp_path) == {name: first[name] for name in digests(tmp_path)}
        and truncated.is_file()
        and deleted.is_file()
    )
    assert {file: file.stat().st_mtime_ns for file in rest} == times
    assert json.loads((tmp_path / "meta.json").read_text()) == meta
    # And with a finished index: a truncated file is detected by its length.
    truncated.write_bytes(truncated.read_bytes()[:-10])
    write(tmp_path, "demo", few, processes=1)
    assert (
        digests(tmp_path)[truncated.relative_to(tmp_path).as_posix()]
        == first[truncated.relative_to(tmp_path).as_posix()]
    )
    assert {file: file.stat().st_mtime_ns for file in rest} == times


def test_another_version_and_a_missing_suite_are_refused(tmp_path):
    with pytest.raises(DataError, match="carrara download pebble"):
        DATASET.clips(tmp_path, "songs")
    (tmp_path / "meta.json").write_text('{"version": -1, "identity": ""}')
    with pytest.raises(DataError, match="another version"):
        DATASET.index(tmp_path)
    with pytest.raises(DataError, match="another version"):
        write(tmp_path, "demo", {"notes": 1})
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(DataError, match="meta.json"):
        DATASET.index(tmp_path)
    assert os.listdir(tmp_path) == ["meta.json"]
