"""Source separation in the constrained protocol: layer and learning rate chosen on validation, test songs once.

The search is the protocol's own (every layer and their weighted sum × six learning rates), with MARBLE's recurrent head
in place of the small probe. Validation uses the estimate of the masks as it is; the Wiener filter comes in at the test.
A prediction is the SDR in dB of each stem of a song, `{"sdr_vocals": 4.2, …}`, whose means over songs are the scores.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from carrara.bench.probes.probe import ProbeSpec
from carrara.bench.protocols._base import Predictor, ProtocolInputs, ProtocolResult, grid_point
from carrara.bench.separation.evaluate import Ledger, estimated, passing
from carrara.bench.separation.frozen_encoder import Ears
from carrara.bench.separation.settings import separation
from carrara.bench.separation.songs import songs
from carrara.bench.separation.train import Lesson, trained
from carrara.bench.separation.trial import Member
from carrara.bench.separation.wiener import filtered, post_filter
from carrara.bench.split_data import SplitData
from carrara.core.errors import DataError
from carrara.core.progress import track


@dataclass(frozen=True)
class SeparationPredictor(Predictor):
    """The chosen head of each seed."""

    lesson: Lesson
    chosen: list[Member]

    def predict(self, split: SplitData) -> list[list[dict[str, float]]]:
        """Return for each seed the SDR of each stem of each song."""
        lesson = self.lesson
        test = songs(lesson.task, split.clips)
        names = [f"sdr_{stem}" for stem in lesson.task.labels]
        predictions = []
        for member in self.chosen:
            layers = [int(source) for source in member.spec.sources]
            ledger = Ledger(len(test), len(lesson.task.labels))
            for windows in track(passing(test, lesson.ears.reading), "separating the test songs"):
                masks_BJFK = member.masks(lesson.ears.hear(windows.heard_BS, layers))
                ledger.add(windows, estimated(windows, filtered(masks_BJFK), lesson.device))
            predictions.append([dict(zip(names, map(float, sdr_J))) for sdr_J in ledger.sdr_UJ()])
        return predictions


def run_separation(inputs: ProtocolInputs, points: list[ProbeSpec]) -> ProtocolResult:
    """Train a separation head at every point of the search and choose one for each seed on validation.

    Raises:
        UsageError: the encoder has no frames.
        DataError: a song cannot be read, or no point reached a finite score.
    """
    task = inputs.task
    assert task.window_seconds is not None  # `grid_window_spec` refuses it
    started = time.perf_counter()
    lesson = Lesson(
        task=task,
        ears=Ears(inputs.encoder, task.window_seconds, inputs.device),
        train=songs(task, inputs.train.clips),
        valid=songs(task, inputs.valid.clips),
        how=separation(task),
        device=inputs.device,
    )
    members, chosen = [], []
    for seed in inputs.seeds:
        of_seed = trained(lesson, [point for point in points if point.seed == seed])
        best = next((member for member in of_seed if member.best is not None), None)
        if best is None:
            raise DataError(
                f"task {task.name!r}: no head reached a finite {task.monitor} on the validation songs; "
                "look for features that are not finite, or for too few songs"
            )
        members += of_seed
        chosen.append(best)
    return ProtocolResult(
        predictor=SeparationPredictor(lesson, chosen),
        tried=len(members),
        grid=tuple(
            grid_point(member.spec.layer, member.spec.learning_rate, member.spec.seed, member.course)
            for member in members
            if member.course.best_epoch >= 0
        ),
        chosen=tuple(
            {
                "layer": member.spec.layer,
                "learning_rate": member.spec.learning_rate,
                "epoch": member.course.best_epoch,
                "hidden": lesson.how.hidden,
                "post_filter": post_filter(),
            }
            for member in chosen
        ),
        seconds={"separation": time.perf_counter() - started},
    )
