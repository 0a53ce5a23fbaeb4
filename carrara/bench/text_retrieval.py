"""Retrieval by text: a text finds recordings by the cosine of both in the joint space of an encoder with a text tower.

Nothing is trained and nothing is chosen: the joint space is the authors'. Every text of a test clip is a query, all
test clips are searched, and those that have the same text are its positives.

Letters: U clips, Q texts, D features, R ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from carrara.bench.protocols._base import Predictor, ProtocolInputs, ProtocolResult
from carrara.bench.split_data import SplitData
from carrara.core.clip import Clip
from carrara.core.errors import UsageError
from carrara.encoders._text.tower import TextEncoder
from carrara.metrics.retrieval import positive_ranks


def texts_of(clip: Clip, label: str) -> list[str]:
    """Return a clip's texts: those of its label, which is a text or a list of them; none without this label."""
    texts = clip.labels.get(label)
    return texts if isinstance(texts, list) else [] if texts is None else [texts]


def rank_positives(text_QD: np.ndarray, audio_UD: np.ndarray, is_positive_QU: np.ndarray) -> list[np.ndarray]:
    """Return for each text the ranks of its positives by cosine similarity, from 1 and ascending; empty without one."""
    unit_QD, unit_UD = (
        each / np.maximum(np.linalg.norm(each.astype(np.float64), axis=1, keepdims=True), 1e-12)
        for each in (text_QD, audio_UD)
    )
    return [
        positive_ranks(unit_UD @ unit_D, is_positive_U)
        for unit_D, is_positive_U in zip(unit_QD, is_positive_QU, strict=True)
    ]


@dataclass(frozen=True)
class TextSearch(Predictor):
    """The search of a split's clips by their texts, the same for every seed."""

    encoder: TextEncoder
    label: str
    seeds: int

    def predict(self, split: SplitData) -> list[list[list[list[int]]]]:
        """Return for each clip and each of its texts the ranks of that text's positives."""
        audio_UD = np.asarray(split.layers["0"][np.concatenate(split.rows_U)], dtype=np.float32)
        texts_U = [texts_of(clip, self.label) for clip in split.clips]
        holders: dict[str, list[int]] = {}
        for index, texts in enumerate(texts_U):
            for text in texts:
                holders.setdefault(text, []).append(index)
        is_positive_QU = np.zeros((len(holders), len(texts_U)), dtype=bool)
        for row, indices in enumerate(holders.values()):
            is_positive_QU[row, indices] = True
        text_QD = self.encoder.encode_text(list(holders)).cpu().numpy()
        ranks = rank_positives(text_QD, audio_UD, is_positive_QU)
        rank_of = {text: rank_R.tolist() for text, rank_R in zip(holders, ranks)}
        return [[[rank_of[text] for text in texts] for texts in texts_U]] * self.seeds


def run_text_retrieval(inputs: ProtocolInputs) -> ProtocolResult:
    """Return the search; there is nothing to train or to choose.

    Raises:
        UsageError: the encoder has no text tower.
    """
    if not isinstance(inputs.encoder, TextEncoder):
        raise UsageError(f"{inputs.encoder.card.name} has no text tower; take an encoder with one, such as muq-mulan")
    predictor = TextSearch(inputs.encoder, inputs.task.label, len(inputs.seeds))
    return ProtocolResult(predictor, tried=0, grid=(), chosen=({"space": "joint"},) * len(inputs.seeds))
