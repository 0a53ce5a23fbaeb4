"""The reader of TensorFlow 1 checkpoints on files written here byte by byte, whole and damaged in every way."""

from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import crc32c as tensorboards_crc32c

from carrara.core.errors import WeightsError
from carrara.formats.tensorflow import MIN_PARALLEL_BYTES, NUM_LANES, crc32c, mask_checksum, read_tensorflow_checkpoint


def arrays():
    draw = np.random.default_rng(0)
    shapes = {"conv2d/kernel": (3, 2, 1, 5), "conv2d/bias": (5,), "beta1_power": (), "no/rows": (0, 4)}
    shapes |= {f"batch_normalization_{i}/moving_variance": (i + 1,) for i in range(12)}
    return {name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def read(prefix, selected=lambda name: True):
    index, data = (Path(f"{prefix}{end}").read_bytes() for end in (".index", ".data-00000-of-00001"))
    return read_tensorflow_checkpoint(index, data, "this file", selected)


@pytest.fixture
def written(tmp_path, write_checkpoint):
    write_checkpoint(tmp_path / "model", arrays())
    return tmp_path / "model"


def test_checksums_of_the_standard():
    # RFC 3720, B.4.
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize(
    "size", [0, 1, *(MIN_PARALLEL_BYTES + i for i in (-1, 0, 1)), 3 * MIN_PARALLEL_BYTES + 77, 20 * NUM_LANES]
)
def test_long_checksums_are_those_of_tensorboard(size):
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == tensorboards_crc32c(data)


def test_masking():
    assert mask_checksum(0) == 0xA282EAD8
    assert mask_checksum(1) == 0xA284EAD8


def test_every_tensor_is_read_as_written(written):
    tensors = read(written)
    assert set(tensors) == set(arrays())
    for name, array in arrays().items():
        assert tensors[name].shape == array.shape
        np.testing.assert_array_equal(tensors[name].numpy(), array)


def test_only_what_is_selected_is_read(tmp_path, write_checkpoint):
    write_checkpoint(tmp_path / "model", arrays() | {"global_step": np.array(7)})
    assert set(read(tmp_path / "model", lambda name: name.startswith("conv2d/"))) == {"conv2d/kernel", "conv2d/bias"}


@pytest.mark.parametrize("options, message", [
    ({"compression": 1}, "snappy"),
    ({"compression": 2}, "zstd"),
    ({"compression": 7}, "kind 7"),
    ({"shards": 2}, "several data files"),
    ({"extra": bytes([7 << 3 | 2, 0])}, "not one whole float32"),
    ({"extra": bytes([3 << 3, 1])}, "not one whole float32"),
])  # fmt: skip
def test_an_unsupported_tensor_is_named(tmp_path, write_checkpoint, options, message):
    write_checkpoint(tmp_path / "model", arrays(), **options)
    with pytest.raises(WeightsError, match=f"^this file: .*{message}"):
        read(tmp_path / "model")


def test_an_unsupported_dtype_is_named(tmp_path, write_checkpoint):
    write_checkpoint(tmp_path / "model", arrays() | {"step": np.array(7)})
    with pytest.raises(WeightsError, match="'step' is not one whole float32"):
        read(tmp_path / "model")


def test_an_index_cut_anywhere_is_refused(written):
    index, data = written.with_suffix(".index").read_bytes(), b""
    for length in range(len(index)):
        with pytest.raises(WeightsError, match="this file: its .index"):
            read_tensorflow_checkpoint(index[:length], data, "this file", lambda name: True)


def test_an_index_with_any_byte_changed_is_refused_or_means_the_same(written):
    index, data = written.with_suffix(".index").read_bytes(), Path(f"{written}.data-00000-of-00001").read_bytes()
    refused = 0
    for i in range(len(index)):
        changed = index[:i] + bytes([index[i] ^ 0x11]) + index[i + 1 :]
        try:
            tensors = read_tensorflow_checkpoint(changed, data, "this file", lambda name: True)
        except WeightsError:
            refused += 1
        else:
            assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
                name: array.tolist() for name, array in arrays().items()
            }
    # What may change: the block of statistics, which is not read, and the filling and its handle in the footer.
    assert refused > len(index) - 60


def test_data_cut_short_or_damaged_are_named_with_their_tensor(written):
    index, data = written.with_suffix(".index").read_bytes(), Path(f"{written}.data-00000-of-00001").read_bytes()
    with pytest.raises(WeightsError, match="cut short \\(at 'no/rows'|cut short \\(at 'conv2d/kernel'"):
        read_tensorflow_checkpoint(index, data[:-1], "this file", lambda name: True)
    with pytest.raises(WeightsError, match="damaged \\(checksum of 'conv2d/kernel'"):
        read_tensorflow_checkpoint(index, data[:-1] + bytes([data[-1] ^ 1]), "this file", lambda name: True)


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 48, b"<html>" * 20, bytes(range(256)) * 4])
def test_what_is_no_index_is_refused(content):
    with pytest.raises(WeightsError, match="not that of a TensorFlow checkpoint"):
        read_tensorflow_checkpoint(content, b"", "this file", lambda name: True)
