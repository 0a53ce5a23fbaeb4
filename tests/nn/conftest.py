"""Sounds that the spectra are held against their references on: tones, chords, noise, silence and real clips."""

from pathlib import Path

import numpy as np
import pytest
import torch

EXCERPTS = Path(__file__).parents[1] / "excerpts"
SYNTHETIC = ("tone", "chord", "noise", "silence", "one sample", "short")
REAL = ("game.wav", "game-1.mp3", "ending.ogg")


def make(kind, rate):
    time = np.arange(2 * rate) / rate
    noise = 0.1 * np.random.default_rng(3).standard_normal(2 * rate)
    chord = sum(np.sin(2 * np.pi * hertz * time + hertz) for hertz in (65.4, 261.6, 329.6, 392.0, 1046.5))
    sound = {
        "tone": 0.5 * np.sin(2 * np.pi * 440 * time),
        "chord": 0.15 * chord,
        "noise": noise,
        "silence": np.zeros(rate),
        "one sample": np.array([0.5]),
        "short": noise[:300],
    }[kind]
    return sound.astype(np.float32)


def load(name, rate):
    librosa = pytest.importorskip("librosa")
    return librosa.load(EXCERPTS / name, sr=rate, offset=0.3, duration=4.0)[0]


@pytest.fixture
def sound():
    """Return a function from a kind or a file's name and a sample rate to float32 samples."""
    return lambda kind, rate: load(kind, rate) if kind in REAL else make(kind, rate)


@pytest.fixture
def same_under_autocast():
    """Return a check that a module gives the same single-precision numbers inside bfloat16 autocast."""

    def check(module, samples):
        exact = module(samples)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = module(samples)
        assert inside.dtype == torch.float32
        assert torch.equal(exact, inside)

    return check
