"""Corrupt audio to measure robustness: noise, gain, MP3, pitch shift, clipping and reverberation.

The corruptions are those of mir_ref [plachouras2023]. Random ones use a generator seeded by the samples, so a clip is
always corrupted in the same way. Every corruption keeps the number of samples and their timing. Labels do not change,
not even those of key and pitch.

    noise:20db   white noise, 20 dB below the clip's mean power
    gain:-6db    gain in dB
    mp3:32k      MP3 encoding at 32 kbit/s and decoding
    pitch:+1     shift in semitones, at the same tempo and loudness, by a phase vocoder
    clip:10      clipping at the level that 10 % of the samples exceed
    reverb:1s    reverberation with a decay of 60 dB in 1 s, as loud as the direct sound

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
class Corruption:
    """A kind of corruption: the unit of its value, its default, its range, and (samples, rate, value) → samples."""

    unit: str
    default: float | None
    minimum: float
    maximum: float
    apply: Callable[[np.ndarray, int, float], np.ndarray]


def corrupt(samples_T: np.ndarray, rate: int, corruption: str) -> np.ndarray:
    """Return the corrupted samples, float32, of the same number.

    Raises:
        UsageError: an unknown corruption.
    """
    definition, value = parse_corruption(corruption)
    if not len(samples_T):
        return samples_T
    return _fit_length(definition.apply(samples_T, rate, value), len(samples_T)).astype(np.float32)


def parse_corruption(corruption: str) -> tuple[Corruption, float]:
    """Return the corruption that a text such as `noise:20db` names, and its value.

    Raises:
        UsageError: an unknown corruption, or a value outside its range.
    """
    name, _, text = corruption.partition(":")
    if name not in CORRUPTIONS:
        raise UsageError(
            f"there is no corruption {corruption!r}.{did_you_mean(name, CORRUPTIONS)} They are: {EXAMPLES}."
        )
    definition = CORRUPTIONS[name]
    if not text and definition.default is not None:
        return definition, definition.default
    number = re.fullmatch(rf"([+-]?\d+(?:\.\d+)?)(?:{definition.unit})?", text.lower())
    if number is None or not definition.minimum <= float(number[1]) <= definition.maximum:
        raise UsageError(
            f"corruption {corruption!r}: {name} takes {definition.minimum:g} to {definition.maximum:g}; "
            f"for example {EXAMPLES}"
        )
    return definition, float(number[1])


def _generator(samples_T: np.ndarray) -> np.random.Generator:
    digest = hashlib.sha256(np.ascontiguousarray(samples_T, dtype="<f4").tobytes()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def _fit_length(samples_T: np.ndarray, length: int) -> np.ndarray:
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
    # One room for all clips, so that all are corrupted alike.
    room_T = np.random.default_rng(0).standard_normal(len(time_T)) * 10 ** (-3 * time_T / seconds)
    response_T = np.concatenate([[1.0], room_T / np.linalg.norm(room_T)]) / np.sqrt(2)
    return fftconvolve(samples_T, response_T)


def _pitch(samples_T: np.ndarray, rate: int, semitones: float) -> np.ndarray:
    import soxr

    if semitones == 0:
        return samples_T
    factor = 2 ** (semitones / 12)
    # The resampler takes a ratio of small integers in one pass; the error is below a thousandth of a semitone.
    ratio = Fraction(factor).limit_denominator(2000)
    shifted_T = soxr.resample(_stretch_time(samples_T, float(ratio)), ratio.numerator, ratio.denominator, quality="HQ")
    # The vocoder loses power where phases of bins no longer agree; loudness is not what pitch:… measures.
    power, left = (np.mean(np.square(part_T, dtype=np.float64)) for part_T in (samples_T, shifted_T))
    return shifted_T * np.sqrt(power / left) if left > 0 else shifted_T


def _stretch_time(samples_T: np.ndarray, factor: float) -> np.ndarray:
    """Return the audio `factor` times as long at the same pitch; each bin keeps its own frequency (phase vocoder)."""
    from scipy.signal import ShortTimeFFT
    from scipy.signal.windows import hann

    transform = ShortTimeFFT(hann(WINDOW, sym=False), HOP, fs=1.0)
    padded_T = _fit_length(samples_T, max(len(samples_T), WINDOW))
    spectrum_MF = transform.stft(padded_T)
    bins, frames = spectrum_MF.shape
    position_F = np.arange(0, frames - 1, 1 / factor)
    left_F = position_F.astype(int)
    weight_F = position_F - left_F
    magnitude_MF = np.abs(spectrum_MF)
    between_MF = (1 - weight_F) * magnitude_MF[:, left_F] + weight_F * magnitude_MF[:, left_F + 1]
    expected_M1 = 2 * np.pi * HOP * np.arange(bins)[:, None] / WINDOW
    phase_MF = np.angle(spectrum_MF)
    deviation_MF = phase_MF[:, left_F + 1] - phase_MF[:, left_F] - expected_M1
    step_MF = expected_M1 + deviation_MF - 2 * np.pi * np.round(deviation_MF / (2 * np.pi))
    angle_MF = phase_MF[:, :1] + np.cumsum(step_MF, axis=1) - step_MF
    length = round(len(padded_T) * factor)
    longer_T = transform.istft(between_MF * np.exp(1j * angle_MF))
    return _fit_length(np.real(longer_T), length)[: round(len(samples_T) * factor)]


def _mp3(samples_T: np.ndarray, rate: int, kilobits: float) -> np.ndarray:
    import av
    import soxr

    encoder_rate = min(MP3_RATES, key=lambda known: (known < rate, abs(known - rate)))
    input_T = samples_T if encoder_rate == rate else soxr.resample(samples_T, rate, encoder_rate)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp3") as file:
        stream = file.add_stream("libmp3lame", rate=encoder_rate, layout="mono", bit_rate=round(kilobits * 1000))
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(input_T, np.float32)[None], "fltp", "mono")
        frame.sample_rate = encoder_rate
        file.mux([*stream.encode(frame), *stream.encode(None)])
    buffer.seek(0)
    with av.open(buffer, "r") as decoded:
        decoded_T = np.concatenate([frame.to_ndarray()[0] for frame in decoded.decode(audio=0)])
    return decoded_T if encoder_rate == rate else soxr.resample(decoded_T, encoder_rate, rate)


CORRUPTIONS: Mapping[str, Corruption] = {
    "noise": Corruption("db", None, -20, 100, _noise),
    "gain": Corruption("db", None, -60, 40, _gain),
    "mp3": Corruption("k", None, 8, 320, _mp3),
    "pitch": Corruption("", None, -12, 12, _pitch),
    "clip": Corruption("%?", 10.0, 0, 90, _clip),
    "reverb": Corruption("s", 1.0, 0.05, 10, _reverb),
}
EXAMPLES = "noise:20db, gain:-6db, mp3:32k, pitch:+1, clip, reverb"
