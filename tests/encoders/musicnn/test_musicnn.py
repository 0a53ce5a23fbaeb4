"""MusiCNN and its VGG against the same networks written out in numpy, and against the original graphs on real weights.

The reference is written from the spec (encoders.md 1.1 and 2.1) and, for the VGG's pooling, from the graphs in the
wheel's .meta files; its mel bands are librosa's. The real weights come from the wheel musicnn 0.1.0, which the test
fetches once from the package index; without it only that part is passed over.
"""

import ast
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from carrara.audio.decode import load_audio
from carrara.encoders import musicnn
from carrara.encoders._hub.load import load, save_pretrained
from carrara.encoders.musicnn import ENCODER, VARIANTS
from carrara.formats.weights import load_state_dict_strict

REFERENCE = Path(__file__).parents[1] / "data" / "musicnn_reference.json"
FOLDERS = {"musicnn-mtt": "MTT_musicnn", "musicnn-mtt-vgg": "MTT_vgg", "musicnn-msd-vgg": "MSD_vgg"}
BIG = {"musicnn-msd-big": "MSD_musicnn_big"}
SIZES = {"musicnn-mtt": (64, 1506, 200), "musicnn-msd-big": (512, 4194, 500)}  # middle, pooled, dense (spec 2.1)
RNG = np.random.default_rng
VGG_POOLS = {
    "musicnn-mtt-vgg": [(4, 1, 2, 2), (2, 2, 2, 2), (2, 2, 2, 2), (2, 2, 2, 2), (4, 4, 4, 4)],
    "musicnn-msd-vgg": [(4, 1, 4, 1), (1, 4, 1, 4), (2, 2, 2, 2), (2, 2, 2, 2), (4, 4, 4, 4)],
}


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def encoder(name, tensors=None):
    card, settings = ENCODER.variants[name]
    made = ENCODER.build(settings, card, 0).eval()
    if tensors is not None:
        load_state_dict_strict(made, tensors, name)
    return made


def sound(seconds, seed=0, level=0.1):
    return (level * RNG(seed).standard_normal(int(seconds * 16_000))).astype(np.float32)


def norm(v, i, x):
    """Batch norm over the last axis, as TensorFlow numbers it."""
    gamma, beta, mean, variance = (
        v[f"batch_normalization{f'_{i}' if i else ''}/{part}"].astype(float)
        for part in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    return gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta


def conv(v, name, x, before=(0, 0), after=(0, 0)):
    """Zeros around [height, width, channels], convolution, bias, ReLU."""
    kernel = v[f"{name}/kernel"].astype(float)
    padded = np.pad(x, [(before[0], after[0]), (before[1], after[1]), (0, 0)])
    patches = sliding_window_view(padded, kernel.shape[:2], axis=(0, 1))
    return np.maximum(np.tensordot(patches, kernel, ([3, 4, 2], [0, 1, 2])) + v[f"{name}/bias"], 0)


def numpy_musicnn(v, mel):
    """Features and tags of one window [187, 96]."""
    x = norm(v, 0, mel[..., None])
    maps = [norm(v, i + 1, conv(v, name, x, (3, 0), (3, 0))) for i, name in enumerate(("conv2d", "conv2d_1"))]
    for i, size in enumerate((128, 64, 32)):
        maps.append(norm(v, i + 3, conv(v, f"conv2d_{i + 2}", x, ((size - 1) // 2, 0), (size // 2, 0))))
    front = np.concatenate([one.max(axis=1) for one in maps], axis=1)
    first = norm(v, 6, conv(v, "conv2d_5", front[..., None], (3, 0), (3, 0))[:, 0])
    second = first + norm(v, 7, conv(v, "conv2d_6", first[..., None], (3, 0), (3, 0))[:, 0])
    third = second + norm(v, 8, conv(v, "conv2d_7", second[..., None], (3, 0), (3, 0))[:, 0])
    everything = np.concatenate([front, first, second, third], axis=1)
    mean, largest = everything.mean(axis=0), everything.max(axis=0)
    pooled = np.ravel([largest, mean], order="F")
    hidden = norm(v, 10, np.maximum(norm(v, 9, pooled) @ v["dense/kernel"] + v["dense/bias"], 0))
    return np.concatenate([mean, largest]), hidden @ v["dense_1/kernel"] + v["dense_1/bias"]


def numpy_vgg(v, mel, pools):
    x = norm(v, 0, mel[..., None])
    for i, (height, width, down, along) in enumerate(pools):
        x = norm(v, i + 1, conv(v, f"{i + 1}CNN", x, (1, 1), (1, 1)))
        x = sliding_window_view(x, (height, width), axis=(0, 1))[::down, ::along].max(axis=(3, 4))
    return x.ravel(), x.ravel() @ v["dense/kernel"] + v["dense/bias"]


def log_mel(samples):
    """All frames, in double precision, without a limit."""
    mel = librosa.feature.melspectrogram(
        y=samples.astype(float), sr=16_000, n_fft=512, hop_length=256, n_mels=96, pad_mode="reflect"
    )
    return np.log10(10_000 * mel.T + 1)


def variables(name):
    """Random weights by the official names and shapes (spec 2.1), with their training's."""
    if name.endswith("vgg"):
        shapes = {f"{i}CNN": (3, 3, 1 if i == 1 else 128, 128) for i in range(1, 6)} | {"dense": (256, 50)}
        norms = [1, *[128] * 5]
    else:
        kernels = [(7, 38, 1, 204), (7, 67, 1, 204), (128, 1, 1, 51), (64, 1, 1, 51), (32, 1, 1, 51)]
        middle, pooled, dense = SIZES[name]
        kernels += [(7, 561, 1, middle), (7, middle, 1, middle), (7, middle, 1, middle)]
        shapes = {f"conv2d{f'_{i}' if i else ''}": shape for i, shape in enumerate(kernels)}
        shapes |= {"dense": (pooled, dense), "dense_1": (dense, 50)}
        norms = [1, 204, 204, 51, 51, 51, middle, middle, middle, pooled, dense]
    draw, tensors = RNG(1), {"beta1_power": np.float32(0.9), "beta2_power": np.float32(0.999)}
    for layer, shape in shapes.items():
        tensors[f"{layer}/kernel"] = draw.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))
        tensors[f"{layer}/bias"] = 0.1 * draw.standard_normal(shape[-1])
    for i, size in enumerate(norms):
        for part in ("gamma", "beta", "moving_mean", "moving_variance"):
            values = draw.standard_normal(size)
            tensors[f"batch_normalization{f'_{i}' if i else ''}/{part}"] = (
                abs(values) + 0.5 if "var" in part else values
            )
    tensors["dense/bias/Adam"] = tensors["dense/bias/Adam_1"] = np.ones(2)
    return {name: np.asarray(value, np.float32) for name, value in tensors.items()}


@pytest.fixture(scope="module", params=FOLDERS | BIG)
def published(request, tmp_path_factory, write_checkpoint):
    """A variant's name, its variables, and the folder above its checkpoint."""
    root = tmp_path_factory.mktemp("repository")
    actual = variables(request.param)
    write_checkpoint(f"{root}/musicnn/{(FOLDERS | BIG)[request.param]}/", actual)
    return request.param, actual, root


@pytest.mark.slow
def test_features_and_tags_are_those_of_the_spec(published):
    name, v, root = published
    samples = sound(6.2 if "vgg" in name else 3.5)
    ours = encoder(name, ENCODER.load_official(name, root))
    mel = log_mel(samples)
    windows = mel[: len(mel) // 187 * 187].reshape(-1, 187, 96)
    body = (lambda mel: numpy_vgg(v, mel, VGG_POOLS[name])) if "vgg" in name else (lambda mel: numpy_musicnn(v, mel))
    features, logits = zip(*map(body, windows))
    actual = ours(torch.from_numpy(samples)[None])
    assert actual.shape == (1, 1, 1, ours.card.dim)
    np.testing.assert_allclose(actual.flatten(), np.mean(features, axis=0), atol=1e-4, rtol=1e-5)
    tags = ours.predict_tags(torch.from_numpy(samples)[None])
    np.testing.assert_allclose(tags[0], np.mean(1 / (1 + np.exp(-np.array(logits))), axis=0), atol=1e-5)


@pytest.mark.parametrize("samples", [1, 700, 186 * 256 - 1])
def test_a_clip_shorter_than_a_window_is_padded_with_silent_frames(samples):
    clip = sound(3)[:samples]
    (window,) = encoder("musicnn-mtt").windows(torch.from_numpy(clip)).numpy()
    reflected = clip[:1].repeat(2000) if samples == 1 else clip  # librosa refuses to reflect one sample
    np.testing.assert_allclose(window[: samples // 256 + 1], log_mel(reflected)[: samples // 256 + 1], atol=1e-4)
    assert not window[samples // 256 + 1 :].any()


@pytest.mark.parametrize("samples, count", [(186 * 256, 1), (373 * 256 - 1, 1), (373 * 256, 2), (480_000, 10)])
def test_what_remains_after_the_last_window_is_dropped(samples, count):
    clip = sound(30)[:samples]
    windows = encoder("musicnn-mtt").windows(torch.from_numpy(clip))
    assert windows.shape == (count, 187, 96)
    np.testing.assert_allclose(windows.flatten(0, 1), log_mel(clip)[: 187 * count], atol=1e-4)


def test_loud_audio_is_clamped_where_half_precision_overflows():
    tone = np.sin(2 * np.pi * 440 * np.arange(48_000) / 16_000).astype(np.float32)
    with np.errstate(over="ignore"):
        theirs = np.log10(10_000 * ((10 ** log_mel(tone)[:187] - 1) / 10_000).astype(np.float16) + 1)
    assert np.isinf(theirs).any()
    (window,) = encoder("musicnn-mtt").windows(torch.from_numpy(tone)).numpy()
    np.testing.assert_allclose(window[np.isinf(theirs)], np.log10(65505), rtol=1e-6)
    np.testing.assert_allclose(window[~np.isinf(theirs)], theirs[~np.isinf(theirs)], atol=4e-3)


def test_ten_minutes_are_encoded_a_few_windows_at_a_time(monkeypatch):
    ours, sizes = encoder("musicnn-mtt"), []

    def stand_in(mel_NFM):
        sizes.append(len(mel_NFM))
        return mel_NFM.mean(dim=1)

    monkeypatch.setattr(ours.network, "forward", stand_in)
    assert ours(torch.from_numpy(sound(600))[None]).shape == (1, 1, 1, 96)
    assert sum(sizes) == (600 * 16_000 // 256 + 1) // 187
    assert max(sizes) <= musicnn.BATCH_SIZE == 8


def test_padding_changes_nothing_even_where_it_is_no_silence():
    ours = encoder("musicnn-mtt-vgg")
    lengths = torch.tensor([20_000, 97_000])
    batch = torch.full((2, 97_000), 0.3)
    for row, length in enumerate(lengths):
        batch[row, :length] = torch.from_numpy(sound(7, row))[:length]
    for encode in (ours, ours.predict_tags):
        alone = torch.cat([encode(batch[row : row + 1, :length]) for row, length in enumerate(lengths)])
        torch.testing.assert_close(encode(batch, lengths), alone, atol=1e-6, rtol=1e-5)


def test_random_weights_come_from_the_seed_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    card, settings = ENCODER.variants["musicnn-mtt-vgg"]
    one, same, other = (ENCODER.build(settings, card, seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["network.tags.weight"], other["network.tags.weight"])


@pytest.mark.parametrize("name", VARIANTS)
def test_sizes_are_those_of_the_spec(name):
    with torch.device("meta"):
        ours = encoder(name)
    width, parameters = {
        "musicnn-mtt": (1506, 787_159),
        "musicnn-msd": (1506, 787_159),
        "musicnn-msd-big": (4194, 7_980_235),
        "musicnn-mtt-vgg": (256, 605_748),
        "musicnn-msd-vgg": (256, 605_748),
    }[name]
    assert ENCODER.variants[name][0].dim == ours.card.dim == width
    assert ENCODER.variants[name][0].parameters == ours.card.parameters == parameters
    assert len(set(ours.tag_names)) == 50


def test_a_saved_encoder_loads_unchanged(tmp_path):
    ours, samples = encoder("musicnn-msd-vgg"), torch.from_numpy(sound(1))[None]
    save_pretrained(ours, tmp_path / "saved")
    assert torch.equal(load(tmp_path / "saved")(samples), ours(samples))


def wheel():
    """The wheel musicnn 0.1.0, fetched where it is not yet."""
    folder = Path(os.environ.get("CARRARA_TEST_WHEELS", Path(tempfile.gettempdir()) / "carrara-test-wheels"))
    path = folder / "musicnn-0.1.0-py3-none-any.whl"
    if not path.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "musicnn==0.1.0", "-d", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"the package index is out of reach: {done.stderr.strip().splitlines()[-1:]}")
    return path


@pytest.fixture(scope="module")
def real():
    path = wheel()
    (expected,) = ENCODER.variants["musicnn-mtt"][0].files.values()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == expected
    return path


@pytest.fixture(scope="module")
def clip():
    seconds = np.arange(7 * 16_000) / 16_000
    phase = 2 * np.pi * 220 * 7 / np.log(2) * (2 ** (seconds / 7) - 1)
    pulse = np.maximum(np.cos(2 * np.pi * 2.5 * seconds), 0) ** 4
    tone = sum(np.sin(k * phase) / k for k in (1, 2, 3))
    samples = 0.05 * pulse * tone + 0.01 * np.sin(2 * np.pi * 1500 * seconds)
    return torch.from_numpy(samples.astype(np.float32))[None]


@pytest.mark.parametrize("name, folder", {**FOLDERS, "musicnn-msd": "MSD_musicnn"}.items())
def test_real_weights_give_the_outputs_of_the_original_graph(real, clip, name, folder):
    ours, expected = encoder(name, ENCODER.load_official(name, real)), json.loads(REFERENCE.read_text())[folder]
    np.testing.assert_allclose(ours.predict_tags(clip)[0], expected["tags"], atol=2e-6)
    features = ours(clip).flatten()[:: expected["every"]]
    np.testing.assert_allclose(features, expected["features"], atol=2e-4, rtol=1e-5)


def test_tags_are_named_as_in_the_authors_configuration(real):
    tree = ast.parse(zipfile.ZipFile(real).read("musicnn/configuration.py"))
    theirs = {node.targets[0].id: ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)}
    assert encoder("musicnn-mtt").tag_names == tuple(theirs["MTT_LABELS"])
    assert encoder("musicnn-msd").tag_names == tuple(theirs["MSD_LABELS"])


# README.md of jordipons/musicnn prints these tags of MTT_musicnn for two clips in its folder audio/. Two more follow
# (dance, ambient), whose order changes when the first clip is shifted by 25 ms.
PUBLISHED_TAGS = {
    "joram-moments_of_clarity-08-solipsism-59-88.mp3": (
        "techno", "electronic", "synth", "fast", "beat", "drums", "no vocals", "no vocal",
    ),
    "TRWJAZW128F42760DD_test.mp3": ("guitar", "piano", "fast"),
}  # fmt: skip


@pytest.mark.parametrize("file", PUBLISHED_TAGS)
def test_the_authors_clips_have_the_tags_that_they_publish(real, file):
    """Where the clips lie beside the wheel: they are not distributed with this repository."""
    path = real.parent / file
    if not path.is_file():
        pytest.skip(f"{path} is not there; it is in the folder audio/ of github.com/jordipons/musicnn")
    ours = encoder("musicnn-mtt", ENCODER.load_official("musicnn-mtt", real))
    probabilities = ours.predict_tags(torch.from_numpy(load_audio(path, 16_000))[None])[0]
    tags = [ours.tag_names[index] for index in probabilities.argsort(descending=True)]
    assert tuple(tags[: len(PUBLISHED_TAGS[file])]) == PUBLISHED_TAGS[file]
