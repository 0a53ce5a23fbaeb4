"""Separation under the constrained track: layer and learning rate chosen on validation, the test songs heard once.

The search is the protocol's own (every layer and their weighted sum × six learning rates), with MARBLE's recurrent head
in place of the small probe. Validation takes the masks' estimate as it is; the Wiener filter comes in at the test. An
answer is a song's SDR in dB for each stem, `{"sdr_vocals": 4.2, …}`: a row's scores are means of these over songs.
"""

from __future__ import annotations

import time
from typing import Any

from carrara.bench.protocols._base import ProtocolInputs, ProtocolResult
from carrara.bench.protocols.constrained import search
from carrara.bench.separation.evaluate import Ledger, estimated, passing
from carrara.bench.separation.frozen_encoder import Ears
from carrara.bench.separation.settings import separation
from carrara.bench.separation.songs import Song, songs
from carrara.bench.separation.train import Lesson, trained
from carrara.bench.separation.trial import Member
from carrara.bench.separation.wiener import filtered, post_filter
from carrara.core.errors import DataError, UsageError
from carrara.core.progress import track
from carrara.core.record import GridPoint


def run(inputs: ProtocolInputs) -> ProtocolResult:
    """Return what the search finds for one task.

    Raises:
        UsageError: the task has no window, or the encoder answers once a clip.
        DataError: a song cannot be read, or no point reached a finite score.
    """
    task = inputs.task
    if task.window_seconds is None:
        raise UsageError(f"task {task.name!r}: stems are learned from windows; give it window_seconds")
    began = time.perf_counter()
    lesson = Lesson(
        task=task,
        ears=Ears(inputs.encoder, task.window_seconds, inputs.device),
        train=songs(task, inputs.clips["train"]),
        valid=songs(task, inputs.clips["valid"]),
        how=separation(task),
        device=inputs.device,
    )
    layers = tuple(str(row) for row in range(inputs.encoder.card.num_layers + 1))
    by_seed = [trained(lesson, search(layers, (seed,))) for seed in inputs.seeds]
    chosen = [_best(lesson, members) for members in by_seed]
    learned = time.perf_counter()
    heard = songs(task, inputs.clips["test"])
    answers = [_answers(lesson, member, heard) for member in chosen]
    return ProtocolResult(
        tried=sum(map(len, by_seed)),
        grid=tuple(_point(member) for members in by_seed for member in members if member.course.best_epoch >= 0),
        chosen=tuple(_choice(lesson, member) for member in chosen),
        truths=[clip.id for clip in inputs.clips["test"]],
        answers=answers,
        seconds={"separation": learned - began, "test": time.perf_counter() - learned},
    )


def _best(lesson: Lesson, members: list[Member]) -> Member:
    for member in members:
        if member.best is not None:
            return member
    raise DataError(
        f"task {lesson.task.name!r}: no head reached a finite {lesson.task.monitor} on the validation songs; "
        "look for features that are not finite, or for too few songs"
    )


def _answers(lesson: Lesson, member: Member, heard: list[Song]) -> list[dict[str, float]]:
    """Return each test song's SDR by metric name."""
    rows = [int(source) for source in member.spec.sources]
    ledger = Ledger(len(heard), len(lesson.task.labels))
    for windows in track(passing(heard, lesson.ears.reading), "separating the test songs"):
        masks_BJFK = member.masks(lesson.ears.hear(windows.heard_BS, rows))
        ledger.add(windows, estimated(windows, filtered(masks_BJFK), lesson.device))
    names = [f"sdr_{stem}" for stem in lesson.task.labels]
    return [dict(zip(names, map(float, sdr_J))) for sdr_J in ledger.sdr_UJ()]


def _choice(lesson: Lesson, member: Member) -> dict[str, Any]:
    return {
        "layer": member.spec.layer,
        "learning_rate": member.spec.learning_rate,
        "epoch": member.course.best_epoch,
        "hidden": lesson.how.hidden,
        "post_filter": post_filter(),
    }


def _point(member: Member) -> GridPoint:
    course = member.course
    return GridPoint(
        layer=member.spec.layer,
        learning_rate=member.spec.learning_rate,
        valid=course.best,
        epoch=course.best_epoch,
        epochs=len(course.scores),
        seed=member.spec.seed,
    )
