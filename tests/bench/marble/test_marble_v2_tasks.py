"""Tasks of chords, covers, structure and rhythm from the command line, on files of their real format, above chance."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from carrara.bench.protocols import constrained
from carrara.cli._main import app
from carrara.core.errors import DataError
from carrara.data import REGISTRY as DATASETS
from carrara.data.harmonix import SECTIONS, reduce_section

pytestmark = pytest.mark.slow
RATE = 16_000
TRIADS = {"C:maj": (261.6, 329.6, 392.0), "A:min": (220.0, 261.6, 329.6), "N": ()}


def sound_of(pitches, seconds, seed):
    time = np.arange(round(seconds * RATE)) / RATE
    noise = 0.01 * np.random.default_rng(seed).standard_normal(len(time))
    return sum((0.2 * np.sin(2 * np.pi * pitch * time) for pitch in pitches), noise)


def add_clicks(sound, times, low=0.3):
    for index, time in enumerate(times):
        start = round(time * RATE)
        click = np.random.default_rng(0).standard_normal(200) * np.linspace(1, 0, 200)
        sound[start : start + 200] += (low * (3 if index % 4 == 0 else 1) * click)[: len(sound) - start]
    return sound


def write(path, sound, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.clip(sound, -1, 1).astype(np.float32), RATE, **changes)


def chords1217(root):
    for seed, (part, count) in enumerate((("train", 8), ("val", 4), ("test", 4))):
        lines = []
        for number in range(count):
            names = [list(TRIADS)[(number + k) % 3] for k in range(4)]
            parts = [sound_of(TRIADS[name], 1.0, 1000 * seed + 10 * number + k) for k, name in enumerate(names)]
            write(root / f"chords1217/audio/{part}{number}.flac", np.concatenate(parts))
            label = [{"start_time": float(k), "end_time": k + 1.0, "chord_str": n} for k, n in enumerate(names)]
            song = {"audio_path": f"data/Chords1217/audio/{part}{number}.mp3", "label": label, "duration": 4.0,
                    "sample_rate": 44100, "num_samples": 176400, "bit_depth": 0, "channels": 1}  # fmt: skip
            lines.append(json.dumps(song))
        (root / f"chords1217/Chords1217.{part}.jsonl").write_text("\n".join(lines) + "\n")


def covers80(root):
    for song in range(16):
        for version, artist in enumerate(("annie+first", "bob+second")):
            pitches = [150 * 2 ** (song / 4), 331 * 2 ** (song / 7)]
            name = f"Song_{song:02}/{artist}+0{version}-Song_{song:02}.mp3"
            write(root / f"covers80/covers32k/{name}", sound_of(pitches, 2.0, song + 50 * version), format="MP3")


def ballroom(root):
    for number in range(40):
        times = np.arange(0.2 + 0.01 * number, 3.9, (0.4, 0.6)[number % 2])
        name = f"Media-{number:05}"
        write(root / f"ballroom/BallroomData/{('Waltz', 'Tango')[number % 2]}/{name}.wav",
              add_clicks(sound_of((), 4.0, number), times))  # fmt: skip
        path = root / f"ballroom/BallroomAnnotations/{name}.beats"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{time:.3f} {1 + i % 4}\n" for i, time in enumerate(times)))


def gtzan(root):
    lists = {"train": [], "valid": [], "test": []}
    for number in range(45):
        name = f"{('blues', 'rock')[number % 2]}.{number:05}"
        times = np.arange(0.2 + 0.01 * number, 3.9, (0.4, 0.6)[number % 2])
        write(root / f"gtzan/genres/{name.split('.')[0]}/{name}.wav", add_clicks(sound_of((), 4.0, number), times))
        path = root / f"gtzan/beats/gtzan_{name.replace('.', '_')}.beats"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{time:.3f}\t{1 + i % 4}\n" for i, time in enumerate(times)))
        lists[("train", "train", "valid", "test", "test")[number // 9]].append(f"{name.split('.')[0]}/{name}.wav")
    for split, names in lists.items():
        (root / f"gtzan/{split}_filtered.txt").write_text("\n".join(names) + "\n")


def harmonix(root, tempi=(120,)):
    rows = ["File,Title,Artist,Release,Duration,BPM,Ratio Bars in 4,Time Signature,Genre,MusicBrainz Id,Acoustid Id"]
    for number in range(20):
        file = f"{number:04}_song"
        tempo = tempi[number // 2 % len(tempi)]
        times = np.arange(0.1, 11.9, 60 / tempo)
        edges, names = [0, 4, 8, 12], (["intro", "chorus2", "verse"], ["verse1", "prechorus", "chorus"])[number % 2]
        pitch = {"intro": 200, "verse": 500, "chorus": 1500}
        parts = [sound_of((pitch[reduce_section(n)],), 4.0, number * 3 + k) for k, n in enumerate(names)]
        write(root / f"harmonix/audio/{file}.wav", add_clicks(np.concatenate(parts), times))
        rows.append(f'{file},Title,"Artist, {number}",Release,12.0,{tempo},1.0,4|4,Pop,,')
        folder = root / "harmonix/dataset"
        for kind in ("segments", "beats_and_downbeats"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        lines = [f"{time:.1f} {name}" for time, name in zip(edges, [*names, "end"])]
        (folder / f"segments/{file}.txt").write_text("\n".join(lines) + "\n")
        beats = [f"{time:.3f}\t{1 + i % 4}\t{1 + i // 4}" for i, time in enumerate(times)]
        (folder / f"beats_and_downbeats/{file}.txt").write_text("\n".join(beats) + "\n")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    root = tmp_path_factory.mktemp("v2")
    for make in (chords1217, covers80, ballroom, gtzan, harmonix):
        make(root)
    harmonix(root / "tempi", (120, 90))
    return root


# What the probes on a small network reach on sounds in which the labels are plain, and what noise stays below.
EXPECTED = {
    "chords1217/chords": ("chord_frame_accuracy", 0.7),
    "chords1217/chords-v2": ("chord_frame_accuracy", 0.7),
    "covers80/covers": ("map", 0.6),
    "ballroom/tempo": ("tempo_accuracy1", 0.6),
    "ballroom/beats": ("beat_f_70ms", 0.6),
    "ballroom/downbeats": ("beat_f_70ms", 0.3),
    "gtzan/tempo": ("tempo_accuracy1", 0.6),
    "gtzan/beats-v2": ("beat_f_70ms", 0.6),
    "gtzan/downbeats": ("beat_f_70ms", 0.3),
    "harmonix/structure": ("segment_label_accuracy", 0.7),
    "harmonix/beats": ("beat_f_70ms", 0.6),
    "harmonix/downbeats": ("beat_f_70ms", 0.3),
    "harmonix/tempo": ("tempo_accuracy1", 0.6),
}


@pytest.mark.parametrize("name", list(EXPECTED))
def test_a_task_runs_from_the_command_line_and_beats_its_floor(copies, tiny, home, tmp_path, monkeypatch, name):
    monkeypatch.setenv("CARRARA_HOME", str(home))
    # The whole search runs in test_marble_tasks.py; here one of its rates suffices.
    monkeypatch.setattr(constrained, "LEARNING_RATES", (1e-2,))
    data = copies / "tempi" if name == "harmonix/tempo" else copies
    words = ["bench", str(tiny), "noise", "-t", name, "--partial", "--data", str(data), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*words, "--device", "cpu", "--json"])
    assert done.exit_code == 0, done.stderr
    record, noise = json.loads(done.stdout)
    metric, least = EXPECTED[name]
    assert record["scores"][metric]["value"] > least
    assert record["scores"][metric]["value"] > noise["scores"][metric]["value"] + 0.1


def test_labels_are_those_of_the_files(copies):
    song = DATASETS.get("chords1217").clips(copies / "chords1217", "marble")[0]
    assert song.labels["chords"] == [[0.0, 1.0, "C:maj"], [1.0, 2.0, "A:min"], [2.0, 3.0, "N"], [3.0, 4.0, "C:maj"]]
    assert song.path.suffix == ".flac" and song.split == "train"
    form = DATASETS.get("harmonix").clips(copies / "harmonix", "songs")[1]
    assert [section for _, _, section in form.labels["structure"]] == ["verse", "verse", "chorus"]
    assert form.group == "Artist, 1" and form.labels["tempo"] == 120 and form.labels["downbeats"][1] == 2.1
    dance = DATASETS.get("ballroom").index(copies / "ballroom")[0]
    assert dance.labels["downbeats"] == dance.labels["beats"][::4]
    songs = DATASETS.get("covers80").clips(copies / "covers80", "songs")
    assert [sum(clip.split == split for clip in songs) for split in ("train", "valid", "test")] == [4, 8, 20]
    for name in ("chords1217", "covers80", "ballroom", "harmonix"):
        report = DATASETS.get(name).check(copies / name)
        assert not report.missing and not report.unreadable and not report.leaks


def test_written_sections_are_reduced():
    written = ["Intro", "verse2", "prechorus", "CHORUS", "instchorus", "solo", "outro", "silence", "stutter", "bridge"]
    found = [reduce_section(name) for name in written]
    assert found == [
        "intro",
        "verse",
        "verse",
        "chorus",
        "chorus",
        "instrumental",
        "outro",
        "silence",
        "other",
        "bridge",
    ]
    assert set(found) == set(SECTIONS)


def test_damaged_files_are_named(tmp_path):
    root = tmp_path / "chords1217"
    root.mkdir()
    for part in ("train", "val", "test"):
        (root / f"Chords1217.{part}.jsonl").write_text('{"audio_path": "a.mp3"}\n')
    with pytest.raises(DataError, match=r"Chords1217.train.jsonl, line 1: not a song .*lacks 'label'"):
        DATASETS.get("chords1217").index(root)
    for name, problem in (("covers80", "carrara download covers80"), ("ballroom", "carrara download ballroom"),
                          ("harmonix", "git clone")):  # fmt: skip
        with pytest.raises(DataError, match=problem):
            DATASETS.get(name).index(tmp_path / name)
    harmonix(tmp_path)
    path = tmp_path / "harmonix/dataset/segments/0003_song.txt"
    path.write_text("0.0 intro\nlater verse\n")
    with pytest.raises(DataError, match="line 2: 'later' is not a time"):
        DATASETS.get("harmonix").index(tmp_path / "harmonix")
