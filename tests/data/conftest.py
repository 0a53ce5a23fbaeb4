"""A handful of Pebble's clips, rendered once a session."""

import numpy as np
import pytest
import soundfile


@pytest.fixture(scope="session")
def pebble_root(tmp_path_factory):
    """A Pebble of a few clips of each collection, in the layout of the real sizes."""
    from carrara.data._pebble.suite import write

    root = tmp_path_factory.mktemp("pebble")
    few = {"songs": 60, "notes": 33, "voices": 40, "stems": 2, "unlabelled": 1}
    write(root, "demo", few | {"theory": 60, "pieces": 18, "covers": 24, "forms": 8}, processes=1)
    return root


@pytest.fixture(scope="session")
def read_audio():
    """Read a file as float64 and check its format on the way."""

    def read(path):
        samples, rate = soundfile.read(path)
        assert rate == 24000 and samples.ndim == 1 and np.isfinite(samples).all()
        return samples

    return read
