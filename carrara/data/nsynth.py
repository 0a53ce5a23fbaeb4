"""NSynth: 305,979 single notes of 4 s by 1,006 sampled instruments, with pitch and instrument family.

Every pitch of a MIDI keyboard that an instrument can play at five velocities, held for 3 s and released for 1 s;
16 kHz, mono, 16 bits, exactly 4 s [engel2017]. The facts are in [notes/benchmark §1.7].

    nsynth/
      nsynth-{train,valid,test}/
        examples.json
        audio/<key>.wav         a key ends in pitch and velocity: guitar_acoustic_010-066-100

The folders are also found in `NSynth/`, `nsynth-data/`, `NSynth/nsynth-data/` (MARBLE v1), each also in a folder named
like its archive (`nsynth-train.jsonwav/`). A copy with only some of the three is indexed and always partial.

Split scheme `official`: 289,205 / 12,678 / 4,096. Train shares no instrument with the others, but valid and test are
notes of the same 53 instruments (953 in train; counted at github.com/chester-w-xie/FCAC_datasets), so selection on
valid uses the test instruments. `synth_lead` has no valid or test notes. 71 test notes of `brass_acoustic_046` are
noise (magenta#2092); they are kept, as in MARBLE.

Labels: `pitch`, the MIDI number as a string, "0" to "127" (MARBLE v1 writes pitch − 1: the same accuracy);
`instrument_family`, `instrument_source`, and `velocity` as a number. The group is the instrument. The order is that of
the files: train, valid, test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from carrara.core.clip import SPLITS, Clip, Split
from carrara.core.download import Remote
from carrara.core.errors import DataError
from carrara.data._base import Dataset
from carrara.data._nsynth_examples import read_examples

FAMILIES = (
    "bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "synth_lead", "vocal"
)  # fmt: skip
SOURCES = ("acoustic", "electronic", "synthetic")
PITCHES = tuple(str(number) for number in range(128))
FOLDERS = (".", "nsynth-data", "NSynth/nsynth-data", "NSynth")
# The bucket behind http://download.magenta.tensorflow.org, which has no certificate of its own.
HOST = "https://storage.googleapis.com/download.magenta.tensorflow.org/datasets/nsynth"


class NSynth(Dataset):
    """The notes of the splits that exist; the layout and splits are in the module's docstring."""

    name = "nsynth"
    folder_names = ("NSynth",)
    title = "NSynth"
    license = "CC BY 4.0 (Google Inc.)"
    commercial_use = True
    citation = "Engel and others: Neural Audio Synthesis of Musical Notes with WaveNet Autoencoders, ICML 2017"
    source = "https://magenta.tensorflow.org/datasets/nsynth (no login; no hashes are published)"
    remotes = tuple(
        Remote(url=f"{HOST}/nsynth-{split}.jsonwav.tar.gz", path=f"nsynth-{split}.jsonwav.tar.gz", unpack=".")
        for split in SPLITS
    )
    expected_counts: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "official": {"train": 289205, "valid": 12678, "test": 4096}
    }
    group_names: ClassVar[Mapping[str, str]] = {"official": "instrument"}
    known_leaks: ClassVar[Mapping[str, int]] = {"official": 53}
    seconds = (3.99, 4.01)

    def index(self, root: Path) -> list[Clip]:
        """Return every note of the splits that exist; see the base class."""
        return [clip for _, clip in _read_notes(Path(root))]

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the split of each note as distributed; see the base class."""
        splits: dict[str, Split] = {}
        for split, clip in _read_notes(Path(root)):
            if clip.id in splits:
                raise DataError(f"{clip.path}: note {clip.id!r} is in {splits[clip.id]} and in {split}")
            splits[clip.id] = split
        return {"official": splits}


def _read_notes(root: Path) -> Iterator[tuple[Split, Clip]]:
    """Yield the split and the clip of each note."""
    folders: dict[Split, Path] = {}
    for split in SPLITS:
        name = f"nsynth-{split}"
        candidates = [root / parent / inside for inside in (name, f"{name}.jsonwav/{name}") for parent in FOLDERS]
        folder = next((path for path in candidates if path.is_dir()), None)
        if folder is not None:
            folders[split] = folder
    if not folders:
        raise DataError(f"{root / 'nsynth-train' / 'examples.json'}: missing; run `carrara download nsynth`")
    # 305,979 notes share few strings; one object for each saves memory.
    interned: dict[str, str] = {name: name for name in (*FAMILIES, *SOURCES, *PITCHES)}
    for split, folder in folders.items():
        path = folder / "examples.json"
        for key, note in read_examples(path):
            yield split, _parse_note(path, key, note, interned)


def _parse_note(path: Path, key: str, note: Any, interned: dict[str, str]) -> Clip:
    if not isinstance(note, dict):
        raise DataError(f"{path}: note {key!r} should be an object, is {note!r}")
    pitch, velocity = note.get("pitch"), note.get("velocity")
    family, source = note.get("instrument_family_str"), note.get("instrument_source_str")
    instrument = note.get("instrument_str")
    for name, value, allowed in (
        ("pitch", str(pitch), PITCHES),
        ("velocity", str(velocity), PITCHES),
        ("instrument_family_str", family, FAMILIES),
        ("instrument_source_str", source, SOURCES),
    ):
        if value not in allowed:
            expected = f"one of {allowed[0]} to {allowed[-1]}"
            raise DataError(f"{path}: note {key!r}: {name} should be {expected}, is {value!r}")
    if not isinstance(instrument, str) or not instrument:
        raise DataError(f"{path}: note {key!r}: instrument_str should be a name, is {instrument!r}")
    return Clip(
        id=key,
        path=path.parent / "audio" / f"{key}.wav",
        group=interned.setdefault(instrument, instrument),
        labels={
            "pitch": interned[str(pitch)],
            "instrument_family": interned[str(family)],
            "instrument_source": interned[str(source)],
            "velocity": int(str(velocity)),
        },
    )


DATASET = NSynth()
