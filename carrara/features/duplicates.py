"""Finds near-duplicates in a library: the same recording in another encoding, at another level, or cut.

Embeddings propose pairs, the nearest recordings of each; fingerprints of the audio decide, so a pair that is merely
similar is not reported [haitsma2002 §4]. `carrara.audio.fingerprint` says what they miss, such as another speed.

Letters: R rows, N recordings, D dim.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from carrara.audio.decode import load_audio
from carrara.audio.fingerprint import RATE, audio_fingerprint, find_copies
from carrara.core.errors import AudioError
from carrara.core.progress import track
from carrara.features.embedding_table import EmbeddedRows, EmbeddingTable

NEAREST, MIN_SIMILARITY = 10, 0.9
BLOCK, VECTOR_ROWS = 1024, 65_536


@dataclass(frozen=True)
class DuplicatePair:
    """Two recordings that share audio.

    Attributes:
        first, second: Their paths.
        similarity: Cosine of their embeddings.
        offset_seconds: Where the second begins in the first.
        seconds: Length of the shared audio.
        error: Fraction of the fingerprints' bits that differ there.
    """

    first: str
    second: str
    similarity: float
    offset_seconds: float
    seconds: float
    error: float


@dataclass
class DuplicateReport:
    """Result of `find_duplicates`.

    Attributes:
        pairs: Recordings that share audio.
        compared: How many pairs had their fingerprints compared.
        failed: Why recordings could not be decoded, by path.
    """

    pairs: list[DuplicatePair] = field(default_factory=list)
    compared: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def groups(self) -> list[list[str]]:
        """Return the recordings that belong together over their pairs, the largest groups first."""
        group_of: dict[str, list[str]] = {}
        for pair in self.pairs:
            first = group_of.setdefault(pair.first, [pair.first])
            second = group_of.setdefault(pair.second, [pair.second])
            if first is not second:
                first += second
                group_of.update(dict.fromkeys(second, first))
        distinct = {id(group): sorted(group) for group in group_of.values()}
        return sorted(distinct.values(), key=lambda group: (-len(group), group))


def find_duplicates(
    library: EmbeddedRows,
    min_similarity: float = MIN_SIMILARITY,
    nearest: int = NEAREST,
) -> DuplicateReport:
    """Return the pairs of recordings that share audio; their files are decoded.

    Args:
        library: Table or index.
        min_similarity: Pairs with a smaller cosine are not compared.
        nearest: Recordings with which each is compared.
    """
    report = DuplicateReport()
    prints: dict[str, np.ndarray] = {}
    for first, second, similarity in track(candidate_pairs(library, min_similarity, nearest), "comparing pairs"):
        for path in (first, second):
            if path not in prints and path not in report.failed:
                try:
                    prints[path] = audio_fingerprint(load_audio(path, RATE))
                except AudioError as problem:
                    report.failed[path] = str(problem)
        if first in prints and second in prints:
            report.compared += 1
            for copy in find_copies([prints[first], prints[second]]):
                values = (copy.offset_seconds, copy.seconds, copy.error)
                report.pairs.append(DuplicatePair(first, second, similarity, *values))
    return report


def candidate_pairs(library: EmbeddedRows, min_similarity: float, nearest: int) -> list[tuple[str, str, float]]:
    """Return pairs of recordings of which one is among the nearest of the other, with their cosine.

    Args:
        library: Table, which is compared exactly, or index.
        min_similarity: Smallest cosine.
        nearest: Pairs of each recording.
    """
    names, unit_ND = _recording_vectors(library)
    best: dict[tuple[int, int], float] = {}
    if isinstance(library, EmbeddingTable):
        count = min(nearest, len(names) - 1)
        for begin in range(0, len(names) if count else 0, BLOCK):
            similarity_BN = unit_ND[begin : begin + BLOCK] @ unit_ND.T
            own_B = np.arange(len(similarity_BN))
            similarity_BN[own_B, begin + own_B] = -np.inf
            nearest_BK = np.argpartition(-similarity_BN, count - 1, axis=1)[:, :count]
            for first, nearest_K in enumerate(nearest_BK, begin):
                for second in nearest_K.tolist():
                    best[min(first, second), max(first, second)] = float(similarity_BN[first - begin, second])
    else:
        number = {name: index for index, name in enumerate(names)}
        for first, unit_D in enumerate(unit_ND):
            others: set[int] = set()
            for row, similarity in library.nearest(unit_D):
                second = number[library.path_R[row].as_py()]
                if len(others) == nearest or similarity < min_similarity:
                    break
                if second != first and second not in others:
                    others.add(second)
                    best[min(first, second), max(first, second)] = similarity
    pairs = sorted(pair for pair, similarity in best.items() if similarity >= min_similarity)
    return [(names[first], names[second], best[first, second]) for first, second in pairs]


def _recording_vectors(library: EmbeddedRows) -> tuple[list[str], np.ndarray]:
    """Return the paths of recordings and their unit vectors `[N, D]`, means over their rows weighted by length."""
    rows_R = library.present_rows()
    encoded = library.path_R.take(rows_R).dictionary_encode()
    owner_R, names = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    seconds_R = np.maximum(library.duration_R[rows_R], 1e-9)
    sum_ND: np.ndarray | None = None
    for begin in range(0, len(rows_R), VECTOR_ROWS):
        block = slice(begin, begin + VECTOR_ROWS)
        weighted_BD = library.vectors(rows_R[block]) * seconds_R[block, None]
        sum_ND = np.zeros((len(names), weighted_BD.shape[1])) if sum_ND is None else sum_ND
        np.add.at(sum_ND, owner_R[block], weighted_BD)
    return names, library.unit_vectors(np.asarray(sum_ND) / np.bincount(owner_R, seconds_R)[:, None])
