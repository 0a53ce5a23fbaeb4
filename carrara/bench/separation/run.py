"""Source separation: layer and learning rate chosen on validation, test songs once.

The search is the protocol's own: every layer and their weighted sum × six learning rates (constrained, linear), or one
of these × the learning rates of its settings (semi-constrained); with MARBLE's recurrent head or a registered one in
place of the small probe. Validation scores the masks' estimate; the Wiener filter follows on the test songs only. A
prediction is the SDR in dB of each stem of a song, `{"sdr_vocals": 4.2, …}`; the scores are its means over songs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from carrara.bench.probes.probe import ProbeSpec
from carrara.bench.protocols._base import Predictor, ProtocolInputs, ProtocolResult, grid_point
from carrara.bench.separation.evaluate import SDRAccumulator, iter_windows, post_filter, separate, wiener_filter
from carrara.bench.separation.songs import load_songs
from carrara.bench.separation.train import SeparationProblem, separation_settings, train_trials
from carrara.bench.separation.trial import SeparationTrial
from carrara.bench.separation.window_encoder import WindowEncoder
from carrara.bench.split_data import SplitData
from carrara.core.errors import DataError
from carrara.core.progress import track


@dataclass(frozen=True)
class SeparationPredictor(Predictor):
    """The chosen point of each seed."""

    problem: SeparationProblem
    chosen: list[SeparationTrial]

    def predict(self, split: SplitData) -> list[list[dict[str, float]]]:
        """Return for each seed the SDR of each stem of each song."""
        task, encoder = self.problem.task, self.problem.encoder
        songs = load_songs(task, split.clips)
        names = [f"sdr_{stem}" for stem in task.labels]
        predictions = []
        for trial in self.chosen:
            layers = [int(source) for source in trial.spec.sources]
            sums = SDRAccumulator(len(songs), len(task.labels))
            for windows in track(iter_windows(songs, encoder.window_format), "separating the test songs"):
                masks_BJFK = trial.masks(encoder.encode(windows.encoder_BS, layers))
                sums.add(windows, separate(windows, masks_BJFK, wiener_filter))
            predictions.append([dict(zip(names, map(float, sdr_J))) for sdr_J in sums.sdr_UJ()])
        return predictions


def run_separation(inputs: ProtocolInputs, points: list[ProbeSpec], **changes: Any) -> ProtocolResult:
    """Train separation heads at every point of the search and choose a point for each seed on validation.

    Args:
        inputs: of the protocol.
        points: of the search, of every seed.
        changes: to the task's `SeparationSettings`, by name: `head="lstm"`.

    Raises:
        UsageError: the encoder has no frames.
        DataError: a song cannot be read, or no point reached a finite score.
    """
    task = inputs.task
    assert task.window_seconds is not None  # `grid_window_spec` refuses it
    started = time.perf_counter()
    problem = SeparationProblem(
        task=task,
        encoder=WindowEncoder(inputs.encoder, task.window_seconds, inputs.device),
        train=load_songs(task, inputs.train.clips),
        valid=load_songs(task, inputs.valid.clips),
        settings=replace(separation_settings(task), **changes),
        device=inputs.device,
    )
    settings = problem.settings
    trials, chosen = [], []
    for seed in inputs.seeds:
        trained = train_trials(problem, [point for point in points if point.seed == seed])
        best = next((trial for trial in trained if trial.best is not None), None)
        if best is None:
            raise DataError(
                f"task {task.name!r}: no head reached a finite {task.monitor} on the validation songs; "
                "look for features that are not finite, or for too few songs"
            )
        trials += trained
        chosen.append(best)
    return ProtocolResult(
        predictor=SeparationPredictor(problem, chosen),
        tried=len(trials),
        grid=tuple(
            grid_point(trial.spec.layer, trial.spec.learning_rate, trial.spec.seed, trial.history)
            for trial in trials
            if trial.history.best_epoch >= 0
        ),
        chosen=tuple(
            {
                "layer": trial.spec.layer,
                "learning_rate": trial.spec.learning_rate,
                "epoch": trial.history.best_epoch,
                **({"head": settings.head} if settings.head else {"hidden": settings.hidden}),
                "post_filter": post_filter(),
            }
            for trial in chosen
        ),
        seconds={"separation": time.perf_counter() - started},
    )
