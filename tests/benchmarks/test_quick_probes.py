"""The quick probes: the ridge classifier is scikit-learn's, and layer features are those of each clip alone."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

import carrara

SCRIPT = "quick_probes"


def test_the_probe_is_a_ridge_classifier(script):
    rng = np.random.default_rng(1)
    labels_N = rng.integers(0, 3, 150)
    features_ND = rng.normal(size=(150, 12)) + np.eye(3, 12)[labels_N]
    splits = ["train"] * 90 + ["valid"] * 30 + ["test"] * 30
    examples = [script.Example(Path("a"), 0.0, None, "abc"[label], split) for label, split in zip(labels_N, splits)]
    x_ND = StandardScaler().fit(features_ND[:90]).transform(features_ND)
    expected = []
    for penalty in script.PENALTIES:
        ridge = Ridge(alpha=penalty).fit(x_ND[:90], np.eye(3)[labels_N[:90]])
        is_right_N = ridge.predict(x_ND).argmax(1) == labels_N
        expected.append((is_right_N[90:120].mean(), is_right_N[120:].mean()))
    assert script.probe(features_ND, examples) == pytest.approx(max(expected, key=lambda pair: pair[0]))


def test_features_are_pooled_over_each_clips_own_frames(script, tmp_path):
    rng = np.random.default_rng(2)
    encoder = carrara.load("mert-tiny:random")
    rate = encoder.card.sample_rate
    clips = [0.1 * rng.standard_normal(length).astype(np.float32) for length in (rate, rate // 2)]
    examples = []
    for number, clip_T in enumerate(clips):
        soundfile.write(tmp_path / f"{number}.wav", clip_T, rate, subtype="FLOAT")
        examples.append(script.Example(tmp_path / f"{number}.wav", 0.0, None, "a", "train"))
    pooled = script.pooled_features(encoder, examples)
    for clip_T, row in zip(clips, pooled):
        with torch.inference_mode():
            layers_LFD = encoder(torch.from_numpy(clip_T)[None])[0].numpy()
        expected = np.concatenate([layers_LFD.mean(1), layers_LFD.std(1)], -1)
        np.testing.assert_allclose(row, expected, atol=1e-4)
