"""CLMR against numpy, its windows against a list of slices, its checkpoints in both spellings, damaged and whole."""

import argparse
import os
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from carrara.core.errors import WeightsError
from carrara.encoders._hub.load import build_encoder
from carrara.encoders._hub.official import convert_official
from carrara.encoders.clmr import CHECKPOINT_FILE, ENCODER, clmr_windows

NATIVE, BENCHMARK = 59_049, 59_409
# (inputs, outputs) of the eleven convolutions, as in the paper's table of SampleCNN.
SIZES = [(1, 128), (128, 128), (128, 128), (128, 256), *[(256, 256)] * 5, (256, 512), (512, 512)]


def table(seed=0):
    """Weights by the published names, with norms that are not the identity."""
    generator = np.random.default_rng(seed)

    def normal(*shape):
        return torch.from_numpy(generator.standard_normal(shape).astype("f4"))

    tensors = OrderedDict()
    for i, (inputs, outputs) in enumerate(SIZES):
        conv, norm = f"sequential.{i}.0.", f"sequential.{i}.1."
        tensors[conv + "weight"] = normal(outputs, inputs, 3) * (2 / (3 * inputs)) ** 0.5
        tensors[conv + "bias"] = 0.1 * normal(outputs)
        tensors[norm + "weight"] = 1 + 0.2 * normal(outputs)
        tensors[norm + "bias"] = 0.2 * normal(outputs)
        tensors[norm + "running_mean"] = 0.1 * normal(outputs)
        tensors[norm + "running_var"] = normal(outputs).square() + 0.5
        tensors[norm + "num_batches_tracked"] = torch.tensor(7)
    return tensors


def by_numpy(tensors, samples):
    """The network in double precision on one window; also the length after every convolution and pooling."""
    x, lengths = samples[None].astype("f8"), []
    for i in range(11):
        values = {name.split(".", 2)[2]: tensor.double().numpy() for name, tensor in tensors.items()
                  if name.startswith(f"sequential.{i}.")}  # fmt: skip
        edged = x if i == 0 else np.pad(x, ((0, 0), (1, 1)))
        neighbours = np.lib.stride_tricks.sliding_window_view(edged, 3, axis=1)[:, :: 3 if i == 0 else 1]
        x = np.einsum("ctk,ock->ot", neighbours, values["0.weight"], optimize=True) + values["0.bias"][:, None]
        x = (x - values["1.running_mean"][:, None]) / np.sqrt(values["1.running_var"][:, None] + 1e-5)
        x = np.maximum(x * values["1.weight"][:, None] + values["1.bias"][:, None], 0)
        if 0 < i < 10:
            x = x[:, : x.shape[1] // 3 * 3].reshape(len(x), -1, 3).max(axis=2)
        lengths.append(x.shape[1])
    return x[:, 0], lengths


def lightning(tensors):
    """What Lightning writes: the encoder twice, a projector, settings and callbacks of classes that are not here."""
    state = OrderedDict((f"encoder.{name}", tensor) for name, tensor in tensors.items())
    state |= {f"model.encoder.{name}": tensor for name, tensor in tensors.items()}
    state |= {"model.encoder.fc.weight": torch.zeros(50, 512), "model.projector.0.weight": torch.zeros(64, 512)}
    module = types.ModuleType("lightning_of_old")
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})
    module.AttributeDict = type("AttributeDict", (dict,), {"__module__": module.__name__})
    sys.modules[module.__name__] = module
    return {
        "epoch": 9999,
        "pytorch-lightning_version": "1.1.4",
        "callbacks": {module.ModelCheckpoint: {"best_model_score": torch.tensor(3.2)}},
        "state_dict": state,
        "hparams_name": "args",
        "hyper_parameters": {"args": argparse.Namespace(lr=3e-4), "more": module.AttributeDict(batch_size=48)},
    }


def plain(tensors):
    rest = {"projector.0.weight": torch.zeros(64, 512), "encoder.fc.bias": torch.zeros(50)}
    return OrderedDict((f"encoder.{name}", tensor) for name, tensor in tensors.items()) | rest


SPELLINGS = {"lightning": lightning, "plain": plain}


@pytest.fixture(scope="module", params=SPELLINGS)
def checkpoint(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / CHECKPOINT_FILE
    torch.save(SPELLINGS[request.param](table()), path)
    sys.modules.pop("lightning_of_old", None)
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / CHECKPOINT_FILE
    torch.save(plain(table()), path)
    return path


def noise(samples, seed=0):
    return 0.3 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
@pytest.mark.parametrize("name, window", [("clmr-native", NATIVE), ("clmr", BENCHMARK)])
def test_features_are_the_mean_of_the_networks_over_all_windows_but_the_last(published, name, window):
    samples = noise(2 * window + 5_000)
    expected, lengths = zip(*(by_numpy(table(), samples[i * window : (i + 1) * window].numpy()) for i in range(2)))
    assert lengths[0][0] == window // 3 and lengths[0][-3:] == [3, 1, 1]
    ours = convert_official(name, published).eval()(samples[None])
    assert ours.shape == (1, 1, 1, 512)
    np.testing.assert_allclose(ours.flatten().numpy(), np.mean(expected, axis=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("samples", [11, 19, 20, 21, 30, 39, 40, 41])
def test_the_last_window_is_dropped_whether_complete_or_not(samples):
    clip = torch.arange(samples)
    slices = [clip[start : start + 10].tolist() for start in range(0, samples, 10)]
    assert clmr_windows(clip, 10).tolist() == slices[:-1]


@pytest.mark.parametrize("samples", [0, 1, 9, 10])
def test_a_clip_of_at_most_one_window_is_padded_with_zeros(samples):
    assert clmr_windows(torch.ones(samples), 10).tolist() == [[1.0] * samples + [0.0] * (10 - samples)]


@torch.inference_mode()
def test_ten_minutes_are_encoded_a_few_windows_at_a_time():
    seen = []

    class Means(torch.nn.Module):
        def forward(self, windows_NCW):
            seen.append(len(windows_NCW))
            return windows_NCW.mean(dim=-1, keepdim=True).expand(-1, 512, 1)

    encoder = build_encoder("clmr-native").eval()
    encoder.sequential = Means()
    long, short = torch.full((600 * 22_050,), 0.25), torch.full((30 * 22_050,), 0.5)
    batch = torch.nn.utils.rnn.pad_sequence([long, short], batch_first=True)
    features = encoder(batch, torch.tensor([len(long), len(short)]))
    assert max(seen) <= 8
    assert sum(seen) == 600 * 22_050 // NATIVE + 30 * 22_050 // NATIVE
    torch.testing.assert_close(features[:, 0, 0], torch.tensor([[0.25], [0.5]]).expand(2, 512))


def test_random_weights_come_from_the_seed_alone():
    before = torch.random.get_rng_state()
    one, same, other = (build_encoder("clmr", seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["sequential.3.0.weight"], other["sequential.3.0.weight"])
    assert one["sequential.3.1.running_var"].eq(1).all()


@pytest.mark.parametrize("given", ["file", "folder", "zip"])
def test_both_spellings_are_read_from_a_file_folder_or_zip(checkpoint, given, tmp_path):
    path = {"file": checkpoint, "folder": checkpoint.parent}.get(given)
    if given == "zip":
        path = tmp_path / "clmr_magnatagatune_mlp.zip"
        with zipfile.ZipFile(path, "w") as release:
            release.write(checkpoint, f"clmr_magnatagatune_mlp/{CHECKPOINT_FILE}")
    actual, target = ENCODER.load_official("clmr", path), table()
    assert set(actual) == set(target) == set(build_encoder("clmr").state_dict())
    assert all(torch.equal(actual[name], target[name]) for name in target)


def test_nothing_in_a_checkpoint_is_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save(
        {"pytorch-lightning_version": Trap(), "state_dict": lightning(table())["state_dict"]},
        tmp_path / CHECKPOINT_FILE,
    )
    assert set(ENCODER.load_official("clmr", tmp_path / CHECKPOINT_FILE)) == set(table())
    assert not (tmp_path / "sprung").exists()


def of_another_size():
    tensors = table()
    tensors["sequential.0.0.weight"] = torch.zeros(64, 1, 3)
    return plain(tensors)


WRONG = {
    "a layer less": (lambda: OrderedDict(list(plain(table()).items())[7:]), "missing"),
    "other sizes": (of_another_size, "another shape"),
    "a head": (
        lambda: {"pytorch-lightning_version": "1.1.4", "state_dict": {"model.0.weight": torch.zeros(2)}},
        "CLMR",
    ),
    "no table": (lambda: [1, 2], "CLMR"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_other_networks_are_refused(kind, tmp_path):
    content, reason = WRONG[kind]
    torch.save(content(), tmp_path / "other.ckpt")
    with pytest.raises(WeightsError, match=rf"other\.ckpt: .*{reason}"):
        convert_official("clmr", tmp_path / "other.ckpt")


BROKEN = {
    "empty": (b"", "empty"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS"),
    "page": (b"<!DOCTYPE html><html></html>", "web page"),
    "text": (b"Not Found, sorry about that, try another day", "text"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_without_weights_is_refused_by_its_kind(kind, tmp_path):
    content, reason = BROKEN[kind]
    (tmp_path / CHECKPOINT_FILE).write_bytes(content)
    with pytest.raises(WeightsError, match=reason):
        ENCODER.load_official("clmr", tmp_path / CHECKPOINT_FILE)


def test_files_cut_short_and_folders_without_the_file_are_named(published, tmp_path):
    (tmp_path / "cut.ckpt").write_bytes(published.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=r"cut\.ckpt: .*fetch it again"):
        ENCODER.load_official("clmr", tmp_path / "cut.ckpt")
    with pytest.raises(WeightsError, match=f"holds no {CHECKPOINT_FILE}"):
        ENCODER.load_official("clmr", tmp_path)
    with pytest.raises(WeightsError, match=r"nowhere\.ckpt"):
        ENCODER.load_official("clmr", tmp_path / "nowhere.ckpt")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("notes.txt", "nothing")
    with pytest.raises(WeightsError, match=rf"other\.zip: holds no {CHECKPOINT_FILE}"):
        ENCODER.load_official("clmr", tmp_path / "other.zip")
