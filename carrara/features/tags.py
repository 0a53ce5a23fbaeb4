"""Recordings to the tags that a tagger (MAEST, MusiCNN, EfficientNet) hears in them: its head as an encoder of its own.

The probabilities of all tags in each window are that encoder's one layer, so recordings are streamed, batched, kept
and resumed by the same means as embeddings. What is said of a whole recording is the mean of its windows by their
length.

Letters: W windows, K tags.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from carrara.audio.decode import header
from carrara.core.errors import AudioError, UsageError
from carrara.core.files import whole, write_text
from carrara.encoders._base import Encoder
from carrara.encoders._maest import HOP, SAMPLE_RATE, MaestEncoder
from carrara.encoders._maest_labels import agree, read_labels

WINDOW_SECONDS = 3.0


class Tagger(Encoder):
    """What an encoder says of a clip beside its features: one layer, one frame, the probability of each tag."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder, self.settings = encoder, encoder.settings
        one = {"layers": 0, "width": len(encoder.tag_names), "frame_rate": None, "cnn_width": None}
        window = encoder.card.window_seconds or WINDOW_SECONDS
        self.card = encoder.card.model_copy(
            update={**one, "name": f"{encoder.card.name} styles", "window_seconds": window}
        )

    def frames(self, samples: int) -> int:
        """Return 1: a clip gets one answer."""
        return 1

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the probabilities, `[batch, 1, 1, tags]`."""
        return self.encoder.tags(samples_BT, lengths_B)[:, None, None]


@dataclass(frozen=True)
class Track:
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


def tracks(table: Path) -> Iterator[Track]:
    """Yield the recordings of a table that `write_embeddings` made of a tagger's windows."""
    from pyarrow import parquet

    content = parquet.read_table(table, columns=["path", "start", "duration", "embedding"])
    probability_RK = np.stack(content["embedding"].to_numpy())
    start_R, duration_R = content["start"].to_numpy(), content["duration"].to_numpy()
    for path, group in groupby(enumerate(content["path"].to_pylist()), key=lambda pair: pair[1]):
        rows = [row for row, _ in group]
        yield Track(path, start_R[rows], duration_R[rows], probability_RK[rows])


def told(track: Track, labels: Sequence[str], top: int) -> dict[str, Any]:
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


def write_told(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write what is told of recordings as styles.json and, a line a window and style, styles.csv.

    Raises:
        StoreError: they cannot be written.
    """
    with whole(folder / "styles.csv") as draft, open(draft, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "start", "duration", "style", "probability"])
        for recording in summary["recordings"]:
            for window in recording["windows"]:
                for one in window["styles"]:
                    place = (recording["path"], window["start"], window["duration"])
                    rows.writerow([*place, one["style"], one["probability"]])
    write_text(folder / "styles.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
