"""NSynth: 305,979 single notes of 4 s by 1,006 sampled instruments, with pitch and instrument family.

Engel and others (ICML 2017), Google's Magenta: every pitch of a MIDI keyboard that an instrument can play at five
velocities, held for 3 s and let go for 1 s, 16 kHz, mono, 16 bits, exactly 4 s. Facts: benchmark.md 1.7.

Layout as distributed: `nsynth-{train,valid,test}.jsonwav.tar.gz` give `nsynth-<side>/examples.json` and
`nsynth-<side>/audio/<key>.wav`; a key ends in pitch and velocity (`guitar_acoustic_010-066-100`). Met as well: the
three folders in `NSynth/`, `nsynth-data/`, `NSynth/nsynth-data/` (MARBLE v1's configurations) or, each, in a folder
named like its archive; and only some of the three. A copy of some is indexed, and never called whole.

Split `official`: 289,205 / 12,678 / 4,096. Train shares no instrument with the others, but valid and test are notes of
the same 53 instruments (953 in train; counted at github.com/chester-w-xie/FCAC_datasets), so 53 leaks are known: what
is chosen on valid is chosen on the test side's own instruments. `synth_lead` has no valid or test notes (to be seen on
the data). Known fault: 71 test notes of `brass_acoustic_046` are noise (magenta#2092); they are kept, as in MARBLE.

Labels: `pitch` is the MIDI number as a word, "0" to "127" (MARBLE v1 writes pitch − 1: the same accuracy, but another
class for who maps it back), `instrument_family` the family's name, `instrument_source`, `velocity` as a number. The
group is the instrument. The order is the file's own, train, valid, test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from carrara.core.clip import SPLITS, Clip, Split
from carrara.core.download import Remote
from carrara.core.errors import DataError
from carrara.core.paths import data_home
from carrara.data._base import Dataset
from carrara.data._nsynth_examples import examples

FAMILIES = (
    "bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "synth_lead", "vocal"
)  # fmt: skip
SOURCES = ("acoustic", "electronic", "synthetic")
PITCHES = tuple(str(number) for number in range(128))
FOLDERS = (".", "nsynth-data", "NSynth/nsynth-data", "NSynth")
HOST = "http://download.magenta.tensorflow.org/datasets/nsynth"


class NSynth(Dataset):
    """The notes of those of the three sides that are there."""

    name = "nsynth"
    title = "NSynth"
    license = "CC BY 4.0 (Google Inc.)"
    commercial_use = True
    citation = "Engel and others: Neural Audio Synthesis of Musical Notes with WaveNet Autoencoders, ICML 2017"
    source = "https://magenta.tensorflow.org/datasets/nsynth (no login; no sums are published)"
    remotes = tuple(
        Remote(url=f"{HOST}/nsynth-{side}.jsonwav.tar.gz", path=f"nsynth-{side}.jsonwav.tar.gz", unpack=".")
        for side in SPLITS
    )
    expected_counts: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "official": {"train": 289205, "valid": 12678, "test": 4096}
    }
    known_leaks: ClassVar[Mapping[str, int]] = {"official": 53}
    seconds = (3.99, 4.01)

    def root(self, data_dir: Path | None = None) -> Path:
        """Return the folder below `data_dir`, `nsynth` or else `NSynth`; or `data_dir` itself if it is named so."""
        base = Path(data_dir) if data_dir else data_home()
        if base.name in ("nsynth", "NSynth"):
            return base
        return base / "NSynth" if (base / "NSynth").is_dir() and not (base / "nsynth").is_dir() else base / "nsynth"

    def index(self, root: Path) -> list[Clip]:
        """Return every note of the sides that are there; see the base class."""
        return [clip for _, clip in _notes(Path(root))]

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the side of each note as distributed; see the base class."""
        sides: dict[str, Split] = {}
        for side, clip in _notes(Path(root)):
            if clip.id in sides:
                raise DataError(f"{clip.path}: note {clip.id!r} stands in {sides[clip.id]} and in {side}")
            sides[clip.id] = side
        return {"official": sides}

    def called(self, split: str, left: int, whole: int) -> str:
        """Return what a score may be called; a copy without one of the sides is partial; see the base class."""
        return super().comparability(split, left, max(whole, sum(self.expected_counts[split].values())))


def _notes(root: Path) -> Iterator[tuple[Split, Clip]]:
    folders = {side: folder for side in SPLITS if (folder := _folder(root, side))}
    if not folders:
        raise DataError(f"{root / 'nsynth-train' / 'examples.json'}: not there; `carrara download nsynth` gives it")
    # Notes share few words, and 305,979 of them share each.
    words: dict[str, str] = {name: name for name in (*FAMILIES, *SOURCES, *PITCHES)}
    for side, folder in folders.items():
        path = folder / "examples.json"
        for key, note in examples(path):
            yield side, _clip(path, key, note, words)


def _folder(root: Path, side: Split) -> Path | None:
    name = f"nsynth-{side}"
    wheres = [root / inside / name for inside in FOLDERS]
    wheres += [root / inside / f"{name}.jsonwav" / name for inside in FOLDERS]
    return next((folder for folder in wheres if folder.is_dir()), None)


def _clip(path: Path, key: str, note: Any, words: dict[str, str]) -> Clip:
    if not isinstance(note, dict):
        raise DataError(f"{path}: note {key!r} should be an object, is {note!r}")
    pitch, velocity = note.get("pitch"), note.get("velocity")
    family, source = note.get("instrument_family_str"), note.get("instrument_source_str")
    instrument = note.get("instrument_str")
    for name, value, known in (
        ("pitch", str(pitch), PITCHES),
        ("velocity", str(velocity), PITCHES),
        ("instrument_family_str", family, FAMILIES),
        ("instrument_source_str", source, SOURCES),
    ):
        if value not in known:
            raise DataError(f"{path}: note {key!r}: {name} should be one of {known[0]} to {known[-1]}, is {value!r}")
    if not isinstance(instrument, str) or not instrument:
        raise DataError(f"{path}: note {key!r}: instrument_str should be a name, is {instrument!r}")
    return Clip(
        id=key,
        path=path.parent / "audio" / f"{key}.wav",
        group=words.setdefault(instrument, instrument),
        labels={
            "pitch": words[str(pitch)],
            "instrument_family": words[str(family)],
            "instrument_source": words[str(source)],
            "velocity": int(str(velocity)),
        },
    )


DATASET = NSynth()
