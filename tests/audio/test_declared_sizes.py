"""Files that state more sound than they hold, or an unknown size: told of every container that states it."""

import struct
import warnings

import numpy as np
import pytest
import soundfile

from carrara.audio._sizes import find_sound_bytes
from carrara.audio.decode import check_audio, load_audio, probe_audio
from carrara.core.errors import AudioError

RATE = 8000
# What libsndfile writes and reads.
SNDFILE = [
    ("wav", "WAV", "PCM_16"), ("wav", "RF64", "PCM_24"), ("wav", "WAVEX", "FLOAT"), ("wav", "WAV", "MS_ADPCM"),
    ("w64", "W64", "PCM_16"), ("w64", "W64", "GSM610"), ("aiff", "AIFF", "PCM_16"), ("au", "AU", "PCM_16"),
    ("au", "AU", "G721_32"), ("caf", "CAF", "PCM_16"), ("svx", "SVX", "PCM_16"), ("nist", "NIST", "PCM_16"),
    ("nist", "NIST", "ALAW"), ("voc", "VOC", "PCM_16"), ("avr", "AVR", "PCM_16"), ("avr", "AVR", "PCM_U8"),
    ("mpc", "MPC2K", "PCM_16"), ("mat", "MAT4", "PCM_16"), ("mat", "MAT4", "DOUBLE"), ("mat", "MAT5", "FLOAT"),
    ("wve", "WVE", "ALAW"),
]  # fmt: skip
# What FFmpeg reads: a container that states bytes, with and without a number of samples.
FFMPEG = [
    ("avi", "pcm_s16le"), ("avi", "mp2"), ("wav", "ac3"), ("wav", "mp2"), ("wav", "adpcm_yamaha"),
    ("rm", "ac3"), ("sox", "pcm_s32le"), ("sox", "pcm_s32be"), ("adx", "adpcm_adx"), ("voc", "pcm_s16le"),
    ("ast", "pcm_s16be_planar"), ("flv", "libmp3lame"),
]  # fmt: skip


def check_cut(path, whole_T):
    """Check that neither the end nor the whole of a cut file is taken for the end and the whole, but its start is."""
    for read in (probe_audio, lambda name: load_audio(name, RATE)):
        with pytest.raises(AudioError, match=f"{path.name}: cut short") as caught:
            read(path)
        assert "\n" not in str(caught.value)
    np.testing.assert_allclose(load_audio(path, RATE, 0.5, 0.5), whole_T[RATE // 2 : RATE], atol=1e-3)


@pytest.mark.parametrize(("ending", "kind", "subtype"), SNDFILE)
def test_half_a_file_of_libsndfile(files, tmp_path, ending, kind, subtype):
    path = tmp_path / f"a.{ending}"
    files.write_sndfile(path, files.chirp(4.0, RATE), RATE, format=kind, subtype=subtype)
    whole_T = load_audio(path, RATE)
    probe_audio(path)
    assert len(whole_T) == pytest.approx(4.0 * RATE, abs=0.06 * RATE)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    check_cut(path, whole_T)


@pytest.mark.parametrize(("ending", "codec"), FFMPEG)
def test_half_a_file_of_ffmpeg(files, tmp_path, ending, codec):
    path, rate = tmp_path / f"a.{ending}", 44_100 if ending == "flv" else 32_000
    files.write_av(path, files.chirp(4.0, rate), rate, codec)
    whole_T = load_audio(path, RATE)
    probe_audio(path)
    assert len(whole_T) == pytest.approx(4.0 * RATE, abs=0.1 * RATE)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    check_cut(path, whole_T)


def test_an_mp3_inside_of_a_wav_is_whole(files, tmp_path):
    rng = np.random.default_rng(0)
    samples_TC = files.chirp(20.0, 44_100)
    samples_TC[-88_200:] = rng.uniform(-0.4, 0.4, (88_200, 1))  # its bit rate is another one at the end
    path = files.write_av(tmp_path / "a.wav", samples_TC, 44_100, "libmp3lame", bit_rate=64_000)
    assert len(load_audio(path, RATE)) == pytest.approx(20 * RATE, abs=0.1 * RATE)
    probe_audio(path)


@pytest.mark.parametrize("codec", ["wavpack", "wmav2", "flac", "libopus", "aac", "pcm_s16be"])
def test_files_from_a_pipe(files, tmp_path, codec):
    ending, muxer, rate = {
        "wavpack": ("wv", "wv", 44_100), "wmav2": ("wma", "asf", 44_100), "flac": ("mka", "matroska", 44_100),
        "libopus": ("webm", "webm", 48_000), "aac": ("aac", "adts", 44_100), "pcm_s16be": ("au", "au", 44_100),
    }[codec]  # fmt: skip

    class Pipe:
        def __init__(self, file):
            self.write = file.write

    import av

    path = tmp_path / f"a.{ending}"
    samples_TC = files.chirp(4.0, rate).astype(np.float32)
    with open(path, "wb") as file, av.open(Pipe(file), "w", format=muxer) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        stream.codec_context.bit_rate = 128_000
        convert = av.AudioResampler(stream.format.name, "mono", rate, stream.codec_context.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples_TC.T), "fltp", "mono")
        frame.rate, frame.pts = rate, 0
        for piece in [*convert.resample(frame), *convert.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    probe_audio(path)
    assert len(load_audio(path, RATE)) == pytest.approx(4 * RATE, abs=0.1 * RATE)


@pytest.mark.parametrize("subtype", ["PCM_16", "ULAW", "G721_32"])
@pytest.mark.parametrize("size", [0, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF])
def test_an_au_whose_size_was_never_written(files, tmp_path, size, subtype):
    path = files.write_sndfile(tmp_path / "a.au", files.chirp(2.0, RATE), RATE, subtype=subtype)
    whole_T = load_audio(path, RATE)
    data = bytearray(path.read_bytes())
    data[8:12] = struct.pack(">I", size)
    path.write_bytes(data)
    probe_audio(path)
    np.testing.assert_array_equal(load_audio(path, RATE), whole_T)
    np.testing.assert_array_equal(load_audio(path, RATE, 0.5, 1.0), whole_T[RATE // 2 : 3 * RATE // 2])


@pytest.mark.parametrize("order", "<>")
def test_the_sizes_of_headers_written_by_hand(tmp_path, order):
    """A SMAF of Yamaha, an XI of FastTracker and a MATLAB 4 file, of which no encoder here writes these sizes."""
    wave = bytes(1000)
    smaf = b"CNTI\0\0\0\5abcdeATR\0" + struct.pack(">I", 1014) + bytes(6) + b"Awa\1" + struct.pack(">I", 1000)
    xi = b"Extended Instrument: ".ljust(296, b"\0") + struct.pack("<HI", 1, 1000) + bytes(36)
    type = 1000 * (order == ">")
    matlab = struct.pack(f"{order}5I", type, 1, 1, 0, 5) + b"rate\0" + struct.pack(f"{order}d", 8000)
    matlab += struct.pack(f"{order}5I", type + 30, 2, 250, 0, 5) + b"wave\0"
    for head in (b"MMMD\0\0\0\0" + smaf, xi, matlab):
        (tmp_path / "a").write_bytes((head + wave)[:-400])
        assert find_sound_bytes(tmp_path / "a") == (1000, 600)


def test_a_voc_of_many_blocks_is_sound_throughout(files, tmp_path):
    """libsndfile takes the head of each block for two samples."""
    sweep_TC = files.chirp(4.0, 32_000)
    path = files.write_av(tmp_path / "a.voc", sweep_TC, 32_000, "pcm_s16le")
    np.testing.assert_allclose(load_audio(path, 32_000), sweep_TC[:, 0], atol=2 / 32_768)


@pytest.mark.parametrize("tag", [0x00FF, 0x1600, 0x1610])
def test_aac_inside_of_a_wav(files, tmp_path, tag):
    aac = files.write_av(tmp_path / "a.aac", files.chirp(3.0, 44_100), 44_100, "aac").read_bytes()
    head = struct.pack("<HHIIHHH", tag, 1, 44_100, 16_000, 1, 0, 0)
    body = b"WAVEfmt " + struct.pack("<I", len(head)) + head + b"data" + struct.pack("<I", len(aac)) + aac
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert len(load_audio(path, RATE)) == pytest.approx(3 * RATE, abs=0.1 * RATE)
    path.write_bytes(path.read_bytes()[: len(aac) // 2])
    with pytest.raises(AudioError, match="cut short"):
        load_audio(path, RATE)


def test_pages_that_are_missing_inside_of_an_ogg_are_warned_of(files, tmp_path):
    path = files.write_sndfile(tmp_path / "a.ogg", files.chirp(20.0, 44_100), 44_100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_audio(path, RATE)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(3).bytes(3000)
    path.write_bytes(data)
    with pytest.warns(UserWarning, match=r"a\.ogg: damaged: 1\d\.\d\d of 20\.00 s decode"):
        assert len(load_audio(path, RATE)) < 19.9 * RATE


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_without_its_end_is_warned_of(files, tmp_path, subtype):
    noise_TC = np.random.default_rng(0).uniform(-0.3, 0.3, (64_000, 1))
    path = files.write_sndfile(tmp_path / "a.ogg", noise_TC, 16_000, subtype=subtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_audio(path, RATE)
    data = path.read_bytes()
    last_page = data.rfind(b"OggS")
    for size in (last_page, (last_page + len(data)) // 2):  # behind a page, and inside of one
        path.write_bytes(data[:size])
        with pytest.warns(UserWarning, match=r"a\.ogg: may be cut short: it ends after [23]\.\d\d s without the mark"):
            load_audio(path, RATE)


def test_files_without_a_counted_length_are_checked_whole(files, tmp_path):
    noise_TC = np.random.default_rng(0).uniform(-0.3, 0.3, (64_000, 1))
    path = files.write_sndfile(tmp_path / "a.ogg", noise_TC, 16_000)
    assert check_audio(path).duration_seconds == pytest.approx(4.0, abs=0.01)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(3).bytes(3000)
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="the rest is missing inside of it"):
        assert check_audio(path).duration_seconds < 3.9


def test_a_damaged_mp3_whose_end_is_there_is_not_called_cut_short(files, tmp_path):
    rng = np.random.default_rng(0)
    path = files.write_sndfile(tmp_path / "a.mp3", rng.uniform(-0.3, 0.3, (10 * 44_100, 1)), 44_100)
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + rng.bytes(3000) + data[middle + 3000 :])
    with pytest.raises(AudioError, match=r"damaged: \d\.\d\d of 10\.00 s decode .*although its end is there"):
        load_audio(path, RATE)
    path.write_bytes(data[:middle])
    with pytest.raises(AudioError, match=r"cut short: \d\.\d\d of 10\.00 s decode"):
        load_audio(path, RATE)


@pytest.mark.parametrize("head", [b"RIFF\0\0\0\0WAVE", b"FORM\0\0\0\0AIFF", b"RIFF\0\0\0\0AVI ", b"caff\0\1\0\0"])
def test_a_file_of_empty_chunks_is_refused(tmp_path, head):
    path = tmp_path / "a.wav"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(2**20)
    with pytest.raises(AudioError, match="not an audio file|more than 10,000 chunks"):
        load_audio(path, RATE)


def test_a_flood_of_chunks_or_tags_is_refused_at_once(files, tmp_path):
    """libsndfile and FFmpeg take minutes for some megabytes of them."""
    sound = files.write_sndfile(tmp_path / "a.wav", files.chirp(0.1, RATE), RATE).read_bytes()
    mp3 = files.write_sndfile(tmp_path / "a.mp3", files.chirp(0.5, 44_100), 44_100).read_bytes()
    floods = {
        "a.wav": sound[:12] + b"junk\0\0\0\0" * 10_000 + sound[12:],
        "a.iff": b"FORM\0\1\x38\x84" + b"8SVX" + b"NAME\0\0\0\0" * 10_000,
        "a.mp3": b"ID3\3\0\0\0\0\0\0" * 10_000 + mp3,
    }
    for name, data in floods.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(AudioError, match=rf"{name}: damaged: more than 10,000 chunks or tags stand before"):
            load_audio(tmp_path / name, RATE)


def test_the_libraries_lengths_are_as_they_are_believed_to_be(files, tmp_path):
    """What this package adds is needed only as long as libsndfile takes half a W64 for the whole."""
    path = files.write_sndfile(tmp_path / "a.w64", files.chirp(2.0, RATE), RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert soundfile.info(path).frames < 2 * RATE
