"""Purity of genres among neighbours, layer by layer, in the form in which a reproduction's scores are compared.

Purity is `carrara map`'s: the fraction of a song's ten nearest neighbours, by cosine between mean features, that have
its genre. A row is a layer of a model, trained or not; draws take the songs that purity is averaged over, while the
neighbours stay those among all songs.

Letters: G draws, N songs, S seeds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from carrara.bench.leaderboard.ranking import PERCENT, Interval
from carrara.data import REGISTRY as DATA
from carrara.encoders._hub.load import load
from carrara.features.embedding_map import find_neighbours
from carrara.features.extract import extract
from carrara.features.windows import WindowSpec
from carrara.metrics.bootstrap import centre_draws, resample_counts, standard_error
from carrara.reproduce._base import Reproduction
from carrara.reproduce._run import FIRST_SEED, ReproductionPlan, runnable_rows, select_layer, train_row, training_log
from carrara.reproduce._verdict import RowResult

LABEL, PURITY = "genre", "purity"


def measure_purity(reproduction: Reproduction, plan: ReproductionPlan) -> dict[str, RowResult]:
    """Return the purity of every row's layer in percent, with its interval over seeds and songs, by label.

    Raises:
        CarraraError: a training failed, or features cannot be extracted.
    """
    dataset = DATA.get("pebble")
    clips = [clip for clip in dataset.index(dataset.root(plan.data_dir)) if clip.labels.get(LABEL)]
    genre_N = np.array([str(clip.labels[LABEL]) for clip in clips])
    names = [clip.id for clip in clips]
    counts_GN = resample_counts(names, "pebble")
    results = {}
    for row in runnable_rows(reproduction, plan):
        pure_SN, parameters, seconds = [], 0, 0.0
        for seed in range(FIRST_SEED, FIRST_SEED + plan.seeds):
            model = train_row(reproduction, row, plan, seed)
            encoder = load(model, plan.device)
            parameters = encoder.card.parameters
            layer = encoder.card.num_layers
            if row.selection:
                layer = select_layer(model, row.selection, row.label, plan.device).layer
            # All layers of a model are stored in one pass, so that the next row only reads.
            features = extract(encoder, clips, WindowSpec(), plan.output / "features", plan.device)
            rows_RD = features.layer(str(layer))
            mean_ND = np.stack([rows_RD[own].mean(0, dtype=np.float64) for own in features.rows])
            pure_SN.append(genre_purity(mean_ND, genre_N))
            log = training_log(reproduction, row, plan, seed)
            seconds += float(log[-1].get("seconds", 0.0)) / plan.seeds if log and row.recipe else 0.0
        results[row.label] = _summarise_purity(row.label, np.stack(pure_SN), counts_GN, parameters, seconds)
    return results


def genre_purity(mean_ND: np.ndarray, genre_N: np.ndarray) -> np.ndarray:
    """Return for each song the fraction of its nearest neighbours that have its genre, `[N]`."""
    index_NK, _ = find_neighbours(mean_ND)
    purity_N: np.ndarray = (genre_N[index_NK] == genre_N[:, None]).mean(1)
    return purity_N


def _summarise_purity(
    label: str, pure_SN: np.ndarray, counts_GN: np.ndarray, parameters: int, seconds: float
) -> RowResult:
    mean_N = PERCENT * pure_SN.mean(0)
    value, songs = float(mean_N.mean()), len(mean_N)
    draw_G = centre_draws(counts_GN @ mean_N / counts_GN.sum(1), value, songs)
    by_seed = tuple((PERCENT * pure_SN.mean(1)).tolist())
    margin = standard_error(draw_G, songs, [by_seed]).margin()
    interval = Interval(value, value - margin, value + margin)
    return RowResult(label, interval, {PURITY: value}, by_seed, seconds, draw_G, songs, parameters)


def purity_of_chance(data_dir: Path | None = None) -> float:
    """Return the purity in percent that songs without any order would have."""
    dataset = DATA.get("pebble")
    genres = [clip.labels[LABEL] for clip in dataset.index(dataset.root(data_dir)) if clip.labels.get(LABEL)]
    counts = [genres.count(genre) for genre in set(genres)]
    return PERCENT * sum(count * (count - 1) for count in counts) / (len(genres) * (len(genres) - 1))
