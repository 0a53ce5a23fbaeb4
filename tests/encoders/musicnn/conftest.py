"""A writer of TensorFlow 1 checkpoints as LevelDB's and TensorFlow's formats have them; TensorBoard gives checksums."""

import functools
import struct
from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

MAGIC = 0xDB4775248B80FB57
BLOCK_BYTES, RESTART_EVERY = 300, 4


def varint(value):
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def number(field, value):
    return varint(field << 3) + varint(value) if value else b""


def message(field, content):
    return varint(field << 3 | 2) + varint(len(content)) + content


@functools.cache
def crc(content):
    return struct.pack("<I", masked_crc32c(content))


def block(entries):
    """One block without its trailer: prefix-shared keys, then the restart points and their number."""
    out, restarts, last = b"", [], b""
    for place, (key, value) in enumerate(entries):
        shared = 0
        if place % RESTART_EVERY:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        else:
            restarts.append(len(out))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return out + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table(entries, compression):
    """A whole index file of sorted entries in blocks of about BLOCK_BYTES."""
    out, handles, waiting = b"", [], []

    def close(content, kind=compression):
        nonlocal out
        handle = varint(len(out)) + varint(len(content))
        out += content + bytes([kind]) + crc(content + bytes([kind]))
        return handle

    for key, value in entries:
        waiting.append((key, value))
        if sum(len(key) + len(value) for key, value in waiting) > BLOCK_BYTES or key == entries[-1][0]:
            handles.append((key, close(block(waiting))))
            waiting = []
    ends = close(block([]), 0) + close(block(handles), 0)
    return out + ends.ljust(40, b"\0") + struct.pack("<Q", MAGIC)


def write(prefix, tensors, *, compression=0, shards=1, extra=b""):
    """Write PREFIX.index and PREFIX.data-00000-of-00001; arrays by name, kinds float32, float64 and int64."""
    data, entries = b"", {b"": number(1, shards) + message(3, number(1, 1))}
    kinds = {"float32": 1, "float64": 2, "int64": 9}
    for name in sorted(tensors):
        content = np.ascontiguousarray(tensors[name]).tobytes()
        shape = b"".join(message(2, number(1, size)) for size in np.shape(tensors[name]))
        entries[name.encode()] = (
            number(1, kinds[str(tensors[name].dtype)])
            + message(2, shape)
            + number(4, len(data))
            + number(5, len(content))
            + varint(6 << 3 | 5)
            + crc(content)
            + extra
        )
        data += content
    index = Path(f"{prefix}.index")
    index.parent.mkdir(parents=True, exist_ok=True)
    index.write_bytes(table(sorted(entries.items()), compression))
    Path(f"{prefix}.data-00000-of-00001").write_bytes(data)


@pytest.fixture(scope="session")
def write_checkpoint():
    """Return the function that writes a checkpoint: (beginning of the files' names, arrays by name)."""
    return write
