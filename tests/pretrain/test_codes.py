"""Codes of all five sources lie on the student's frames and equal a naive computation or transformers' own."""

import json

import librosa
import numpy as np
import pytest
import torch

from carrara.core.errors import UsageError, WeightsError
from carrara.core.settings import parse_settings
from carrara.encoders._frame_encoder import FrameGrid
from carrara.nn.quantize.kmeans import kmeans_plusplus
from carrara.nn.quantize.rvq_vae import RVQVAE, CodecSettings
from carrara.pretrain import label_checks
from carrara.pretrain.codec_folder import save_codec
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.targets import REGISTRY, _codecs
from carrara.pretrain.targets._codecs import CodecOnGrid

MERT_V0, MERT_V1, MUSICFM = FrameGrid(16_000, 320, 200), FrameGrid(24_000, 320, 200), FrameGrid(24_000, 960, 480)
codes = REGISTRY.get("codes")
SMALL = {"num_codebooks": 3, "codebook_size": 8, "learning_steps": 30}


def crops(melody, rate, seconds=1.0, count=4):
    longer = seconds * rate / 16_000
    return torch.from_numpy(np.stack([melody(longer, seed) for seed in range(count)])).float()


def build_target(grid, **settings):
    return codes(parse_settings(codes.settings_type, {**SMALL, **settings}, "test"), grid)


@pytest.fixture(scope="module")
def own(tmp_path_factory, melody):
    """A folder with an RVQ-VAE of 16 kHz whose codebooks have started."""
    folder = tmp_path_factory.mktemp("own")
    codec = RVQVAE(CodecSettings(sample_rate=16_000, filters=4, latent=8, num_codebooks=4, codebook_size=8), seed=1)
    codec.books.start(codec.latents(crops(melody, 16_000)), torch.Generator().manual_seed(0))
    save_codec(codec, folder)
    return folder


@pytest.fixture(scope="module")
def encodec(tmp_path_factory, melody):
    """(folder, model): EnCodec as transformers builds it, four channels wide, with codes where its latents are."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    # 8 codes are 3 bits, at 75 frames a second 225 bit/s per codebook: four codebooks.
    config = transformers.EncodecConfig(
        num_filters=4, hidden_size=8, codebook_dim=8, codebook_size=8, target_bandwidths=[0.9]
    )
    model = transformers.EncodecModel(config).eval()
    with torch.no_grad():
        residual = model.encoder(crops(melody, 24_000, 1.0)[:, None]).transpose(1, 2).flatten(0, 1)
        for layer in model.quantizer.layers:
            # Latent vectors that are far apart as codes, so that different audio has different codes.
            layer.codebook.embed.copy_(kmeans_plusplus(residual, 8, torch.Generator().manual_seed(0)))
            residual = residual - layer.codebook.embed[torch.cdist(residual, layer.codebook.embed).argmin(1)]
    folder = tmp_path_factory.mktemp("encodec")
    model.save_pretrained(folder)
    return folder, model


@torch.no_grad()
def transformers_codes(model, samples):
    return model.encode(samples[:, None], bandwidth=0.9).audio_codes[0].transpose(1, 2)[..., :3]


def fitted(source, grid, melody, own, encodec=None, **more):
    weights = {"rvq-vae": own, "encodec": encodec[0] if encodec else None}.get(source)
    target = build_target(grid, source=source, weights=weights and str(weights), **more)
    target.report = target.fit(crops(melody, grid.sample_rate).split(2), 5)
    return target


@pytest.mark.parametrize("grid", [MERT_V0, MERT_V1], ids=["50 Hz", "75 Hz"])
@pytest.mark.parametrize("source", ["residual-k-means", "random-projection", "mel-rvq", "rvq-vae", "encodec"])
def test_every_source_labels_every_frame_and_passes_the_sanity_check(source, grid, melody, own, encodec):
    target, samples = fitted(source, grid, melody, own, encodec), crops(melody, grid.sample_rate)
    frames = (samples.shape[1] - 400) // 320 + 1
    label_checks.check_labels({"codes": target}, samples, frames)
    labels = target.labels(samples, frames)
    assert labels.shape == (4, frames, 3)
    assert labels.dtype == torch.int64
    assert target.num_classes == (8, 8, 8)
    assert len(target.report["usage"]) == 3
    again = build_target(grid, source=source, weights=target.settings.weights)
    again.load_state_dict(target.state_dict())
    assert torch.equal(again.labels(samples, frames), labels)


def test_residual_k_means_is_a_naive_search_in_librosas_log_mel(melody, own):
    target, samples = fitted("residual-k-means", MERT_V0, melody, own), crops(melody, 16_000, count=1)
    mel = librosa.feature.melspectrogram(
        y=np.pad(samples[0].numpy(), (120, 0)), sr=16_000, n_fft=2048, hop_length=320, n_mels=229, fmin=30, fmax=8000,
        pad_mode="constant",
    )  # fmt: skip
    residual = np.log(np.maximum(mel, 1e-10)).T[1:50]
    labels = target.labels(samples, 49)[0].numpy()
    for codebook, centroids in enumerate(target.source.books_QKD.numpy()):
        nearest = ((residual[:, None] - centroids) ** 2).sum(-1).argmin(1)
        assert (nearest == labels[:, codebook]).mean() > 0.97
        residual = residual - centroids[labels[:, codebook]]
    assert target.report["left"] == sorted(target.report["left"], reverse=True)


@pytest.mark.parametrize(("grid", "stack"), [(MERT_V0, 2), (MERT_V1, 1), (MUSICFM, 4), (FrameGrid(16_000, 321, 5), 1)])
def test_mel_frames_are_stacked_to_ten_milliseconds_around_the_students_frames(grid, stack):
    target = build_target(grid, source="random-projection")
    assert target.source.stack == stack
    click = torch.zeros(1, 2 * grid.sample_rate)
    click[0, 20 * grid.hop + grid.centre] = 0.5
    change = (target.source.features(click, None) - target.source.features(torch.zeros_like(click), None)).abs()[0]
    assert change.shape[1] == 128 * stack
    # The window of 2048 samples is wider than a frame, so the click shows evenly on both sides of its own.
    small = change.view(-1, 128).sum(1)
    centre = float((small * torch.arange(len(small))).sum() / small.sum())
    assert abs(centre - (20 * stack + (stack - 1) / 2)) < 0.3


def test_stacked_features_are_librosas(melody):
    target, samples = build_target(MERT_V0, source="random-projection"), crops(melody, 16_000, count=1)
    mel = librosa.feature.melspectrogram(
        y=np.pad(samples[0].numpy(), (40, 0)), sr=16_000, n_fft=2048, hop_length=160, n_mels=128, htk=True, norm=None,
        pad_mode="constant",
    )  # fmt: skip
    # Small frame j is centred on sample 160·j + 120: the pair around the student's 320·i + 200 is 2·i and 2·i + 1.
    expected = 10 * np.log10(np.maximum(mel, 1e-10)).T[1:91].reshape(45, 256)
    np.testing.assert_allclose(target.source.features(samples, 45)[0].numpy(), expected, atol=2e-2)


def test_a_random_projections_features_are_standardised_over_the_corpus(melody, own):
    target, samples = fitted("random-projection", MERT_V0, melody, own), crops(melody, 16_000)
    points = (target.source.features(samples, None) - target.source.mean_D) / target.source.deviation_D
    np.testing.assert_allclose(points.mean(dim=(0, 1)), 0, atol=1e-3)
    np.testing.assert_allclose(points.std(dim=(0, 1), correction=0), 1, atol=1e-2)


@pytest.mark.parametrize("source", ["residual-k-means", "mel-rvq"])
def test_what_does_not_fit_in_memory_is_streamed(source, melody, own, monkeypatch):
    monkeypatch.setattr("carrara.pretrain.targets._mel_codes.MEMORY_BYTES", 100 * 229 * 4)
    target = fitted(source, MERT_V0, melody, own)
    assert min(target.report["usage"]) > 1 / 8
    if source == "residual-k-means":
        assert target.report["points"] == 4 * 50


@pytest.mark.parametrize("source", ["residual-k-means", "random-projection", "mel-rvq"])
def test_the_same_seed_gives_the_same_labels(source, melody, own):
    samples = crops(melody, 16_000, count=1)
    one, other = (fitted(source, MERT_V0, melody, own) for _ in range(2))
    assert torch.equal(one.labels(samples, 49), other.labels(samples, 49))


def test_encodecs_codes_are_transformers(encodec, melody):
    folder, model = encodec
    samples = crops(melody, 24_000)
    theirs = transformers_codes(model, samples)
    target = build_target(MERT_V1, source="encodec", weights=str(folder))
    ours = target.labels(samples, 74)
    assert len(torch.unique(theirs[..., 0])) > 2
    assert torch.equal(ours, theirs[:, :74])


@pytest.mark.parametrize("grid", [MERT_V0, MERT_V1], ids=["50 Hz", "75 Hz"])
def test_encodecs_labels_change_from_where_the_sound_does_and_not_before(grid, encodec, melody):
    target, samples = build_target(grid, source="encodec", weights=str(encodec[0])), crops(melody, grid.sample_rate)
    frames = (samples.shape[1] - 400) // 320 + 1
    changed = samples.clone()
    changed[:, 320 * 20 + 200 :] = samples.flip(0, 1)[:, 320 * 20 + 200 :]
    differing = (target.labels(samples, frames) != target.labels(changed, frames)).any(dim=2).any(dim=0).nonzero()[:, 0]
    # Resampling looks a frame ahead; eight codes that are far apart may stay the same for some frames of new sound.
    assert 19 <= int(differing[0]) <= 25
    assert target.causal
    assert not build_target(grid).causal


def test_encodec_in_pieces_has_the_codes_of_the_whole_file(encodec, melody, monkeypatch):
    folder, model = encodec
    samples = crops(melody, 24_000, seconds=4.003, count=2)
    theirs = transformers_codes(model, samples)
    monkeypatch.setattr(_codecs, "CHUNK_FRAMES", 41)
    ours = build_target(MERT_V1, source="encodec", weights=str(folder)).source.codec.encode(samples)
    assert ours.shape == theirs.shape == (2, 301, 3)
    assert (ours == theirs).double().mean() > 0.995


def test_a_codec_of_another_rate_is_read_at_the_middle_of_the_students_frames(encodec, melody):
    target = build_target(MERT_V0, source="encodec", weights=str(encodec[0]))
    samples = crops(melody, 16_000, count=1)
    resampled = torch.from_numpy(
        librosa.resample(samples.numpy(), orig_sr=16_000, target_sr=24_000, res_type="soxr_hq")
    )
    theirs = transformers_codes(encodec[1], resampled)
    at = [int(75 * (320 * frame + 200) / 16_000) for frame in range(49)]
    assert (target.labels(samples, 49) == theirs[:, at]).double().mean() > 0.98


def test_our_own_codec_is_given_the_sound_from_where_the_frames_middles_meet(own, melody):
    target = build_target(MERT_V0, source="rvq-vae", weights=str(own))
    samples = crops(melody, 16_000, count=1)
    network = target.source.codec.network
    # The student's frame 0 is centred on sample 200, the codec's on 160 of what it is given.
    assert torch.equal(target.labels(samples, 49), network.encode(samples[:, 40:])[:, :49, :3])
    early = CodecOnGrid(target.source.codec, FrameGrid(16_000, 320, 100))
    silence = torch.zeros(1, 60)
    assert torch.equal(early.encode(samples, 49), network.encode(torch.cat([silence, samples], 1))[:, :49, :3])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use": 3}, "use is all, random, or a codebook from 0 to 2"),
        ({"use": "some"}, "use"),
        ({"source": "rvq-vae"}, "weights=FOLDER, made by `carrara pretrain rvq-vae`"),
        ({"weights": "x"}, "takes no weights"),
        ({"codebook_size": 40_000}, "codebook_size"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(settings, words):
    with pytest.raises(UsageError, match=words):
        build_target(MERT_V0, **settings)


def test_weights_that_do_not_fit_are_refused(own, encodec, tmp_path):
    with pytest.raises(WeightsError, match="no RVQ-VAE"):
        build_target(MERT_V0, source="rvq-vae", weights=str(tmp_path))
    for source, folder in (("rvq-vae", own), ("encodec", encodec[0])):
        with pytest.raises(UsageError, match="its codebooks have 8 codes; give --set targets.codes.codebook_size=8"):
            build_target(MERT_V1, source=source, weights=str(folder), codebook_size=16)
    with pytest.raises(UsageError, match="has 4 codebooks, not 5; give --set targets.codes.num_codebooks=4"):
        build_target(MERT_V0, source="rvq-vae", weights=str(own), num_codebooks=5)
    with pytest.raises(WeightsError, match="EnCodec cannot be read from there"):
        build_target(MERT_V1, source="encodec", weights=str(tmp_path))
    config = json.loads((encodec[0] / "config.json").read_text()) | {"normalize": True}
    encodec[1].save_pretrained(tmp_path / "stereo")
    (tmp_path / "stereo" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="is not a causal mono EnCodec"):
        build_target(MERT_V1, source="encodec", weights=str(tmp_path / "stereo"))


@pytest.mark.parametrize("use", ["all", "random", 2])
def test_labels_hold_all_codebooks_whatever_is_used(use, melody, own):
    target = fitted("random-projection", MERT_V0, melody, own, use=use)
    assert target.use == use
    assert target.labels(crops(melody, 16_000), 49).shape[2] == len(target.num_classes) == 3


def test_a_recipe_can_have_codes_by_dotted_path(micro):
    changed = resolve("mert-v0", "tiny", {"targets.log-mel": {"target": "codes", "num_codebooks": 2, "use": 1}})
    assert changed.targets["log-mel"] == codes.settings_type(num_codebooks=2, use=1)
