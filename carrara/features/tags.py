"""Tags recordings: the tag head of a MAEST, MusiCNN or EfficientNet as an encoder whose one layer is the probabilities.

An encoder with a text tower scores any labels: the score of one is the cosine between its text and a window's audio.

So recordings are streamed, batched, stored and resumed as embeddings are (`carrara.features.parquet`). The probability
of a tag in a whole recording is the mean over its windows, weighted by their length, and so is a similarity.

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

from carrara.audio.decode import read_info
from carrara.core.errors import AudioError, StoreError, UsageError
from carrara.core.hashing import sha256_of_json
from carrara.core.io import atomic_write, write_text
from carrara.core.strict_json import read_json, read_json_object
from carrara.data._tables import split_lines
from carrara.encoders._base import Encoder
from carrara.encoders._maest.labels import read_label_names, require_same_labels
from carrara.encoders._maest.network import HOP, SAMPLE_RATE, MaestEncoder
from carrara.encoders._text.tower import TextEncoder

WINDOW_SECONDS = 3.0  # for a tagger that takes any length
SUMMARY = "tags.json"


class TagEncoder(Encoder):
    """The tag head of an encoder: one layer, one frame, the probability of each tag."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder, self.settings = encoder, encoder.settings
        if not encoder.tag_names:
            raise UsageError(f"-e {encoder.card.name}: predicts no tags; give a MAEST, a MusiCNN or an EfficientNet")
        self.card = encoder.card.model_copy(
            update={
                "name": f"{encoder.card.name} tags",  # so that its table is not taken for the encoder's embeddings
                "num_layers": 0,
                "dim": len(encoder.tag_names),
                "frame_rate": None,
                "cnn_dim": None,
                "window_seconds": encoder.card.window_seconds or WINDOW_SECONDS,
            }
        )

    def num_frames(self, samples: int) -> int:
        """Return 1: a window has one vector of probabilities."""
        return 1

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the probabilities, `[batch, 1, 1, tags]`."""
        return self.encoder.predict_tags(samples_BT, lengths_B)[:, None, None]


class LabelScorer(Encoder):
    """The similarity of audio to labels in the space of a text tower: one layer, one frame, a cosine for each label."""

    labels_KD: Tensor

    def __init__(self, encoder: TextEncoder, labels: Sequence[str]) -> None:
        super().__init__()
        self.encoder, self.settings, self.labels = encoder, encoder.settings, tuple(labels)
        self.register_buffer("labels_KD", encoder.encode_text(labels), persistent=False)
        self.card = encoder.card.model_copy(
            update={
                "name": f"{encoder.card.name} labels",
                "num_layers": 0,
                "dim": len(labels),
                "frame_rate": None,
                "cnn_dim": None,
                "joint_dim": None,
                "window_seconds": encoder.card.window_seconds or WINDOW_SECONDS,
            }
        )

    def hash_weights(self) -> str:
        """Return a hash of the encoder's weights and the labels, so that a table of other labels is not continued."""
        return sha256_of_json([self.encoder.hash_weights(), self.labels])

    def num_frames(self, samples: int) -> int:
        """Return 1: a window has one vector of similarities."""
        return 1

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the similarities, `[batch, 1, 1, labels]`."""
        return (self.encoder.encode_audio_joint(samples_BT, lengths_B) @ self.labels_KD.T)[:, None, None]


def read_labels(labels: str | None, name: str) -> tuple[str, ...]:
    """Return the labels to score: those in a file (a JSON list, or one a line), or separated by commas.

    Args:
        labels: As the user gives them.
        name: Of the encoder, for messages.

    Raises:
        UsageError: There are none, or the file cannot be read.
    """
    if labels is None:
        raise UsageError(f'-e {name}: scores any labels; name them with --labels "jazz,heavy metal", or in a file')
    items: Any = labels.split(",")
    path = Path(labels)
    if path.is_file():
        try:
            is_json = path.suffix == ".json"
            items = read_json(path) if is_json else split_lines(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as problem:
            raise UsageError(f"--labels {labels}: cannot be read ({problem})") from None
    elif path.suffix in (".json", ".txt"):
        raise UsageError(f"--labels {labels}: does not exist")
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise UsageError(f"--labels {labels}: holds no list of labels")
    chosen = tuple(dict.fromkeys(item.strip() for item in items if item.strip()))
    if not chosen:
        raise UsageError(f'--labels "{labels}": names no label; give some, such as "jazz,heavy metal"')
    return chosen


@dataclass(frozen=True)
class TrackTags:
    """A recording's windows, in seconds, and the probability of each tag in them, or another `measure` of it."""

    path: str
    start_W: np.ndarray
    duration_W: np.ndarray
    probability_WK: np.ndarray
    measure: str = "probability"

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return float((self.start_W + self.duration_W).max())

    @property
    def mean_K(self) -> np.ndarray:
        """Probability of each tag in the whole recording."""
        return np.average(self.probability_WK, axis=0, weights=self.duration_W)

    def top(self, count: int) -> list[int]:
        """Return the most probable tags of the whole recording, the most probable first."""
        return np.argsort(-self.mean_K, kind="stable")[:count].tolist()

    def summary(self, labels: Sequence[str], count: int) -> dict[str, Any]:
        """Return the most probable tags of the recording and of each window, by name."""
        mean_K = self.mean_K
        return {
            "path": self.path,
            "seconds": round(self.seconds, 3),
            "tags": [
                {
                    "tag": labels[tag],
                    self.measure: round(float(mean_K[tag]), 4),
                    "strongest_at": round(float(self.start_W[self.probability_WK[:, tag].argmax()]), 3),
                }
                for tag in self.top(count)
            ],
            "windows": [
                {
                    "start": round(float(start), 3),
                    "duration": round(float(duration), 3),
                    "tags": [
                        {"tag": labels[tag], self.measure: round(float(probability_K[tag]), 4)}
                        for tag in np.argsort(-probability_K, kind="stable")[:count].tolist()
                    ],
                }
                for start, duration, probability_K in zip(self.start_W, self.duration_W, self.probability_WK)
            ],
        }


def read_tracks(table: Path, measure: str = "probability") -> Iterator[TrackTags]:
    """Yield the recordings of a Parquet file that `write_embeddings` wrote per window with `make_tagger`'s encoder."""
    from pyarrow import parquet

    content = parquet.read_table(table, columns=["path", "start", "duration", "embedding"])
    if not content.num_rows:
        return
    probability_RK = np.stack(content["embedding"].to_numpy())
    start_R, duration_R = content["start"].to_numpy(), content["duration"].to_numpy()
    for path, group in groupby(enumerate(content["path"].to_pylist()), key=lambda pair: pair[1]):
        rows = [row for row, _ in group]
        yield TrackTags(path, start_R[rows], duration_R[rows], probability_RK[rows], measure)


def make_tagger(encoder: Encoder, labels: str | None) -> tuple[Encoder, tuple[str, ...]]:
    """Return an encoder whose one layer is the score of each tag, and the tags' names.

    Args:
        encoder: One with tags of its own or with a text tower.
        labels: As the user gives them: texts to score, or a file with the names of the encoder's own tags.

    Raises:
        UsageError: The encoder has neither, or the labels do not suit it.
    """
    if isinstance(encoder, TextEncoder):
        names = read_labels(labels, encoder.card.name)
        return LabelScorer(encoder, names), names
    return TagEncoder(encoder), read_tag_names(encoder, labels)


def read_tag_names(encoder: Encoder, labels: str | None) -> tuple[str, ...]:
    """Return the names of an encoder's tags: its own, or those of a JSON file, which must agree with its own.

    Raises:
        UsageError: The file is not one of this encoder's tags.
    """
    if labels is None:
        return encoder.tag_names
    if not Path(labels).is_file():
        raise UsageError(
            f"--labels {labels}: no such file; {encoder.card.name} has tags of its own; encoders with a text tower, "
            "such as muq-mulan, score any labels"
        )
    names = read_label_names(Path(labels), len(encoder.tag_names))
    require_same_labels(names, encoder, labels)
    return names


def find_too_short(files: Iterable[Path | str], encoder: Encoder) -> dict[str, str]:
    """Return by path why local recordings are too short for an encoder: by their headers less than a patch of MAEST."""
    if not isinstance(encoder, MaestEncoder):
        return {}
    min_seconds = encoder.settings.shape.patch * HOP / SAMPLE_RATE
    reasons = {}
    for path in (file for file in files if isinstance(file, Path)):
        with suppress(AudioError):  # a file that cannot be read is reported when it is decoded
            seconds = read_info(path).duration_seconds
            if seconds is not None and seconds < min_seconds:
                reasons[str(path)] = (
                    f"{path}: {seconds:.3f} s are less than one patch of {min_seconds:.3f} s; give longer audio"
                )
    return reasons


def read_pictures(folder: Path) -> dict[str, str]:
    """Return the file names of pictures by path of the recording, from a folder's tags.json where there is one.

    Raises:
        StoreError: It is another kind of file.
    """
    path = folder / SUMMARY
    try:
        recordings = read_json_object(path)["recordings"]
        return {recording["path"]: recording["picture"] for recording in recordings if "picture" in recording}
    except FileNotFoundError:
        return {}
    except NotADirectoryError:
        raise StoreError(f"{folder}: a file or device, not a folder; choose another -o") from None
    except (OSError, KeyError, TypeError, ValueError):
        raise StoreError(f"{path}: exists already, and was not made by this command; choose another -o") from None


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write the tags of recordings as tags.json and, a line for each window and tag, tags.csv.

    Raises:
        StoreError: They cannot be written.
    """
    with atomic_write(folder / "tags.csv") as tmp, open(tmp, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        measure = "similarity" if "similarity" in summary["recordings"][0]["tags"][0] else "probability"
        rows.writerow(["path", "start", "duration", "tag", measure])
        for recording in summary["recordings"]:
            for window in recording["windows"]:
                for tag in window["tags"]:
                    span = (recording["path"], window["start"], window["duration"])
                    rows.writerow([*span, tag["tag"], tag[measure]])
    # A name that is not UTF-8 keeps its bytes as JSON's own escapes.
    text = json.dumps(summary, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
    write_text(folder / SUMMARY, text + "\n")
