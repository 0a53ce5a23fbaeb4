"""Training the search: as many points at once as fit in memory, all on the same mixtures, each on a course of its own.

A point with MARBLE's head takes half a GB with its four heads, so on a CPU six are trained at a time beside a 95M
encoder and four beside a 330M one; points of one layer stand together, and the mixtures, which a seed and an epoch
give, are the same for every group. On a CPU the
points of a group take their steps on several threads, as few as their activations leave room for. Whatever the size of
the dataset, what is held is a part of a step, the points of a group and the best of those before.

Letters: B mixtures, J stems, F frames, K bins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import methodcaller
from typing import Any

import torch
from torch import Tensor

from carrara.bench.probes.lr_schedule import Plateau, ProbeHistory
from carrara.bench.probes.probe import ProbeSpec
from carrara.bench.separation import spectrum
from carrara.bench.separation.evaluate import Ledger, arrived, estimated, masked, passing
from carrara.bench.separation.frozen_encoder import Ears
from carrara.bench.separation.head import HeadShape
from carrara.bench.separation.settings import Separation
from carrara.bench.separation.songs import Mixtures, Song, Stretch, Windows, draw, load_mixtures
from carrara.bench.separation.trial import Features, Member, Part, bytes_held, rows_of, shape_of
from carrara.core.progress import progress
from carrara.core.task import Task

STATE_BYTES = int(3.7 * 2**30)  # for the points of a group and the encoder
ACTIVATION_BYTES = 2 * 2**30

Each = Callable[[Callable[[Member], Any], list[Member]], list[Any]]


@dataclass(frozen=True)
class Lesson:
    """What all points of the search share.

    Attributes:
        task: the question.
        ears: the encoder.
        train, valid: songs.
        how: numbers of head and training.
        device: where.
    """

    task: Task
    ears: Ears
    train: Sequence[Song]
    valid: Sequence[Song]
    how: Separation
    device: str


def trained(lesson: Lesson, specs: Sequence[ProbeSpec]) -> list[Member]:
    """Return all points of one seed, in order, trained; only the best one on validation still has its weights."""
    best: Member | None = None
    every: list[Member] = []
    with progress("separation", len(specs) * lesson.task.max_epochs) as advance:
        for group in groups(lesson, specs):
            members = [_member(lesson, spec) for spec in group]
            _train(lesson, members, advance)
            for member in members:
                member.finish()
                if member.best is None or (best is not None and member.course.best <= best.course.best):
                    member.release()
                    continue
                if best is not None:
                    best.release()
                best = member
            every += members
    return every


def groups(lesson: Lesson, specs: Sequence[ProbeSpec]) -> list[list[ProbeSpec]]:
    """Return the points that are trained at once, group by group."""
    room = STATE_BYTES - sum(parameter.nbytes for parameter in lesson.ears.encoder.parameters())
    if torch.device(lesson.device).type == "cuda":
        room = torch.cuda.mem_get_info(lesson.device)[0] // 2
    found: list[list[ProbeSpec]] = []
    held = 0
    for spec in specs:
        size = bytes_held(_shape(lesson, spec), len(lesson.task.labels))
        if not found or held + size > room:
            found.append([])
            held = 0
        found[-1].append(spec)
        held += size
    return found


def _shape(lesson: Lesson, spec: ProbeSpec) -> HeadShape:
    width = lesson.ears.encoder.card.dim
    return shape_of(spec, width, lesson.how.hidden, lesson.how.dropout, spectrum.BINS)


def _member(lesson: Lesson, spec: ProbeSpec) -> Member:
    task = lesson.task
    course = ProbeHistory(Plateau(spec.learning_rate, task.plateau_patience), task.stop_patience, task.max_epochs)
    return Member(spec, _shape(lesson, spec), len(task.labels), course, lesson.device)


def _train(lesson: Lesson, members: list[Member], advance: Callable[..., None]) -> None:
    live, epoch, most = list(members), 0, lesson.task.max_epochs
    with _workers(lesson) as each:
        while live:
            steps = _learn(lesson, live, epoch, each)
            scores = _scores(lesson, live, each)
            epoch += 1
            for member, score in zip(live, scores):
                member.epoch_over(steps, score)
                advance(1 + most - epoch if member.course.stopped else 1, note=f"{len(live)} learning")
            live = [member for member in live if not member.course.stopped]


def _learn(lesson: Lesson, live: list[Member], epoch: int, each: Each) -> int:
    """Let every point learn from an epoch's mixtures and return how many steps that took."""
    reading, how = lesson.ears.reading, lesson.how
    seed, rows = live[0].spec.seed, rows_of([member.spec for member in live])
    drawn = draw(lesson.train, lesson.task.examples_per_clip, reading.window, seed, epoch)
    cuts = [
        (drawn[low : min(low + how.part, begin + how.batch)], min(how.batch, len(drawn) - begin), begin)
        for begin in range(0, len(drawn), how.batch)
        for low in range(begin, min(begin + how.batch, len(drawn)), how.part)
    ]
    sounds: Iterator[Mixtures] = arrived([partial(_mixed, lesson, part) for part, _, _ in cuts])
    for place, ((part, whole, begin), sound) in enumerate(zip(cuts, sounds)):
        heard = Part(
            lesson.ears.hear(sound.heard_BS, rows),
            *_magnitudes(sound, lesson.device),
            share=len(part) / whole,
            last=place + 1 == len(cuts) or cuts[place + 1][2] != begin,
        )
        each(methodcaller("learn", heard), live)
    return -(-len(drawn) // how.batch)


def _scores(lesson: Lesson, live: list[Member], each: Each) -> list[float]:
    """Return each point's mean SDR over stems and validation songs."""
    rows = rows_of([member.spec for member in live])
    ledgers = {id(member): Ledger(len(lesson.valid), len(lesson.task.labels)) for member in live}
    for windows in passing(lesson.valid, lesson.ears.reading):
        features = lesson.ears.hear(windows.heard_BS, rows)
        each(partial(_judge, windows, features, ledgers), live)
    return [float(ledgers[id(member)].sdr_UJ().mean()) for member in live]


def _judge(windows: Windows, features: Features, ledgers: dict[int, Ledger], member: Member) -> None:
    masks_BJFK = member.masks(features)
    ledgers[id(member)].add(windows, estimated(windows, masked(masks_BJFK), str(masks_BJFK.device)))


def _mixed(lesson: Lesson, part: Sequence[tuple[Stretch, ...]]) -> Iterator[Mixtures]:
    yield load_mixtures(lesson.train, part, lesson.ears.reading)


def _magnitudes(sound: Mixtures, device: str) -> tuple[Tensor, Tensor]:
    """Return the magnitudes of the mixtures, `[B, F, K]`, and of their stems, `[B, J, F, K]`."""
    spectra_BJFK = spectrum.spectrum(torch.from_numpy(sound.stems_BJT).to(device))
    return spectra_BJFK.sum(1).abs(), spectra_BJFK.abs()


@contextmanager
def _workers(lesson: Lesson) -> Iterator[Each]:
    """Give what asks every point of a list for something: side by side on a CPU, as far as memory goes."""
    threads = torch.get_num_threads()
    cells = lesson.how.part * lesson.ears.frames * 4 * (8 * spectrum.BINS + 40 * lesson.how.hidden)
    width = min(threads, max(1, ACTIVATION_BYTES // cells)) if torch.device(lesson.device).type == "cpu" else 1
    if width == 1:
        yield lambda ask, members: [ask(member) for member in members]
        return
    try:
        with ThreadPoolExecutor(width, initializer=torch.set_num_threads, initargs=(threads // width,)) as pool:
            yield lambda ask, members: list(pool.map(ask, members))
    finally:
        torch.set_num_threads(threads)
