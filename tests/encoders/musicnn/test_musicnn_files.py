"""Where musicnn's checkpoints may lie, and what is said of files that are not what they should be."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from carrara.core.errors import WeightsError
from carrara.encoders.musicnn import ENCODER

DATA = ".data-00000-of-00001"


def vgg(seed=0):
    """Random weights by the official names and shapes."""
    draw = np.random.default_rng(seed)
    shapes = {f"{i}CNN": (3, 3, 1 if i == 1 else 128, 128) for i in range(1, 6)} | {"dense": (256, 50)}
    tensors = {f"{layer}/kernel": draw.standard_normal(shape) for layer, shape in shapes.items()}
    tensors |= {f"{layer}/bias": draw.standard_normal(shape[-1]) for layer, shape in shapes.items()}
    for i in range(6):
        layer = f"batch_normalization_{i}" if i else "batch_normalization"
        for part in ("gamma", "beta", "moving_mean", "moving_variance"):
            tensors[f"{layer}/{part}"] = draw.uniform(0.5, 1, 128 if i else 1)
    return {name: value.astype(np.float32) for name, value in tensors.items()}


@pytest.fixture
def repository(tmp_path, write_checkpoint):
    """The authors' repository with nothing but MTT_vgg."""
    write_checkpoint(f"{tmp_path}/musicnn/MTT_vgg/", vgg())
    return tmp_path


def packed(root):
    path = root / "musicnn-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file in (root / "musicnn" / "MTT_vgg").iterdir():
            wheel.write(file, f"musicnn/MTT_vgg/{file.name}")
    return path


def read(path, name="musicnn-mtt-vgg"):
    return ENCODER.load_official(name, path)


@pytest.mark.parametrize("given", [
    "", "musicnn", "musicnn/MTT_vgg", "musicnn/MTT_vgg/.index", "musicnn/MTT_vgg/" + DATA,
])  # fmt: skip
def test_a_checkpoint_is_found_from_any_of_its_paths(repository, given):
    actual = read(repository / given)
    np.testing.assert_array_equal(actual["network.blocks.2.conv.weight"], vgg()["3CNN/kernel"].transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(actual["network.tags.weight"], vgg()["dense/kernel"].T)


def test_a_checkpoint_by_another_name_is_found_too(tmp_path, write_checkpoint):
    write_checkpoint(tmp_path / "mine" / "model.ckpt-7", vgg())
    for given in ("mine", "mine/model.ckpt-7", "mine/model.ckpt-7.index"):
        assert len(read(tmp_path / given)) == 42


def test_the_wheel_is_read_without_unpacking(repository):
    from_wheel, from_folder = read(packed(repository)), read(repository)
    assert from_wheel.keys() == from_folder.keys()
    assert all((from_wheel[name] == from_folder[name]).all() for name in from_folder)


@pytest.mark.parametrize("packing", [packed, lambda root: root])
def test_a_missing_checkpoint_is_named_with_its_source(repository, packing):
    with pytest.raises(WeightsError, match="holds no MSD_musicnn_big; .* is at github.com/jordipons/musicnn"):
        read(packing(repository), "musicnn-msd-big")


def test_a_folder_of_another_variant_of_the_same_shape_is_refused(repository):
    for given in ("musicnn/MTT_vgg", "musicnn/MTT_vgg/.index"):
        with pytest.raises(WeightsError, match="holds MTT_vgg, not MSD_vgg"):
            read(repository / given, "musicnn-msd-vgg")


@pytest.mark.parametrize("change, message", [
    ({"6CNN/bias": np.ones(3, np.float32)}, "1 unknown \\(6CNN/bias"),
    ({"dense/slope": np.ones(3, np.float32)}, "1 unknown \\(dense/slope"),
    ({"2CNN/kernel": None}, "1 missing \\(network.blocks.1.conv.weight"),
    ({"2CNN/kernel": np.ones((3, 3, 64, 128), np.float32)}, "\\(128, 64, 3, 3\\) where \\(128, 128, 3, 3\\)"),
    ({"dense/kernel": np.ones(50, np.float32)}, "1 of another shape"),
])  # fmt: skip
def test_other_networks_are_refused(tmp_path, write_checkpoint, change, message):
    tensors = {name: value for name, value in (vgg() | change).items() if value is not None}
    write_checkpoint(f"{tmp_path}/MTT_vgg/", tensors)
    with pytest.raises(WeightsError, match=f"MTT_vgg.*not the weights of this network: .*{message}"):
        read(tmp_path)


def test_the_vggs_files_are_no_musicnn(repository):
    (repository / "musicnn" / "MTT_vgg").rename(repository / "musicnn" / "MTT_musicnn")
    with pytest.raises(WeightsError, match="missing .*unknown"):
        read(repository, "musicnn-mtt")


@pytest.mark.parametrize("content, message", [
    (b"", "is empty"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 95817164\n", "Git LFS pointer"),
    (b"<!doctype html><html></html>", "web page"),
])  # fmt: skip
@pytest.mark.parametrize("end", [".index", DATA])
def test_a_file_without_weights_is_refused_by_its_kind(repository, end, content, message):
    (repository / "musicnn" / "MTT_vgg" / end).write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read(repository)
    assert str(caught.value).startswith(str(repository / "musicnn" / "MTT_vgg" / end))


def test_files_cut_short_or_missing_are_named(repository):
    data = repository / "musicnn" / "MTT_vgg" / DATA
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="cut short|damaged"):
        read(repository)
    data.unlink()
    with pytest.raises(WeightsError, match=f"{DATA}: cannot be read"):
        read(repository)
    with pytest.raises(WeightsError, match="cannot be read"):
        read(repository / "nowhere")


def test_a_wheel_cut_short_or_damaged_is_refused(repository):
    path = packed(repository)
    content = path.read_bytes()
    path.write_bytes(content[:100_000])
    with pytest.raises(WeightsError, match="cut short"):
        read(path)
    path.write_bytes(content[:100_000] + b"\0" * 8 + content[100_008:])
    with pytest.raises(WeightsError, match="cannot be read .*; fetch it again"):
        read(path)


def test_another_file_is_refused(tmp_path):
    Path(tmp_path / "song.wav").write_bytes(b"RIFF\0\0\0\0WAVE" + bytes(500))
    with pytest.raises(WeightsError, match="neither the wheel musicnn 0.1.0 nor part of a checkpoint"):
        read(tmp_path / "song.wav")
