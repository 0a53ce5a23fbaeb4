"""The tasks of real sounds are built from packages, and candidates are trained and compared on them and on Pebble."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

GAMES = (
    "wesnoth-1.16-music", "warzone2100-music", "extremetuxracer-data", "hedgewars-data", "openclonk-data", "xmoto-data",
)  # fmt: skip


def write_tone(path, seconds, frequency=440.0, rate=8_000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate), rate)
    return path


def read_labels(folder):
    return [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]


@pytest.fixture
def real(tmp_path):
    """A folder with what the unpacked packages of drums, games and speech have, in small."""
    packages = tmp_path / "real/packages"
    for kit in range(6):
        for name in ("Kick-1.wav", "Snare_soft.flac", "HH_open.wav", "cowbell.wav"):
            write_tone(packages / "hydrogen-drumkits/usr/share/hydrogen" / f"kit{kit}" / name, 0.2)
    music = write_tone(tmp_path / "music.ogg", 41)
    for package in GAMES:
        folder = packages / package / "usr/share/games"
        write_tone(folder / "click.ogg", 0.2)
        for number in range(6):
            shutil.copy(music, folder / f"track{number}.ogg")
    for language, frequency in (("cs", 300), ("fr", 800)):
        spoken = write_tone(tmp_path / f"{language}.ogg", 0.5, frequency)
        (packages / "klettres-data/usr/share/klettres" / language / "alpha").mkdir(parents=True)
        for number in range(36):
            shutil.copy(spoken, packages / "klettres-data/usr/share/klettres" / language / f"alpha/{number}.ogg")
    (packages / "klettres-data/usr/share/klettres/cs/alpha/7.ogg").write_bytes(b"no sound")
    return tmp_path / "real"


@pytest.mark.slow
def test_drums_soundtracks_and_speech_are_split_by_kit_track_and_sound(run, real, capsys):
    run("real_audio.py", [real, "--tasks", "drum,soundtrack,language"])
    assert capsys.readouterr().out.splitlines() == ["drums 18 clips", "games 432 clips", "speech 71 clips"]
    drums = read_labels(real / "drums")
    assert Counter(row["drum"] for row in drums) == {"kick": 6, "snare": 6, "open hat": 6}
    games = read_labels(real / "games")
    assert {row["game"] for row in games} == set(GAMES)
    assert all(row["start"] + row["duration"] <= 41 for row in games)
    for rows, expected in ((drums, [9, 3, 6]), (games, [216, 72, 144])):
        splits = Counter(row["split"] for row in rows)
        assert [splits[split] for split in ("train", "valid", "test")] == expected
    assert len({(row["group"], row["split"]) for row in drums}) == 6, "a kit is in one split"
    assert Counter(row["language"] for row in read_labels(real / "speech")) == {"cs": 35, "fr": 36}


@pytest.mark.slow
def test_notes_have_the_pitch_of_their_label(run, tmp_path):
    """The synthesizer that stood here before played two notes of three in other pitch classes."""
    pytest.importorskip(
        "fluidsynth", reason="apt-get install libfluidsynth3; pip install pyfluidsynth", exc_type=ImportError
    )
    import librosa
    import pretty_midi

    sounds = tmp_path / "packages/fluid-soundfont-gm"
    sounds.mkdir(parents=True)
    shutil.copy(Path(pretty_midi.__file__).parent / "TimGM6mb.sf2", sounds)
    run("real_audio.py", [tmp_path, "--tasks", "instrument,note"])
    rows = read_labels(tmp_path / "notes")
    test = {row["group"] for row in rows if row["split"] == "test"}
    assert not test & {row["group"] for row in rows if row["split"] != "test"}, "a preset is in one split"
    reeds = [row for row in rows if row["family"] == "reed" and row["group"] in ("68", "71")]
    assert len(reeds) == 20
    for row in reeds:
        samples, rate = soundfile.read(tmp_path / "notes" / row["path"])
        sounding, _, _ = librosa.pyin(samples[: rate // 2], fmin=60, fmax=800, sr=rate)
        assert round(librosa.hz_to_midi(np.nanmedian(sounding))) % 12 == int(row["note"])


@pytest.mark.slow
def test_candidates_are_trained_and_compared_on_pebble_and_on_real_sounds(
    run, real, pebble_folder, own_home, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("CARRARA_DATA", str(pebble_folder))
    for package in ("hyperrogue-music", "singularity-music"):
        write_tone(tmp_path / "out/packages" / package / "theme.ogg", 75)
    run("real_audio.py", [real, "--tasks", "language"])
    rows = "masked,masked-real"
    small = ["--real", real, "--rows", rows, "--tasks", "pebble/key", "--seeds", "1", "--steps", "2", "--limit", "8"]
    run("candidates.py", [*small, "-o", tmp_path / "out"])
    assert sorted(path.name for path in (tmp_path / "out/corpus").glob("*.flac"))[:2] == ["000.flac", "001.flac"]
    printed = capsys.readouterr().out
    for title, task in (("Pebble", "pebble/key"), ("real", "language")):
        table = printed[printed.index(f"| row | mean on {title} | {task} | − baseline | − chroma-mfcc |") :]
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:4]]
        assert [row[0] for row in cells] == rows.split(",")
        means = [float(row[2]) for row in cells]
        assert all(0 <= mean <= 100 for mean in means) and cells[0][3] == "–"
        for row, mean in zip(cells[1:], means[1:]):
            value, low, high = map(float, re.findall(r"[+-][\d.]+", row[3]))
            assert low <= value <= high and value == pytest.approx(mean - means[0], abs=0.11)
