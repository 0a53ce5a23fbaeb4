"""GTZAN: ten genres of 100 clips of 30 s, with the beats of GTZAN-Rhythm.

The clips come from CDs, radio and microphones, without artists [tzanetakis2002]. They have repeats, wrong labels and
distortion [sturm2013]; the fault-filtered lists [kereliuk2015], which MARBLE and JukeMIR use, leave those out: 443 /
197 / 290, 930 in all. The beats are by [marchand2015]. The facts are in [notes/benchmark §1.4] and
[notes/benchmark §1.5].

    gtzan/
      genres/<genre>/<genre>.NNNNN.wav      or .au; 22,050 Hz, mono, 16 bits, 30.0 to 30.1 s
      {train,valid,test}_filtered.txt
      beats/gtzan_<genre>_<NNNNN>.beats     time and, optionally, position in the bar

Audio is also found in `genres_original/` and `Data/genres_original/` (Kaggle), `gtzan_genre/genres/` (mirdata) or the
root, without genre folders, and with `hip-hop` for `hiphop`. Kaggle's copy of jazz.00054 (train) does not decode, so
scores on it are partial, 929 of 930, as MARBLE v1's are. 999 `.beats` files are distributed, without reggae.00086,
which no list has; where one is missing, `<genre>.NNNNN.wav.jams` of GTZAN-Rhythm v2 is read, in `jams/` or beside the
audio.

Labels: `genre`, `beats` and `downbeats` in seconds; 26,540 / 12,019 / 17,059 beats. Clips without a file of beats have
no `beats`, files without positions (three in train, three in valid) no `downbeats`. The last beat may be after the end
of the audio.

Split schemes: `fault-filtered`, and `fault-filtered-downbeats`, those of its clips that have downbeats (440 / 194 /
290, where the beats are on disk). The index has the 930 clips and those of the other 70 whose audio exists; they are
in no split. Artists are unknown, so there are no groups, and only duplicated files show leaks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from carrara.core.clip import SPLITS, Clip, Split
from carrara.core.download import Remote
from carrara.core.errors import DataError
from carrara.core.strict_json import parse_json
from carrara.data._base import Dataset, DatasetCheck
from carrara.data._tables import parse_seconds, read_text, split_lines

GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
AUDIO_FOLDERS = ("genres", "genres_original", "Data/genres_original", "gtzan_genre/genres", ".")
FILE_NAME = re.compile(r"(?P<genre>[a-z]+(?:-[a-z]+)?)\.(?P<number>000[0-9]{2})\.(?:wav|au)")
LISTS_URL = "https://raw.githubusercontent.com/coreyker/dnn-mgr/bdad579ea6cb37b665ea6019fe1026a6ce20cbc7/gtzan"
LISTS_SHA256: Mapping[Split, str] = {
    "train": "2b04966cef1486f1a7767b74271533fa23e220388db804a1937835e1fc4fa3fa",
    "valid": "f8fbee7c52397a0e0f3a91dc54fedecb2e27f5bdc9a9daeab8cb10d077e26956",
    "test": "09cafa6a89ce0a27f30ed250d56ecb4d03c22fffb5a693f96c7ae655ee02ac72",
}
BEATS = "gtzan_tempo_beat"
BEATS_COMMIT = "fd9cafdebb6426fee41c3718791be61306323dd7"
CURE = "run `carrara download gtzan`"


class GTZAN(Dataset):
    """The clips with their genres and beats; the layout and splits are in the module's docstring."""

    name = "gtzan"
    folder_names = ("GTZAN", "gtzan_genre")
    title = "GTZAN"
    license = "audio: commercial recordings, no licence; lists and beats: none stated"
    commercial_use = None
    citation = (
        "Tzanetakis, Cook: Musical Genre Classification of Audio Signals, IEEE TSAP 2002; Kereliuk, Sturm, Larsen: "
        "Deep Learning and Music Adversaries, IEEE TMM 2015; Marchand, Fresnel, Peeters: GTZAN-Rhythm, ISMIR 2015 LBD"
    )
    source = "audio: mirrors only, the authors' host is gone; lists and beats: GitHub, by commit"
    # GitHub packs an archive at each request, so the commit of the beats is pinned instead of a hash.
    remotes = (
        *(
            Remote(f"{LISTS_URL}/{split}_filtered.txt", f"{split}_filtered.txt", LISTS_SHA256[split])
            for split in SPLITS
        ),
        Remote(
            url=f"https://github.com/TempoBeatDownbeat/{BEATS}/archive/{BEATS_COMMIT}.zip",
            path=f"{BEATS}.zip",
            unpack=".",
        ),
    )
    manual_steps = (
        "The authors no longer offer the audio for download. Put one of these below the folder gtzan:\n"
        "1. genres.tar.gz as they distributed it, from\n"
        "   https://web.archive.org/web/20211207012050/http://opihi.cs.uvic.ca/sound/genres.tar.gz\n"
        "   (SHA-256 24347e0223d2ba798e0a558c4c172d9d4a19c00bb7963fe055d183dadb4ef2c6); unpacked, it is\n"
        "   gtzan/genres/blues/blues.00000.wav (or .au) and so on. This copy is complete.\n"
        "2. Or Kaggle's andradaolteanu/gtzan-dataset-music-genre-classification (login), unpacked:\n"
        "   gtzan/Data/genres_original/blues/blues.00000.wav and so on; jazz.00054 is broken there.\n"
        "3. carrara check gtzan"
    )
    expected_counts: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "fault-filtered": {"train": 443, "valid": 197, "test": 290},
    }
    downbeats_count: ClassVar[int] = 924
    seconds = (29.0, 31.0)

    def comparability(self, split_scheme: str, available: int, total: int) -> str:
        """Return what scores are comparable with; clips without beats are missing ones. See the base class."""
        if split_scheme == "fault-filtered-downbeats":
            total = max(total, self.downbeats_count)
        return super().comparability(split_scheme, available, total)

    def index(self, root: Path) -> list[Clip]:
        """Return the clips of the lists and what exists of the other 70, by id; see the base class."""
        root = Path(root)
        audio, beats = _find_audio(root), _find_beats(root)
        clips = []
        for name in sorted({*_read_lists(root), *audio}):
            genre = name.partition(".")[0]
            path = audio.get(name, root / AUDIO_FOLDERS[0] / genre / f"{name}.wav")
            times = _read_beats(beats[name]) if name in beats else {}
            clips.append(Clip(id=name, path=path, labels={"genre": genre, **times}))
        return clips

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the split of each clip in the fault-filtered lists; see the base class."""
        lists = _read_lists(Path(root))
        with_downbeats = {clip.id for clip in self.index(root) if "downbeats" in clip.labels}
        return {
            "fault-filtered": lists,
            "fault-filtered-downbeats": {name: split for name, split in lists.items() if name in with_downbeats},
        }

    def check(self, root: Path) -> DatasetCheck:
        """Check the copy, and that all clips of the lists have beats or none has; see the base class."""
        report = super().check(root)
        clips = self.clips(root, "fault-filtered")
        without = [clip.id for clip in clips if "beats" not in clip.labels]
        if len(without) in (0, len(clips)):
            return report
        line = f"beats: {len(without)} of {len(clips)} clips have no file of beats: {', '.join(without[:3])} …"
        return report.model_copy(update={"ok": False, "differing": (*report.differing, line)})


def _read_lists(root: Path) -> dict[str, Split]:
    """Return the split of each clip's id, in the order of the lists."""
    splits: dict[str, Split] = {}
    for split in SPLITS:
        path = root / f"{split}_filtered.txt"
        for number, line in enumerate(split_lines(read_text(path, CURE)), start=1):
            if not line.strip():
                continue
            name = _parse_id(line.strip().rpartition("/")[2])
            if name is None:
                raise DataError(f"{path}, line {number}: {line[:60]!r} should be like blues/blues.00029.wav")
            if name in splits:
                raise DataError(f"{path}, line {number}: {name} is already in {splits[name]}")
            splits[name] = split
    return splits


def _parse_id(file_name: str) -> str | None:
    """Return the id of an audio file; None if it is not one of the 1,000."""
    match = FILE_NAME.fullmatch(file_name)
    genre = match["genre"].replace("-", "") if match else ""
    return f"{genre}.{match['number']}" if match and genre in GENRES else None


def _find_audio(root: Path) -> dict[str, Path]:
    """Return existing audio files by id; the first folder that has one counts, and WAV before AU."""
    paths: dict[str, Path] = {}
    for folder in AUDIO_FOLDERS:
        for pattern in ("*/*.wav", "*.wav", "*/*.au", "*.au"):
            for path in sorted((root / folder).glob(pattern)):
                name = _parse_id(path.name)
                if name is not None:
                    paths.setdefault(name, path)
    return paths


def _find_beats(root: Path) -> dict[str, Path]:
    """Return the file of each clip's beats by id: text before JAMS."""
    paths: dict[str, Path] = {}
    for folder in ("beats", f"{BEATS}*/beats", "."):
        for path in sorted(root.glob(f"{folder}/gtzan_*.beats")):
            match = re.fullmatch(r"gtzan_(.+)_([0-9]{5})", path.stem)
            name = _parse_id(f"{match[1]}.{match[2]}.wav") if match else None
            if name is not None:
                paths.setdefault(name, path)
    beside_audio = [f"{folder}{inside}" for folder in AUDIO_FOLDERS for inside in ("", "/*")]
    for folder in ("jams", "*/jams", *beside_audio):
        for path in sorted(root.glob(f"{folder}/*.jams")):
            name = _parse_id(path.name.removesuffix(".jams"))
            if name is not None:
                paths.setdefault(name, path)
    return paths


def _read_beats(path: Path) -> dict[str, list[float]]:
    """Return the ascending beats of a file, and its downbeats if it has positions in the bar."""
    times = _parse_jams(path) if path.suffix == ".jams" else _parse_text(path)
    if not times.get("beats"):
        raise DataError(f"{path}: no beats in it; {CURE}")
    return {name: sorted(values) for name, values in times.items()}


def _parse_text(path: Path) -> dict[str, list[float]]:
    beats: list[float] = []
    downbeats: list[float] = []
    has_positions = False
    for number, line in enumerate(split_lines(read_text(path, CURE)), start=1):
        values = line.split()
        if not values:
            continue
        if len(values) > 2 or (len(values) == 2 and not re.fullmatch("[0-9]+", values[1])):
            raise DataError(
                f"{path}, line {number}: {line[:60]!r} should be a time and, optionally, a position in the bar"
            )
        beats.append(parse_seconds(values[0], f"{path}, line {number}"))
        has_positions = has_positions or len(values) == 2
        if values[1:] == ["1"]:
            downbeats.append(beats[-1])
    return {"beats": beats, "downbeats": downbeats} if has_positions else {"beats": beats}


def _parse_jams(path: Path) -> dict[str, list[float]]:
    """Return beats and downbeats of a JAMS file.

    GTZAN-Rhythm v2 says in each annotation's sandbox which of them it holds. A single annotation without that holds
    beats, and its values are positions in the bar.
    """
    times: dict[str, list[float]] = {}
    unnamed: list[Any] = []
    try:
        for annotation in parse_json(read_text(path, CURE))["annotations"]:
            if annotation["namespace"] != "beat":
                continue
            kind = (annotation.get("sandbox") or {}).get("annotation_type")
            if kind in ("beat", "downbeat"):
                times[f"{kind}s"] = [parse_seconds(event["time"], str(path)) for event in annotation["data"]]
            elif kind is None:
                unnamed.append(annotation["data"])
        if not times and len(unnamed) == 1:
            times["beats"] = [parse_seconds(event["time"], str(path)) for event in unnamed[0]]
            if any(event.get("value") for event in unnamed[0]):
                times["downbeats"] = [
                    parse_seconds(event["time"], str(path)) for event in unnamed[0] if event.get("value") == 1
                ]
    except ValueError as problem:
        raise DataError(f"{path}: {problem}; {CURE}, which has the beats as text") from None
    except (KeyError, TypeError, AttributeError):
        raise DataError(f"{path}: not JAMS with beats as in GTZAN-Rhythm v2; {CURE}, which has them as text") from None
    if "beats" not in times and unnamed:
        raise DataError(
            f"{path}: {len(unnamed)} annotations of beats, and none says in sandbox.annotation_type whether it holds "
            "beats or downbeats; write 'beat' or 'downbeat' there"
        )
    return times


DATASET = GTZAN()
