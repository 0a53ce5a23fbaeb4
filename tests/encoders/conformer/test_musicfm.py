"""MusicFM against other libraries' parts put together (conftest.py); files as its authors write them."""

import json

import numpy as np
import pytest
import torch

from carrara.core.errors import UsageError, WeightsError
from carrara.encoders._hub.load import build_encoder, load, save_pretrained
from carrara.encoders._hub.official import convert_official
from carrara.encoders.musicfm import ENCODER, MusicFmSettings
from carrara.formats.weights import load_state_dict_strict

KEPT = ("conv.", "conformer.layers.", "conformer.layer_norm.")
# What the file holds that no frozen network needs, beside the conformer's own positions.
OTHERS = {
    "cls_token": (128,),
    "linear.weight": (64, 128),
    "linear.bias": (64,),
    "quantizer_melspec_2048_0.random_projection": (512, 16),
    "quantizer_melspec_2048_0.codebook": (64, 16),
    "preprocessor_melspec_2048.mel_stft.spectrogram.window": (2048,),
    "preprocessor_melspec_2048.mel_stft.mel_scale.fb": (1025, 128),
}


@pytest.fixture
def folder(twin, tmp_path):
    table = twin.table | {name: torch.ones(shape) for name, shape in OTHERS.items()}
    torch.save(
        {"state_dict": {f"model.{name}": tensor for name, tensor in table.items()}}, tmp_path / "pretrained_msd.pt"
    )
    (tmp_path / "msd_stats.json").write_text(json.dumps(twin.statistics | {"cqt_mean": 0.4}))
    return tmp_path


@pytest.fixture
def small_shelf(twin, monkeypatch):
    """Make the published variants small, so that whole imports can be tried."""
    for name in ("musicfm-fma", "musicfm-msd"):
        monkeypatch.setitem(ENCODER.variants, name, (ENCODER.variants[name][0], MusicFmSettings(**twin.settings)))


@pytest.fixture
def encoder(folder, small_shelf):
    return convert_official("musicfm-msd", folder).eval()


class TestNetwork:
    @torch.inference_mode()
    def test_every_layer_equals_the_chained_parts(self, encoder, twin, noise):
        samples_BT = torch.cat([noise(1.013, seed) for seed in (1, 2)])
        actual = encoder(samples_BT)
        expected = twin.rows(twin.table, samples_BT)
        assert actual.shape == (2, 3, 26, 128)
        for row, (mine, other) in enumerate(zip(actual.unbind(1), expected, strict=True)):
            scale = float(other.abs().mean())
            torch.testing.assert_close(mine / scale, other / scale, atol=1e-4, rtol=1e-4, msg=f"row {row}")

    def test_the_spectrogram_is_librosas_with_the_statistics_taken_off(self, encoder, twin, noise):
        samples_BT = noise(0.7) + 0.3 * torch.sin(torch.arange(16_800) * 0.1)
        actual = (
            encoder.spectrogram(samples_BT)[0].T * twin.statistics["melspec_2048_std"]
            + twin.statistics["melspec_2048_mean"]
        )
        np.testing.assert_allclose(actual.numpy(), twin.mel(samples_BT[0]), atol=2e-3)

    @torch.inference_mode()
    def test_clips_of_unequal_length_have_the_same_features_as_alone(self, encoder, noise):
        lengths = [24_000, 48_111, 700, 1]
        clips = [noise(3, seed)[0, :length] for seed, length in enumerate(lengths)]
        batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
        batch = torch.nn.functional.pad(batch, (0, 5_000))
        together = encoder(batch, torch.tensor(lengths))
        assert together.shape[2] == encoder.num_frames(batch.shape[1])
        for row, clip in zip(together, clips):
            frames = encoder.num_frames(len(clip))
            torch.testing.assert_close(row[:, :frames], encoder(clip[None])[0], atol=2e-5, rtol=1e-4)
            assert not row[:, frames:].any()

    @pytest.mark.parametrize(
        "samples, frames",
        [
            (1, 1),
            (239, 1),
            (959, 1),
            (960, 1),
            (1199, 1),
            (1200, 2),
            (24_000, 25),
            (720_000, 750),
            (14_400_000, 15_000),
        ],
    )
    def test_frames_are_25_a_second(self, samples, frames):
        with torch.device("meta"):
            encoder = build_encoder("musicfm-msd")
        assert encoder.num_frames(samples) == frames
        assert encoder.card.frame_rate == 25 and encoder.card.window_seconds == 30

    @torch.inference_mode()
    def test_ten_minutes_are_encoded_in_blocks(self, noise):
        small = {"channels": 2, "dim": 8, "num_layers": 1, "num_heads": 1, "ffn_dim": 8}
        encoder = build_encoder("musicfm-tiny", changes=small).eval()
        widest = []
        encoder.conv.conv[0].register_forward_hook(lambda module, given, out: widest.append(given[0].shape[-1]))
        layers = encoder(noise(600))
        assert layers.shape == (1, 2, 15_000, 8) and torch.isfinite(layers).all()
        assert len(widest) == 59 and max(widest) <= 1024 + 24

    def test_the_published_size(self, twin):
        for name in ("musicfm-fma", "musicfm-msd"):
            card, settings = ENCODER.variants[name]
            with torch.device("meta"):
                network = build_encoder(name)
                shapes = {
                    f"conformer.{key}": tensor
                    for key, tensor in twin.conformer(**settings.model_dump()).state_dict().items()
                }
                front = twin.front_shapes(settings.channels, settings.dim)
                tensors = shapes | {key: torch.empty(shape) for key, shape in front.items()}
                tensors = {key: tensor for key, tensor in tensors.items() if key.startswith(KEPT)}
                load_state_dict_strict(
                    network, tensors | {key: torch.tensor(1.0) for key in ("mel_mean", "mel_deviation")}, name
                )
            assert card.parameters == network.card.parameters == sum(tensor.numel() for tensor in network.parameters())
            assert (card.num_layers, card.dim, card.sample_rate) == (12, 1024, 24_000)
            assert card.commercial_use and "MIT" in card.license

    def test_a_seed_draws_the_same_weights(self):
        one, same, other = (build_encoder("musicfm-tiny", seed).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
        assert not torch.equal(one["conv.linear.weight"], other["conv.linear.weight"])

    @pytest.mark.parametrize("change", [{"num_heads": 3}, {"kernel": 30}])
    def test_sizes_that_do_not_fit_are_refused(self, change):
        with pytest.raises(UsageError, match="must be"):
            build_encoder("musicfm-tiny", changes=change)


class TestFile:
    def test_other_tensors_are_dropped_and_statistics_read_from_the_adjacent_file(self, folder, twin):
        tensors = ENCODER.load_official("musicfm-msd", folder)
        assert set(tensors) == {name for name in twin.table if name.startswith(KEPT)} | {"mel_mean", "mel_deviation"}
        assert float(tensors["mel_mean"]) == 5.5 and float(tensors["mel_deviation"]) == 17.25
        assert torch.equal(tensors["conformer.layer_norm.weight"], twin.table["conformer.layer_norm.weight"])

    def test_older_spelling_of_the_unused_convolution_is_dropped(self, folder, twin, tmp_path):
        old = {
            name.replace("parametrizations.weight.original0", "weight_g"): tensor for name, tensor in twin.table.items()
        }
        old = {name.replace("parametrizations.weight.original1", "weight_v"): tensor for name, tensor in old.items()}
        assert set(old) != set(twin.table)
        torch.save({"state_dict": old}, tmp_path / "old.pt")
        assert set(ENCODER.load_official("musicfm-msd", tmp_path / "old.pt")) == set(
            ENCODER.load_official("musicfm-msd", folder)
        )

    def test_without_statistics_the_published_ones_are_used(self, folder):
        (folder / "msd_stats.json").unlink()
        msd = ENCODER.load_official("musicfm-msd", folder / "pretrained_msd.pt")
        assert float(msd["mel_mean"]) == pytest.approx(6.768445) and float(msd["mel_deviation"]) == pytest.approx(
            18.41792
        )
        (folder / "pretrained_msd.pt").rename(folder / "pretrained_fma.pt")
        fma = ENCODER.load_official("musicfm-fma", folder)
        assert float(fma["mel_mean"]) == pytest.approx(3.071058) and float(fma["mel_deviation"]) == pytest.approx(
            20.99909
        )

    def test_an_imported_encoder_can_be_saved_and_loaded(self, encoder, noise, tmp_path):
        save_pretrained(encoder, tmp_path / "saved")
        again = load(tmp_path / "saved")
        assert float(again.mel_mean) == 5.5
        assert torch.equal(again(noise(0.5)), encoder(noise(0.5)))

    def test_the_other_variants_file_is_named(self, folder):
        with pytest.raises(WeightsError, match="is not musicfm-fma but musicfm-msd"):
            ENCODER.load_official("musicfm-fma", folder / "pretrained_msd.pt")
        with pytest.raises(WeightsError, match="no weights of .* are published"):
            ENCODER.load_official("musicfm-tiny", folder)

    def test_a_file_of_another_size_is_refused_by_name(self, folder):
        with pytest.raises(WeightsError, match="of another shape .*conv.conv.0.conv1.weight"):
            convert_official("musicfm-msd", folder)

    @pytest.mark.parametrize(
        "spoil, message", [("missing", "1 missing .conv.linear.bias"), ("extra", "1 unknown .head")]
    )
    def test_missing_and_unknown_tensors_are_named(self, folder, small_shelf, spoil, message):
        content = torch.load(folder / "pretrained_msd.pt", weights_only=True)
        if spoil == "missing":
            del content["state_dict"]["model.conv.linear.bias"]
        else:
            content["state_dict"]["model.head.weight"] = torch.zeros(2)
        torch.save(content, folder / "pretrained_msd.pt")
        with pytest.raises(WeightsError, match=message):
            convert_official("musicfm-msd", folder)

    def test_another_number_of_heads_is_refused(self, folder, twin, monkeypatch):
        four = MusicFmSettings(**twin.settings | {"num_heads": 4})
        monkeypatch.setitem(ENCODER.variants, "musicfm-msd", (ENCODER.variants["musicfm-msd"][0], four))
        with pytest.raises(WeightsError, match="not that of 4 heads"):
            ENCODER.load_official("musicfm-msd", folder)

    @pytest.mark.parametrize("content", ["{", "[]", "{}", '{"melspec_2048_mean": 1, "melspec_2048_std": 0}'])
    def test_incomplete_statistics_are_refused(self, folder, content):
        (folder / "msd_stats.json").write_text(content)
        with pytest.raises(WeightsError, match=r"msd_stats.json: .*fetch it again"):
            ENCODER.load_official("musicfm-msd", folder)

    @pytest.mark.parametrize(
        "content, message",
        [
            (b"", "is empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
            (b"<!DOCTYPE html><html>", "web page"),
            (None, "cannot be read"),
        ],
    )
    def test_a_file_that_is_no_checkpoint_is_named(self, tmp_path, content, message):
        if content is not None:
            (tmp_path / "pretrained_msd.pt").write_bytes(content)
        with pytest.raises(WeightsError, match=message):
            ENCODER.load_official("musicfm-msd", tmp_path)

    @pytest.mark.parametrize("content", [{"state_dict": [1]}, {"state_dict": {"a": 1}}, {}, [1]])
    def test_a_checkpoint_without_tensors_is_refused(self, tmp_path, content):
        torch.save(content, tmp_path / "pretrained_msd.pt")
        with pytest.raises(WeightsError, match="no table of tensors"):
            ENCODER.load_official("musicfm-msd", tmp_path)

    def test_a_cut_checkpoint_is_refused(self, folder):
        file = folder / "pretrained_msd.pt"
        file.write_bytes(file.read_bytes()[:-4000])
        with pytest.raises(WeightsError, match="cut short"):
            ENCODER.load_official("musicfm-msd", folder)
