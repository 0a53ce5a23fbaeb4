"""Recordings to the tags that a tagger (MAEST, MusiCNN, EfficientNet) hears in them: its head as an encoder of its own.

The probabilities of all tags in each window are that encoder's one layer, so recordings are streamed, batched, kept
and resumed by the same means as embeddings. What is said of a whole recording is the mean of its windows by their
length. A table is completed call by call: what it holds stays until it is heard anew, also where its file is gone or
the path means nothing from here.

Letters: W windows, K tags.
"""

from __future__ import annotations

import csv
import json
import reprlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from carrara.audio.decode import header
from carrara.core.errors import AudioError, StoreError, UsageError
from carrara.core.io import atomic_write, write_text
from carrara.encoders._base import Encoder
from carrara.encoders._maest.labels import agree, read_labels
from carrara.encoders._maest.network import HOP, SAMPLE_RATE, MaestEncoder
from carrara.features.embed import EmbedConfig
from carrara.features.extract import weights_identity
from carrara.features.parquet import LOCK, EmbedReport, write_embeddings
from carrara.features.store import held

if TYPE_CHECKING:
    import pyarrow

WINDOW_SECONDS = 3.0
STYLES = "styles.json"
SUFFIX = " styles"  # of a tagger's name, so that its table is not taken for the encoder's embeddings


class Tagger(Encoder):
    """What an encoder says of a clip beside its features: one layer, one frame, the probability of each tag."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder, self.settings = encoder, encoder.settings
        one = {"num_layers": 0, "dim": len(encoder.tag_names), "frame_rate": None, "cnn_dim": None}
        window = encoder.card.window_seconds or WINDOW_SECONDS
        self.card = encoder.card.model_copy(
            update={**one, "name": encoder.card.name + SUFFIX, "window_seconds": window}
        )

    def frames(self, samples: int) -> int:
        """Return 1: a clip gets one answer."""
        return 1

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the probabilities, `[batch, 1, 1, tags]`."""
        return self.encoder.tags(samples_BT, lengths_B)[:, None, None]


@dataclass(frozen=True)
class TrackTags:
    """A recording's windows (in seconds) and how probable each style is in them."""

    path: str
    start_W: np.ndarray
    duration_W: np.ndarray
    probability_WK: np.ndarray

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return float((self.start_W + self.duration_W).max())

    @property
    def mean_K(self) -> np.ndarray:
        """Probability of each style in the whole recording."""
        return np.average(self.probability_WK, axis=0, weights=self.duration_W)

    def top(self, count: int) -> list[int]:
        """Return the most probable styles of the whole recording, the first first."""
        return np.argsort(-self.mean_K, kind="stable")[:count].tolist()


def tagger(encoder: Encoder, labels: Path | None = None) -> tuple[Tagger, tuple[str, ...]]:
    """Return the tagger of an encoder and the names of its tags, or their numbers where nobody told them.

    Args:
        encoder: one that tells tags.
        labels: a JSON file with the names; none: those that the encoder has.

    Raises:
        UsageError: an encoder without such a head, or labels that are not its head's.
    """
    names = encoder.tag_names
    if not names:
        raise UsageError(f"-e {encoder.card.name}: tells no tags; give a MAEST, a MusiCNN or an EfficientNet")
    if labels is not None:
        names = read_labels(labels, len(names))
        agree(names, encoder, str(labels))
    return Tagger(encoder), names


def too_short(files: Iterable[Path], encoder: Encoder) -> dict[str, str]:
    """Return the reason by path of those recordings that are shorter than one patch of a MAEST, by their headers."""
    if not isinstance(encoder, MaestEncoder):
        return {}
    least = encoder.settings.shape.patch * HOP / SAMPLE_RATE
    found = {}
    for path in files:
        with suppress(AudioError):  # what cannot be read is named when it is heard
            seconds = header(path).duration_seconds
            if seconds is not None and seconds < least:
                found[str(path)] = (
                    f"{path}: {seconds:.3f} s are less than one patch of {least:.3f} s; give longer sound"
                )
    return found


def agree_with_table(table: Path, hearing: Tagger, how: EmbedConfig) -> None:
    """See that a table, where there is one, holds what this tagger says of such windows.

    Raises:
        UsageError: it was made with another encoder, setting, window or hop.
        StoreError: it is no such table.
    """
    if not table.exists():
        return
    told, folder = _told(_read(table)), table.parent
    settings = {f"setting {key}": value for key, value in told["encoder_settings"].items()}
    found = {"encoder": told["encoder"].removesuffix(SUFFIX), "weights": told["weights"], **settings}
    found |= {"window": told["window_seconds"], "hop": told["hop_seconds"]}
    own = {f"setting {key}": value for key, value in hearing.settings.model_dump(mode="json").items()}
    wanted = {"encoder": hearing.encoder.card.name, "weights": weights_identity(hearing), **own}
    wanted |= {"window": how.window_seconds, "hop": how.hop_seconds}
    for key, value in wanted.items():
        if found.get(key) != value:
            values = f"{reprlib.repr(found.get(key))}, now {reprlib.repr(value)}"
            raise UsageError(f"{folder}: holds the styles of another {key} ({values}); choose another folder with -o")


def complete(
    hearing: Tagger, files: Sequence[Path], table: Path, how: EmbedConfig, device: str = "cpu", batch: int | None = None
) -> EmbedReport:
    """Hear recordings into a table in which those of earlier calls stay; see `write_embeddings`.

    That writes a table of exactly the files which it is given, so the former table is kept beside it, in
    `TABLE.before/`, until what the new one lacks is put back: also by the next call if this one is killed.

    Raises:
        UsageError: the windows do not suit.
        StoreError: the table is being written by another process, or cannot be written; nothing is lost.
    """
    beside = Path(f"{table}.before")
    former = beside / table.name
    with held(beside / LOCK):
        _put_back(former, table)
        if table.exists():
            with atomic_write(former) as draft:
                shutil.copyfile(table, draft)
        try:
            return write_embeddings(hearing, files, table, how, device, batch)
        finally:
            _put_back(former, table)
            shutil.rmtree(beside)


def _put_back(former: Path, table: Path) -> None:
    """Write the recordings of a former table that the table lacks before its own."""
    import pyarrow
    from pyarrow import compute, parquet

    if not former.exists() or not table.exists():
        former.unlink(missing_ok=True)
        return
    before, now = _read(former), _read(table)
    there = _files(now)
    lacking = [file for file in _files(before) if file[0] not in {path for path, *_ in there}]
    if not lacking:
        return
    rows = before.filter(compute.is_in(before["path"], pyarrow.array([path for path, *_ in lacking])))
    files = json.dumps(lacking + there)
    joined = pyarrow.concat_tables([rows, now]).replace_schema_metadata({**now.schema.metadata, b"files": files})
    with atomic_write(table) as draft:
        parquet.write_table(joined, draft)


def _read(table: Path) -> pyarrow.Table:
    import pyarrow
    from pyarrow import parquet

    try:
        found = parquet.read_table(table)
        _told(found), _files(found)
    except (OSError, pyarrow.ArrowException, KeyError, TypeError, ValueError):
        raise StoreError(f"{table}: there already, and not made by `carrara tag`; choose another folder") from None
    return found


def _told(table: pyarrow.Table) -> dict[str, Any]:
    return json.loads(table.schema.metadata[b"settings"])


def _files(table: pyarrow.Table) -> list[list[Any]]:
    return json.loads(table.schema.metadata[b"files"])


def read_tracks(table: Path) -> Iterator[TrackTags]:
    """Yield the recordings of a table that `complete` made."""
    from pyarrow import parquet

    content = parquet.read_table(table, columns=["path", "start", "duration", "embedding"])
    if not content.num_rows:
        return
    probability_RK = np.stack(content["embedding"].to_numpy())
    start_R, duration_R = content["start"].to_numpy(), content["duration"].to_numpy()
    for path, group in groupby(enumerate(content["path"].to_pylist()), key=lambda pair: pair[1]):
        rows = [row for row, _ in group]
        yield TrackTags(path, start_R[rows], duration_R[rows], probability_RK[rows])


def told(track: TrackTags, labels: Sequence[str], top: int) -> dict[str, Any]:
    """Return the most probable styles of a recording and of each window, as plain numbers and names."""
    mean_K = track.mean_K
    return {
        "path": track.path,
        "seconds": round(track.seconds, 3),
        "styles": [
            {
                "style": labels[style],
                "probability": round(float(mean_K[style]), 4),
                "strongest_at": round(float(track.start_W[track.probability_WK[:, style].argmax()]), 3),
            }
            for style in track.top(top)
        ],
        "windows": [
            {
                "start": round(float(start), 3),
                "duration": round(float(duration), 3),
                "styles": [
                    {"style": labels[style], "probability": round(float(probability_K[style]), 4)}
                    for style in np.argsort(-probability_K, kind="stable")[:top].tolist()
                ],
            }
            for start, duration, probability_K in zip(track.start_W, track.duration_W, track.probability_WK)
        ],
    }


def told_pictures(folder: Path) -> dict[str, str]:
    """Return the picture's file name by path of each recording in a folder's styles.json; of none where it has none.

    Raises:
        StoreError: there is another kind of styles.json.
    """
    path = folder / STYLES
    try:
        recordings = json.loads(path.read_text(encoding="utf-8"))["recordings"]
        return {recording["path"]: recording["picture"] for recording in recordings if "picture" in recording}
    except FileNotFoundError:
        return {}
    except (OSError, KeyError, TypeError, ValueError):
        raise StoreError(f"{path}: there already, and not made by `carrara tag`; choose another folder") from None


def write_told(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write what is told of recordings as styles.json and, a line a window and style, styles.csv.

    Raises:
        StoreError: they cannot be written.
    """
    with atomic_write(folder / "styles.csv") as draft, open(draft, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "start", "duration", "style", "probability"])
        for recording in summary["recordings"]:
            for window in recording["windows"]:
                for one in window["styles"]:
                    place = (recording["path"], window["start"], window["duration"])
                    rows.writerow([*place, one["style"], one["probability"]])
    write_text(folder / STYLES, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
