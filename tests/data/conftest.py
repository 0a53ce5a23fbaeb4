"""Pebble's audio files as they are written."""

import numpy as np
import pytest
import soundfile


@pytest.fixture(scope="session")
def read_audio():
    """Read a file as float64 and check its format on the way."""

    def read(path):
        samples, rate = soundfile.read(path)
        assert rate == 24000 and samples.ndim == 1 and np.isfinite(samples).all()
        return samples

    return read
