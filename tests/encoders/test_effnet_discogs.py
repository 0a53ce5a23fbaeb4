"""EfficientNet-Discogs: its front end against numpy and librosa, its patches, batches and memory."""

import json
from dataclasses import replace

import librosa
import numpy as np
import pytest
import torch

from carrara.core.errors import UsageError
from carrara.encoders import REGISTRY
from carrara.encoders._hub.load import build_encoder, load, save_pretrained
from carrara.encoders._hub.official import convert_official
from carrara.encoders.effnet_discogs import BATCH_SIZE, ENCODER, EffnetDiscogs, EffnetSettings

RATE, STYLES = 16_000, 7
CARD = ENCODER.variants["effnet-discogs"][0]
STYLE_NAMES = [f"Rock---Kind {number}" for number in range(STYLES)]


def small(seed=0):
    return EffnetDiscogs(EffnetSettings(width_multiplier=0.1, classes=STYLES), CARD, seed).eval()


def noise(seconds, seed=0):
    return 0.1 * torch.randn(1, int(seconds * RATE), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def encoder():
    return small()


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def reference_mel(samples):
    """The front end in numpy and librosa's filters: symmetric Hann, first frame on the first sample, zeros around."""
    count = max(len(samples) // 256, 1)
    padded = np.pad(samples, (256, 512))
    frames = np.stack([padded[256 * number : 256 * number + 512] for number in range(count)]) * np.hanning(512)
    power = np.abs(np.fft.rfft(frames)) ** 2
    return np.log10(1 + 10_000 * power @ librosa.filters.mel(sr=RATE, n_fft=512, n_mels=96, fmin=0, fmax=8000).T)


def test_patches_are_those_of_the_spec(encoder):
    samples = noise(5.0)[0]
    mel = reference_mel(samples.numpy().astype(np.float64))
    expected = np.stack([mel[start : start + 128] for start in range(0, len(mel) - 127, 62)])
    assert expected.shape == (3, 128, 96)
    np.testing.assert_allclose(encoder.patches(samples).numpy(), expected, atol=1e-4)


def test_a_short_clip_is_repeated_until_it_fills_a_patch(encoder):
    samples = noise(0.7)[0]
    mel = reference_mel(samples.numpy().astype(np.float64))
    assert len(mel) == 43
    expected = np.concatenate([mel, mel, mel])[None, :128]
    np.testing.assert_allclose(encoder.patches(samples).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(("frames", "patches"), [(1, 1), (128, 1), (189, 1), (190, 2), (625, 9)])
def test_what_remains_after_the_last_whole_patch_is_dropped(encoder, frames, patches):
    assert encoder.patches(noise(frames * 256 / RATE)[0]).shape == (patches, 128, 96)


def test_features_and_styles_are_means_over_the_patches(encoder):
    samples = noise(30.0)
    patches = encoder.patches(samples[0])
    assert len(patches) > 2 * BATCH_SIZE - 5
    features = torch.cat([encoder.network(patch[None])[1] for patch in patches])
    torch.testing.assert_close(encoder(samples)[0, 0, 0], features.mean(dim=0), atol=1e-4, rtol=1e-4)
    probabilities = encoder.classifier(features).sigmoid().mean(dim=0)
    torch.testing.assert_close(encoder.predict_tags(samples)[0], probabilities)
    assert encoder.predict_tags(samples).shape == (1, STYLES)


def test_padding_changes_nothing_even_where_it_is_no_silence(encoder):
    clips = [noise(seconds, seed)[0] for seed, seconds in enumerate((3.0, 0.01, 1.0, 2.5))]
    batch = 5.0 * torch.randn(len(clips), len(clips[0]), generator=torch.Generator().manual_seed(9))
    for row, clip in zip(batch, clips):
        row[: len(clip)] = clip
    together = encoder(batch, torch.tensor([len(clip) for clip in clips]))
    for row, clip in zip(together, clips):
        alone = encoder(clip[None])[0]
        torch.testing.assert_close(row, alone, atol=1e-5 * alone.abs().max().item(), rtol=1e-4)


def test_the_same_seed_gives_the_same_encoder(encoder):
    assert torch.equal(encoder(noise(2.0)), small()(noise(2.0)))
    assert not torch.allclose(encoder(noise(2.0)), small(seed=1)(noise(2.0)))


def test_an_empty_clip_is_refused(encoder):
    with pytest.raises(UsageError, match="no samples"):
        encoder(torch.zeros(1, 0))


def test_ten_minutes_are_encoded_in_blocks(encoder, monkeypatch):
    sizes = []

    def stand_in(patches):
        sizes.append(len(patches))
        return None, torch.ones(len(patches), 128)

    monkeypatch.setattr(encoder.network, "forward", stand_in)
    assert (encoder(noise(600.0)) == 1).all()
    assert sum(sizes) == (600 * RATE // 256 - 128) // 62 + 1
    assert max(sizes) == BATCH_SIZE


@pytest.mark.parametrize("content", [STYLE_NAMES, {"name": "genre discogs400", "classes": STYLE_NAMES}])
def test_labels_beside_the_file_name_the_tags_and_are_saved(tmp_path, monkeypatch, content):
    whole = small(seed=2)
    variants = {"effnet-discogs": (CARD, whole.settings)}
    family = replace(ENCODER, variants=variants, load_official=lambda name, path: whole.state_dict())
    monkeypatch.setitem(REGISTRY.loaded, REGISTRY.get_entry("effnet-discogs").module, family)
    file = tmp_path / "official" / "discogs-effnet-bsdynamic-1.onnx"
    file.parent.mkdir()
    assert convert_official("effnet-discogs", file).tag_names == tuple(f"style {number}" for number in range(STYLES))
    (file.parent / "labels.json").write_text(json.dumps(content))
    for path in (file, file.parent):
        encoder = convert_official("effnet-discogs", path).eval()
        assert encoder.tag_names == tuple(STYLE_NAMES)
        assert torch.equal(encoder.predict_tags(noise(2.5)), whole.predict_tags(noise(2.5)))
    save_pretrained(encoder, tmp_path / "saved")
    monkeypatch.undo()
    assert load(tmp_path / "saved").tag_names == tuple(STYLE_NAMES)


def test_labels_of_another_head_are_refused(tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps(STYLE_NAMES[:5]))
    with pytest.raises(UsageError, match=r"labels.json: 5 names for a head of 7 styles: none for style 5, 6"):
        ENCODER.settings_from_files("effnet-discogs", EffnetSettings(classes=STYLES), tmp_path)


def test_a_saved_encoder_keeps_its_padding_rule(tmp_path):
    made = build_encoder("effnet-discogs", seed=3, changes={"width_multiplier": 0.1, "classes": STYLES}).eval()
    made.network.symmetric.fill_(True)
    save_pretrained(made, tmp_path / "saved")
    back = load(tmp_path / "saved")
    assert back.network.symmetric
    assert back.card.dim == 128
    torch.testing.assert_close(made(noise(2.5)), back(noise(2.5)), atol=1e-4, rtol=1e-4)
