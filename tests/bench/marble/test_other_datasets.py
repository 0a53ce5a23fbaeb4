"""SHS100K, Da-TACOS, SALAMI, HookTheory, FMA, Music4All, MSD: files of their format, read, checked, measured."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
from collections import Counter
from typing import ClassVar

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from carrara.bench.protocols import constrained
from carrara.bench.suites import SUITES
from carrara.bench.tasks import task as load_task
from carrara.cli._main import app
from carrara.core.errors import DataError, UsageError
from carrara.data import REGISTRY as DATASETS
from carrara.data.fma import SMALL_GENRES
from carrara.data.hooktheory import SECTIONS
from carrara.data.msd import CALS_TAGS, TAGS

RATE = 16_000
PARTS = ("train", "train", "val", "test")


def write(path, pitches, seconds=1.0, seed=0):
    """Write a sound of these pitches in Hz, with a little noise of its own."""
    time = np.arange(round(seconds * RATE)) / RATE
    sound = 0.01 * np.random.default_rng(seed).standard_normal(len(time))
    for pitch in pitches:
        sound = sound + 0.2 * np.sin(2 * np.pi * pitch * time)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound.astype(np.float32), RATE, format="MP3" if path.suffix == ".mp3" else None)


def text(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def song_pitches(song):
    return 150 * 2 ** (song / 4), 331 * 2 ** (song / 7)


def shs100k(root):
    songs = {"TRAIN": range(4), "VAL": range(3, 8), "TEST": range(8, 18)}  # song 3 is in two lists
    lines = []
    for part, numbers in songs.items():
        ids = [(song, version) for song in numbers for version in range(2)]
        text(root / f"meta/SHS100K-{part}", [f"{song}\t{version}" for song, version in ids])
        for song, version in ids:
            lines.append(f"{song}\t{version}\tSong {song}\tBand {version}\thttps://video.example/{song}{version}\t1")
            write(
                root / f"audio/{song}_{version}.{('mp3', 'flac')[version]}",
                song_pitches(song),
                seed=song + 50 * version,
            )
    text(root / "meta/list", lines)


def da_tacos(root):
    def subset(name, works):
        listed = {}
        for work, count in works.items():
            listed[work] = {}
            for version in range(count):
                performance = f"P_{work[2:]}{version}"
                listed[work][performance] = {"work_id": work, "perf_id": performance, "instrumental": "No"}
                pitches = song_pitches(int(work[2:]) % 20)
                write(root / f"audio/{work}/{performance}.mp3", pitches, seed=int(performance[2:]))
        text(root / f"da-tacos_metadata/da-tacos_{name}_subset_metadata.json", [json.dumps(listed)])

    subset("benchmark", {**{f"W_{n}": 3 for n in range(100, 106)}, "W_106": 1, "W_107": 1})
    subset("coveranalysis", {"W_100": 2} | {f"W_{n}": 2 for n in range(200, 230)})


def salami(root):
    rows = ["SONG_ID,SOURCE,ANNOTATOR1,ANNOTATOR2,SONG_DURATION,SONG_TITLE,ARTIST,CLASS,GENRE"]
    pitch = {"Intro": 200, "Verse": 500, "Chorus": 1500}
    for number in range(2, 22):
        names = (["Intro", "Chorus", "Verse"], ["Verse", "Chorus", "Intro"])[number % 2]
        rows.append(f'{number},Codaich,5,8,9,Title,"Artist, {number}",popular,Rock')
        parsed = root / f"annotations/{number}/parsed"
        parsed.mkdir(parents=True)
        lines = [f"{3.0 * k}\t{name}" for k, name in enumerate(names)]
        # As distributed, without a line feed at the end; a second annotator only for some.
        annotator = 1 + (number == 4)
        (parsed / f"textfile{annotator}_functions.txt").write_text("\n".join([*lines, "9.0\tEnd"]))
        parts = []
        for k, name in enumerate(names):
            time = np.arange(3 * RATE) / RATE
            parts.append(0.2 * np.sin(2 * np.pi * pitch[name] * time))
            parts[-1] += 0.01 * np.random.default_rng(number * 3 + k).standard_normal(len(time))
        (root / "audio").mkdir(exist_ok=True)
        soundfile.write(root / f"audio/{number}.flac", np.concatenate(parts), RATE)
    rows.append("30,IA,1,,9,Not annotated,Nobody,jazz,Jazz")
    text(root / "metadata/metadata.csv", rows)


def hooktheory(root):
    keys = ("C major", "F minor", "Ab major", "D dorian")
    for kind in ("Key", "Structure"):
        lists = {part: [] for part in PARTS}
        for number in range(48):
            entry = {"audio_path": f"data/HookTheory/hooktheory_clips/clip{number}.mp3", "ori_uid": f"v{number // 2}",
                     "duration": 1.0, "sample_rate": RATE, "num_samples": RATE, "channels": 1}  # fmt: skip
            sections = (["intro"], ["verse", "pre-chorus"], ["chorus"], ["solo"])
            entry["label"] = keys[number % 4] if kind == "Key" else sections[number % 4]
            lists[PARTS[number // 12]].append(json.dumps(entry))
            write(root / f"hooktheory_clips/clip{number}.mp3", [220 * 2 ** (number % 4 / 2)], seed=number)
        for part, lines in lists.items():
            text(root / f"HookTheory{kind}.{part}.jsonl", lines)


def fma(root):
    heads = [("", ""), ("album", "title"), ("artist", "id"), ("set", "split"), ("set", "subset")]
    heads += [("track", "genre_top"), ("track", "genres_all")]
    rows = [[top for top, _ in heads], [low for _, low in heads], ["track_id", *[""] * 6]]
    for number in range(48):
        split = ("training", "training", "validation", "test")[number // 12]
        genre, track = SMALL_GENRES[number % 4], 2 + 997 * number
        artist = 10 + number // 12 * 4 + number % 4
        rows.append([track, 'A "title",\nin two lines', artist, split, "small", genre, f"[{number % 4}, 38]"])
        write(root / f"fma_small/{f'{track:06}'[:3]}/{track:06}.mp3", [220 * 2 ** (number % 4 / 2)], seed=number)
    rows.append([90_000, "medium", 99, "training", "medium", "Jazz", "[4]"])
    (root / "fma_metadata").mkdir()
    with (root / "fma_metadata/tracks.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def music4all(root):
    tables = {"information": ["id\tartist\tsong\talbum_name"], "genres": ["id\tgenres"], "tags": ["id\ttags"],
              "lang": ["id\tlang"]}  # fmt: skip
    for number in range(80):
        id = f"0009fFIM1eYThaP{number}"
        tables["information"].append(f"{id}\tBand {number // 2}\tSong\tAlbum")
        tables["genres"].append(f"{id}\trock,indie rock")
        tables["tags"].append(f"{id}\tslow,female vocalists")
        tables["lang"].append(f"{id}\ten")
        write(root / f"audios/{id}.mp3", song_pitches(number // 2), seed=number)
    for name, lines in tables.items():
        text(root / f"id_{name}.csv", lines)


def msd_id(number):
    return f"TR{chr(65 + number % 7)}{chr(65 + number % 5)}{chr(65 + number % 3)}AA{number:011}"


class Python2Pickler(pickle._Pickler):
    """Writes strings and bytes as Python 2 wrote its strings."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        content = value if isinstance(value, bytes) else value.encode()
        self.write(b"S" + repr(content)[1:].encode() + b"\n")
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def python2(value):
    file = io.BytesIO()
    Python2Pickler(file, protocol=0).dump(value)
    return file.getvalue().replace(b"numpy._core", b"numpy.core")


def msd(root):
    (root / "MSD_split").mkdir(parents=True)
    (root / "splits").mkdir()
    ids = [msd_id(number) for number in range(48)]
    vectors = {id: np.eye(50)[number % 3][:, None] for number, id in enumerate(ids)}
    for name, own in (("list_train", ids[:36]), ("list_test", ids[36:])):
        (root / f"MSD_split/filtered_{name}.cP").write_bytes(python2(own))
    (root / "MSD_split/msd_id_to_tag_vector.cP").write_bytes(python2(vectors))
    (root / "MSD_split/MSD_id_to_7D_id.pkl").write_bytes(python2({id: str(n) for n, id in enumerate(ids)}))
    paths = {str(number): f"8/9/{number}.clip.mp3" for number in range(48)}
    (root / "MSD_split/7D_id_to_path.pkl").write_bytes(python2(paths))
    for split, own in (("train", ids[:24]), ("valid", ids[24:36]), ("test", ids[36:])):
        np.save(root / f"splits/{split}_ids.npy", np.array(own))
        np.save(root / f"splits/{split}_binaries.npy", np.stack([vectors[id][:, 0] for id in own]))
    for number, id in enumerate(ids):
        name = f"audio/8/9/{number}.clip.mp3" if number % 2 else f"audio/{id[2]}/{id[3]}/{id[4]}/{id}.wav"
        write(root / name, [220 * 2 ** (number % 3 / 2)], seed=number)


MAKERS = {"shs100k": shs100k, "da-tacos": da_tacos, "salami": salami, "hooktheory": hooktheory, "fma": fma,
          "music4all": music4all, "msd": msd}  # fmt: skip


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    root = tmp_path_factory.mktemp("others")
    for name, make in MAKERS.items():
        (root / name).mkdir()
        make(root / name)
    return root


def counts(dataset, root, scheme):
    return dict(Counter(str(clip.split) for clip in dataset.clips(root, scheme)))


def test_songs_in_two_lists_of_shs100k_are_in_the_later_one(copies):
    dataset = DATASETS.get("shs100k")
    assert counts(dataset, copies / "shs100k", "official") == {"train": 6, "valid": 10, "test": 20}
    clip = {clip.id: clip for clip in dataset.clips(copies / "shs100k", "official")}["3_1"]
    assert clip.split == "valid" and clip.group == "3" and clip.path.name == "3_1.flac"
    assert clip.labels == {"song": "3", "title": "Song 3", "artist": "Band 1"}
    # The sum of the counts that check expects: 108,522 lines, eleven of which are in two lists.
    assert sum(dataset.expected_counts["official"].values()) == 108_522 - 11


def test_da_tacos_layer_is_chosen_on_works_that_the_benchmark_has_not(copies):
    dataset = DATASETS.get("da-tacos")
    clips = dataset.clips(copies / "da-tacos", "benchmark")
    test = [clip for clip in clips if clip.split == "test"]
    assert len(test) == 20 and [clip.id for clip in test if "song" not in clip.labels] == ["P_1060", "P_1070"]
    works = {split: {clip.group for clip in clips if clip.split == split} for split in ("train", "valid", "test")}
    assert works["train"] and works["valid"] and not works["train"] & works["valid"]
    assert not (works["train"] | works["valid"]) & works["test"]


def test_salamis_functions_are_reduced_to_sections(copies):
    dataset = DATASETS.get("salami")
    clips = dataset.clips(copies / "salami", "songs")
    assert [clip.id for clip in clips] == [str(number) for number in range(2, 22)]
    assert clips[0].labels == {
        "structure": [[0.0, 3.0, "intro"], [3.0, 6.0, "chorus"], [6.0, 9.0, "verse"]],
        "class": "popular",
    }
    assert clips[0].group == "Artist, 2"
    path = copies / "salami/annotations/2/parsed/textfile1_functions.txt"
    content = path.read_text()
    try:
        path.write_text(
            "0\tSilence\n1\tCoda\n2\tInterlude\n2\tPre-Chorus\n3\tFade-out\n4\tno_function\n5\tHead\n6\tEnd"
        )
        sections = [section for _, _, section in dataset.index(copies / "salami")[0].labels["structure"]]
        assert sections == ["silence", "outro", "verse", "outro", "other", "other"]
        path.write_text("0\tSilence\nsoon\tCoda\n6\tEnd")
        with pytest.raises(DataError, match=r"textfile1_functions.txt, line 2: 'soon' is not a time in seconds"):
            dataset.index(copies / "salami")
    finally:
        path.write_text(content)


def test_hooktheorys_labels_are_those_of_marble(copies):
    dataset = DATASETS.get("hooktheory")
    clips = {clip.id: clip for clip in dataset.index(copies / "hooktheory")}
    assert clips["clip1"].labels == {"key": "F minor", "section": "verse"} and clips["clip1"].group == "v0"
    assert clips["clip3"].labels == {"section": "inst"}  # dorian is in no split of keys
    assert counts(dataset, copies / "hooktheory", "key") == {"train": 18, "valid": 9, "test": 9}
    assert counts(dataset, copies / "hooktheory", "structure") == {"train": 24, "valid": 12, "test": 12}
    assert {clip.labels["section"] for clip in clips.values()} <= set(SECTIONS)


def test_fma_reads_the_largest_size_on_disk(copies, tmp_path):
    dataset, root = DATASETS.get("fma"), copies / "fma"
    assert list(dataset.splits(root)) == ["small"] and len(dataset.index(root)) == 48
    assert counts(dataset, root, "small") == {"train": 24, "valid": 12, "test": 12}
    clip = dataset.index(root)[1]
    assert clip.path == root / "fma_small/000/000999.mp3" and clip.labels["genres"] == ["1", "38"]
    with pytest.raises(DataError, match="only fma_small is there; `carrara download fma --size medium`"):
        dataset.clips(root, "medium")
    (tmp_path / "fma_full").mkdir()
    os.symlink(root / "fma_metadata", tmp_path / "fma_metadata")
    assert len(dataset.index(tmp_path)) == 49 and dataset.expected_seconds(dataset.index(tmp_path)[0]) is None
    assert dataset.expected_seconds(clip) == (29.0, 31.0)
    with pytest.raises(UsageError, match="fma has no size 'tiny'"):
        dataset.root_for_size(None, "tiny")
    assert {size: sum(own.values()) for size, own in dataset.expected_counts.items()} == {
        "small": 8_000, "medium": 25_000, "large": 106_574,
    }  # fmt: skip


def test_music4alls_artists_are_in_one_split(copies):
    dataset, root = DATASETS.get("music4all"), copies / "music4all"
    clip = dataset.index(root)[0]
    assert clip.labels == {
        "artist": "Band 0", "genres": ["rock", "indie rock"], "tags": ["slow", "female vocalists"], "language": "en",
    }  # fmt: skip
    assert counts(dataset, root, "all") == {"train": 80}
    # SHA-1 modulo 10 of "Band 0" to "Band 39" is 8 for six and 9 for six.
    assert counts(dataset, root, "artist") == {"train": 56, "valid": 12, "test": 12}
    assert not dataset.check(root).leaks


def test_both_divisions_of_msd_are_read(copies, tmp_path):
    dataset, root = DATASETS.get("msd"), copies / "msd"
    clips = dataset.index(root)
    assert clips[1].labels == {"tags": ["pop"], "cals_tags": ["pop"]} and clips[1].path.name == "1.clip.mp3"
    assert clips[0].path == root / f"audio/A/A/A/{msd_id(0)}.wav" and all(clip.path.is_file() for clip in clips)
    assert clips[2].labels == {"tags": [TAGS[2]], "cals_tags": [CALS_TAGS[2]]} and TAGS[2] != CALS_TAGS[2]
    assert len(set(TAGS)) == len(set(CALS_TAGS)) == 50
    assert counts(dataset, root, "cals") == {"train": 24, "valid": 12, "test": 12}
    assert {size: sum(own.values()) for size, own in dataset.expected_counts.items()} == {
        "standard": 241_889, "cals": 233_147,
    }  # fmt: skip


class _Command:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_a_pickle_that_names_more_than_data_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "msd/MSD_split").mkdir(parents=True)
    path = tmp_path / "msd/MSD_split/filtered_list_train.cP"
    for content in (pickle.dumps(_Command()), pickle.dumps({}), b"", b"(lp1\nS'TR"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"filtered_list_train.cP: (not as distributed|holds a dict)"):
            DATASETS.get("msd").splits(tmp_path / "msd")
    assert not (tmp_path / "executed").exists()


def test_what_is_missing_is_named_with_its_cure(tmp_path):
    for name in MAKERS:
        dataset = DATASETS.get(name)
        with pytest.raises(DataError, match=r"git clone|hf download|carrara download|download_da-tacos|on request"):
            dataset.index(tmp_path)
        assert dataset.remaining_steps(tmp_path) or name == "fma"


@pytest.mark.parametrize("name", list(MAKERS))
def test_check_opens_every_file_from_the_command_line(copies, name):
    done = CliRunner().invoke(app, ["check", name, "--data-dir", str(copies), "--json"])
    report = json.loads(done.stdout)
    report = report[0] if isinstance(report, list) else report
    assert not report["missing"] and not report["unreadable"] and not report["extra"], report


# From v2's configurations for MERT-v1-95M: windows, epochs, epochs without a better one until it stops, plateau.
V2 = {
    "giantsteps/key-v2": (30, 50, 20, 5), "magnatagatune/tags-v2": (None, 50, 10, 3), "gtzan/genre": (None, 100, 20, 6),
    "gtzan/beats-v2": (10, 50, 10, 5), "emomusic/emotion-v2": (15, 100, 20, 5), "chords1217/chords-v2": (15, 50, 10, 5),
    **{f"mtg-jamendo/{name}-v2": (30, 20, 10, 3) for name in ("top50", "genre", "instrument", "mood-theme")},
}  # fmt: skip


def test_the_settings_of_v2_are_those_of_its_configurations():
    assert set(SUITES["marble-v2-settings"].tasks) == set(V2)
    for name, expected in V2.items():
        task = load_task(name)
        assert (task.window_seconds, task.max_epochs, task.stop_patience, task.plateau_patience) == expected, name
        assert task.aggregate == "logit" or name.split("/")[0] in ("magnatagatune", "gtzan", "chords1217")
        base = load_task(name.removesuffix("-v2"))
        same = ("dataset", "split_scheme", "task_type", "label", "labels", "category")
        assert all(getattr(task, field) == getattr(base, field) for field in same)
        assert type(task).model_validate(task.model_dump()) == task


# What a probe reaches on sounds in which the labels are plain, well above what noise reaches.
EXPECTED = {
    "shs100k/covers": ("mfcc", "map", 0.5),
    "da-tacos/covers": ("mfcc", "map", 0.5),
    "hooktheory/key": ("mfcc", "key_weighted", 0.8),
    "hooktheory/structure": ("mfcc", "accuracy", 0.8),
    "fma/genre-small": ("mfcc", "accuracy", 0.8),
    "fma/genre-medium": ("mfcc", "accuracy", 0.8),
    "fma/artist-small": ("mfcc", "map", 0.5),
    "music4all/artist": ("mfcc", "map", 0.5),
    "msd/tags": ("mfcc", "average_precision", 0.8),
    "msd/tags-cals": ("mfcc", "average_precision", 0.8),
    "salami/structure": ("tiny", "segment_label_accuracy", 0.7),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(EXPECTED))
def test_a_task_runs_from_the_command_line_and_beats_its_floor(copies, tiny, home, tmp_path, monkeypatch, name):
    monkeypatch.setenv("CARRARA_HOME", str(home))
    # The whole search runs in test_marble_tasks.py; here one of its rates suffices.
    monkeypatch.setattr(constrained, "LEARNING_RATES", (1e-2,))
    encoder, metric, least = EXPECTED[name]
    monkeypatch.setattr("carrara.data.msd.TRAIN_SONGS", 24)
    if name == "fma/genre-medium":
        # The same recordings, of which the table says that they are in medium too.
        (tmp_path / "data/fma").mkdir(parents=True)
        for link, target in (("fma_metadata", "fma_metadata"), ("fma_medium", "fma_small")):
            (tmp_path / "data/fma" / link).symlink_to(copies / "fma" / target)
        copies = tmp_path / "data"
    words = [
        "bench",
        str(tiny) if encoder == "tiny" else encoder,
        "noise",
        "-t",
        name,
        "--partial",
        "--data",
        str(copies),
    ]
    done = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "out"), "--device", "cpu", "--json"])
    assert done.exit_code == 0, done.stderr
    record, noise = json.loads(done.stdout)
    assert record["scores"][metric]["value"] > least
    assert record["scores"][metric]["value"] > noise["scores"][metric]["value"] + 0.1
