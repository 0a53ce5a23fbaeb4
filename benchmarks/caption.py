"""Text to music on Pebble without a published text tower: words of tags and keys, and a linear map of `chroma-mfcc`.

`pebble/caption` needs an encoder with a text tower, and no trained one can be had without a network. The smallest
honest one is trained here, on Pebble's labelled songs, which are other clips than the task's pieces: a ridge regression
from the features of `chroma-mfcc` to the 50 tags and 24 keys of the training songs, its penalty chosen on the
validation songs. A text is the sum of the tags and keys that it names; each counts as much as its estimates correlate
with the labels of the validation songs. The task's captions take no part.

    python benchmarks/caption.py DATA_DIR RESULTS

prints what chance gives, and writes and prints the record. Letters: U clips, W words, D dimension of the features.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from carrara import load
from carrara.bench.protocols._base import probe_windows
from carrara.bench.run import bench
from carrara.bench.task_data import FeatureProvider
from carrara.bench.task_types import REGISTRY as TASK_TYPES
from carrara.bench.tasks import task as load_task
from carrara.core.clip import Clip
from carrara.core.settings import Settings
from carrara.data import REGISTRY as DATASETS
from carrara.data._pebble.labels import KEYS, TAGS
from carrara.encoders._base import Encoder
from carrara.encoders._text.tower import TextEncoder

WORDS = (*TAGS, *KEYS)
PATTERN = re.compile("|".join(sorted((re.escape(word.lower()) for word in WORDS), key=len, reverse=True)))
PENALTIES = (1.0, 10.0, 100.0, 1000.0, 10_000.0)


class Words(TextEncoder):
    """The words of texts, and of recordings by a linear map of an encoder's only layer."""

    max_tokens, pad_token = 64, len(WORDS)

    def __init__(self, encoder: Encoder, map_DW: np.ndarray, bias_W: np.ndarray, weight_W: np.ndarray) -> None:
        super().__init__()
        sizes = {"joint_dim": len(WORDS), "name": f"{encoder.card.name}-words"}
        self.encoder, self.settings, self.card = encoder, Settings(), encoder.card.model_copy(update=sizes)
        for name, value in {"map_DW": map_DW, "bias_W": bias_W, "weight_W": weight_W}.items():
            self.register_parameter(name, torch.nn.Parameter(torch.from_numpy(np.float32(value))))

    def num_frames(self, samples: int) -> int:
        """Return 1: a clip has one vector."""
        return 1

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the numbers of the words that each text names; a key also has its mode's."""
        index = {word.lower(): number for number, word in enumerate(WORDS)}
        rows = []
        for text in texts:
            plain = text.lower().replace("without drums", "no drums")
            rows.append([index[word] for word in PATTERN.findall(plain)] or [self.pad_token])
        return rows

    def forward_text(self, tokens_NF: Tensor, valid_NF: Tensor) -> Tensor:
        """Return the sum of the texts' words, each by its weight, `[texts, words]`."""
        named_NW = torch.zeros(len(tokens_NF), len(WORDS) + 1).scatter_(1, tokens_NF, valid_NF.float())[:, :-1]
        return named_NW * self.weight_W

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the encoder's own features."""
        return self.encoder(samples_BT, lengths_B)

    def encode_audio_joint(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the estimated words of recordings, each by its weight, as unit vectors."""
        words_BW = self(samples_BT, lengths_B)[:, 0, 0] @ self.map_DW + self.bias_W
        return torch.nn.functional.normalize(words_BW * self.weight_W, dim=-1)


def label_matrix(clips: Sequence[Clip]) -> np.ndarray:
    """Return which words the labels of clips contain, `[U, W]`."""
    own = [{*clip.labels["tags"], clip.labels["key"]} for clip in clips]
    return np.array([[word in words for word in WORDS] for words in own], dtype=np.float64)


def train(data_dir: Path) -> Words:
    """Return the encoder, trained on the songs of Pebble below a folder."""
    encoder = load("chroma-mfcc")
    task = load_task("pebble/tags")
    data = FeatureProvider(encoder, data_dir, partial=True).load(
        task, TASK_TYPES.get(task.task_type), probe_windows(task)
    )
    parts = []
    for split in ("train", "valid"):
        own = data.splits[split]
        feature_UD = np.stack([own.layers["0"][rows].mean(0) for rows in own.rows_U]).astype(np.float64)
        parts.append((feature_UD, label_matrix(own.clips)))
    (train_UD, label_UW), (valid_UD, truth_UW) = parts
    models = [make_pipeline(StandardScaler(), Ridge(penalty)).fit(train_UD, label_UW) for penalty in PENALTIES]
    scaler, ridge = min(models, key=lambda model: float(((model.predict(valid_UD) - truth_UW) ** 2).mean())).steps
    map_DW = (ridge[1].coef_ / scaler[1].scale_).T
    estimate_UW = train_UD @ map_DW
    spread_W = np.maximum(estimate_UW.std(0), 1e-6)
    map_DW, bias_W = map_DW / spread_W, -estimate_UW.mean(0) / spread_W
    weight_W = [
        max(0.0, float(np.corrcoef(guess_U, truth_U)[0, 1])) if truth_U.std() * guess_U.std() > 0 else 0.0
        for guess_U, truth_U in zip((valid_UD @ map_DW).T, truth_UW.T)
    ]
    return Words(encoder, map_DW, bias_W, np.array(weight_W))


def chance(data_dir: Path) -> float:
    """Return the mean average precision of pieces in a random order, over 2,000 orders."""
    dataset = DATASETS.get("pebble")
    clips = [clip for clip in dataset.clips(dataset.root(data_dir), "pieces") if clip.split == "test"]
    captions = np.array([clip.labels["caption"] for clip in clips])
    draw, precisions = np.random.default_rng(0), []
    for _ in range(2000):
        order = draw.permutation(captions)
        for caption in captions:
            ranks = np.flatnonzero(order == caption) + 1
            precisions.append(float(np.mean(np.arange(1, len(ranks) + 1) / ranks)))
    return float(np.mean(precisions))


def main(data_dir: Path, results: Path) -> None:
    """Print chance, and the record of the trained words."""
    (record,) = bench(train(data_dir), "pebble/caption", data_dir=data_dir, results=results)
    print(f"pebble/caption: {record.data.n['test']} test clips, chance: map {100 * chance(data_dir):.1f}")
    print("  ".join(f"{name} {score}" for name, score in record.scores.items()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
