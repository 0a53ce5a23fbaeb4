"""Targets lie on the student's frames, have the published shapes, and are unchanged after saving and loading."""

from functools import partial

import librosa
import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from carrara.core.errors import DataError, UsageError
from carrara.encoders._frame_encoder import FrameGrid
from carrara.encoders._hub.load import build_encoder, save_pretrained
from carrara.pretrain.targets import REGISTRY
from carrara.pretrain.targets._base import features_on_grid

GRIDS = [FrameGrid(16_000, 320, 200), FrameGrid(24_000, 320, 200)]
FEATURES = ["mfcc-39", "mfcc-60", "log-mel-229", "chroma-264", "chroma-cqt"]
clusters, cqt = REGISTRY.get("clusters"), REGISTRY.get("cqt")


def crops(rate, seconds=2.0, count=4):
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(count, int(rate * seconds), generator=generator)


def responses(target, rate):
    """Return each frame's response to a click on the centre of the student's frame 40, and to one on that of 81."""
    by_frame = {}
    for frame in (40, 81):
        samples = torch.zeros(1, 2 * rate)
        samples[0, 320 * frame + 200] = 0.5
        features = target.features if isinstance(target, clusters) else target.values
        if isinstance(target, clusters) and target.settings.feature == "chroma-cqt":
            # Each frame's loudest class is scaled to 1 however faint it is, so the CQT before that is tested.
            features = partial(features_on_grid, target.transform.cqt, grid=target.grid)
        silent = features(torch.zeros_like(samples), frames=None)
        by_frame[frame] = (features(samples, frames=None) - silent)[0].abs().sum(-1)
    return by_frame


def test_chroma_cqt_of_a_note_that_dies_away_does_not_depend_on_the_number_of_threads():
    """In single precision, .23 of 1 in the silent frames, and 12 % of the labels of a crop were others."""
    time = torch.arange(48_000) / 24_000
    note = 0.2 * torch.sin(2 * torch.pi * 440 * time) * torch.exp(-8 * time) * (time < 1.2)
    target = clusters(clusters.settings_type(feature="chroma-cqt", k=4), GRIDS[1])
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(target.features(note[None], frames=None))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("grid", GRIDS, ids=["50 Hz", "75 Hz"])
@pytest.mark.parametrize("feature", [*FEATURES, "cqt"])
def test_a_click_shows_at_the_students_frame(feature, grid):
    if feature == "cqt":
        target = cqt(cqt.settings_type(bins=84, bins_per_octave=12), grid)
    else:
        target = clusters(clusters.settings_type(feature=feature, k=4), grid)
    for frame, response in responses(target, grid.sample_rate).items():
        responding = response > 0.3 * response.max()
        indices = torch.arange(len(response))[responding].double()
        # The response is even around the frame, whose centre is within a sample of the click.
        assert abs(float(indices.mean()) - frame) <= 0.5
        assert responding[frame]


@pytest.mark.parametrize("grid", GRIDS, ids=["50 Hz", "75 Hz"])
@pytest.mark.parametrize("feature", FEATURES)
def test_there_is_a_label_for_every_frame_of_the_network(feature, grid):
    target = clusters(clusters.settings_type(feature=feature, k=4), grid)
    frames = build_encoder("mert-tiny", 0).num_frames(grid.sample_rate * 2)
    codes = target.labels(crops(grid.sample_rate), frames)
    assert codes.dtype == torch.int64
    assert codes.shape[0] == 4
    assert codes.shape[2] == 1
    # Kaldi's 25 ms are longer than 400 samples at 24 kHz, so a frame can be missing at the end.
    assert frames - 1 <= codes.shape[1] <= frames
    if grid.sample_rate == 16_000:
        assert codes.shape[1] == frames


def test_log_mel_and_chroma_are_librosas_on_shifted_frames():
    samples = crops(16_000, count=1)
    padded = np.pad(samples[0].numpy(), (120, 0))
    mel = librosa.feature.melspectrogram(
        y=padded, sr=16_000, n_fft=2048, hop_length=320, n_mels=229, fmin=30, fmax=8000, pad_mode="constant"
    )
    chroma = librosa.feature.chroma_stft(
        y=padded, sr=16_000, n_fft=512, win_length=400, hop_length=320, n_chroma=264, tuning=0, pad_mode="constant"
    )
    for feature, expected in (("log-mel-229", np.log(np.maximum(mel, 1e-10))), ("chroma-264", chroma)):
        ours = clusters(clusters.settings_type(feature=feature, k=2), GRIDS[0]).features(samples, 99)[0].numpy()
        np.testing.assert_allclose(ours, expected.T[1:100], atol=2e-3, rtol=2e-3)


def test_codes_are_the_nearest_of_scikit_learns_centroids():
    samples = crops(16_000)
    target = clusters(clusters.settings_type(feature="mfcc-39", k=5), GRIDS[0])
    report = target.fit(samples.split(1), 0)
    points = target.features(samples, None).flatten(0, 1).numpy()
    theirs = KMeans(5, init=target.centroids_KD.numpy(), n_init=1, max_iter=1).fit(points)
    assert report["inertia"] == pytest.approx(theirs.inertia_ / len(points), rel=1e-3)
    agree = (target.labels(samples, 99).flatten().numpy() == theirs.labels_).mean()
    assert agree > 0.97
    assert report["points"] == len(points)


def test_the_same_seed_gives_the_same_codes():
    samples = crops(16_000)
    pair = [clusters(clusters.settings_type(k=6), GRIDS[0]) for _ in range(2)]
    for target in pair:
        target.fit([samples], 5)
    assert torch.equal(pair[0].labels(samples, 99), pair[1].labels(samples, 99))


def test_a_large_corpus_is_clustered_as_a_stream(monkeypatch):
    monkeypatch.setattr("carrara.pretrain.targets.clusters.MEMORY_BYTES", 100 * 229 * 4)
    samples = crops(16_000, count=12)
    target = clusters(clusters.settings_type(k=6), GRIDS[0])
    report = target.fit(samples.split(1), 0)
    assert report["passes"] == 1
    assert report["points"] == 12 * 100


def test_more_clusters_than_frames_and_an_empty_stream_are_refused():
    target = clusters(clusters.settings_type(k=500), GRIDS[0])
    with pytest.raises(UsageError, match="500 clusters need at least 500 frames, not 100"):
        target.fit([crops(16_000, count=1)], 0)
    with pytest.raises(DataError, match="no crop to cluster"):
        target.fit([], 0)


@pytest.mark.parametrize("form", ["magnitude", "log"])
def test_cqt_values_are_librosas_in_their_form(form):
    samples = crops(16_000, count=2)
    target = cqt(cqt.settings_type(bins=48, bins_per_octave=12, form=form), GRIDS[0])
    target.fit([samples], 0)
    padded = np.pad(samples.numpy(), ((0, 0), (120, 0)))
    # Ours is scaled by the root of the kernels' lengths, librosa's `scale=True`.
    theirs = np.abs(librosa.cqt(padded, sr=16_000, hop_length=320, fmin=32.7, n_bins=48, pad_mode="constant"))
    theirs = theirs.transpose(0, 2, 1)[:, 1:101]
    if form == "log":
        theirs = np.log1p(100 * theirs)
    ours = target.labels(samples, 100).numpy()
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.99
    np.testing.assert_allclose(target.mean_M.numpy(), ours.mean((0, 1)), atol=1e-4)


def test_a_cqt_above_half_the_rate_is_refused():
    with pytest.raises(UsageError):
        cqt(cqt.settings_type(bins=120, bins_per_octave=12), GRIDS[0])


def test_a_fitted_target_is_unchanged_after_loading():
    samples = crops(16_000)
    settings = clusters.settings_type(k=6)
    target, again = clusters(settings, GRIDS[0]), clusters(settings, GRIDS[0])
    target.fit([samples], 0)
    again.load_state_dict(target.state_dict())
    assert torch.equal(target.labels(samples, 99), again.labels(samples, 99))


def test_a_layer_of_an_encoder_is_clustered_for_the_second_iteration(melody, tmp_path):
    first = build_encoder("musichubert-tiny", 3)
    save_pretrained(first, tmp_path / "first")
    grid = FrameGrid(16_000, 320, 200)
    settings = clusters.settings_type(feature="layer", encoder=str(tmp_path / "first"), layer=2, k=5)
    target = clusters(settings, grid)
    crops = torch.from_numpy(np.stack([melody(1.0, seed) for seed in range(6)])).float()
    target.fit([crops], seed=0)
    with torch.no_grad():
        rows = first.eval()(crops)[:, 2]
    expected = torch.cdist(rows.flatten(0, 1), target.centroids_KD).argmin(1).view(6, -1)
    assert torch.equal(target.labels(crops, 49)[..., 0], expected[:, :49])
    assert list(target.state_dict()) == ["centroids_KD"]
    with pytest.raises(UsageError, match="has . layers, so layer 9 does not exist"):
        clusters(settings.model_copy(update={"layer": 9}), grid)
    with pytest.raises(
        UsageError, match=r"takes 16000 Hz and gives 50 frames per second, the student needs 24000 and 75"
    ):
        clusters(settings, FrameGrid(24_000, 320, 200))


def onset_grid_and_samples():
    rate, hop = 16_000, 640
    time = np.arange(6 * rate) / rate
    clicks = (np.sin(2 * np.pi * 880 * time) * np.exp(-30 * (time % 0.4))).astype(np.float32)
    return FrameGrid(rate, hop, 0), torch.from_numpy(clicks[None] * 0.3)


def test_onsets_are_the_rises_of_librosas_log_mel():
    grid, samples = onset_grid_and_samples()
    ours = clusters(clusters.settings_type(feature="onsets", k=2), grid).features(samples, 120)[0].numpy()
    mel = librosa.feature.melspectrogram(
        y=samples[0].numpy(), sr=16_000, n_fft=2048, hop_length=640, n_mels=229, fmin=30, fmax=8000, pad_mode="constant"
    )
    theirs = librosa.onset.onset_strength(S=np.log(np.maximum(mel, 1e-10)), lag=1, center=False)
    np.testing.assert_allclose(ours.mean(-1), theirs[:120], atol=2e-3, rtol=2e-3)


def test_the_tempogram_is_librosas_and_peaks_at_the_beat():
    grid, samples = onset_grid_and_samples()
    target = clusters(clusters.settings_type(feature="tempogram", k=2), grid)
    ours = target.features(samples, 150)[0].numpy()
    strength = target.transform.onsets(samples)[0].mean(-1).numpy()
    padded = np.pad(strength, (50, 49))
    theirs = librosa.feature.tempogram(onset_envelope=padded, win_length=100, center=False)
    assert ours.shape == (150, 50)
    np.testing.assert_allclose(ours, theirs[1:51, :150].T, atol=1e-4)
    # 0.4 s at 25 frames a second.
    assert (ours[40:110].argmax(-1) + 1 == 10).all()
    assert np.isfinite(target.features(torch.zeros(1, 16_000), None)).all()
