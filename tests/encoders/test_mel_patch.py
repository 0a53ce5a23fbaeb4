"""The patch Transformer of M2D against librosa, NumPy and PyTorch's own Transformer layers."""

import librosa
import numpy as np
import pytest
import torch
from torch import nn

from carrara.encoders._hub.load import build_encoder
from carrara.encoders.mel_patch import sinusoidal_positions


@pytest.fixture(scope="module")
def encoder():
    return build_encoder("mel-patch-tiny").eval()


def test_patches_are_those_of_librosas_spectrogram(encoder):
    samples = 0.1 * np.random.default_rng(0).normal(size=97_280).astype(np.float32)
    mel = librosa.feature.melspectrogram(
        y=samples, sr=16_000, n_fft=400, hop_length=160, n_mels=80, fmin=50, fmax=8000, pad_mode="constant"
    )
    normal = (np.log(mel[:, :608]) - encoder.settings.mel_mean) / encoder.settings.mel_std
    patches = encoder.patches(torch.from_numpy(samples)[None])[0].numpy()
    assert patches.shape == (190, 256)
    for column, row in ((0, 0), (3, 1), (37, 4)):
        block = normal[16 * row : 16 * row + 16, 16 * column : 16 * column + 16].T
        np.testing.assert_allclose(patches[5 * column + row], block.ravel(), atol=2e-4)


def test_positions_are_sinusoids_of_column_and_row():
    positions = sinusoidal_positions(7, 5, 16, torch.device("cpu")).numpy()
    for column in range(7):
        for row in range(5):
            rates = 10_000.0 ** -(np.arange(4) / 4)
            expected = np.concatenate([f(x * rates) for x in (column, row) for f in (np.sin, np.cos)])
            np.testing.assert_allclose(positions[5 * column + row], expected, atol=1e-6)


def test_layers_are_those_of_pytorchs_pre_norm_transformer(encoder):
    settings = encoder.settings
    patches = torch.randn(2, 190, 256)
    ours = encoder.encode(patches)
    positions = sinusoidal_positions(38, 5, settings.dim, patches.device)
    hidden = patches @ encoder.patch_embed.weight.T + encoder.patch_embed.bias + positions
    torch.testing.assert_close(ours[0], hidden)
    for index, block in enumerate(encoder.blocks):
        layer = nn.TransformerEncoderLayer(
            settings.dim, settings.num_heads, settings.ffn_dim, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True
        ).eval()
        names = {"self_attn.in_proj_": "attn.qkv.", "self_attn.out_proj.": "attn.proj.", "linear": "mlp.fc"}
        state = block.state_dict()
        renamed = {}
        for name in layer.state_dict():
            key = name
            for theirs, mine in names.items():
                key = key.replace(theirs, mine)
            renamed[name] = state[key]
        layer.load_state_dict(renamed)
        hidden = layer(hidden)
        expected = hidden if index + 1 < settings.num_layers else encoder.norm(hidden)
        torch.testing.assert_close(ours[index + 1], expected, atol=1e-5, rtol=1e-4)


def test_a_column_is_its_patches_concatenated_or_averaged(encoder):
    samples = 0.1 * torch.randn(1, 97_280)
    tokens = torch.stack(encoder.encode(encoder.patches(samples)), 1).unflatten(2, (38, 5))
    with torch.no_grad():
        torch.testing.assert_close(encoder(samples), tokens.flatten(3))
        mean = build_encoder("mel-patch-tiny", changes={"frequency": "mean"}).eval()
        assert mean.card.dim == 128
        torch.testing.assert_close(mean(samples), tokens.mean(3), atol=1e-5, rtol=1e-4)


def test_long_audio_is_encoded_in_equal_windows_of_columns(encoder):
    samples = 0.1 * torch.randn(1, 60 * 2560)  # 60 columns: two windows of 30
    with torch.no_grad():
        features = encoder(samples)
        patches = encoder.patches(samples)
        halves = [torch.stack(encoder.encode(half), 1).unflatten(2, (30, 5)).flatten(3) for half in patches.chunk(2, 1)]
    torch.testing.assert_close(features, torch.cat(halves, 2), atol=1e-5, rtol=1e-4)
