"""Ballroom: 698 excerpts of 30 s of ballroom dance music with beats and bars.

The excerpts are those of the tempo contest of ISMIR 2004 [gouyon2006]; beats and bars are by [krebs2013].

    ballroom/
      BallroomData/<Dance>/<name>.wav         44.1 kHz, mono
      BallroomAnnotations/<name>.beats        time and beat in the bar; or directly in ballroom/

`BallroomAnnotations-master` of GitHub's archive is found as well. A recording without a file of beats is in the index
without these labels and in no split.

Labels: `dance`, `beats`, `downbeats`. Split scheme `hash`: there is no official one (papers cross-validate), so a split
follows from the name: SHA-1 modulo 10, 0 to 6 train, 7 valid, 8 and 9 test. Artists are unknown, so there are no
groups; some excerpts are of the same recording [sturm2014].
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from carrara.core.clip import Clip, Split
from carrara.core.errors import DataError
from carrara.data._base import Dataset
from carrara.data._tables import read_beats

ANNOTATION_FOLDERS = ("BallroomAnnotations", "BallroomAnnotations-master", ".")
CURE = "`git clone https://github.com/CPJKU/BallroomAnnotations` has it"


class Ballroom(Dataset):
    """The excerpts with their beats; the layout and splits are in the module's docstring."""

    name = "ballroom"
    folder_names = ("Ballroom",)
    title = "Ballroom"
    license = "audio: excerpts of commercial recordings, no licence; annotations: none stated"
    commercial_use = None
    citation = (
        "Gouyon et al.: An Experimental Comparison of Audio Tempo Induction Algorithms, IEEE TASLP 2006; Krebs, Böck, "
        "Widmer: Rhythmic Pattern Modeling for Beat and Downbeat Tracking, ISMIR 2013"
    )
    source = "audio: http://mtg.upf.edu/ismir2004/contest/tempoContest/; beats: GitHub, CPJKU/BallroomAnnotations"
    manual_steps = (
        "1. Unpack http://mtg.upf.edu/ismir2004/contest/tempoContest/data1.tar.gz in the folder ballroom, so that\n"
        "   there is ballroom/BallroomData/ChaChaCha/*.wav and so on\n"
        "2. git clone https://github.com/CPJKU/BallroomAnnotations, in the same folder\n"
        "3. carrara check ballroom"
    )
    seconds = (20.0, 45.0)

    def index(self, root: Path) -> list[Clip]:
        """Return the excerpts by dance and name; see the base class."""
        root = Path(root)
        clips = []
        for path in sorted((root / "BallroomData").glob("*/*.wav")):
            files = (root / folder / f"{path.stem}.beats" for folder in ANNOTATION_FOLDERS)
            beats = next((each for each in files if each.is_file()), None)
            labels: dict[str, Any] = {"dance": path.parent.name, **(read_beats(beats, CURE) if beats else {})}
            clips.append(Clip(id=path.stem, path=path, labels=labels))
        if not clips:
            raise DataError(f"{root}: no BallroomData/<Dance>/*.wav; `carrara download ballroom` says how to get them")
        return clips

    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the split of each excerpt with beats; see the base class."""
        return {"hash": {clip.id: _split_of(clip.id) for clip in self.index(root) if "beats" in clip.labels}}


def _split_of(name: str) -> Split:
    number = int(hashlib.sha1(name.encode()).hexdigest(), 16) % 10
    return "train" if number < 7 else "valid" if number == 7 else "test"


DATASET = Ballroom()
