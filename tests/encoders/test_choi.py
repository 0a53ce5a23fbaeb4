"""CHOI against a naive network in numpy with Theano's convolutions, from files as Keras 1.2.2 writes them."""

import sys

import numpy as np
import pytest
import torch

from carrara.core.errors import UsageError, WeightsError
from carrara.encoders._hub.load import build_encoder
from carrara.encoders._hub.official import convert_official
from carrara.encoders.choi import CLIP_SAMPLES, ENCODER, ChoiSettings
from carrara.formats.weights import load_state_dict_strict
from carrara.nn.spectral.mel import MelBands, mel_filter_bank

POOLS = ((2, 4), (3, 4), (2, 5), (2, 4), (4, 4))


FILE = "weights_layer4_theano.hdf5"


def arrays(blocks=5, seed=0):
    """Weights under the names and in the shapes of the published files."""
    generator = np.random.default_rng(seed)
    actual = {}
    for i in range(1, blocks + 1):
        inputs = 32 if i > 1 else 1
        conv, norm = f"convolution2d_{i}_", f"batchnormalization_{i}_"
        actual[conv + "W"] = generator.standard_normal((32, inputs, 3, 3)) / (3 * inputs**0.5)
        actual[conv + "b"] = 0.1 * generator.standard_normal(32)
        actual[norm + "gamma"] = 1 + 0.3 * generator.standard_normal(32)
        actual[norm + "beta"] = 0.3 * generator.standard_normal(32)
        actual[norm + "running_mean"], actual[norm + "running_std"] = np.zeros(32), np.ones(32)
    return {name: array.astype("f4") for name, array in actual.items()}


def write(path, actual):
    """A file of `save_weights` in Keras 1.2.2: a group a layer, nested models flat, names in attributes."""
    h5py = pytest.importorskip("h5py")
    layers = {
        "melgram": {"param_0": np.zeros((512, 1, 1, 257)), "param_1": np.zeros((512, 1, 1, 257))},
        "ConvBNEluDr": actual,
        "flatten_1": {},
        "dense_1": {"dense_1_W": np.zeros((32, 50)), "dense_1_b": np.zeros(50)},
    }
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in layers]
        for layer, members in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in members]
            for name, array in members.items():
                group[name] = array.astype("f4")
    return path


@pytest.fixture
def published(tmp_path):
    return write(tmp_path / FILE, arrays())


def levels(clip):
    """The published spectrogram in decibels against 1, `[mels, frames]`; kernels turned around, as Theano does it."""
    n = np.arange(512)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / 512)
    angle = 2 * np.pi / 512 * np.outer(n, np.arange(257))
    real, imaginary = ((window[:, None] * part(angle))[::-1] for part in (np.cos, np.sin))
    edged = np.pad(clip, 256)
    frames = np.stack([edged[256 * i : 256 * i + 512] for i in range(1360)])
    power = (frames @ real) ** 2 + (frames @ imaginary) ** 2
    mel = power @ mel_filter_bank(MelBands(96, 0.0, 6000.0), 12_000, 512).numpy()
    return 10 * np.log10(np.maximum(mel, 1e-10)).T


def naive(clips, actual):
    """The network in double precision on clips of 29 s that are one batch, `[batch, 160]`."""
    maps = np.stack([levels(clip.astype("f8")) for clip in clips])[:, None]
    maps, features = np.maximum(maps - maps.max(), -80.0), []
    for i, (bands, frames) in enumerate(POOLS, 1):
        conv, norm = f"convolution2d_{i}_", f"batchnormalization_{i}_"
        turned = actual[conv + "W"].astype("f8")[:, :, ::-1, ::-1]
        edged = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)))
        neighbours = np.lib.stride_tricks.sliding_window_view(edged, (3, 3), axis=(2, 3))
        y = np.einsum("bchwij,ocij->bohw", neighbours, turned, optimize=True)
        y += actual[conv + "b"][:, None, None]
        y = (y - y.mean((0, 2, 3), keepdims=True)) / np.sqrt(y.var((0, 2, 3), keepdims=True) + 1e-3)
        y = y * actual[norm + "gamma"][:, None, None] + actual[norm + "beta"][:, None, None]
        y = np.where(y > 0, y, np.expm1(np.minimum(y, 0)))
        height, width = y.shape[2] // bands, y.shape[3] // frames
        maps = y[:, :, : height * bands, : width * frames].reshape(len(y), 32, height, bands, width, frames).max((3, 5))
        features.append(maps.mean((2, 3)))
    assert maps.shape[1:] == (32, 1, 1)
    return np.concatenate(features, axis=1)


def sound(seconds, loudness=0.1, seed=0):
    generator = np.random.default_rng(seed)
    time = np.arange(int(12_000 * seconds)) / 12_000
    return (loudness * (np.sin(2 * np.pi * (300 + 200 * time) * time) + generator.standard_normal(len(time)))).astype(
        "f4"
    )


@torch.inference_mode()
def test_features_are_those_of_the_published_network_on_one_clip(published):
    clip = sound(7.3)
    expected = naive([np.resize(clip, CLIP_SAMPLES)], arrays())[0]
    ours = convert_official("choi", published).eval()(torch.from_numpy(clip)[None])
    assert ours.shape == (1, 1, 1, 160)
    np.testing.assert_allclose(ours.flatten().numpy(), expected, atol=2e-5)


@torch.inference_mode()
def test_batch_stats_normalise_over_the_batch_as_published(published):
    clips = [np.resize(sound(5.0, 0.02, 1), CLIP_SAMPLES), np.resize(sound(6.0, 0.3, 2), CLIP_SAMPLES)]
    encoder = ENCODER.build(ChoiSettings(batch_stats=True), ENCODER.variants["choi"][0], 0)
    load_state_dict_strict(encoder, ENCODER.load_official("choi", published), "here")
    together = encoder(torch.from_numpy(np.stack(clips)))[:, 0, 0].numpy()
    np.testing.assert_allclose(together, naive(clips, arrays()), atol=2e-5)
    alone = convert_official("choi", published).eval()(torch.from_numpy(clips[0])[None])[0, 0, 0].numpy()
    assert np.abs(together[0] - alone).max() > 0.1


@torch.inference_mode()
def test_the_first_29_seconds_are_encoded_and_shorter_clips_repeated():
    encoder, clip = build_encoder("choi").eval(), torch.from_numpy(sound(4.0))
    repeated = encoder(clip.repeat(8)[None])
    assert torch.equal(encoder(clip[None]), repeated)
    assert torch.equal(encoder(clip.repeat(8)[None, :CLIP_SAMPLES]), repeated)
    padded = torch.nn.functional.pad(clip, (0, 5_000), value=0.7)
    assert torch.equal(encoder(padded[None], torch.tensor([len(clip)])), repeated)


@torch.inference_mode()
def test_a_large_batch_is_encoded_a_few_clips_at_a_time():
    encoder, sizes = build_encoder("choi").eval(), []
    encoder.blocks[0].register_forward_pre_hook(lambda block, given: sizes.append(len(given[0])))
    assert encoder(torch.from_numpy(sound(1.0)).expand(9, -1)).shape == (9, 1, 1, 160)
    assert sizes == [8, 1]


def test_a_clip_of_no_samples_is_refused():
    with pytest.raises(UsageError, match="no samples"):
        build_encoder("choi")(torch.zeros(2, 100), torch.tensor([100, 0]))


def test_random_weights_come_from_the_seed_alone():
    before = torch.random.get_rng_state()
    one, same, other = (build_encoder("choi", seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["blocks.2.convolution.weight"], other["blocks.2.convolution.weight"])


def test_the_folder_of_all_files_is_read_from_the_uncut_one(published):
    folder = published.parent
    for block in range(4):
        write(folder / f"weights_layer{block}_theano.hdf5", arrays(block + 1, seed=1))
    actual = ENCODER.load_official("choi", folder)
    assert torch.equal(
        actual["blocks.4.convolution.weight"][3, 2, 0, 1], torch.tensor(arrays()["convolution2d_5_W"][3, 2, 2, 1])
    )
    published.rename(folder / "weights_theano.hdf5")
    assert all(torch.equal(actual[name], tensor) for name, tensor in ENCODER.load_official("choi", folder).items())


def test_files_of_cut_and_of_other_networks_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=f"layer3.*cut after an earlier block; give {FILE}"):
        ENCODER.load_official("choi", write(tmp_path / "weights_layer3_theano.hdf5", arrays(4)))
    with pytest.raises(WeightsError, match=r"keras2\.hdf5: holds no network of CHOI"):
        ENCODER.load_official("choi", write(tmp_path / "keras2.hdf5", {"conv2d_1_W": np.zeros((3, 3, 1, 32))}))
    other = arrays() | {"convolution2d_2_W": np.zeros((32, 16, 3, 3))}
    with pytest.raises(WeightsError, match=r"other\.hdf5: .*another shape"):
        convert_official("choi", write(tmp_path / "other.hdf5", other))
    del other["batchnormalization_4_beta"]
    with pytest.raises(WeightsError, match=r"less\.hdf5: .*missing \(blocks\.3\.norm\.bias\)"):
        convert_official("choi", write(tmp_path / "less.hdf5", other))


BROKEN = {
    "empty": (b"", "empty"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS"),
    "page": (b"\n<!DOCTYPE html><html></html>", "web page"),
    "no HDF5": (bytes(range(200)), "not an HDF5 file"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_without_weights_is_refused_by_its_kind(kind, tmp_path):
    pytest.importorskip("h5py")
    content, reason = BROKEN[kind]
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{FILE}: .*{reason}"):
        ENCODER.load_official("choi", tmp_path / FILE)


def test_files_cut_short_and_missing_ones_are_named(published):
    published.write_bytes(published.read_bytes()[:-5000])
    with pytest.raises(WeightsError, match=f"{FILE}: not whole"):
        ENCODER.load_official("choi", published)
    published.unlink()
    with pytest.raises(WeightsError, match=f"{FILE}: cannot be read"):
        ENCODER.load_official("choi", published.parent)


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / FILE).write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match=r"pip install 'carrara\[keras\]'"):
        ENCODER.load_official("choi", tmp_path / FILE)
