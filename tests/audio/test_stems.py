"""Stretches of stems equal the same stretch of the whole file, in stereo at 44.1 kHz, whatever the file."""

from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
import soxr

from carrara.audio.stems import STEM_RATE, StemSource, load_stem, parse_stem, stem_length
from carrara.core.errors import AudioError


@pytest.fixture(scope="module")
def noise():
    rng = np.random.default_rng(0)
    return (0.2 * rng.standard_normal((2, 3 * STEM_RATE))).astype(np.float32)


@pytest.fixture(scope="module")
def mp4(tmp_path_factory, noise):
    path = tmp_path_factory.mktemp("mp4") / "a.stem.mp4"
    with av.open(str(path), "w", format="mp4") as container:
        streams = [container.add_stream("aac", rate=STEM_RATE, layout="stereo", bit_rate=256_000) for _ in range(2)]
        for number, stream in enumerate(streams):
            samples = np.ascontiguousarray(noise[::-1] if number else noise)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = STEM_RATE, 0, Fraction(1, STEM_RATE)
            for packet in (*stream.encode(frame), *stream.encode(None)):
                container.mux(packet)
    return path


def test_a_file_at_44100_hz_is_read_as_it_is(tmp_path, noise):
    soundfile.write(tmp_path / "a.wav", noise.T, STEM_RATE, "FLOAT")
    stem = StemSource(tmp_path / "a.wav")
    assert stem_length(stem) == 3 * STEM_RATE
    assert np.array_equal(load_stem(stem), noise)
    assert np.array_equal(load_stem(stem, 1000, 500), noise[:, 1000:1500])
    assert load_stem(stem, 3 * STEM_RATE - 10, 500).shape == (2, 10)
    assert load_stem(stem, 4 * STEM_RATE, 500).shape == (2, 0)


@pytest.mark.parametrize("rate", [24_000, 48_000, 22_050])
def test_another_rate_and_one_channel_become_two_channels_at_44100_hz(tmp_path, noise, rate):
    mono = noise[0, : 2 * rate]
    soundfile.write(tmp_path / "a.flac", mono, rate, "PCM_24")
    stem = StemSource(tmp_path / "a.flac")
    whole = soxr.resample(soundfile.read(tmp_path / "a.flac", dtype="float32")[0], rate, STEM_RATE, "HQ")
    assert stem_length(stem) == len(whole)
    found = load_stem(stem)
    assert np.allclose(found[0], whole, atol=1e-6) and np.array_equal(found[0], found[1])
    for start, count in ((0, 700), (12_345, 44_100), (2 * STEM_RATE - 999, 999)):
        assert np.allclose(load_stem(stem, start, count)[0], whole[start : start + count], atol=2e-4)


def test_an_excerpt_of_a_stream_equals_that_part_of_the_whole_stream(mp4, noise):
    whole = load_stem(StemSource(mp4, 1))
    assert abs(stem_length(StemSource(mp4, 1)) - 3 * STEM_RATE) <= 2048
    lag = max(range(4096), key=lambda lag: float(whole[0, lag : lag + 8000] @ noise[1, :8000]))
    assert np.corrcoef(whole[0, lag : lag + 8000], noise[1, :8000])[0, 1] > 0.5
    for start, count in ((0, 5000), (40_000, 3000), (77_777, 20_000), (120_000, 1)):
        assert np.allclose(load_stem(StemSource(mp4, 1), start, count), whole[:, start : start + count], atol=1e-5)


def test_labels_name_streams_and_neighbours(tmp_path):
    assert parse_stem(tmp_path / "x.stem.mp4", "stream:4") == StemSource(tmp_path / "x.stem.mp4", 4)
    assert parse_stem(tmp_path / "mixture.wav", "bass.wav") == StemSource(tmp_path / "bass.wav")


def test_unreadable_stems_are_named(tmp_path, mp4, noise):
    with pytest.raises(AudioError, match=r"none\.wav: no such file"):
        load_stem(StemSource(tmp_path / "none.wav"))
    with pytest.raises(AudioError, match="has 2 audio streams, no stream 4"):
        load_stem(StemSource(mp4, 4))
    (tmp_path / "text.wav").write_text("not a sound")
    with pytest.raises(AudioError, match=r"text\.wav: not an audio file"):
        load_stem(StemSource(tmp_path / "text.wav"))
    with pytest.raises(AudioError, match=r"text\.wav: not a file that PyAV can read"):
        load_stem(StemSource(tmp_path / "text.wav", 1))
    soundfile.write(tmp_path / "nan.wav", np.full((100, 2), np.nan), STEM_RATE, "FLOAT")
    with pytest.raises(AudioError, match=r"nan\.wav: holds samples that are NaN"):
        load_stem(StemSource(tmp_path / "nan.wav"))
    data = mp4.read_bytes()
    (tmp_path / "cut.stem.mp4").write_bytes(data[: len(data) // 3])
    with pytest.raises(AudioError, match=r"cut\.stem\.mp4"):
        load_stem(StemSource(tmp_path / "cut.stem.mp4", 1), 0, 100)


def test_a_stem_shorter_than_its_header_declares_is_refused(tmp_path, noise):
    soundfile.write(tmp_path / "a.flac", noise.T, STEM_RATE)
    data = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    assert load_stem(StemSource(tmp_path / "cut.flac"), 0, STEM_RATE).shape == (2, STEM_RATE)
    with pytest.raises(AudioError, match=r"cut\.flac: (cut short|damaged)"):
        load_stem(StemSource(tmp_path / "cut.flac"), 2 * STEM_RATE, STEM_RATE // 2)
