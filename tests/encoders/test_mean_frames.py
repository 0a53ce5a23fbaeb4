"""The mean over frames, layer by layer, against NumPy's mean of all frames of all layers."""

import numpy as np
import pytest
import torch

from carrara.encoders._hub.load import build_encoder

ENCODERS = {
    "mert-tiny": {},
    "mert-v1-330m": {"num_layers": 1, "dim": 64, "num_heads": 4, "ffn_dim": 64, "conv_channels": 16},
    "musicfm-tiny": {},
    "mel-conformer-tiny": {},
    "maest-tiny": {"tokens": "frames"},
    "cqt-mel-tiny": {},
}


@pytest.mark.parametrize("name", ENCODERS)
def test_the_mean_is_that_of_each_clips_own_frames(name):
    encoder = build_encoder(name, changes=ENCODERS[name]).eval()
    rate = encoder.card.sample_rate
    lengths = [rate, rate // 2 + 77]
    samples_BT = 0.1 * torch.randn(2, rate, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        layers_BLFD = encoder(samples_BT, torch.tensor(lengths)).numpy()
        means_BLD = encoder.mean_frames(samples_BT, torch.tensor(lengths)).numpy()
        alone_1LD = encoder.mean_frames(samples_BT[:1]).numpy()
    assert means_BLD.dtype == np.float32
    for clip, length in enumerate(lengths):
        expected_LD = layers_BLFD[clip, :, : encoder.num_frames(length)].astype(np.float64).mean(1)
        np.testing.assert_allclose(means_BLD[clip], expected_LD, atol=1e-5)
    np.testing.assert_allclose(alone_1LD[0], means_BLD[0], atol=1e-4)


@pytest.mark.parametrize("name", ["mert-tiny", "musicfm-tiny", "maest-tiny"])
def test_no_layers_frames_are_kept(name):
    encoder = build_encoder(name).eval()
    seen = []
    with torch.inference_mode():
        encoder.stack(encoder_input(encoder), keep=lambda x: seen.append(x.shape) or x.mean(1))
    assert len(seen) == encoder.card.num_layers + 1 and len(set(seen)) == 1


def encoder_input(encoder):
    samples_BT = 0.1 * torch.randn(1, encoder.card.sample_rate)
    if encoder.card.name.startswith("maest"):
        return encoder.normalize(encoder.mel(samples_BT))
    return encoder.project(encoder.conv_features(samples_BT))
