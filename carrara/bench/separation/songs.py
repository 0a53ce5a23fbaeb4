"""Songs as separation reads them: random mixtures to learn from, and a song's windows in order to be judged by.

A training mixture adds a stretch of each stem, of a random song each, at a random gain from 0.25 to 1.25 (Open-Unmix's
and MARBLE's recipe, benchmark.md 1.9). In an epoch each stem of each song is heard `examples_per_clip` times. The
recipe's swap of the channels is left out: encoder and loss hear the mean of both, which it does not change.

Nothing is held but the batch that is asked for; stretches are sought in their files. Letters: B mixtures or windows,
J stems, C channels, T samples at 44.1 kHz, S samples at the encoder's rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from carrara.audio.resample import resample
from carrara.audio.stems import STEM_RATE, StemSource, load_stem, parse_stem, stem_length
from carrara.core.clip import Clip
from carrara.core.errors import AudioError, DataError
from carrara.core.task import Task

LOUDNESS = (0.25, 1.25)
MIXING = 4  # beside the numbers of the other draws in carrara.bench


@dataclass(frozen=True)
class Song:
    """A song: its mixture, its stems in the task's order, its first sample and how many it has."""

    id: str
    mixture: StemSource
    stems: tuple[StemSource, ...]
    start: int
    samples: int


@dataclass(frozen=True)
class Stretch:
    """What a mixture takes of one song's stem: which song, from which sample on, how loud."""

    song: int
    start: int
    gain: float


@dataclass(frozen=True)
class Mixtures:
    """Training mixtures: their stems `[B, J, T]`, mono, and what the encoder hears `[B, S]`."""

    stems_BJT: np.ndarray
    heard_BS: np.ndarray


@dataclass(frozen=True)
class Windows:
    """Windows of one song: mixture `[B, C, T]`, stems `[B, J, C, T]`, what the encoder hears `[B, S]`.

    A last window is filled up with silence; `valid_B` says how many samples are the song's. Where both channels are the
    same there is one, and `channels` is what it stands for.
    """

    song: int
    mixture_BCT: np.ndarray
    stems_BJCT: np.ndarray
    heard_BS: np.ndarray
    valid_B: tuple[int, ...]
    channels: int


@dataclass(frozen=True)
class Reading:
    """How stretches are read: T of a window, S of what the encoder hears of it, and its sample rate (Hz)."""

    window: int
    heard: int
    sample_rate: int

    def to_hear(self, samples_T: np.ndarray) -> np.ndarray:
        """Return a mono window as the encoder hears it."""
        return _filled(resample(samples_T, STEM_RATE, self.sample_rate), self.heard)


def clip_stems(task: Task, clip: Clip) -> list[StemSource]:
    """Return the mixture of a clip and its stems in the task's order.

    Raises:
        DataError: the clip lacks a stem.
    """
    for name in task.labels:
        if name not in clip.labels:
            raise DataError(f"clip {clip.id!r}: it has no stem {name!r}, which task {task.name!r} needs")
    are_streams = any(str(clip.labels[name]).startswith("stream:") for name in task.labels)
    mixture = parse_stem(clip.path, "stream:0") if are_streams else StemSource(clip.path)
    return [mixture, *(parse_stem(clip.path, clip.labels[name]) for name in task.labels)]


def songs(task: Task, clips: Sequence[Clip]) -> list[Song]:
    """Return the songs of clips.

    Raises:
        DataError: a clip lacks a stem, or a file cannot be read.
    """
    found = []
    for clip in clips:
        mixture, *stems = clip_stems(task, clip)
        start = round(clip.start * STEM_RATE)
        try:
            samples = min(stem_length(stem) for stem in (mixture, *stems)) - start
        except AudioError as problem:
            raise DataError(f"{problem}; repair the file, or remove it and measure with --partial") from None
        if clip.duration is not None:
            samples = min(samples, round(clip.duration * STEM_RATE))
        found.append(Song(clip.id, mixture, tuple(stems), start, samples))
    return found


def draw(songs: Sequence[Song], examples: int, window: int, seed: int, epoch: int) -> list[tuple[Stretch, ...]]:
    """Return an epoch's mixtures, a stretch a stem: each stem of each song `examples` times, in random company."""
    rng = np.random.default_rng([seed, MIXING, epoch])
    many = len(songs) * examples
    by_stem = [rng.permutation(many) % len(songs) for _ in songs[0].stems]
    return [
        tuple(
            Stretch(
                int(place),
                int(rng.integers(0, max(songs[place].samples - window, 0) + 1)),
                float(rng.uniform(*LOUDNESS)),
            )
            for place in company
        )
        for company in zip(*by_stem)
    ]


def load_mixtures(songs: Sequence[Song], drawn: Sequence[tuple[Stretch, ...]], reading: Reading) -> Mixtures:
    """Return mixtures that were drawn.

    Raises:
        AudioError: a file cannot be read.
    """
    stems_BJT = np.stack(
        [
            np.stack(
                [
                    one.gain * _stretch(songs[one.song], songs[one.song].stems[stem], one.start, reading).mean(0)
                    for stem, one in enumerate(company)
                ]
            )
            for company in drawn
        ]
    ).astype(np.float32)
    return Mixtures(stems_BJT, np.stack([reading.to_hear(samples_T) for samples_T in stems_BJT.sum(1)]))


def load_windows(songs: Sequence[Song], song: int, starts: Sequence[int], reading: Reading) -> Windows:
    """Return the windows of a song that begin at the given samples.

    Raises:
        AudioError: a file cannot be read.
    """
    one = songs[song]
    read = [[_stretch(one, stem, start, reading) for stem in (one.mixture, *one.stems)] for start in starts]
    sounds_BJCT = np.stack([np.stack(sounds) for sounds in read])
    heard_BS = np.stack([reading.to_hear(sounds[0].mean(0)) for sounds in read])
    same = np.array_equal(sounds_BJCT[:, :, 0], sounds_BJCT[:, :, 1])
    held = sounds_BJCT[:, :, :1] if same else sounds_BJCT
    valid_B = tuple(min(reading.window, one.samples - start) for start in starts)
    return Windows(song, held[:, 0], held[:, 1:], heard_BS, valid_B, 2 if same else 1)


def _stretch(song: Song, stem: StemSource, start: int, reading: Reading) -> np.ndarray:
    """Return a window of a stem, `[2, T]`, with silence after the song's end."""
    count = min(reading.window, song.samples - start)
    return _filled(load_stem(stem, song.start + start, count), reading.window)


def _filled(samples: np.ndarray, count: int) -> np.ndarray:
    """Return exactly so many samples along the last axis."""
    missing = count - samples.shape[-1]
    return samples[..., :count] if missing <= 0 else np.pad(samples, [(0, 0)] * (samples.ndim - 1) + [(0, missing)])
