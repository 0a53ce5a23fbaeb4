"""The sound of a task's hardest test clips, copied into the site as MP3 where the dataset is on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from carrara.audio.decode import load_audio
from carrara.core.errors import CarraraError
from carrara.core.io import atomic_write
from carrara.data import REGISTRY

RATE = 24000
MAX_SECONDS = 30.0
FOLDER = "audio"


def add_sound(hardest: Sequence[dict[str, Any]], dataset: str, data_dir: Path, site: Path, name: str) -> None:
    """Write the sound of clips into a site, and add its address to each clip as `sound`, None where there is none.

    Args:
        hardest: clips as of `carrara.bench.site.task_data.rank_clips`.
        dataset: whose clips they are.
        data_dir: folder of the datasets.
        site: the site's folder.
        name: of the task's folder in the site.
    """
    clips = {}
    if dataset in REGISTRY.names():
        data = REGISTRY.get(dataset)
        try:
            clips = {clip.id: clip for clip in data.index(data.root(data_dir))}
        except CarraraError:
            clips = {}  # the dataset is not on this machine
    for number, item in enumerate(hardest):
        item["sound"] = None
        clip = clips.get(item["clip"])
        if clip is None or clip.path is None:
            continue
        try:
            seconds = min(clip.duration or MAX_SECONDS, MAX_SECONDS)
            samples_T = load_audio(clip.path, RATE, clip.start, seconds)
        except CarraraError:
            continue  # its file has moved or is damaged
        address = f"{FOLDER}/{name}/{number}.mp3"
        _write_mp3(site / address, samples_T)
        item["sound"] = address


def _write_mp3(path: Path, samples_T: Any) -> None:
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as tmp:
        soundfile.write(tmp, samples_T, RATE, format="MP3")
