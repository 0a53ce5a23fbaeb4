"""Names, addresses, sizes and damage: a file is only itself, costs what its bytes can hold, and ends in one line."""

import http.server
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
import warnings

import numpy as np
import pytest
import soundfile

from carrara.audio.decode import iter_audio, load_audio, probe_audio
from carrara.audio.files import check_file
from carrara.audio.stems import StemSource, load_stem, stem_length
from carrara.core.errors import AudioError
from carrara.core.storage import expand_braces, normalize
from carrara.features.hash_cache import hash_files
from carrara.pretrain.corpus.durations import read_duration

RATE = 44_100
LATIN = os.fsdecode(b"caf\xe9.wav")


@pytest.fixture
def wav(files, tmp_path):
    return files.write_sndfile(tmp_path / "a.wav", files.chirp(2.0, RATE), RATE)


@pytest.fixture
def server(wav):
    """A server on loopback that would send a sound to anyone; the paths that it was asked for."""
    requests, content = [], wav.read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{httpd.server_port}", requests
        httpd.shutdown()


def refused(path, reason):
    for read in (probe_audio, lambda p: load_audio(p, 16_000), lambda p: list(iter_audio(p, 16_000, 1.0))):
        with pytest.raises(AudioError, match=reason) as caught:
            read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["http:", "cache:http:", "async:http:", "icecast:", "tcp:"])
def test_a_name_that_is_an_address_asks_no_server(tmp_path, monkeypatch, server, prefix):
    host, requests = server
    monkeypatch.chdir(tmp_path)
    names = [f"{prefix}/{host}/a.m4a", f"{prefix}//{host}/a.m4a"]
    for name in names:
        with pytest.raises(AudioError, match="no such file"):
            load_audio(name, RATE)
        with pytest.raises(AudioError, match="no such file"):
            load_stem(StemSource(tmp_path / name, 0))
    path = tmp_path / names[0]
    path.parent.mkdir(parents=True)
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    for name in (*names, path):
        refused(name, "not an audio file")
    assert requests == []


def test_files_with_odd_names_are_read_as_they_are(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["concat:a.m4a|b.m4a", "data:audio,x.m4a", "cache:a.m4a", "subfile,,start,0,end,9,,:a.m4a", "-", "%03d.m4a"]
    names += ["http:", "pipe:0", "fd:", "{0..2}.m4a", "zip::x.m4a", "new\nline.m4a", " a .m4a", LATIN]
    m4a = files.write_av(tmp_path / "a.m4a", files.chirp(1.0, RATE), RATE, "aac")
    wav = files.write_sndfile(tmp_path / "b.m4a", 0.1 * files.chirp(2.0, RATE), RATE, format="WAV")
    for source in (m4a, wav):
        truth_T = load_audio(source, RATE)
        for name in names:
            (tmp_path / name).write_bytes(source.read_bytes())
            np.testing.assert_array_equal(load_audio(name, RATE), truth_T)
            (tmp_path / name).unlink()


def test_lists_of_other_files_are_refused(tmp_path, wav, server):
    host, requests = server
    address = f"http://{host}/a.wav"
    lists = {
        "ffconcat": "ffconcat version 1.0\nfile {}\n",
        "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        "mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{}</BaseURL></MPD>',
        "pls": "[playlist]\nFile1={}\n",
        "xspf": '<playlist version="1"><trackList><track><location>{}</location></track></trackList></playlist>',
        "sbg": "-SE\n-m {}\n",
    }
    for kind, text in lists.items():
        for target in (address, str(wav), wav.name):
            for suffix in (kind, "m4a", "mp3"):
                path = tmp_path / f"list.{suffix}"
                path.write_text(text.format(target))
                refused(path, "not an audio file")
    assert requests == []


def write_wav(path, rate, channels, samples, bits=16, declared=None):
    data = np.random.default_rng(0).bytes(samples * channels * bits // 8)
    block = channels * bits // 8
    head = struct.pack("<HHIIHH", 1, channels, rate, rate * block & 0xFFFFFFFF, block & 0xFFFF, bits)
    size = len(data) if declared is None else declared
    path.write_bytes(b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt \x10\0\0\0" + head + b"data"
                     + struct.pack("<I", size) + data)  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("rate", "channels", "reason"),
    [
        (1, 1, "sample rate of 1 Hz; 1000 to 1000000 Hz"),
        (999, 1, "sample rate of 999 Hz"),
        (1_000_001, 1, "sample rate of 1000001 Hz"),
        (RATE, 257, "257 channels; 1 to 256"),
        (0, 1, "not an audio file|sample rate"),
        (0xFFFFFFFF, 1, "not an audio file|sample rate"),
        (RATE, 0, "not an audio file|channels"),
        (RATE, 5000, "not an audio file|channels"),
    ],
)
def test_declared_rates_and_channels_are_limited(tmp_path, rate, channels, reason):
    path = write_wav(tmp_path / "a.wav", rate, channels, 66_000 // max(channels, 1))
    tracemalloc.start()
    refused(path, reason)
    assert tracemalloc.get_traced_memory()[1] < 20e6  # a 1-Hz file of 132 kB would become 4.2 GB at 16 kHz
    tracemalloc.stop()


@pytest.mark.parametrize("rate", [1_000, 8_000, 384_000, 1_000_000])
def test_unusual_rates_are_read(tmp_path, rate):
    path = write_wav(tmp_path / "a.wav", rate, 1, rate)
    assert len(load_audio(path, 16_000)) == 16_000


def test_a_length_that_the_bytes_cannot_hold_is_refused(files, tmp_path):
    path = files.write_sndfile(tmp_path / "a.flac", files.chirp(1.0, RATE), RATE)
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F  # STREAMINFO: 2^36 - 1 samples
    data[22:26] = b"\xff" * 4
    path.write_bytes(data)
    refused(path, "declares .* hours, which its .* bytes cannot hold")
    with pytest.raises(AudioError, match="cannot hold"):
        stem_length(StemSource(path))


def test_more_than_a_day_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    with open(path, "wb") as file:  # sparse: 25 hours of silence at 8 kHz and 8 bits
        size = 25 * 3600 * 8000
        head = struct.pack("<HHIIHH", 1, 1, 8000, 8000, 1, 8)
        file.write(b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt \x10\0\0\0" + head + b"data")
        file.write(struct.pack("<I", size))
        file.truncate(44 + size)
    refused(path, "25.0 hours long; divide it into files of at most 24 hours")


def test_names_that_are_not_utf8(wav, tmp_path):
    path = wav.rename(tmp_path / LATIN)
    assert len(load_audio(path, RATE)) == 2 * RATE
    message = r"caf\\xe9.wav: its name is not UTF-8; rename"
    for check in (check_file, read_duration):
        with pytest.raises(AudioError, match=message):
            check(str(path))
    problem = hash_files([path], tmp_path / "home")[path]
    assert isinstance(problem, AudioError)
    str(problem).encode()  # can be printed and written


def test_a_pipe_is_refused_at_once(tmp_path):
    path = tmp_path / "p.wav"
    os.mkfifo(path)
    refused(path, "a pipe or device, not an audio file")
    assert "a pipe or device" in str(hash_files([path], tmp_path / "home")[path])
    refused("/dev/zero", "a pipe or device")  # neither is read: that would never end


def test_an_existing_folder_is_never_expanded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mix{1..3}", "http:/b"):
        (tmp_path / name).mkdir(parents=True)
        assert expand_braces(normalize(str(tmp_path / name))) == [str(tmp_path / name)]
        assert expand_braces(normalize(name)) == [name]
    assert expand_braces("other{1..2}") == ["other1", "other2"]
    assert normalize("http:/host/b.tar") == "http://host/b.tar"


@pytest.mark.parametrize(("factor", "is_silent"), [(-1.0, True), (-0.999, True), (-0.9, False), (0.0, False)])
@pytest.mark.parametrize("suffix", ["wav", "mka"])
def test_channels_that_cancel_are_warned_of(files, tmp_path, factor, is_silent, suffix):
    left_T = files.chirp(3.0, RATE)[:, 0]
    samples_TC = np.stack([left_T, factor * left_T], axis=1)
    path = tmp_path / f"a.{suffix}"
    if suffix == "wav":
        files.write_sndfile(path, samples_TC, RATE)
    else:
        files.write_av(path, samples_TC, RATE, "pcm_s16le")
    for read in (
        lambda: load_audio(path, RATE),
        lambda: list(iter_audio(path, RATE)),
        lambda: load_audio(path, RATE, 1, 1),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            read()
        assert [str(path) in str(warning.message) and "antiphase" in str(warning.message) for warning in caught] == (
            [True] if is_silent else []
        )


def test_silence_is_no_antiphase(files, tmp_path):
    path = files.write_sndfile(tmp_path / "a.wav", np.zeros((RATE, 2)), RATE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_audio(path, RATE)


@pytest.mark.parametrize(("name", "reason"), [("a.flac", "lost sync|damaged"), ("a.m4a", "Invalid data")])
def test_damage_in_the_middle_is_told_with_its_reason(files, tmp_path, name, reason):
    path = tmp_path / name
    if name == "a.m4a":
        files.write_av(path, files.chirp(6.0, RATE, 2), RATE, "aac", {"movflags": "+faststart"})
    else:
        files.write_sndfile(path, files.chirp(6.0, RATE, 2), RATE)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 300] = np.random.default_rng(3).bytes(300)
    path.write_bytes(data)
    with pytest.raises(AudioError, match=rf"\d\.\d\d of 6\.\d\d s decode \(.*({reason})"):
        load_audio(path, 16_000)


def test_libmpg123_prints_nothing(files, tmp_path):
    rng = np.random.default_rng(1)
    path = files.write_sndfile(tmp_path / "a.mp3", files.chirp(8.0, RATE) + 0.05 * rng.normal(size=(8 * RATE, 1)), RATE)
    data = bytearray(path.read_bytes())
    for _ in range(30):
        offset = int(rng.integers(3000, len(data) - 300))
        data[offset : offset + 200] = rng.bytes(200)
    path.write_bytes(data)
    programs = {
        "soundfile": "import sys, soundfile; soundfile.read(sys.argv[1])",
        "carrara": "import sys\n"
        "from carrara.audio.decode import load_audio\nfrom carrara.core.errors import AudioError\n"
        "try: load_audio(sys.argv[1], 16000)\nexcept AudioError: pass\n"
        "import ctypes; libc = ctypes.CDLL(None); libc.perror(b'C'); print('Python', file=sys.stderr)",
    }
    lines = {
        name: subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True
        ).stderr.splitlines()
        for name, code in programs.items()
    }
    assert len(lines["soundfile"]) > 20
    assert [line.split(":")[0] for line in lines["carrara"]] == ["C", "Python"]  # other lines arrive


@pytest.mark.parametrize("seed", [0, 1, 7, 26])
def test_a_damaged_mp3_that_seeks_behind_its_end_is_named(files, tmp_path, seed):
    rng = np.random.default_rng(seed)
    sound = 0.3 * np.sin(2 * np.pi * 440 * np.arange(8 * 22_050) / 22_050) + 0.05 * rng.normal(size=8 * 22_050)
    path = files.write_sndfile(tmp_path / "a.mp3", sound.astype(np.float32)[:, None], 22_050)
    data = bytearray(path.read_bytes())
    for _ in range(30):
        offset = int(rng.integers(3000, len(data) - 300))
        data[offset : offset + 200] = rng.bytes(200)
    path.write_bytes(data)
    for read in (probe_audio, lambda path: load_audio(path, 16_000)):
        with pytest.raises(AudioError, match=r"a\.mp3: (damaged|cut short|not an audio file)"):
            read(path)


def test_stems_open_nothing_else(tmp_path, wav, server):
    path = tmp_path / "list.mp4"
    path.write_text(f"ffconcat version 1.0\nfile {wav.name}\n")
    with pytest.raises(AudioError, match="not a file that PyAV can read"):
        load_stem(StemSource(path, 0))
    assert soundfile.info(wav).frames == 2 * RATE
    assert server[1] == []
