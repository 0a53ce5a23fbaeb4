"""Songs as separation reads them: random mixtures for training, consecutive windows for evaluation.

A training mixture sums an excerpt of each stem, each from a random song, at a random gain from 0.25 to 1.25 (the recipe
of Open-Unmix [stoter2019] and MARBLE [notes/benchmark §1.9]). In an epoch each stem of each song is used
`examples_per_clip` times. The recipe's random swap of the channels is left out: encoder and loss get the mean of both,
which it does not change. Only the current batch is in memory; excerpts are read by seeking.

Letters: B mixtures or windows, J stems, C channels, T samples at 44.1 kHz, S samples at the encoder's rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from carrara.audio.resample import resample
from carrara.audio.stems import STEM_RATE, StemSource, load_stem, parse_stem, stem_length
from carrara.bench.decode import undecodable
from carrara.core.clip import Clip
from carrara.core.errors import AudioError, DataError
from carrara.core.task import Task

GAIN_RANGE = (0.25, 1.25)
MIXTURE_STREAM = 4  # the random stream of mixtures, beside those of `carrara.bench.probes.rng`


@dataclass(frozen=True)
class Song:
    """A song.

    Attributes:
        id: of its clip.
        mixture: its mixture.
        stems: in the order of the task's labels.
        start: its first sample in the files.
        samples: its length.
    """

    id: str
    mixture: StemSource
    stems: tuple[StemSource, ...]
    start: int
    samples: int


@dataclass(frozen=True)
class StemExcerpt:
    """One stem of a training mixture: the index of its song, its first sample, its gain."""

    song: int
    start: int
    gain: float


@dataclass(frozen=True)
class Mixtures:
    """Training mixtures: their mono stems `[B, J, T]`, and the encoder's input `[B, S]`."""

    stems_BJT: np.ndarray
    encoder_BS: np.ndarray


@dataclass(frozen=True)
class SongWindows:
    """Windows of one song.

    Attributes:
        song: index of the song.
        mixture_BCT: the mixture; a last window is padded with silence.
        stems_BJCT: the stems.
        encoder_BS: the encoder's input.
        valid_B: number of samples that belong to the song.
        channels: how many channels each one stands for: 2 where both are equal and only one is stored, else 1.
    """

    song: int
    mixture_BCT: np.ndarray
    stems_BJCT: np.ndarray
    encoder_BS: np.ndarray
    valid_B: tuple[int, ...]
    channels: int


@dataclass(frozen=True)
class WindowFormat:
    """T of a window, S of the encoder's input for it, and the encoder's sample rate (Hz)."""

    window: int
    encoder_samples: int
    sample_rate: int

    def to_encoder_rate(self, samples_T: np.ndarray) -> np.ndarray:
        """Return the encoder's input `[S]` for a mono window."""
        return _fit_length(resample(samples_T, STEM_RATE, self.sample_rate), self.encoder_samples)


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


def load_songs(task: Task, clips: Sequence[Clip]) -> list[Song]:
    """Return the songs of clips.

    Raises:
        DataError: a clip lacks a stem, or a file cannot be read.
    """
    songs = []
    for clip in clips:
        mixture, *stems = clip_stems(task, clip)
        start = round(clip.start * STEM_RATE)
        try:
            samples = min(stem_length(stem) for stem in (mixture, *stems)) - start
        except AudioError as problem:
            raise undecodable(problem) from None
        if clip.duration is not None:
            samples = min(samples, round(clip.duration * STEM_RATE))
        songs.append(Song(clip.id, mixture, tuple(stems), start, samples))
    return songs


def draw_mixtures(
    songs: Sequence[Song], examples_per_clip: int, window: int, seed: int, epoch: int
) -> list[tuple[StemExcerpt, ...]]:
    """Return the mixtures of an epoch, an excerpt for each stem, where each stem of each song is used equally often.

    Args:
        songs: the training songs.
        examples_per_clip: how often each stem is used.
        window: T.
        seed: of the training.
        epoch: of the training.
    """
    rng = np.random.default_rng([seed, MIXTURE_STREAM, epoch])
    count = len(songs) * examples_per_clip
    songs_by_stem = [rng.permutation(count) % len(songs) for _ in songs[0].stems]
    return [
        tuple(
            StemExcerpt(
                int(song),
                int(rng.integers(0, max(songs[song].samples - window, 0) + 1)),
                float(rng.uniform(*GAIN_RANGE)),
            )
            for song in mixture
        )
        for mixture in zip(*songs_by_stem)
    ]


def load_mixtures(
    songs: Sequence[Song], mixtures: Sequence[tuple[StemExcerpt, ...]], window_format: WindowFormat
) -> Mixtures:
    """Return the audio of mixtures.

    Raises:
        AudioError: a file cannot be read.
    """

    def load(excerpt: StemExcerpt, stem: int) -> np.ndarray:
        song = songs[excerpt.song]
        return excerpt.gain * _load_window(song, song.stems[stem], excerpt.start, window_format.window).mean(0)

    stems_BJT = np.stack(
        [np.stack([load(excerpt, stem) for stem, excerpt in enumerate(mixture)]) for mixture in mixtures]
    ).astype(np.float32)
    encoder_BS = np.stack([window_format.to_encoder_rate(samples_T) for samples_T in stems_BJT.sum(1)])
    return Mixtures(stems_BJT, encoder_BS)


def load_windows(songs: Sequence[Song], index: int, starts: Sequence[int], window_format: WindowFormat) -> SongWindows:
    """Return the windows of a song that begin at the given samples.

    Raises:
        AudioError: a file cannot be read.
    """
    song, window = songs[index], window_format.window
    sources = (song.mixture, *song.stems)
    audio_BJCT = np.stack([np.stack([_load_window(song, stem, start, window) for stem in sources]) for start in starts])
    encoder_BS = np.stack([window_format.to_encoder_rate(samples_JCT[0].mean(0)) for samples_JCT in audio_BJCT])
    is_mono = np.array_equal(audio_BJCT[:, :, 0], audio_BJCT[:, :, 1])
    if is_mono:
        audio_BJCT = audio_BJCT[:, :, :1]
    valid_B = tuple(min(window, song.samples - start) for start in starts)
    return SongWindows(index, audio_BJCT[:, 0], audio_BJCT[:, 1:], encoder_BS, valid_B, 2 if is_mono else 1)


def _load_window(song: Song, stem: StemSource, start: int, window: int) -> np.ndarray:
    """Return a window of a stem, `[2, T]`, with silence after the song's end."""
    return _fit_length(load_stem(stem, song.start + start, min(window, song.samples - start)), window)


def _fit_length(samples: np.ndarray, count: int) -> np.ndarray:
    """Return exactly `count` samples along the last axis, cut or padded with zeros."""
    missing = count - samples.shape[-1]
    return samples[..., :count] if missing <= 0 else np.pad(samples, [(0, 0)] * (samples.ndim - 1) + [(0, missing)])
