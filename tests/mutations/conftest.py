"""Seeded mutations of the files of others: every reader reads, or refuses in one line that names the file."""

import random
import time
import warnings

import pytest

from carrara.core.errors import CarraraError

TIMES = 150  # mutations of each file
MAX_CPU_SECONDS = 10.0  # of one reading: a limit on growth, not a measure of speed
PIECES = [
    b"NaN", b"-Infinity", b"1e999", b"9" * 400, b"9" * 5000, b"-1", b"0", b"null", b"true", b"[]", b"{}", b'""',
    b"[" * 3000, b'{"a":' * 150, b"\xff", b"\xed\xa0\x80", b'"\\ud800"', b"\x00", b"\n", b"\r", b'"', b",", b";", b"\t",
    "\u2028".encode(), "\x85".encode(), b"\xef\xbb\xbf", b"x" * 140_000, b"\x1b]0;x\x07",
]  # fmt: skip


def first_of(marks, data, begin):
    """Return the index of the first of some bytes from an index on, or the end."""
    return min((index for mark in marks if (index := data.find(mark, begin)) >= 0), default=len(data))


def mutate(content: bytes, draw: random.Random) -> bytes:
    """Return content with bits, bytes, words or lines changed, removed, doubled, exchanged or put in, or cut short."""
    data = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        begin, kind = draw.randrange(max(len(data), 1)), draw.randrange(9)
        if kind == 0:
            data[begin : begin + 1] = bytes([draw.randrange(256)])
        elif kind == 1:
            del data[begin : begin + draw.randrange(1, 30)]
        elif kind == 2:
            data[begin:begin] = draw.choice(PIECES)
        elif kind == 3:  # a value of JSON or a cell gets another value
            ends = [end for mark in b",:;\t\n" if (end := data.find(mark, begin)) >= 0]
            stop = min(
                (end for mark in b",}];\t\n" if (end := data.find(mark, min(ends, default=begin) + 1)) >= 0),
                default=begin,
            )
            data[min(ends, default=begin) + 1 : stop] = draw.choice(PIECES)
        elif kind == 4:
            lines = bytes(data).split(b"\n")
            lines.insert(draw.randrange(len(lines) + 1), draw.choice(lines))
            data = bytearray(b"\n".join(lines))
        elif kind == 5:
            lines = bytes(data).split(b"\n")
            draw.shuffle(lines)
            data = bytearray(b"\n".join(lines))
        elif kind == 6:
            data[begin:begin] = data[: draw.randrange(1, 200)]
        elif kind == 7:
            del data[begin:]
        else:
            data[begin : begin + 4] = draw.randbytes(4)
    return bytes(data)


@pytest.fixture
def survive():
    """Return a function that reads mutations of a file and returns how many were refused."""

    def run(path, read, seed, times=TIMES, names=True):
        content, draw, refused = path.read_bytes(), random.Random(seed), 0
        read()
        for number in range(times):
            path.write_bytes(mutate(content, draw))
            start = time.process_time()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    read()
            except CarraraError as problem:
                refused += 1
                assert "\n" not in str(problem), number
                assert not names or path.name in str(problem), (number, str(problem))
                assert len(str(problem)) < 1000, number
            assert time.process_time() - start < MAX_CPU_SECONDS, number
        path.write_bytes(content)
        return refused

    return run
