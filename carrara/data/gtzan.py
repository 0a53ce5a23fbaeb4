"""GTZAN: ten genres of 100 clips of 30 s, with the beats that GTZAN-Rhythm adds.

Tzanetakis and Cook (2002) gathered it from CDs, radio and microphones; nobody wrote down who plays. Sturm (2013) found
repeats, wrong labels and distortion; Kereliuk, Sturm and Larsen (2015) made lists without them: split
`fault-filtered`, 443 / 197 / 290, 930 in all, which MARBLE and JukeMIR use. Marchand, Fresnel and Peeters (2015)
annotated the beats. Facts: benchmark.md 1.4 and 1.5.

Layout as distributed: `genres/<genre>/<genre>.NNNNN.wav` (or `.au`), 22,050 Hz, mono, 16 bits, 30.0 to 30.1 s, never
exactly 30, and the three lists `{train,valid,test}_filtered.txt` beside. Met as well: `genres_original/` and
`Data/genres_original/` (Kaggle), `gtzan_genre/genres/` (mirdata), genre folders in the root, clips without genre
folders, `hip-hop` for `hiphop`. The Kaggle copy's jazz.00054 (train) does not decode: `check` names it, and a score on
such a copy is partial, 929 of 930, as MARBLE v1's are.

Beats, read where they are: `beats/gtzan_<genre>_<NNNNN>.beats`, a time and perhaps, after a tab, the place in the bar
(999 files, no reggae.00086, which no list has; 26,540 / 12,019 / 17,059 beats), or else `<genre>.NNNNN.wav.jams` of
GTZAN-Rhythm v2, in `jams/` or beside the sound, where the annotations of type `beat` hold the downbeats too. Labels are
`genre`, `beats` and `downbeats`, times in seconds; clips without such a file have no `beats`, and those whose file
tells no places (three in train, three in valid) no `downbeats`. The last beat may lie beyond the end of the sound.

The index is the 930 and those of the other 70 whose sound is there; they are on no side. No artists are known from the
annotations, so there are no groups and no leak can be seen but doubled files; the lists were made to have no repeats.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from carrara.core.clip import SPLITS, Clip, Split
from carrara.core.download import Remote
from carrara.core.errors import DataError
from carrara.core.paths import data_home
from carrara.data._base import Dataset

if TYPE_CHECKING:
    from carrara.data._check import DatasetCheck

GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
FOLDERS = ("genres", "genres_original", "Data/genres_original", "gtzan_genre/genres", ".")
NAMES = ("gtzan", "GTZAN", "gtzan_genre")
NAMED = re.compile(r"(?P<genre>[a-z]+(?:-[a-z]+)?)\.(?P<number>000[0-9]{2})\.(?:wav|au)")
LISTS = "https://raw.githubusercontent.com/coreyker/dnn-mgr/bdad579ea6cb37b665ea6019fe1026a6ce20cbc7/gtzan"
SUMS: Mapping[Split, str] = {
    "train": "2b04966cef1486f1a7767b74271533fa23e220388db804a1937835e1fc4fa3fa",
    "valid": "f8fbee7c52397a0e0f3a91dc54fedecb2e27f5bdc9a9daeab8cb10d077e26956",
    "test": "09cafa6a89ce0a27f30ed250d56ecb4d03c22fffb5a693f96c7ae655ee02ac72",
}
BEATS = "gtzan_tempo_beat"
BEATS_COMMIT = "fd9cafdebb6426fee41c3718791be61306323dd7"
AGAIN = "`carrara download gtzan` gives it"


class GTZAN(Dataset):
    """The clips, with their genre and their beats."""

    name = "gtzan"
    title = "GTZAN"
    license = "sound: commercial recordings, no licence; lists and beats: none stated"
    commercial_use = None
    citation = (
        "Tzanetakis, Cook: Musical Genre Classification of Audio Signals, IEEE TSAP 2002; Kereliuk, Sturm, Larsen: "
        "Deep Learning and Music Adversaries, IEEE TMM 2015; Marchand, Fresnel, Peeters: GTZAN-Rhythm, ISMIR 2015 LBD"
    )
    source = "sound: mirrors only, the authors' host is gone; lists and beats: GitHub, by commit"
    # GitHub packs an archive anew when it is asked for, so the commit of the beats is pinned and no sum.
    remotes = (
        *(Remote(f"{LISTS}/{side}_filtered.txt", f"{side}_filtered.txt", SUMS[side]) for side in SPLITS),
        Remote(
            url=f"https://github.com/TempoBeatDownbeat/{BEATS}/archive/{BEATS_COMMIT}.zip",
            path=f"{BEATS}.zip",
            unpack=".",
        ),
    )
    manual_steps = (
        "The sound is not offered for download by its authors any more. Have one of these below the folder gtzan:\n"
        "1. genres.tar.gz as they distributed it, from\n"
        "   https://web.archive.org/web/20211207012050/http://opihi.cs.uvic.ca/sound/genres.tar.gz\n"
        "   (SHA-256 24347e0223d2ba798e0a558c4c172d9d4a19c00bb7963fe055d183dadb4ef2c6); unpacked, it is\n"
        "   gtzan/genres/blues/blues.00000.wav (or .au) and so on. This copy is whole.\n"
        "2. Or Kaggle's andradaolteanu/gtzan-dataset-music-genre-classification (login), unpacked:\n"
        "   gtzan/Data/genres_original/blues/blues.00000.wav and so on; jazz.00054 is broken there.\n"
        "3. carrara check gtzan"
    )
    expected_counts: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "fault-filtered": {"train": 443, "valid": 197, "test": 290}
    }
    seconds = (29.0, 31.0)

    def root(self, data_dir: Path | None = None) -> Path:
        """Return the folder below `data_dir`: `gtzan` or else `GTZAN`, `gtzan_genre`; or `data_dir` if named so."""
        base = Path(data_dir) if data_dir else data_home()
        if base.name in NAMES:
            return base
        return next((base / name for name in NAMES if (base / name).is_dir()), base / self.name)

    def index(self, root: Path) -> list[Clip]:
        """Return the clips of the lists and what else of the 1,000 is there, by id; see the base class."""
        root = Path(root)
        sounds, beats = _sounds(root), _beat_files(root)
        clips = []
        for name in sorted({*_listed(root), *sounds}):
            genre = name.partition(".")[0]
            path = sounds.get(name, root / FOLDERS[0] / genre / f"{name}.wav")
            times = _times(beats[name]) if name in beats else {}
            clips.append(Clip(id=name, path=path, labels={"genre": genre, **times}))
        return clips

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the side of each clip by the fault-filtered lists; see the base class."""
        return {"fault-filtered": _listed(Path(root))}

    def called(self, split: str, left: int, whole: int) -> str:
        """Return what a score may be called; lists cut short (MARBLE's train list) are partial. See the base class."""
        return super().comparability(split, left, max(whole, sum(self.expected_counts[split].values())))

    def check(self, root: Path) -> DatasetCheck:
        """Compare the disk with what is known; beats are there for all clips of the lists or for none."""
        found = super().check(root)
        clips = self.clips(root, "fault-filtered")
        without = [clip.id for clip in clips if "beats" not in clip.labels]
        if len(without) in (0, len(clips)):
            return found
        line = f"beats: {len(without)} of {len(clips)} clips have no file of beats: {', '.join(without[:3])} …"
        return found.model_copy(update={"ok": False, "differing": (*found.differing, line)})


def _listed(root: Path) -> dict[str, Split]:
    """Return the side of each clip's id, in the order of the lists."""
    found: dict[str, Split] = {}
    for side in SPLITS:
        path = root / f"{side}_filtered.txt"
        for number, line in enumerate(_text(path).splitlines(), start=1):
            if not line.strip():
                continue
            name = _identity(line.strip().rpartition("/")[2])
            if name is None:
                raise DataError(f"{path}, line {number}: {line!r} should be like blues/blues.00029.wav")
            if name in found:
                raise DataError(f"{path}, line {number}: {name} stands in {found[name]} already")
            found[name] = side
    return found


def _identity(file: str) -> str | None:
    """Return the id that a sound file's name tells; none if it is not one of the 1,000."""
    named = NAMED.fullmatch(file)
    genre = named["genre"].replace("-", "") if named else ""
    return f"{genre}.{named['number']}" if named and genre in GENRES else None


def _sounds(root: Path) -> dict[str, Path]:
    """Return the sound files that are there, by id; the first folder that has one counts, and WAV before AU."""
    found: dict[str, Path] = {}
    for folder in FOLDERS:
        for pattern in ("*/*.wav", "*.wav", "*/*.au", "*.au"):
            for path in sorted((root / folder).glob(pattern)):
                name = _identity(path.name)
                if name is not None:
                    found.setdefault(name, path)
    return found


def _beat_files(root: Path) -> dict[str, Path]:
    """Return the file of each clip's beats, by id: text before JAMS."""
    found: dict[str, Path] = {}
    for pattern in ("beats", f"{BEATS}*/beats", "."):
        for path in sorted(root.glob(f"{pattern}/gtzan_*.beats")):
            named = re.fullmatch(r"gtzan_(.+)_([0-9]{5})", path.stem)
            name = _identity(f"{named[1]}.{named[2]}.wav") if named else None
            if name is not None:
                found.setdefault(name, path)
    sounds = [f"{folder}{inside}" for folder in FOLDERS for inside in ("", "/*")]
    for pattern in ("jams", "*/jams", *sounds):
        for path in sorted(root.glob(f"{pattern}/*.jams")):
            name = _identity(path.name.removesuffix(".jams"))
            if name is not None:
                found.setdefault(name, path)
    return found


def _times(path: Path) -> dict[str, list[float]]:
    """Return the beats of a file, and its downbeats where it tells them, ascending."""
    found = dict(_jams_times(path)) if path.suffix == ".jams" else _text_times(path)
    if not found.get("beats"):
        raise DataError(f"{path}: no beats in it; {AGAIN} whole")
    return {name: sorted(times) for name, times in found.items()}


def _text_times(path: Path) -> dict[str, list[float]]:
    beats: list[float] = []
    downbeats: list[float] = []
    told = False
    for number, line in enumerate(_text(path).splitlines(), start=1):
        values = line.split()
        if not values:
            continue
        if len(values) > 2 or (len(values) == 2 and not re.fullmatch("[0-9]+", values[1])):
            raise DataError(f"{path}, line {number}: {line!r} should be a time and perhaps a place in the bar")
        beats.append(_time(values[0], f"{path}, line {number}"))
        told = told or len(values) == 2
        if values[1:] == ["1"]:
            downbeats.append(beats[-1])
    return {"beats": beats, "downbeats": downbeats} if told else {"beats": beats}


def _jams_times(path: Path) -> Iterator[tuple[str, list[float]]]:
    try:
        annotations = json.loads(_text(path))["annotations"]
        for annotation in annotations:
            kind = annotation["sandbox"].get("annotation_type") if annotation["namespace"] == "beat" else None
            if kind in ("beat", "downbeat"):
                yield f"{kind}s", [_time(one["time"], path) for one in annotation["data"]]
    except json.JSONDecodeError as problem:
        raise DataError(f"{path}, line {problem.lineno}: not JSON ({problem.msg})") from None
    except (KeyError, TypeError, AttributeError):
        raise DataError(f"{path}: not JAMS with beats as GTZAN-Rhythm v2 has it; {AGAIN} as text") from None


def _time(value: Any, where: str | Path) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise DataError(f"{where}: {value!r} is not a time in seconds")
    return seconds


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: not there; {AGAIN}") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {problem}; {AGAIN} whole") from None


DATASET = GTZAN()
