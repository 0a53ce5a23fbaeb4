"""Small copies of the eight datasets in their distributed layouts, with labels that are in the sound."""

from __future__ import annotations

import csv
import hashlib
import json

import numpy as np
import pytest
import soundfile

RATE = 16_000
SPLITS = ("train", "valid", "test")
KEYS = ("C major", "F minor", "Ab minor", "D major")


def tone(pitch, seconds=1.0, seed=0, rate=RATE, noise=0.02):
    time = np.arange(round(seconds * rate)) / rate
    sound = 0.3 * np.sin(2 * np.pi * pitch * time) + noise * np.random.default_rng(seed).standard_normal(len(time))
    return sound.clip(-1, 1).astype(np.float32)


def write(path, sound, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, rate, format="MP3" if path.suffix == ".mp3" else None)


def text(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def pitch_of(index):
    """Return a frequency for the class with that index, classes half an octave apart."""
    return 220 * 2 ** (index / 2)


def artist_in(split, taken):
    """Return a new artist's name that GiantSteps' rule puts in a split: SHA-1 mod 116, 100 and more are valid."""
    for number in range(10_000):
        name = f"Artist {number}"
        index = int(hashlib.sha1(name.lower().encode()).hexdigest(), 16) % 116
        if name not in taken and (index >= 100) == (split == "valid"):
            taken.add(name)
            return name
    raise AssertionError


def giantsteps(root):
    taken, keys, songs = set(), ["ID\tMANUAL KEY\tC"], ["ID\tARTIST\tSONG TITLE\tMIX\tLABEL\tBP GENRE\tBP BPM\tBP KEY"]
    for number in range(36):
        index = number % len(KEYS)
        split = SPLITS[number // len(KEYS) % 3]
        sound = tone(pitch_of(index), seed=number)
        if split == "test":
            folder = root / "giantsteps-key"
            (folder / "annotations/key").mkdir(parents=True, exist_ok=True)
            (folder / f"annotations/key/{9000 + number}.LOFI.key").write_text(KEYS[index])
            write(folder / f"audio/{9000 + number}.LOFI.mp3", sound)
            continue
        name = 100 + number
        keys.append(f"{name}\t{KEYS[index].replace('Ab', 'G#')}\t2")
        songs.append(f"{name}\t{artist_in(split, taken)}\tsong\tmix\tlabel\tTechno\t128\tC major")
        write(root / f"giantsteps-mtg-key/audio/{name}.LOFI.mp3", sound)
    text(root / "giantsteps-mtg-key/annotations/annotations.txt", keys)
    text(root / "giantsteps-mtg-key/annotations/beatport_metadata.txt", songs)


def magnatagatune(root):
    from carrara.bench.tasks.magnatagatune.tags import TASK

    folder = root / "magnatagatune"
    tags = [*TASK.labels, *(f"other {number}" for number in range(138))]
    rows, infos = [], []
    for number in range(30):
        index = number % 3
        name = f"{('0', 'c', 'd')[number // 3 % 3]}/song-{number}-0-29.mp3"
        own = {tags[index], "slow"}
        rows.append([2 + number, *(int(tag in own) for tag in tags), name])
        infos.append([2 + number, 1, "song", f"artist {number}", "album", "u", 0, 29, "u", name])
        write(folder / name, tone(pitch_of(index), seed=number))
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
    for file, head, lines in (
        ("annotations_final.csv", ["clip_id", *tags, "mp3_path"], rows),
        ("clip_info_final.csv", heads, infos),
    ):
        with (folder / file).open("w", newline="") as opened:
            csv.writer(opened, delimiter="\t", quoting=csv.QUOTE_ALL).writerows([head, *lines])


def mtg_jamendo(root):
    folder = root / "mtg-jamendo"
    kinds = {
        "genre": ("genre---rock", "genre---jazz"),
        "instrument": ("instrument---piano", "instrument---guitar"),
        "moodtheme": ("mood/theme---happy", "mood/theme---sad"),
        "top50tags": ("genre---rock", "instrument---piano"),
    }
    for kind, tags in kinds.items():
        for split, word in zip(SPLITS, ("train", "validation", "test")):
            lines = ["TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS"]
            for number in range(12):
                track = 1000 + 100 * SPLITS.index(split) + number
                path = f"{track % 100:02}/{track}.mp3"
                lines.append(f"track_{track:07}\tartist_{track:06}\talbum_{track:06}\t{path}\t1.0\t{tags[number % 2]}")
                sound = folder / "audio-low" / path.replace(".mp3", ".low.mp3")
                if not sound.exists():
                    write(sound, tone(pitch_of(number % 2), seed=track))
            text(folder / f"data/splits/split-0/autotagging_{kind}-{word}.tsv", lines)


def gtzan(root):
    folder = root / "gtzan"
    lists = {split: [] for split in SPLITS}
    for index, genre in enumerate(("blues", "disco", "jazz", "rock")):
        for number in range(9):
            name = f"{genre}/{genre}.{number:05}.wav"
            lists[SPLITS[number % 3]].append(name)
            beats = np.arange(0.25 + 0.01 * index, 4.0, 0.4 + 0.1 * (number % 2))
            sound = 0.3 * tone(pitch_of(index), 4.0, seed=10 * index + number, rate=22_050)
            for time in beats:
                start = round(time * 22_050)
                click = np.random.default_rng(0).standard_normal(400) * np.linspace(1, 0, 400)
                sound[start : start + 400] += 0.5 * click
            write(folder / "genres" / name, sound.clip(-1, 1), 22_050)
            text(
                folder / f"beats/gtzan_{genre}_{number:05}.beats",
                [f"{time:.3f}\t{1 + i % 4}" for i, time in enumerate(beats)],
            )
    for split, names in lists.items():
        text(folder / f"{split}_filtered.txt", names)


def emomusic(root):
    folder = root / "emomusic"
    songs = [
        "song_id,file_name,Artist,Song title,start of the segment (min.sec),end of the segment (min.sec),Genre,"
        "Mediaeval 2013 set"
    ]
    ratings = ["song_id,mean_arousal,std_arousal,mean_valence,std_valence"]
    draw = np.random.default_rng(0)
    for number in range(60):
        arousal, valence = draw.uniform(2, 8, 2)
        split = "evaluation" if number % 3 == 2 else "development"
        artist = "".join(chr(97 + int(digit)) for digit in str(number))
        songs.append(f"{number},{number}.mp3,\t{artist},song,0.5,1.35,Rock,{split}")
        ratings.append(f"{number}, {arousal:.2f}, 1.0, {valence:.2f}, 1.0")
        sound = tone(200 + 100 * valence, seed=number) * (arousal / 8)
        write(folder / f"clips_45seconds/{number}.mp3", sound)
    text(folder / "annotations/songs_info.csv", songs)
    text(folder / "annotations/static_annotations.csv", ratings)


def nsynth(root):
    families = ("bass", "brass", "flute", "guitar")
    for split in SPLITS:
        entries = {}
        for number in range(24):
            index = number % 4
            pitch = 48 + 7 * (number // 4 % 3)
            key = f"{families[index]}_acoustic_{SPLITS.index(split):03}{number:02}-{pitch:03}-100"
            entries[key] = {
                "note": number,
                "note_str": key,
                "instrument": number,
                "instrument_str": key.partition("-")[0],
                "instrument_family": index,
                "instrument_family_str": families[index],
                "instrument_source": 0,
                "instrument_source_str": "acoustic",
                "pitch": pitch,
                "velocity": 100,
                "sample_rate": 16000,
                "qualities": [0] * 10,
                "qualities_str": [],
            }
            pitch_hertz = 440 * 2 ** ((pitch - 69) / 12)
            seed = number + 100 * SPLITS.index(split)
            sound = sum(tone(pitch_hertz * h, 0.5, seed) / h**index for h in (1, 2, 3, 4)) / 3
            write(root / f"nsynth/nsynth-{split}/audio/{key}.wav", sound)
        (root / f"nsynth/nsynth-{split}/examples.json").write_text(json.dumps(entries))


def vocalset(root):
    from carrara.data.vocalset import SINGERS, TECHNIQUES

    for index, singer in enumerate(SINGERS):
        folder = f"{'female' if singer[0] == 'f' else 'male'}{singer[1:]}"
        for number, technique in enumerate(TECHNIQUES):
            for take in range(2):
                sound = tone(150 * 2 ** (index / 5), 0.3, 31 * index + number + take, noise=0.01)
                sound = sound * (1 + 0.9 * np.sin(2 * np.pi * (2 + 4 * number) * np.arange(len(sound)) / RATE)) / 2
                name = f"{singer}_scales_{technique}_{'ae'[take]}.wav"
                write(root / "vocalset/FULL" / folder / "scales" / technique / name, sound)


def musdb18(root):
    from carrara.data.musdb18 import VALIDATION

    names = {
        "train": [f"Band {n} - Song" for n in range(3)] + sorted(VALIDATION)[:2],
        "test": ["Last - One", "Last - Two"],
    }
    for folder, tracks in names.items():
        for number, track in enumerate(tracks):
            stems = {
                "vocals": tone(880, 2.0, number, 44_100),
                "drums": np.random.default_rng(number).standard_normal(88_200).astype(np.float32) * 0.05,
                "bass": tone(60, 2.0, number, 44_100),
                "other": tone(3000, 2.0, number, 44_100),
            }
            stems["mixture"] = sum(stems.values())
            for name, sound in stems.items():
                write(root / "musdb18" / folder / track / f"{name}.wav", np.stack([sound, sound], 1) * 0.4, 44_100)


MAKERS = (giantsteps, magnatagatune, mtg_jamendo, gtzan, emomusic, nsynth, vocalset, musdb18)


@pytest.fixture(scope="session")
def everything(tmp_path_factory):
    """A folder with a small copy of every dataset."""
    root = tmp_path_factory.mktemp("marble")
    for make in MAKERS:
        make(root)
    return root


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A CARRARA_HOME in which features of one test are there for the next."""
    return tmp_path_factory.mktemp("home")


TINY = {
    "conv_channels": 32,
    "conv_kernels": (640, 4, 2),
    "conv_strides": (80, 2, 2),
    "norm_placement": "pre",
    "dim": 32,
    "num_layers": 1,
    "num_heads": 2,
    "ffn_dim": 64,
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A folder with a small untrained encoder that has frames."""
    from carrara.encoders._hub.load import build_encoder, save_pretrained

    folder = tmp_path_factory.mktemp("encoders") / "tiny"
    save_pretrained(build_encoder("mert-v0", 0, TINY), folder)
    return folder
