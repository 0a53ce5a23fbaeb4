"""Sound files of every kind, written on the spot."""

from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile

EXCERPTS = Path(__file__).parents[1] / "excerpts"
CHUNK = 4096  # libsndfile 1.2.2 crashes when a long array goes into Ogg Vorbis in one call


def chirp(seconds, rate, channels=1):
    """Return a mellow sweep with a slow swell, a little different in each channel, [T, C]."""
    t = np.arange(max(round(seconds * rate), 1)) / rate
    swell = 0.3 + 0.1 * np.sin(2 * np.pi * 0.7 * t)
    sweep = np.sin(2 * np.pi * (220 * t + 60 * t**2))
    return np.stack([swell * sweep * (1 - 0.05 * channel) for channel in range(channels)], axis=1)


def write_sndfile(path, samples_TC, rate, **options):
    with soundfile.SoundFile(str(path), "w", rate, samples_TC.shape[1], **options) as file:
        for begin in range(0, len(samples_TC), CHUNK):
            file.write(samples_TC[begin : begin + CHUNK])
    return path


def write_av(path, samples_TC, rate, codec, container_options=None, layout=None, **settings):
    layout = layout or {1: "mono", 2: "stereo", 6: "5.1"}[samples_TC.shape[1]]
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        size = stream.codec_context.frame_size or 1024
        convert = av.AudioResampler(format=stream.format.name, layout=layout, rate=rate, frame_size=size)
        for begin in range(0, len(samples_TC), CHUNK):
            part = np.ascontiguousarray(samples_TC[begin : begin + CHUNK].T.astype(np.float32))
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
            frame.rate, frame.pts = rate, begin
            for piece in convert.resample(frame):
                container.mux(stream.encode(piece))
        for piece in convert.resample(None):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def real_clips():
    return sorted(path for path in EXCERPTS.iterdir() if path.suffix != ".md")


@pytest.fixture(scope="session")
def files():
    return SimpleNamespace(chirp=chirp, write_sndfile=write_sndfile, write_av=write_av)
