"""Million Song Dataset: two divisions of its songs for tagging, MSDs and MSDc of MAEST's poster [maest-poster].

    msd/                                                   or MSD
      MSD_split/filtered_list_{train,test}.cP              ids, pickled by Python 2 [lee2017]
      MSD_split/msd_id_to_tag_vector.cP                    50 numbers by id
      MSD_split/MSD_id_to_7D_id.pkl, 7D_id_to_path.pkl     where 7digital's previews are; may be missing
      splits/{train,valid,test}_ids.npy, _binaries.npy     ids and 50 numbers for each [won2021]
      audio/A/B/C/TRABC….mp3                               or .wav, .flac; or 7digital's audio/8/9/8947470.clip.mp3

The audio is not distributed. Either division may be missing. Pickles are read without executing what they name.

Labels: `tags` of Last.fm's 50 most frequent ones, and `cals_tags`, the 50 cleaned ones of the second division. Split
schemes: `standard` (MSDs; 201,680 / 11,774 / 28,435 songs, of which artists are in several splits) and `cals` (MSDc;
163,504 / 34,730 / 34,913, by artist). Artists are not in these files, so there are no groups.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from carrara.core.clip import Clip, Split
from carrara.core.errors import DataError
from carrara.data._base import Dataset

TAGS = (
    *("rock", "pop", "alternative", "indie", "electronic", "female vocalists", "dance", "00s", "alternative rock"),
    *("jazz", "beautiful", "metal", "chillout", "male vocalists", "classic rock", "soul", "indie rock", "Mellow"),
    *("electronica", "80s", "folk", "90s", "chill", "instrumental", "punk", "oldies", "blues", "hard rock", "ambient"),
    *("acoustic", "experimental", "female vocalist", "guitar", "Hip-Hop", "70s", "party", "country", "easy listening"),
    *("sexy", "catchy", "funk", "electro", "heavy metal", "Progressive rock", "60s", "rnb", "indie pop", "sad"),
    *("House", "happy"),
)
CALS_TAGS = (
    *("rock", "pop", "indie", "alternative", "electronic", "hip-hop", "metal", "jazz", "punk", "folk"),
    *("alternative rock", "indie rock", "dance", "hard rock", "00s", "soul", "hardcore", "80s", "country"),
    *("classic rock", "punk rock", "blues", "chillout", "experimental", "heavy metal", "death metal", "90s", "reggae"),
    *("progressive rock", "ambient", "acoustic", "beautiful", "british", "rnb", "funk", "metalcore", "mellow", "world"),
    *("guitar", "trance", "indie pop", "christian", "house", "spanish", "latin", "psychedelic", "electro", "piano"),
    *("70s", "progressive metal"),
)
TRAIN_SONGS = 201_680  # the rest of the list of training songs is for validation
AUDIO_SUFFIXES = (".mp3", ".wav", ".flac")
STANDARD_CURE = "https://github.com/jongpillee/music_dataset_split has it in MSD_split/"
CALS_CURE = "https://github.com/minzwon/semi-supervised-music-tagging-transformer has it in data/splits/"


class MSD(Dataset):
    """The songs of both divisions; the layout and splits are in the module's docstring."""

    name = "msd"
    folder_names = ("MSD", "MillionSongDataset")
    title = "Million Song Dataset"
    license = "audio: commercial recordings, no licence; tags: of Last.fm, for research"
    commercial_use = False
    citation = (
        "Bertin-Mahieux et al.: The Million Song Dataset, ISMIR 2011; Lee et al.: Sample-Level Deep Convolutional "
        "Neural Networks, SMC 2017; Won, Choi, Serra: Semi-Supervised Music Tagging Transformer, ISMIR 2021"
    )
    source = "divisions: GitHub, jongpillee/music_dataset_split and minzwon/semi-supervised-music-tagging-transformer"
    manual_steps = (
        "1. git clone https://github.com/jongpillee/music_dataset_split, and copy its MSD_split/ to msd/MSD_split\n"
        "2. git clone https://github.com/minzwon/semi-supervised-music-tagging-transformer, and copy its data/splits/\n"
        "   to msd/splits\n"
        "3. Put your copies of the songs at msd/audio/A/B/C/TRABC….mp3 (third to fifth letter of the id; .wav and\n"
        "   .flac too), or 7digital's previews at msd/audio/8/9/8947470.clip.mp3\n"
        "4. carrara check msd; carrara bench --partial measures on what is there"
    )
    expected_counts: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "standard": {"train": 201_680, "valid": 11_774, "test": 28_435},
        "cals": {"train": 163_504, "valid": 34_730, "test": 34_913},
    }

    def index(self, root: Path) -> list[Clip]:
        """Return the songs of both divisions, each once; see the base class."""
        root = Path(root)
        labels_of: dict[str, dict[str, Any]] = {}
        if _has_standard(root):
            path = root / "MSD_split/msd_id_to_tag_vector.cP"
            vectors = _read_pickle(path, dict)
            for id in (id for ids in _read_standard(root).values() for id in ids):
                if id not in vectors or np.size(vectors[id]) != len(TAGS):
                    raise DataError(f"{path}: no 50 numbers for {id}; {STANDARD_CURE}")
                labels_of.setdefault(id, {})["tags"] = _names(TAGS, vectors[id])
        if _has_cals(root):
            for split in ("train", "valid", "test"):
                ids, binary_UK = _read_cals(root, split)
                for id, binary_K in zip(ids, binary_UK):
                    labels_of.setdefault(id, {})["cals_tags"] = _names(CALS_TAGS, binary_K)
        if not labels_of:
            raise DataError(
                f"{root}: neither MSD_split/filtered_list_train.cP nor splits/train_ids.npy; `carrara download msd` "
                "says how to get them"
            )
        previews = _read_previews(root)
        return [Clip(id=id, path=_audio_path(root, id, previews), labels=labels) for id, labels in labels_of.items()]

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the split of each song by division; see the base class."""
        root = Path(root)
        schemes: dict[str, dict[str, Split]] = {}
        if _has_standard(root):
            lists = _read_standard(root)
            schemes["standard"] = {id: split for split, ids in lists.items() for id in ids}
        if _has_cals(root):
            names: tuple[Split, ...] = ("train", "valid", "test")
            schemes["cals"] = {id: split for split in names for id in _read_cals(root, split)[0]}
        return schemes

    def expected_counts_at(self, root: Path) -> Mapping[str, Mapping[str, int]]:
        """Return the counts of the divisions that are there; see the base class."""
        present = {"standard": _has_standard(Path(root)), "cals": _has_cals(Path(root))}
        return {name: counts for name, counts in self.expected_counts.items() if present[name]}


class _DataUnpickler(pickle.Unpickler):
    """Reads lists, dictionaries, strings, numbers and arrays; a pickle that names anything else is refused."""

    ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        **{(f"numpy.{core}.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0] for core in ("core", "_core")},
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no data")
        return self.ALLOWED[module, name]


def _read_pickle(path: Path, expected: type) -> Any:
    try:
        with path.open("rb") as file:
            value = _DataUnpickler(file, encoding="latin1").load()
    except FileNotFoundError:
        raise DataError(f"{path}: missing; {STANDARD_CURE}") from None
    except Exception as problem:  # a damaged pickle raises what its instructions happen to raise
        raise DataError(f"{path}: not as distributed ({problem}); {STANDARD_CURE}") from None
    if not isinstance(value, expected):
        raise DataError(f"{path}: holds a {type(value).__name__}, not a {expected.__name__}; {STANDARD_CURE}")
    return value


def _has_standard(root: Path) -> bool:
    return (root / "MSD_split/filtered_list_train.cP").is_file()


def _has_cals(root: Path) -> bool:
    return (root / "splits/train_ids.npy").is_file()


def _read_standard(root: Path) -> dict[Split, list[str]]:
    names = "train", "test"
    lists = [list(map(str, _read_pickle(root / f"MSD_split/filtered_list_{name}.cP", list))) for name in names]
    return {"train": lists[0][:TRAIN_SONGS], "valid": lists[0][TRAIN_SONGS:], "test": lists[1]}


def _read_cals(root: Path, split: str) -> tuple[list[str], np.ndarray]:
    """Return the ids of a split and for each its 50 tags as 0 or 1."""
    arrays = []
    for kind in ("ids", "binaries"):
        path = root / "splits" / f"{split}_{kind}.npy"
        try:
            arrays.append(np.load(path, mmap_mode="r", allow_pickle=False))
        except FileNotFoundError:
            raise DataError(f"{path}: missing; {CALS_CURE}") from None
        except (OSError, ValueError) as problem:
            raise DataError(f"{path}: not as distributed ({problem}); {CALS_CURE}") from None
    ids_U, binary_UK = arrays
    if binary_UK.shape != (len(ids_U), len(CALS_TAGS)):
        shape = " × ".join(map(str, binary_UK.shape))
        raise DataError(f"{path}: {shape} numbers for {len(ids_U)} songs with 50 tags each; {CALS_CURE}")
    return [str(id) for id in ids_U], binary_UK


def _names(tags: tuple[str, ...], binary_K: Any) -> list[str]:
    return [tags[index] for index in np.flatnonzero(np.reshape(binary_K, -1)).tolist()]


def _read_previews(root: Path) -> dict[str, str]:
    """Return the path of 7digital's preview of each song; empty without the files that say it."""
    names = root / "MSD_split/MSD_id_to_7D_id.pkl", root / "MSD_split/7D_id_to_path.pkl"
    if not all(path.is_file() for path in names):
        return {}
    number_of, path_of = (_read_pickle(path, dict) for path in names)
    return {str(id): str(path_of[number]) for id, number in number_of.items() if number in path_of}


def _audio_path(root: Path, id: str, previews: Mapping[str, str]) -> Path:
    if len(id) < 5 or not id.isalnum():
        raise DataError(f"{root}: {id[:40]!r} is not the id of a song, such as TREADPD128F933E680")
    named = [root / "audio" / id[2] / id[3] / id[4] / f"{id}{suffix}" for suffix in AUDIO_SUFFIXES]
    if id in previews and ".." not in previews[id]:
        named.append(root / "audio" / previews[id])
    return next((path for path in named if path.is_file()), named[-1])


DATASET = MSD()
