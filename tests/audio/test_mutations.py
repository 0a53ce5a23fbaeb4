"""Seeded mutations of audio files end in samples or in one line, within limits of time and memory."""

import struct
import time
import tracemalloc
import warnings

import numpy as np
import pytest

from carrara.audio.decode import iter_audio, load_audio, probe_audio
from carrara.core.errors import AudioError

RATE, SECONDS = 16_000, 1.5
MUTATIONS = 40  # of each file
MAX_CPU_SECONDS, MAX_BYTES = 10.0, 400e6  # of one reading: a limit on growth, not a measure of speed
FORMATS = [
    "wav", "aiff", "flac", "ogg", "opus", "mp3", "vbr.mp3", "au", "w64", "caf", "rf64", "m4a", "aac", "wma", "webm",
    "mka", "ac3", "mp2",
]  # fmt: skip
THROUGH_AV = {
    "m4a": "aac",
    "aac": "aac",
    "wma": "wmav2",
    "webm": "libopus",
    "mka": "pcm_s16le",
    "ac3": "ac3",
    "mp2": "mp2",
}
EXTREMES = [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFF00, 0x10000]


@pytest.fixture(scope="module")
def originals(files, tmp_path_factory):
    folder, contents = tmp_path_factory.mktemp("originals"), {}
    for name in FORMATS:
        path, codec = folder / f"a.{name}", THROUGH_AV.get(name)
        rate = 48_000 if name in {"webm", "ac3", "mp2", "opus"} else RATE
        samples_TC = files.chirp(SECONDS, rate, 2)
        if codec == "wmav2":
            files.write_av(path, samples_TC, rate, codec, bit_rate=64_000)
        elif codec:
            files.write_av(path, samples_TC, rate, codec)
        elif name == "opus":
            files.write_sndfile(path, samples_TC, rate, format="OGG", subtype="OPUS")
        elif name == "vbr.mp3":
            files.write_sndfile(path, samples_TC, rate, bitrate_mode="VARIABLE")
        elif name == "rf64":
            files.write_sndfile(path, samples_TC, rate, format="RF64", subtype="PCM_16")
        else:
            files.write_sndfile(path, samples_TC, rate)
        contents[name] = path.read_bytes()
    return contents


def mutate(data, other, rng):
    """Return a mutation of a file: bits, blocks, a cut, a repeat, an extreme number in its head, or a graft."""
    data, kind = bytearray(data), rng.integers(8)
    head = min(len(data), 512)
    if kind == 0:
        for _ in range(rng.integers(1, 20)):
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    elif kind == 1:
        for _ in range(rng.integers(1, 8)):
            data[rng.integers(head)] = rng.integers(256)
    elif kind == 2:
        begin = int(rng.integers(len(data)))
        data[begin : begin + 200] = rng.bytes(min(200, len(data) - begin))
    elif kind == 3:
        del data[rng.integers(1, len(data)) :]
    elif kind == 4:
        begin = int(rng.integers(len(data)))
        del data[begin : begin + int(rng.integers(1, 2000))]
    elif kind == 5:
        begin = int(rng.integers(len(data)))
        data[begin:begin] = data[: int(rng.integers(1, len(data)))]
    elif kind == 6:
        offset, order = int(rng.integers(max(head - 4, 1))), "<>"[rng.integers(2)]
        data[offset : offset + 4] = struct.pack(f"{order}I", EXTREMES[rng.integers(len(EXTREMES))])
    else:
        data += other
    return bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_a_mutated_file_gives_samples_or_one_line(originals, tmp_path, name, capfd):
    rng = np.random.default_rng(FORMATS.index(name))
    path = tmp_path / f"a.{name}"
    for number in range(MUTATIONS):
        other = originals[FORMATS[rng.integers(len(FORMATS))]]
        path.write_bytes(mutate(originals[name], other, rng))
        readings = [
            lambda: load_audio(path, RATE),
            lambda: load_audio(path, 24_000, 0.4, 0.5),
            lambda: np.concatenate(list(iter_audio(path, RATE, 0.3))),
        ]
        results = []
        for read in readings:
            start = time.process_time()
            tracemalloc.start()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    samples_T = read()
                assert samples_T.dtype == np.float32 and len(samples_T) and np.isfinite(samples_T).all(), number
                results.append(samples_T)
            except AudioError as problem:
                assert "\n" not in str(problem) and str(path) in str(problem), number
                results.append(None)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert time.process_time() - start < MAX_CPU_SECONDS and peak < MAX_BYTES, number
        if results[0] is not None and results[2] is not None:
            np.testing.assert_array_equal(results[0], results[2], err_msg=str(number))
        try:
            probe_audio(path)
        except AudioError as problem:
            assert "\n" not in str(problem)
    assert capfd.readouterr().err == ""
