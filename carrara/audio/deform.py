"""Spoilt sound: noise, gain, MP3, pitch, clipping and reverberation, to ask how far a representation holds.

The kinds are mir_ref's (Plachouras et al. 2023, arXiv 2312.05994). What is random comes from a generator seeded by the
samples, so a clip is always spoilt in the same way. Every kind gives as many samples as came, at their places in time.
Labels stay as they are, those of key and pitch too.

    noise:20db   white noise, so many dB below the clip's mean power
    gain:-6db    louder or softer
    mp3:32k      through an MP3 encoder at so many kbit/s, and back
    pitch:+1     semitones up or down, at the same tempo and loudness (phase vocoder, Flanagan & Golden 1966)
    clip:10      cut off at the level that so many percent of the samples exceed
    reverb:1s    a room whose sound takes so long to fall by 60 dB, as loud as the direct sound

Letters: T samples, F frames, M bins.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from carrara.core.errors import UsageError, did_you_mean

VERSION = 1
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
WINDOW, HOP = 2048, 512


@dataclass(frozen=True)
class _Kind:
    unit: str
    usual: float | None
    least: float
    most: float
    apply: Callable[[np.ndarray, int, float], np.ndarray]


def corrupt(samples_T: np.ndarray, rate: int, deform: str) -> np.ndarray:
    """Return the samples spoilt as `deform` says, as many as came, float32.

    Raises:
        UsageError: it says nothing known.
    """
    kind, value = read(deform)
    if not len(samples_T):
        return samples_T
    return _fitted(kind.apply(samples_T, rate, value), len(samples_T)).astype(np.float32)


def read(deform: str) -> tuple[_Kind, float]:
    """Return what a deformation's name means: its kind and the value.

    Raises:
        UsageError: an unknown kind, or a value that the kind does not take.
    """
    name, _, text = deform.partition(":")
    if name not in KINDS:
        raise UsageError(f"there is no deformation {deform!r}.{did_you_mean(name, KINDS)} They are: {EXAMPLES}.")
    kind = KINDS[name]
    if not text and kind.usual is not None:
        return kind, kind.usual
    number = re.fullmatch(rf"([+-]?\d+(?:\.\d+)?)(?:{kind.unit})?", text.lower())
    if number is None or not kind.least <= float(number[1]) <= kind.most:
        raise UsageError(
            f"deformation {deform!r}: {name} takes {kind.least:g} to {kind.most:g}; for example {EXAMPLES}"
        )
    return kind, float(number[1])


def _generator(samples_T: np.ndarray) -> np.random.Generator:
    digest = hashlib.sha256(np.ascontiguousarray(samples_T, dtype="<f4").tobytes()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def _fitted(samples_T: np.ndarray, length: int) -> np.ndarray:
    return np.pad(samples_T[:length], (0, max(0, length - len(samples_T))))


def _noise(samples_T: np.ndarray, rate: int, below: float) -> np.ndarray:
    level = np.sqrt(np.mean(np.square(samples_T, dtype=np.float64))) * 10 ** (-below / 20)
    return samples_T + level * _generator(samples_T).standard_normal(len(samples_T))


def _gain(samples_T: np.ndarray, rate: int, level: float) -> np.ndarray:
    return samples_T * 10 ** (level / 20)


def _clip(samples_T: np.ndarray, rate: int, percent: float) -> np.ndarray:
    level = np.quantile(np.abs(samples_T), 1 - percent / 100)
    return samples_T.clip(-level, level)


def _reverb(samples_T: np.ndarray, rate: int, seconds: float) -> np.ndarray:
    from scipy.signal import fftconvolve

    time_T = np.arange(1, max(2, round(seconds * rate))) / rate
    # The room is one and the same for all clips: another one for each would be another question for each.
    room_T = np.random.default_rng(0).standard_normal(len(time_T)) * 10 ** (-3 * time_T / seconds)
    answer_T = np.concatenate([[1.0], room_T / np.linalg.norm(room_T)]) / np.sqrt(2)
    return fftconvolve(samples_T, answer_T)


def _pitch(samples_T: np.ndarray, rate: int, semitones: float) -> np.ndarray:
    import soxr

    if semitones == 0:
        return samples_T
    factor = 2 ** (semitones / 12)
    # As a ratio of small whole numbers the resampler takes it at once; the error is below a thousandth of a semitone.
    ratio = Fraction(factor).limit_denominator(2000)
    moved_T = soxr.resample(_stretched(samples_T, float(ratio)), ratio.numerator, ratio.denominator, quality="HQ")
    # Phases that no longer agree between bins cost power, which is not what is asked about.
    power, left = (np.mean(np.square(part_T, dtype=np.float64)) for part_T in (samples_T, moved_T))
    return moved_T * np.sqrt(power / left) if left > 0 else moved_T


def _stretched(samples_T: np.ndarray, factor: float) -> np.ndarray:
    """Return the sound `factor` times as long at the same pitch, each bin's phase going on at its own frequency."""
    from scipy.signal import ShortTimeFFT
    from scipy.signal.windows import hann

    transform = ShortTimeFFT(hann(WINDOW, sym=False), HOP, fs=1.0)
    padded_T = _fitted(samples_T, max(len(samples_T), WINDOW))
    spectrum_MF = transform.stft(padded_T)
    bins, frames = spectrum_MF.shape
    place_F = np.arange(0, frames - 1, 1 / factor)
    left_F = place_F.astype(int)
    share_F = place_F - left_F
    magnitude_MF = np.abs(spectrum_MF)
    between_MF = (1 - share_F) * magnitude_MF[:, left_F] + share_F * magnitude_MF[:, left_F + 1]
    usual_M1 = 2 * np.pi * HOP * np.arange(bins)[:, None] / WINDOW
    phase_MF = np.angle(spectrum_MF)
    turn_MF = phase_MF[:, left_F + 1] - phase_MF[:, left_F] - usual_M1
    step_MF = usual_M1 + turn_MF - 2 * np.pi * np.round(turn_MF / (2 * np.pi))
    angle_MF = phase_MF[:, :1] + np.cumsum(step_MF, axis=1) - step_MF
    length = round(len(padded_T) * factor)
    longer_T = transform.istft(between_MF * np.exp(1j * angle_MF))
    return _fitted(np.real(longer_T), length)[: round(len(samples_T) * factor)]


def _mp3(samples_T: np.ndarray, rate: int, kilobits: float) -> np.ndarray:
    import av
    import soxr

    near_rate = min(MP3_RATES, key=lambda known: (known < rate, abs(known - rate)))
    sound_T = samples_T if near_rate == rate else soxr.resample(samples_T, rate, near_rate)
    page = io.BytesIO()
    with av.open(page, "w", format="mp3") as file:
        stream = file.add_stream("libmp3lame", rate=near_rate, layout="mono", bit_rate=round(kilobits * 1000))
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound_T, np.float32)[None], "fltp", "mono")
        frame.sample_rate = near_rate
        file.mux([*stream.encode(frame), *stream.encode(None)])
    page.seek(0)
    with av.open(page, "r") as heard:
        heard_T = np.concatenate([frame.to_ndarray()[0] for frame in heard.decode(audio=0)])
    return heard_T if near_rate == rate else soxr.resample(heard_T, near_rate, rate)


KINDS: Mapping[str, _Kind] = {
    "noise": _Kind("db", None, -20, 100, _noise),
    "gain": _Kind("db", None, -60, 40, _gain),
    "mp3": _Kind("k", None, 8, 320, _mp3),
    "pitch": _Kind("", None, -12, 12, _pitch),
    "clip": _Kind("%?", 10.0, 0, 90, _clip),
    "reverb": _Kind("s", 1.0, 0.05, 10, _reverb),
}
EXAMPLES = "noise:20db, gain:-6db, mp3:32k, pitch:+1, clip, reverb"
