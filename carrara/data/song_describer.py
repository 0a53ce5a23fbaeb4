"""Song Describer: 706 recordings of MTG-Jamendo with 1,106 captions that people wrote [manco2023].

    song-describer/                         or song-describer-dataset/data, with audio/audio/ as unzip makes it
      song_describer.csv                    caption_id,track_id,caption,is_valid_subset,familiarity,artist_id,…,path,…
      audio/<two digits>/<track>.2min.mp3   the first two minutes, 320 kbit/s

A row of the table is a caption; `path` is MTG-Jamendo's, `84/1004034.mp3`, whose file here ends in `.2min.mp3`. A clip
is a recording, in the order of the table.

Labels: `captions`, the validated ones, and `all_captions`. Split schemes, all test: `valid`, the recordings that have a
validated caption (546 with 746), and `full`. There is nothing to train: the dataset is for evaluation. The group is the
artist.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from carrara.core.clip import Clip, Split
from carrara.core.download import Remote
from carrara.data._base import Dataset
from carrara.data._tables import read_table

COLUMNS = ("track_id", "caption", "is_valid_subset", "artist_id", "path")
CURE = "`carrara download song-describer` downloads it"
ADDRESS = "https://zenodo.org/record/10072001/files"


class SongDescriber(Dataset):
    """The recordings with their captions; the layout and splits are in the module's docstring."""

    name = "song-describer"
    folder_names = ("song_describer", "SongDescriber", "song-describer-dataset")
    title = "Song Describer"
    license = "captions: CC BY-SA 4.0; audio: Creative Commons, by recording (audio_licenses.txt)"
    commercial_use = None
    citation = "Manco et al.: The Song Describer Dataset, Machine Learning for Audio Workshop, NeurIPS 2023"
    source = "https://doi.org/10.5281/zenodo.10072001"
    remotes = (
        Remote(f"{ADDRESS}/song_describer.csv", "song_describer.csv"),
        Remote(f"{ADDRESS}/audio.zip", "audio.zip", unpack="audio"),
    )
    expected_counts: ClassVar[Mapping[str, Mapping[str, int]]] = {"valid": {"test": 546}, "full": {"test": 706}}
    group_names: ClassVar[Mapping[str, str]] = {"valid": "artist", "full": "artist"}

    def index(self, root: Path) -> list[Clip]:
        """Return the recordings in the order of the table; see the base class."""
        root = Path(root)
        base = root / "data" if (root / "data/song_describer.csv").is_file() else root
        audio = base / "audio/audio" if (base / "audio/audio").is_dir() else base / "audio"
        clips: dict[str, Clip] = {}
        for row in read_table(base / "song_describer.csv", COLUMNS, CURE, delimiter=",", has_quotes=True):
            track, caption = row.values["track_id"], row.values["caption"]
            if not track:
                raise row.error("track_id", "the number of a recording")
            path = row.values["path"]
            if not path.endswith(".mp3") or ".." in path:
                raise row.error("path", "a file such as 84/1004034.mp3")
            if track not in clips:
                labels: dict[str, list[str]] = {"captions": [], "all_captions": []}
                file = audio / f"{path.removesuffix('.mp3').removesuffix('.2min')}.2min.mp3"
                clips[track] = Clip(id=track, path=file, group=row.values["artist_id"] or None, labels=labels)
            if caption:
                clips[track].labels["all_captions"].append(caption)
                if row.values["is_valid_subset"].lower() == "true":
                    clips[track].labels["captions"].append(caption)
        return list(clips.values())

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return `test` for each recording of a split scheme; see the base class."""
        clips = self.index(root)
        return {
            "valid": {clip.id: "test" for clip in clips if clip.labels["captions"]},
            "full": {clip.id: "test" for clip in clips if clip.labels["all_captions"]},
        }


DATASET = SongDescriber()
