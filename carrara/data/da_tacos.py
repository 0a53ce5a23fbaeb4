"""Da-TACOS: 15,000 performances to search for versions of the same work, and 10,000 beside them [yesiler2019].

    da-tacos/
      da-tacos_metadata/da-tacos_benchmark_subset_metadata.json      {work: {performance: {perf_artist, …}}}
      da-tacos_metadata/da-tacos_coveranalysis_subset_metadata.json  the same
      audio/<work>/<performance>.mp3                                 or audio/<performance>.mp3; .flac, .wav, .m4a too

Works are `W_…`, performances `P_…`, as in the folders of the features that are distributed; the audio is not, and the
features are not read. `da-tacos_metadata/` may be missing from the paths.

Label: `song`, the work. The benchmark subset has 1,000 works with 13 performances each, and 2,000 performances that
have no version in it: these have no label and are only searched. Split scheme `benchmark`: test is the whole benchmark
subset. Nothing is trained for retrieval, but a layer is chosen, on other works: of the cover analysis subset, without
works of the benchmark, a work is train where the SHA-1 of its name modulo 10 is 0, and valid where that is 1 or 2; the
other performances are in no split. The group is the work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from carrara.core.clip import Clip, Split
from carrara.core.errors import DataError
from carrara.core.strict_json import parse_json_object
from carrara.data._base import Dataset
from carrara.data._tables import read_text

METADATA = "da-tacos_metadata"
FILES = "da-tacos_{}_subset_metadata.json"
AUDIO_SUFFIXES = (".mp3", ".flac", ".wav", ".m4a")
CURE = "python download_da-tacos.py --dataset metadata --unpack of https://github.com/MTG/da-tacos writes it"


class DaTacos(Dataset):
    """The performances with their works; the layout and splits are in the module's docstring."""

    name = "da-tacos"
    folder_names = ("da_tacos", "Da-TACOS")
    title = "Da-TACOS"
    license = "audio: commercial recordings, no licence; metadata: CC BY-NC-SA 4.0"
    commercial_use = False
    citation = "Yesiler et al.: Da-TACOS: A Dataset for Cover Song Identification and Understanding, ISMIR 2019"
    source = "metadata: https://github.com/MTG/da-tacos; audio: not distributed"
    manual_steps = (
        "1. git clone https://github.com/MTG/da-tacos, and in it:\n"
        "   python download_da-tacos.py --dataset metadata --unpack --outputdir <folder of the datasets>/da-tacos\n"
        "2. Put your copies of the performances at da-tacos/audio/<work>/<performance>.mp3 (or .flac, .wav, .m4a),\n"
        "   with the names of the metadata, such as audio/W_163992/P_547131.mp3\n"
        "3. carrara check da-tacos; carrara bench --partial measures on what is there"
    )
    expected_counts: ClassVar[Mapping[str, Mapping[str, int]]] = {"benchmark": {"test": 15_000}}
    group_names: ClassVar[Mapping[str, str]] = {"benchmark": "work"}

    def index(self, root: Path) -> list[Clip]:
        """Return the performances of the benchmark subset, then the others; see the base class."""
        root = Path(root)
        audio = root / "audio"
        files: dict[str, Path] = {}
        for pattern in ("*", "*/*"):
            files |= {path.stem: path for path in audio.glob(pattern) if path.suffix.lower() in AUDIO_SUFFIXES}
        clips: dict[str, Clip] = {}
        for subset in ("benchmark", "coveranalysis"):
            for work, performances in _read_works(root, subset).items():
                has_versions = len(performances) > 1
                for performance in performances:
                    path = files.get(performance, audio / work / f"{performance}.mp3")
                    clip = Clip(id=performance, path=path, group=work, labels={"song": work} if has_versions else {})
                    clips.setdefault(performance, clip)
        return list(clips.values())

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the split of each performance; see the base class."""
        benchmark, others = (_read_works(Path(root), subset) for subset in ("benchmark", "coveranalysis"))
        splits: dict[str, Split] = {performance: "test" for ids in benchmark.values() for performance in ids}
        for work, performances in others.items():
            number = int(hashlib.sha1(work.encode()).hexdigest(), 16) % 10
            if work not in benchmark and number < 3:
                for performance in performances:
                    splits.setdefault(performance, "train" if number == 0 else "valid")
        return {"benchmark": splits}


def _read_works(root: Path, subset: str) -> dict[str, list[str]]:
    """Return the performances of each work of a subset, in the order of its file."""
    name = FILES.format(subset)
    path = root / METADATA / name if (root / METADATA).is_dir() else root / name
    try:
        works = parse_json_object(read_text(path, CURE).encode())
        return {str(work): [str(each) for each in performances] for work, performances in works.items()}
    except (ValueError, TypeError) as problem:
        raise DataError(f"{path}: not the works with their performances ({problem}); {CURE}") from None


DATASET = DaTacos()
