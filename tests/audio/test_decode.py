"""Every format, rate, width and number of channels comes out as it went in; a stretch equals the whole's."""

from math import gcd

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from carrara.audio.decode import iter_audio, load_audio, probe_audio, read_info
from carrara.core.errors import AudioError

RATE = 24_000
LOSSLESS = [
    ("wav", "PCM_U8", 2 / 128),
    ("wav", "PCM_16", 1e-4),
    ("wav", "PCM_24", 2e-5),
    ("wav", "PCM_32", 2e-5),
    ("wav", "FLOAT", 2e-5),
    ("wav", "DOUBLE", 2e-5),
    ("wav", "ULAW", 0.02),
    ("aiff", "PCM_16", 1e-4),
    ("aiff", "PCM_24", 2e-5),
    ("aiff", "FLOAT", 2e-5),
    ("flac", "PCM_S8", 2 / 128),
    ("flac", "PCM_16", 1e-4),
    ("flac", "PCM_24", 2e-5),
]
LOSSY = [("ogg", "VORBIS", 44_100), ("ogg", "VORBIS", 22_050), ("opus", "OPUS", 48_000), ("mp3", None, 44_100)]
THROUGH_AV = [
    ("m4a", "aac", 44_100, {}),
    ("m4a", "aac", 32_000, {}),
    ("mp4", "alac", 44_100, {}),
    ("aac", "aac", 48_000, {}),
    ("wma", "wmav2", 44_100, {"bit_rate": 128_000}),
    ("webm", "libopus", 48_000, {}),
    ("ac3", "ac3", 48_000, {}),
    ("mka", "pcm_s16le", 44_100, {}),
]


def expected(samples_TC, rate):
    """Return the channels' mean at 24 kHz by another resampler (a Kaiser polyphase filter)."""
    factor = gcd(rate, RATE)
    return resample_poly(samples_TC.mean(axis=1), RATE // factor, rate // factor, window=("kaiser", 12.0))


def error(decoded_T, truth_T, delay=0):
    """Return the largest difference away from the ends, where the two filters see different borders."""
    edge = 400
    return np.abs(decoded_T[edge + delay :][: len(truth_T) - 2 * edge] - truth_T[edge:-edge]).max()


@pytest.mark.parametrize(("suffix", "subtype", "tolerance"), LOSSLESS)
@pytest.mark.parametrize("rate", [8_000, 22_050, 24_000, 44_100, 96_000])
def test_lossless_files_come_out_as_they_went_in(files, tmp_path, suffix, subtype, tolerance, rate):
    samples_TC = files.chirp(1.0, rate, 2)
    path = files.write_sndfile(tmp_path / f"a.{suffix}", samples_TC, rate, subtype=subtype)
    decoded_T = load_audio(path, RATE)
    assert decoded_T.dtype == np.float32
    assert decoded_T.shape == (RATE,)
    assert error(decoded_T, expected(samples_TC, rate)) < max(tolerance, 3e-4)
    info = probe_audio(path)
    assert (info.sample_rate, info.channels, info.duration_seconds, info.decoder) == (rate, 2, 1.0, "soundfile")


@pytest.mark.parametrize("channels", range(1, 9))
def test_channels_are_averaged(files, tmp_path, channels):
    samples_TC = np.random.default_rng(channels).uniform(-0.5, 0.5, (3000, channels))
    path = files.write_sndfile(tmp_path / "a.wav", samples_TC, RATE, subtype="DOUBLE")
    np.testing.assert_allclose(load_audio(path, RATE), samples_TC.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("suffix", "subtype", "rate"), LOSSY)
def test_lossy_files_through_soundfile(files, tmp_path, suffix, subtype, rate, channels):
    samples_TC = files.chirp(2.0, rate, channels)
    format_ = {"opus": "OGG"}.get(suffix)
    path = files.write_sndfile(tmp_path / f"a.{suffix}", samples_TC, rate, subtype=subtype, format=format_)
    assert probe_audio(path).decoder == "soundfile"
    assert error(load_audio(path, RATE), expected(samples_TC, rate)) < 0.03


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize(("suffix", "codec", "rate", "settings"), THROUGH_AV)
def test_the_rest_through_av(files, tmp_path, suffix, codec, rate, settings, channels):
    if codec == "wmav2" and channels > 2:
        pytest.skip("Windows Media Audio 2 has two channels at most")
    samples_TC = files.chirp(2.0, rate, 1) * np.ones(channels)
    path = files.write_av(tmp_path / f"a.{suffix}", samples_TC, rate, codec, **settings)
    info = probe_audio(path)
    assert (info.decoder, info.sample_rate, info.channels) == ("av", rate, channels)
    decoded_T = load_audio(path, RATE)
    # Bare streams and WMA keep their encoder's delay; within it the sound is the same.
    truth_T = expected(samples_TC, rate)
    delays = [0] if suffix in {"m4a", "mp4", "mka", "webm"} else range(-1200, 1200)
    best = min(np.abs(decoded_T[12_000 + delay : 36_000 + delay] - truth_T[12_000:36_000]).mean() for delay in delays)
    assert best < (0.04 if channels == 6 else 0.02)  # a 5.1 encoder takes the highs from the deep channel
    assert abs(len(decoded_T) - 2 * RATE) < 0.06 * RATE


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.05, 0.3])
@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
@pytest.mark.parametrize("kind", ["silence", "constant", "chirp"])
def test_short_silent_and_constant_audio_is_decoded(files, tmp_path, seconds, rate, kind):
    samples_TC = {"silence": 0, "constant": 0, "chirp": 1}[kind] * files.chirp(seconds, rate)
    samples_TC += {"constant": 0.25}.get(kind, 0)
    path = files.write_sndfile(tmp_path / "a.wav", samples_TC, rate)
    for target in (16_000, RATE):
        decoded_T = load_audio(path, target)
        assert abs(len(decoded_T) - max(len(samples_TC) * target / rate, 1)) <= 1
        assert np.isfinite(decoded_T).all()
        np.testing.assert_array_equal(np.concatenate(list(iter_audio(path, target, 1.0))), decoded_T)


@pytest.fixture(scope="module")
def long_files(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    sound = {rate: files.chirp(5.0, rate, 2) for rate in (44_100, 48_000)}
    made = {
        f"a.{suffix}": files.write_sndfile(folder / f"a.{suffix}", sound[44_100], 44_100)
        for suffix in ("wav", "flac", "ogg", "mp3", "aiff")
    }
    for suffix, codec, rate, settings in THROUGH_AV:
        if rate in sound:
            made[f"av.{suffix}"] = files.write_av(folder / f"av.{suffix}", sound[rate], rate, codec, **settings)
    return made


NAMES = ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.aiff", "av.m4a", "av.mp4", "av.aac", "av.wma", "av.webm", "av.mka"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", [16_000, 22_050, 44_100])
def test_an_excerpt_equals_that_part_of_the_whole(long_files, name, target):
    whole_T = load_audio(long_files[name], target)
    for start, duration in [(0.0, 0.5), (0.01, 0.02), (1.2345, 1.0), (3.3, 0.7), (4.5, 0.2), (4.0, 9.0), (2.0, None)]:
        part_T = load_audio(long_files[name], target, start, duration)
        begin = round(start * target)
        end = len(whole_T) if duration is None else begin + round(duration * target)
        assert part_T.shape == whole_T[begin:end].shape
        # AAC fills what it left out with noise of its own, differently after a seek; and filters begin at an edge.
        np.testing.assert_allclose(part_T, whole_T[begin:end], atol=5e-3 if name == "av.m4a" else 2e-4)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_gap_free_and_full(long_files, name):
    parts = list(iter_audio(long_files[name], RATE, 0.37))
    assert {len(part_T) for part_T in parts[:-1]} == {round(0.37 * RATE)}
    assert 0 < len(parts[-1]) <= round(0.37 * RATE)
    np.testing.assert_array_equal(np.concatenate(parts), load_audio(long_files[name], RATE))


def test_an_excerpt_of_a_constant_rate_mp3_with_a_bit_reservoir(files, tmp_path):
    rng = np.random.default_rng(0)
    samples_TC = files.chirp(60.0, 44_100, 1) + 0.01 * rng.normal(size=(60 * 44_100, 1))
    options = {"bitrate_mode": "CONSTANT", "compression_level": 0.99}
    path = files.write_sndfile(tmp_path / "a.mp3", samples_TC, 44_100, **options)
    at_once_T = soundfile.read(path, dtype="float32")[0]
    np.testing.assert_allclose(load_audio(path, 44_100), at_once_T, atol=1e-6)
    np.testing.assert_allclose(load_audio(path, 44_100, 31.7, 2.0), at_once_T[1_397_970:][:88_200], atol=1e-6)


def test_an_excerpt_past_the_end_is_an_error(long_files):
    for name in ("a.wav", "a.mp3", "av.m4a", "av.wma"):
        with pytest.raises(AudioError, match="shorter"):
            load_audio(long_files[name], RATE, 7.0, 1.0)


def test_real_recordings(real_clips):
    librosa = pytest.importorskip("librosa")
    for path in real_clips:
        samples_T, rate = librosa.load(path, sr=None, mono=True, duration=1.5)
        decoded_T = load_audio(path, RATE, 0.0, 1.5)
        # Two filters differ only at the very top of the band.
        assert np.abs(decoded_T - expected(samples_T[:, None], rate)).mean() < 0.02 * np.abs(decoded_T).mean()
        assert read_info(path).decoder == "soundfile"
