"""What cannot be decoded is named with its reason, in one line; what decodes before a break can still be had."""

import os

import numpy as np
import pytest

from carrara.audio.decode import iter_audio, load_audio, probe_audio
from carrara.core.errors import AudioError

RATE = 44_100


def refused(path, reason, **options):
    for read in (probe_audio, lambda p: load_audio(p, 16_000, **options), lambda p: list(iter_audio(p, 16_000, 1.0))):
        with pytest.raises(AudioError, match=reason) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_missing_folder_empty_and_not_audio(tmp_path):
    refused(tmp_path / "none.wav", "no such file")
    refused(tmp_path, "a folder, not an audio file")
    (tmp_path / "empty.wav").touch()
    refused(tmp_path / "empty.wav", "empty")
    for name in ("noise.wav", "noise.mp3", "noise.m4a", "noise.raw", "noise"):
        (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(5000))
        refused(tmp_path / name, "not an audio file")
    (tmp_path / "text.mp3").write_text("To be or not to be. " * 300)
    refused(tmp_path / "text.mp3", "not an audio file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_not_allowed(files, tmp_path):
    path = files.write_sndfile(tmp_path / "a.wav", files.chirp(0.1, RATE), RATE)
    path.chmod(0)
    refused(path, "ermission")


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff"])
def test_no_samples(files, tmp_path, suffix):
    path = files.write_sndfile(tmp_path / f"a.{suffix}", np.zeros((0, 1)), RATE)
    refused(path, "no samples|not an audio file|empty")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_samples_that_are_not_finite(files, tmp_path, value):
    samples_TC = files.chirp(1.0, RATE, 2)
    samples_TC[-100, 1] = value
    path = files.write_sndfile(tmp_path / "a.wav", samples_TC, RATE, subtype="DOUBLE")
    refused(path, "NaN or infinite")


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.flac", "a.mp3", "a.m4a", "a.wma", "a.webm"])
def test_a_file_cut_short(files, tmp_path, name):
    samples_TC = files.chirp(6.0, RATE, 2)
    path = tmp_path / name
    if name == "a.m4a":
        files.write_av(path, samples_TC, RATE, "aac", {"movflags": "+faststart"})
    elif name == "a.wma":
        files.write_av(path, samples_TC, RATE, "wmav2", bit_rate=128_000)
    elif name == "a.webm":
        files.write_av(path, files.chirp(6.0, 48_000, 2), 48_000, "libopus")
    else:
        files.write_sndfile(path, samples_TC, RATE)
    whole_T = load_audio(path, 16_000, 0.5, 1.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    # A WMA's head is corrected by its size.
    refused(path, r"cut short( or damaged)?: (less than )?\d\.\d\d of \d\.\d\d s decode")
    if name in ("a.wav", "a.aiff"):
        # Looking for the end alone does not tell how far the sound goes; decoding it does.
        with pytest.raises(AudioError, match="cut short: less than 5.80 of 6.00 s"):
            probe_audio(path)
        with pytest.raises(AudioError, match="cut short: (2.99|3.00) of 6.00 s"):
            load_audio(path, 16_000)
    with pytest.raises(AudioError, match="cut short|shorter"):
        load_audio(path, 16_000, 4.0, 1.0)
    np.testing.assert_allclose(load_audio(path, 16_000, 0.5, 1.0), whole_T, atol=1e-3)


def test_an_mp4_without_its_index_is_not_readable(files, tmp_path):
    path = files.write_av(tmp_path / "a.m4a", files.chirp(3.0, RATE, 2), RATE, "aac")
    path.write_bytes(path.read_bytes()[:9000])
    refused(path, "not an audio file")


def test_a_film_without_sound(tmp_path):
    import av

    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    refused(path, "no audio track")


def test_an_mp3_without_a_length_tag_is_sound_to_its_end(files, tmp_path):
    samples_TC = files.chirp(4.0, RATE, 2)
    path = files.write_av(tmp_path / "a.mp3", samples_TC, RATE, "libmp3lame", {"write_xing": "0"})
    info = probe_audio(path)
    assert not info.exact
    assert info.duration_seconds == pytest.approx(4.0, abs=0.2)
    assert len(load_audio(path, 16_000)) == pytest.approx(64_000, abs=1600)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert len(load_audio(path, 16_000)) == pytest.approx(32_000, abs=1600)


def test_an_ogg_that_lost_pages_is_sound(files, tmp_path):
    path = files.write_sndfile(tmp_path / "a.ogg", files.chirp(20.0, RATE, 2), RATE)
    pages = path.read_bytes().split(b"OggS")
    path.write_bytes(b"OggS".join(pages[: len(pages) // 2] + pages[len(pages) // 2 + 2 :]))
    decoded_T = load_audio(path, 16_000)
    assert 8 * 16_000 < len(decoded_T) < 19.8 * 16_000
    assert probe_audio(path).duration_seconds > len(decoded_T) / 16_000 + 0.1
    np.testing.assert_array_equal(np.concatenate(list(iter_audio(path, 16_000, 1.0))), decoded_T)


def test_a_wav_from_a_pipe_has_no_length_to_be_cut_short_of(files, tmp_path):
    samples_TC = files.chirp(1.0, RATE)
    path = files.write_sndfile(tmp_path / "a.wav", samples_TC, RATE)
    head = bytearray(path.read_bytes())
    place = head.index(b"data")
    head[4:8] = head[place + 4 : place + 8] = b"\xff\xff\xff\xff"
    path.write_bytes(bytes(head))
    assert len(load_audio(path, RATE)) == RATE
    assert probe_audio(path).duration_seconds == pytest.approx(1.0)
