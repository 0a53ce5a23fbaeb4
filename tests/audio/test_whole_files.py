"""A file is decoded to its end, or refused with the reason: lengths that headers estimate, omit or get wrong."""

import struct
import subprocess
import sys

import av
import numpy as np
import pytest
import soundfile

from carrara.audio.decode import iter_audio, load_audio, probe_audio, read_info
from carrara.core.errors import AudioError

RATE = 44_100
CRC = [0] * 256
for byte in range(256):
    value = byte << 24
    for _ in range(8):
        value = (value << 1 ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
    CRC[byte] = value


def id3(text, name=b"COMM"):
    frame = name + struct.pack(">IH", len(text), 0) + text
    return b"ID3\3\0\0" + bytes(len(frame) >> shift & 0x7F for shift in (21, 14, 7, 0)) + frame


def find_tag(data):
    return next(data.index(word) for word in (b"Xing", b"Info") if word in data[:4096])


def first_frame_size(data):
    """Return the size of the first frame of an MPEG-1 layer III file; bit rates in kbit/s."""
    rates = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    return 144_000 * rates[data[2] >> 4] // (44_100, 48_000, 32_000)[data[2] >> 2 & 3] + (data[2] >> 1 & 1)


def by_ffmpeg(path):
    """Return what FFmpeg decodes, frame after frame; tags between the files of a joined one do not decode."""
    parts = []
    with av.open(f"file:{path}") as container:
        for packet in container.demux(audio=0):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                continue
            parts += [frame.to_ndarray().reshape(-1) for frame in frames]
    return np.concatenate(parts)


@pytest.fixture(scope="module")
def variable(files, tmp_path_factory):
    """An MP3 of variable rate: 2 s loud, then 10 s silent, so that the first frames' rate misleads; with its tag."""
    rng = np.random.default_rng(0)
    loud_TC = files.chirp(2.0, RATE) + 0.1 * rng.standard_normal((2 * RATE, 1))
    samples_TC = np.concatenate([loud_TC, np.zeros((10 * RATE, 1))])
    path = tmp_path_factory.mktemp("variable") / "a.mp3"
    files.write_sndfile(path, samples_TC, RATE, bitrate_mode="VARIABLE", compression_level=0.0)
    return path.read_bytes()


def without_tag(data):
    return data[first_frame_size(data) :]


def with_no_frames(data):
    at = find_tag(data) + 8
    return data[:at] + bytes(4) + data[at + 4 :]


def without_count(data):
    at = find_tag(data) + 7
    return data[:at] + bytes([data[at] & ~1]) + data[at + 5 :] + bytes(4)


@pytest.mark.parametrize("change", [without_tag, with_no_frames, without_count])
def test_an_mp3_of_variable_rate_without_a_count_is_decoded_whole(tmp_path, variable, change):
    path = tmp_path / "a.mp3"
    path.write_bytes(change(variable))
    decoded_T, truth_T = load_audio(path, RATE), by_ffmpeg(path)
    assert len(decoded_T) == pytest.approx(12 * RATE, abs=3000)
    np.testing.assert_allclose(decoded_T, truth_T, atol=1e-5)
    assert probe_audio(path).duration_seconds == pytest.approx(12.0, abs=0.1)
    for start in (0.5, 3.0, 6.0):
        first = round(start * RATE)
        np.testing.assert_allclose(load_audio(path, RATE, start, 0.5), truth_T[first:][: RATE // 2], atol=1e-5)


def test_a_word_in_a_second_tag_is_no_length(files, tmp_path, variable):
    path = tmp_path / "a.mp3"
    quiet_first = without_tag(files.write_sndfile(
        path, np.concatenate([np.zeros((RATE, 1)), 0.3 * np.random.default_rng(0).standard_normal((9 * RATE, 1))]),
        RATE, bitrate_mode="VARIABLE", compression_level=0.0,
    ).read_bytes())  # fmt: skip
    path.write_bytes(id3(b"\0a", b"TIT2") + id3(b"\0eng\0Information: Xing, VBRI") + quiet_first)
    assert len(load_audio(path, RATE)) == pytest.approx(10 * RATE, abs=3000)
    assert not read_info(path).exact
    assert read_info(path).duration_seconds == pytest.approx(10.0, abs=0.1)  # libsndfile estimates three times as much


@pytest.mark.parametrize("between", [b"", id3(b"\0a title", b"TIT2"), b"TAG" + bytes(125)])
def test_joined_mp3s_are_decoded_to_the_last(files, tmp_path, between):
    parts = [files.write_sndfile(tmp_path / f"{n}.mp3", files.chirp(2.0, RATE), RATE).read_bytes() for n in range(3)]
    path = tmp_path / "all.mp3"
    path.write_bytes(between.join(parts))
    decoded_T = load_audio(path, RATE)
    assert len(decoded_T) == pytest.approx(6 * RATE, abs=3 * 3000)
    np.testing.assert_allclose(decoded_T, by_ffmpeg(path), atol=1e-5)
    assert probe_audio(path).duration_seconds == pytest.approx(len(decoded_T) / RATE, abs=0.1)
    np.testing.assert_array_equal(np.concatenate(list(iter_audio(path, RATE, 1.0))), decoded_T)


def test_joined_mp3s_of_two_rates_are_refused_with_the_reason(files, tmp_path):
    parts = [files.write_sndfile(tmp_path / f"{r}.mp3", files.chirp(2.0, r), r).read_bytes() for r in (44_100, 32_000)]
    path = tmp_path / "all.mp3"
    path.write_bytes(b"".join(parts))
    with pytest.raises(AudioError, match="sample rate changes from 44100 to 32000"):
        load_audio(path, RATE)


@pytest.mark.parametrize("tail", [b"TAG" + bytes(125), b"APETAGEX" + bytes(5000) + b"\xff\xfb", bytes(2000)])
def test_tags_and_padding_behind_an_mp3_are_no_sound(files, tmp_path, tail):
    path = files.write_sndfile(tmp_path / "a.mp3", files.chirp(2.0, RATE), RATE)
    before_T = load_audio(path, RATE)
    path.write_bytes(path.read_bytes() + tail)
    assert (probe_audio(path).decoder, probe_audio(path).exact) == ("soundfile", True)
    np.testing.assert_array_equal(load_audio(path, RATE), before_T)


@pytest.mark.parametrize("bit_rate", [64_000, 128_000])
def test_constant_rate_without_a_tag_stays_with_libsndfile(files, tmp_path, bit_rate):
    path = tmp_path / "a.mp3"
    files.write_av(path, files.chirp(5.0, RATE), RATE, "libmp3lame", {"write_xing": "0"}, bit_rate=bit_rate)
    np.testing.assert_array_equal(load_audio(path, RATE), soundfile.read(path, dtype="float32")[0])


def with_serial(data, serial):
    """Return an Ogg file with another serial number on its pages, and their checksums."""
    pages = []
    for page in data.split(b"OggS")[1:]:
        page = bytearray(b"OggS" + page)
        page[14:18], page[22:26] = struct.pack("<I", serial), bytes(4)
        crc = 0
        for byte in page:
            crc = (crc << 8 ^ CRC[crc >> 24 ^ byte]) & 0xFFFFFFFF
        page[22:26] = struct.pack("<I", crc)
        pages.append(bytes(page))
    return b"".join(pages)


@pytest.mark.parametrize(("subtype", "rate"), [("VORBIS", 44_100), ("OPUS", 48_000)])
def test_chained_ogg_streams_are_decoded_to_the_last(files, tmp_path, subtype, rate):
    samples_TC = files.chirp(3.0, rate)
    options = {"subtype": subtype, "format": "OGG"}
    one = files.write_sndfile(tmp_path / "a.ogg", samples_TC, rate, **options)
    single_T, path = load_audio(one, rate), tmp_path / "all.ogg"
    path.write_bytes(b"".join(with_serial(one.read_bytes(), serial) for serial in (1, 2, 3)))
    decoded_T = load_audio(path, rate)
    assert len(decoded_T) == pytest.approx(9 * rate, abs=3 * 1000)
    np.testing.assert_allclose(decoded_T[rate : 2 * rate], single_T[rate : 2 * rate], atol=2e-3)
    assert np.abs(decoded_T[-rate:]).max() > 0.2
    assert not probe_audio(path).exact
    np.testing.assert_allclose(load_audio(path, rate, 7.0, 0.5), decoded_T[7 * rate :][: rate // 2], atol=1e-5)


def test_a_flac_from_a_pipe(files, tmp_path):
    samples_TC = files.chirp(5.0, RATE)
    path = files.write_sndfile(tmp_path / "a.flac", samples_TC, RATE)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the number of samples: 36 bits of STREAMINFO
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert probe_audio(path).duration_seconds is None
    np.testing.assert_allclose(load_audio(path, RATE), samples_TC[:, 0], atol=1e-4)
    np.testing.assert_allclose(load_audio(path, RATE, 2.0, 1.0), samples_TC[2 * RATE : 3 * RATE, 0], atol=1e-4)


def test_a_flac_with_an_id3_tag_in_front_can_be_cut(files, tmp_path):
    samples_TC = files.chirp(5.0, RATE)
    path = files.write_sndfile(tmp_path / "a.flac", samples_TC, RATE)
    path.write_bytes(id3(bytes(100_000), b"APIC") + path.read_bytes())
    probe_audio(path)
    np.testing.assert_allclose(load_audio(path, RATE, 2.0, 1.0), samples_TC[2 * RATE : 3 * RATE, 0], atol=1e-4)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_wav_whose_size_was_never_written(files, tmp_path, subtype, size):
    samples_TC = files.chirp(3.0, RATE, 2)
    path = files.write_sndfile(tmp_path / "a.wav", samples_TC, RATE, subtype=subtype)
    before_T, data = load_audio(path, RATE), bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", size)
    path.write_bytes(data)
    np.testing.assert_array_equal(load_audio(path, RATE), before_T)
    np.testing.assert_array_equal(load_audio(path, RATE, 1.0, 0.5), before_T[RATE : RATE + RATE // 2])
    assert probe_audio(path).duration_seconds == pytest.approx(3.0)


@pytest.mark.parametrize("is_ds64_written", [True, False])
def test_an_rf64_from_a_pipe(files, tmp_path, is_ds64_written):
    path = files.write_sndfile(tmp_path / "a.rf64", files.chirp(1.0, RATE), RATE, format="RF64", subtype="PCM_16")
    before_T, data = load_audio(path, RATE), bytearray(path.read_bytes())
    at = data.index(b"ds64") + 8
    data[at : at + 24] = bytes(24)
    if not is_ds64_written:
        data[at - 8 : at - 4] = b"JUNK"
    path.write_bytes(data)
    if is_ds64_written:
        np.testing.assert_array_equal(load_audio(path, RATE), before_T)
    else:
        with pytest.raises(AudioError, match="not an audio file"):
            load_audio(path, RATE)


def test_a_wav_without_samples_stays_empty(files, tmp_path):
    path = files.write_sndfile(tmp_path / "a.wav", np.zeros((0, 1)), RATE)
    path.write_bytes(path.read_bytes() + b"LIST" + struct.pack("<I", 12) + b"INFOISFT\0\0\0\0")
    with pytest.raises(AudioError, match="no samples"):
        load_audio(path, RATE)


UNSEEKABLE = [
    ("wav", "GSM610"), ("aiff", "GSM610"), ("w64", "GSM610"), ("au", "G721_32"), ("au", "G723_24"), ("au", "G723_40"),
    ("wav", "NMS_ADPCM_16"), ("wav", "NMS_ADPCM_24"), ("wav", "NMS_ADPCM_32"), ("xi", "DPCM_8"), ("xi", "DPCM_16"),
    ("aiff", "DWVW_16"), ("aiff", "DWVW_24"),
]  # fmt: skip


@pytest.mark.parametrize(("suffix", "subtype"), UNSEEKABLE)
def test_codecs_in_which_libsndfile_cannot_seek(files, tmp_path, suffix, subtype):
    rate = 44_100 if suffix == "xi" else 8_000
    samples_TC = files.chirp(3.0, rate)
    path = files.write_sndfile(tmp_path / f"a.{suffix}", samples_TC, rate, subtype=subtype)
    probe_audio(path)
    decoded_T = load_audio(path, rate)
    assert 0 <= len(decoded_T) - 3 * rate < 400
    tolerance = 0.02 if "DPCM_" in subtype or "DWVW" in subtype else 0.3
    assert np.abs(decoded_T[: rate // 2] - samples_TC[: rate // 2, 0]).mean() < tolerance / 3
    np.testing.assert_array_equal(load_audio(path, rate, 1.5, 0.7), decoded_T[int(1.5 * rate) :][: round(0.7 * rate)])
    np.testing.assert_array_equal(np.concatenate(list(iter_audio(path, rate, 0.5))), decoded_T)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("between", [b"", id3(b"\0a title", b"TIT2")])
def test_joined_flacs_are_decoded_to_the_last(files, tmp_path, channels, between):
    parts = [files.chirp(seconds, RATE, channels) for seconds in (2.0, 0.3, 1.5)]
    for number, part_TC in enumerate(parts):
        files.write_sndfile(tmp_path / f"{number}.flac", part_TC, RATE)
    path = tmp_path / "all.flac"
    path.write_bytes(between.join((tmp_path / f"{number}.flac").read_bytes() for number in range(3)))
    truth_T = np.concatenate([soundfile.read(tmp_path / f"{number}.flac", always_2d=True)[0] for number in range(3)])
    np.testing.assert_allclose(load_audio(path, RATE), truth_T.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(
        load_audio(path, RATE, 2.1, 1.0), truth_T.mean(axis=1)[round(2.1 * RATE) :][:RATE], atol=1e-6
    )
    probe_audio(path)


@pytest.mark.parametrize(("suffix", "extra"), [("flac", {}), ("ogg", {"subtype": "VORBIS"}), ("mp3", {})])
def test_a_file_that_grows_by_another_one_is_read_anew(files, tmp_path, suffix, extra):
    path = files.write_sndfile(tmp_path / f"a.{suffix}", files.chirp(2.0, RATE), RATE, **extra)
    first = path.read_bytes()
    assert len(load_audio(path, RATE)) == pytest.approx(2 * RATE, abs=2000)
    path.write_bytes(first + first)
    assert len(load_audio(path, RATE)) == pytest.approx(4 * RATE, abs=4000)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tag", [b"", id3(b"\0a title", b"TIT2")])
def test_a_damaged_flac_and_one_that_is_cut_short_are_told_apart(files, tmp_path, seed, tag):
    rng = np.random.default_rng(seed)
    noise_TC = rng.uniform(-0.3, 0.3, (8 * RATE, 2))
    whole = files.write_sndfile(tmp_path / "a.flac", noise_TC, RATE).read_bytes()
    damaged, cut, middle = tmp_path / "damaged.flac", tmp_path / "cut.flac", round(rng.uniform(0.2, 0.8) * len(whole))
    damaged.write_bytes(tag + whole[:middle] + rng.bytes(300) + whole[middle + 300 :])
    cut.write_bytes(tag + whole[:middle])
    with pytest.raises(AudioError, match=r"damaged: \d\.\d\d of 8\.00 s decode .*although its end is there"):
        load_audio(damaged, RATE)
    with pytest.raises(AudioError, match=r"cut short: \d\.\d\d of 8\.00 s decode"):
        load_audio(cut, RATE)


@pytest.mark.skipif(sys.platform != "linux", reason="the largest memory is counted in other units elsewhere")
@pytest.mark.parametrize(
    ("scan", "head", "unit"),
    [
        ("is_joined_flac", b"fLaC", bytes(1000)),
        ("is_chained_ogg", b"", b"OggS\0\0" + bytes(20) + b"\x10" + b"\xff" * 16 + b"\1" * 4080),
        ("scan_mpeg", b"", b"\xff\xfb\x90\x64" + b"\1" * 413),
    ],
)
def test_the_scan_of_a_large_file_takes_little_memory(tmp_path, scan, head, unit):
    path = tmp_path / "large"
    path.write_bytes(head + unit * (96 * 2**20 // len(unit)))
    code = (
        f"import pathlib, resource, sys; from carrara.audio._scan import {scan}\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"{scan}(pathlib.Path(sys.argv[1]))\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 40
