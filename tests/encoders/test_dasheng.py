"""Dasheng from files of the authors' format, against librosa's decibels and a numpy network in double precision."""

import librosa
import numpy as np
import pytest
import scipy.special
import torch
from safetensors.torch import save_file

from carrara.core.errors import WeightsError
from carrara.encoders._hub.load import build_encoder
from carrara.encoders._hub.official import convert_official
from carrara.encoders.dasheng import ENCODER, DashengSettings

RATE = 16_000
SMALL = DashengSettings(dim=24, num_layers=2, num_heads=3, ffn_dim=96)
SIZES = {
    "dasheng-base": (768, 12, 12, 86),
    "dasheng-0.6b": (1280, 32, 16, 600),
    "dasheng-1.2b": (1536, 40, 24, 1200),
}


def shapes(dim, layers):
    """Names and shapes of the authors' `AudioTransformerMAE_Encoder`, without the front end's constants."""
    named = {
        "init_bn.1.weight": (64,),
        "init_bn.1.bias": (64,),
        "init_bn.1.running_mean": (64,),
        "init_bn.1.running_var": (64,),
        "init_bn.1.num_batches_tracked": (),
        "patch_embed.proj.weight": (dim, 1, 64, 4),
        "patch_embed.proj.bias": (dim,),
        "time_pos_embed": (1, dim, 1, 252),
        "freq_pos_embed": (1, dim, 1, 1),
        "norm.weight": (dim,),
        "norm.bias": (dim,),
    }
    for layer in range(layers):
        stem = f"blocks.{layer}."
        for name, rows, columns in (
            ("attn.qkv", 3 * dim, dim),
            ("attn.proj", dim, dim),
            ("mlp.fc1", 4 * dim, dim),
            ("mlp.fc2", dim, 4 * dim),
        ):
            named |= {f"{stem}{name}.weight": (rows, columns), f"{stem}{name}.bias": (rows,)}
        for norm in ("norm1", "norm2"):
            named |= {f"{stem}{norm}.weight": (dim,), f"{stem}{norm}.bias": (dim,)}
    return named


@pytest.fixture(scope="module")
def table():
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, shape in shapes(SMALL.dim, SMALL.num_layers).items():
        noise = torch.randn(shape, generator=generator)
        made[name] = 0.2 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    made["patch_embed.proj.weight"] *= 0.1
    made["init_bn.1.running_mean"] = -20 + 5 * torch.randn(64, generator=generator)
    made["init_bn.1.running_var"] = 100 + 50 * torch.rand(64, generator=generator)
    made["init_bn.1.weight"] = 1 + 0.1 * torch.randn(64, generator=generator)
    made["init_bn.1.num_batches_tracked"] = torch.tensor(7)
    return made


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(ENCODER.variants, "dasheng-base", (ENCODER.variants["dasheng-base"][0], SMALL))


@pytest.fixture
def encoder(small, table, tmp_path):
    constants = {"front_end.0.spectrogram.window": torch.ones(512), "front_end.0.mel_scale.fb": torch.ones(257, 64)}
    config = {"embed_dim": 24, "target_length": 1008, "pooling": "mean", "group_masking": True}
    torch.save({"model": {**table, **constants}, "config": config}, tmp_path / "dasheng_base.pt")
    return convert_official("dasheng-base", tmp_path / "dasheng_base.pt").eval()


def noise(seconds, seed=0):
    samples = 0.1 * torch.randn(round(seconds * RATE), generator=torch.Generator().manual_seed(seed))
    samples[len(samples) // 2 :] *= 1e-7  # so that the floor of 120 dB below the maximum matters
    return samples


def described(samples, table):
    """Every layer's output by the authors' description, `[layers + 1, patches, dim]`."""
    w = {name: tensor.double().numpy() for name, tensor in table.items()}
    power = librosa.feature.melspectrogram(
        y=samples.double().numpy(), sr=RATE, n_fft=512, hop_length=160, n_mels=64, fmin=0, fmax=8000, htk=True,
        norm=None, pad_mode="reflect",
    )  # fmt: skip
    level = librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=120.0).T
    level = (level - w["init_bn.1.running_mean"]) / np.sqrt(w["init_bn.1.running_var"] + 1e-5)
    level = level * w["init_bn.1.weight"] + w["init_bn.1.bias"]
    patches = level[: len(level) // 4 * 4].reshape(-1, 4, 64)
    x = np.einsum("ptm,dmt->pd", patches, w["patch_embed.proj.weight"][:, 0]) + w["patch_embed.proj.bias"]
    parts = [described_part(x[start : start + 252], w) for start in range(0, len(x), 252)]
    return np.concatenate(parts, axis=1)


def described_part(x, w):
    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = x + (w["time_pos_embed"][0, :, 0, : len(x)] + w["freq_pos_embed"][0, :, 0]).T
    rows = [x]
    for layer in range(SMALL.num_layers):
        stem = f"blocks.{layer}."
        qkv = linear(norm(x, f"{stem}norm1"), f"{stem}attn.qkv").reshape(len(x), 3, SMALL.num_heads, -1)
        heads = [
            scipy.special.softmax(q @ k.T / np.sqrt(q.shape[-1]), axis=-1) @ v for q, k, v in qkv.transpose(2, 1, 0, 3)
        ]
        x = x + linear(np.concatenate(heads, axis=-1), f"{stem}attn.proj")
        hidden = linear(norm(x, f"{stem}norm2"), f"{stem}mlp.fc1")
        x = x + linear(hidden * 0.5 * (1 + scipy.special.erf(hidden / np.sqrt(2))), f"{stem}mlp.fc2")
        rows.append(x)
    return np.stack([*rows[:-1], norm(x, "norm")])


@torch.no_grad()
@pytest.mark.parametrize("seconds", [0.5, 3.0, 12.0])
def test_each_layer_is_the_described_network(encoder, table, seconds):
    samples = noise(seconds)
    expected = described(samples, table)
    actual = encoder(samples)[0]
    assert actual.shape == expected.shape
    assert actual.shape[1] == encoder.num_frames(len(samples)) == round(seconds * 25)
    for row, described_row in zip(actual, expected):
        np.testing.assert_allclose(row, described_row, atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_clips_in_a_batch_are_those_alone_also_across_a_cut(encoder):
    clips = [noise(12.0, 1), 100 * noise(10.09, 2), noise(0.01, 3), noise(3.0, 4)]
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    together = encoder(batch, torch.tensor([len(clip) for clip in clips]))
    for row, clip in zip(together, clips):
        frames = encoder.num_frames(len(clip))
        torch.testing.assert_close(row[:, :frames], encoder(clip)[0], atol=1e-5, rtol=1e-5)
        assert not row[:, frames:].any()


@pytest.mark.parametrize("form", ["folder of the authors", "folder of Hugging Face", "safetensors"])
def test_files_of_each_layout_are_the_same_network(encoder, small, table, tmp_path, form):
    if form == "folder of the authors":
        path = tmp_path
    else:
        path = tmp_path / "hub"
        path.mkdir()
        hub = {f"encoder.{name}": tensor.clone() for name, tensor in table.items()}
        save_file({**hub, "outputlayer.weight": torch.ones(527, 24)}, path / "model.safetensors")
        path = path / "model.safetensors" if form == "safetensors" else path
    again = convert_official("dasheng-base", path).eval()
    assert torch.equal(again(noise(1.0)), encoder(noise(1.0)))


@pytest.mark.parametrize(
    ("change", "message"), [({"pooling": "token"}, "its pooling is 'token'"), ({"n_mels": 128}, "n_mels")]
)
def test_another_kind_of_network_is_refused(small, table, tmp_path, change, message):
    torch.save({"model": table, "config": change}, tmp_path / "dasheng_base.pt")
    with pytest.raises(WeightsError, match=message):
        convert_official("dasheng-base", tmp_path / "dasheng_base.pt")


def test_another_size_and_an_empty_folder_are_refused(table, tmp_path):
    with pytest.raises(WeightsError, match=r"none of dasheng_base\.pt"):
        convert_official("dasheng-base", tmp_path)
    torch.save({"model": table, "config": {}}, tmp_path / "dasheng_base.pt")
    with pytest.raises(WeightsError, match="not the weights of this network"):
        convert_official("dasheng-base", tmp_path)


@pytest.mark.parametrize("name", SIZES)
def test_names_and_shapes_at_full_size_are_the_authors(name):
    dim, layers, heads, millions = SIZES[name]
    with torch.device("meta"):
        encoder = build_encoder(name)
    assert {key: tuple(tensor.shape) for key, tensor in encoder.state_dict().items()} == shapes(dim, layers)
    assert encoder.settings.num_heads == heads
    assert encoder.card.parameters == ENCODER.variants[name][0].parameters == pytest.approx(millions * 1e6, rel=0.06)
