"""Containers and codecs beyond the common ones: whole, joined and cut in half, by what PyAV's encoders can write."""

import numpy as np
import pytest

from carrara.audio.decode import load_audio, probe_audio
from carrara.core.errors import AudioError

RATE, SECONDS = 48_000, 4.0
# Ending, codec, most samples by which the codec may move the sound, and what a file joined of two gives, in seconds;
# None where the second one is behind a declared end, which every player leaves out, or the join is refused.
KINDS = [
    ("aac", "aac", 2112, 8.0),
    ("mka", "aac", 2112, 8.0),
    ("mp4", "ac3", 512, None),
    ("3gp", "aac", 2112, None),
    ("mov", "pcm_s24be", 0, None),
    ("ts", "mp2", 1152, 8.0),
    ("mp2", "mp2", 1152, 8.0),
    ("webm", "libopus", 400, 8.0),
    ("mka", "flac", 0, 8.0),
    ("oga", "flac", 0, 8.0),
    ("opus", "libopus", 400, 8.0),
    ("wv", "wavpack", 0, None),
    ("tta", "tta", 0, None),
    ("caf", "alac", 0, None),
    ("w64", "pcm_s16le", 0, None),
    ("avi", "pcm_s16le", 0, None),
    ("flv", "libmp3lame", 2400, None),
    ("wav", "libmp3lame", 2400, None),
    ("wav", "adpcm_ima_wav", 0, None),
]


@pytest.fixture(scope="module")
def written(files, tmp_path_factory):
    """A function that writes a sweep with an ending and codec; once each."""
    root, sweep = tmp_path_factory.mktemp("kinds"), files.chirp(SECONDS, RATE)

    def write(ending, codec):
        path = root / f"{codec}.{ending}"
        rate = 44_100 if ending == "flv" else RATE
        if not path.exists():
            files.write_av(path, files.chirp(SECONDS, rate) if rate != RATE else sweep, rate, codec)
        return path

    return write


def best_correlation(samples_T, reference_T, most):
    """Return the correlation of the first second with the reference at the best of the shifts up to `most`."""
    part_T = reference_T[:RATE]
    return max(np.corrcoef(samples_T[shift : shift + RATE], part_T)[0, 1] for shift in range(0, most + 1, 8))


@pytest.mark.parametrize(("ending", "codec", "shift"), [kind[:3] for kind in KINDS])
def test_the_whole_sound_is_there(files, written, ending, codec, shift):
    decoded_T = load_audio(written(ending, codec), RATE)
    assert len(decoded_T) == pytest.approx(SECONDS * RATE, abs=2 * shift + 2048)
    assert best_correlation(decoded_T, files.chirp(SECONDS, RATE)[:, 0], shift) > 0.98


@pytest.mark.parametrize(("ending", "codec", "shift", "seconds"), KINDS)
def test_two_joined_files_are_whole_or_the_first_or_refused(written, tmp_path, ending, codec, shift, seconds):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(written(ending, codec).read_bytes() * 2)
    if seconds:
        assert len(load_audio(path, RATE)) == pytest.approx(seconds * RATE, abs=4 * shift + 4096)
        return
    try:
        length = len(load_audio(path, RATE)) / RATE
    except AudioError as problem:
        assert "damaged" in str(problem) or "cut short" in str(problem)
    else:
        assert any(length == pytest.approx(whole, abs=0.15) for whole in (SECONDS, 2 * SECONDS)), length


@pytest.mark.parametrize(("ending", "codec", "shift"), [kind[:3] for kind in KINDS])
def test_half_a_file_is_half_the_sound_or_refused(written, tmp_path, ending, codec, shift):
    path = tmp_path / f"a.{ending}"
    data = written(ending, codec).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    for read in (probe_audio, lambda file: load_audio(file, RATE)):
        try:
            read(path)
        except AudioError as problem:
            assert "\n" not in str(problem) and path.name in str(problem)
            assert any(word in str(problem) for word in ("cut short", "damaged", "not an audio file")), problem
    with np.errstate(all="ignore"):
        try:
            decoded_T = load_audio(path, RATE)
        except AudioError:
            return
    # What declares no length ends where it ends.
    assert 0.2 * RATE < len(decoded_T) < 0.9 * SECONDS * RATE
