"""Mixtures are sums of random excerpts; whole songs, window by window, give the naive SDR; oracles score high."""

from collections import Counter

import numpy as np
import pytest
import soundfile
import soxr
import torch

from carrara.bench.run import bench
from carrara.bench.separation import evaluate, spectrum
from carrara.bench.separation.evaluate import (
    SDRAccumulator,
    apply_masks,
    iter_windows,
    post_filter,
    separate,
    wiener_filter,
)
from carrara.bench.separation.songs import draw_mixtures, load_mixtures, load_songs
from carrara.bench.separation.window_encoder import WindowEncoder
from carrara.core.clip import Clip
from carrara.core.errors import DataError, UsageError


@pytest.fixture
def encoder(levels):
    return WindowEncoder(levels(), 0.5, "cpu")


def naive_sdr(truth, estimate):
    return 10 * np.log10((np.sum(truth**2) + 1e-7) / (np.sum((truth - estimate) ** 2) + 1e-7))


def read(path):
    return soundfile.read(path)[0].T


def song_sdrs(songs, encoder, estimate):
    ledger = SDRAccumulator(len(songs), 2)
    for windows in iter_windows(songs, encoder.window_format):
        ledger.add(windows, estimate(windows))
    return ledger.sdr_UJ()


def mixture_estimate(windows):
    """Return the mixture as the estimate of each of the two stems."""
    return torch.from_numpy(windows.mixture_BCT)[:, None].expand(-1, 2, -1, -1)


def truth_masks(windows):
    """Return each stem's fraction of the magnitudes, from mono."""
    magnitudes = spectrum.stft(torch.from_numpy(windows.stems_BJCT.mean(2))).abs()
    return magnitudes / magnitudes.sum(1, keepdim=True).clamp_min(1e-9)


def test_an_epoch_uses_each_stem_of_each_song_equally_often(task, splits, encoder):
    songs = load_songs(task, splits["train"])
    mixtures = draw_mixtures(songs, 16, encoder.window_format.window, seed=1, epoch=0)
    assert len(mixtures) == 64
    for stem in range(2):
        assert Counter(mixture[stem].song for mixture in mixtures) == dict.fromkeys(range(4), 16)
    excerpts = [excerpt for mixture in mixtures for excerpt in mixture]
    gains = [excerpt.gain for excerpt in excerpts]
    assert 0.25 <= min(gains) < 0.35 and 1.15 < max(gains) <= 1.25
    for excerpt in excerpts:
        assert 0 <= excerpt.start <= songs[excerpt.song].samples - encoder.window_format.window
    assert any(mixture[0].song != mixture[1].song for mixture in mixtures)
    assert mixtures == draw_mixtures(songs, 16, encoder.window_format.window, seed=1, epoch=0)
    assert mixtures != draw_mixtures(songs, 16, encoder.window_format.window, seed=1, epoch=1)
    assert mixtures != draw_mixtures(songs, 16, encoder.window_format.window, seed=2, epoch=0)


def test_a_mixture_is_the_sum_of_its_excerpts_and_the_input_of_the_encoder(task, splits, encoder):
    songs = load_songs(task, splits["train"])
    mixtures = draw_mixtures(songs, 1, encoder.window_format.window, seed=3, epoch=0)
    audio = load_mixtures(songs, mixtures, encoder.window_format)
    for mixture, stems, input_S in zip(mixtures, audio.stems_BJT, audio.encoder_BS):
        for excerpt, name, samples in zip(mixture, ("tone", "hiss"), stems):
            whole = read(splits["train"][excerpt.song].path.parent / f"{name}.wav").mean(0)
            expected = excerpt.gain * whole[excerpt.start : excerpt.start + encoder.window_format.window]
            assert np.allclose(samples, expected, atol=1e-6)
        resampled = soxr.resample(stems.sum(0), 44100, 16000, "HQ")
        assert abs(len(resampled) - len(input_S)) <= 1
        assert np.allclose(input_S[: len(resampled)], resampled[: len(input_S)], atol=1e-5)


def test_a_song_shorter_than_a_window_is_padded_with_silence(task, toys, levels):
    encoder = WindowEncoder(levels(), 3.0, "cpu")
    songs = load_songs(task, toys.index(toys.folder)[:2])
    audio = load_mixtures(songs, draw_mixtures(songs, 1, encoder.window_format.window, 0, 0), encoder.window_format)
    assert audio.stems_BJT.shape[-1] == encoder.window_format.window
    assert np.all(audio.stems_BJT[..., songs[1].samples :] == 0) and np.any(audio.stems_BJT)


def test_a_song_evaluated_in_windows_has_the_sdr_of_the_whole(task, splits, encoder):
    songs = load_songs(task, splits["test"])
    halves = song_sdrs(songs, encoder, lambda windows: 0.5 * mixture_estimate(windows))
    for clip, sdr_J in zip(splits["test"], halves):
        mixture = read(clip.path)
        for name, value in zip(("tone", "hiss"), sdr_J):
            assert value == pytest.approx(naive_sdr(read(clip.path.parent / f"{name}.wav"), 0.5 * mixture), abs=1e-4)


def test_one_channel_twice_counts_as_two(task, tmp_path, encoder):
    rng = np.random.default_rng(0)
    sounds = {"tone": 0.1 * rng.standard_normal(30000), "hiss": 0.1 * rng.standard_normal(30000)}
    for name, samples in {**sounds, "mixture": sum(sounds.values())}.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, 44100, "FLOAT")
    clip = Clip("a", tmp_path / "mixture.wav", labels={"tone": "tone.wav", "hiss": "hiss.wav"})
    songs = load_songs(task, [clip])
    (windows,) = iter_windows(songs, encoder.window_format)
    assert windows.channels == 2 and windows.mixture_BCT.shape[1] == 1
    sdr_J = song_sdrs(songs, encoder, mixture_estimate)[0]
    stereo = {name: np.stack([samples, samples]) for name, samples in sounds.items()}
    expected = [naive_sdr(stereo[name], stereo["tone"] + stereo["hiss"]) for name in ("tone", "hiss")]
    assert sdr_J == pytest.approx(expected, abs=1e-4)


def test_masks_of_the_true_magnitudes_separate_well(task, splits, encoder):
    songs = load_songs(task, splits["test"])
    mixture = song_sdrs(songs, encoder, mixture_estimate)
    oracle = song_sdrs(songs, encoder, lambda w: separate(w, truth_masks(w)))
    assert oracle.min() > 10 and np.all(oracle > mixture + 8)
    nothing = song_sdrs(songs, encoder, lambda w: separate(w, torch.zeros_like(truth_masks(w))))
    assert np.allclose(nothing, 0, atol=1e-4)


def test_the_filter_improves_the_true_masks(task, splits, encoder):
    pytest.importorskip("norbert")
    songs = load_songs(task, splits["test"])
    plain = song_sdrs(songs, encoder, lambda w: separate(w, truth_masks(w)))
    better = song_sdrs(songs, encoder, lambda w: separate(w, truth_masks(w), wiener_filter))
    assert post_filter().startswith("norbert-")
    assert better.mean() > plain.mean() + 1


def test_without_norbert_the_masks_alone_count(monkeypatch):
    def absent(name):
        raise evaluate.PackageNotFoundError(name)

    monkeypatch.setattr(evaluate, "version", absent)
    assert post_filter() == "none"
    masks, spectra = torch.rand(2, 3, 4, 5), torch.randn(2, 2, 4, 5, dtype=torch.complex64)
    assert torch.allclose(wiener_filter(masks, spectra), masks[:, :, None] * spectra[:, None])
    assert torch.equal(wiener_filter(masks, spectra), apply_masks(masks, spectra))


def test_features_are_on_the_spectrograms_frames(levels):
    class Clock(levels):
        """Features that are the number of their frame."""

        def forward(self, samples_BT, lengths_B=None):
            count = torch.arange(self.num_frames(samples_BT.shape[1]), dtype=torch.float32)
            return count[None, None, :, None].expand(len(samples_BT), 1, -1, 16)

    encoder = WindowEncoder(Clock(), 1.0, "cpu")
    samples = encoder.window_format.encoder_samples
    features = encoder.encode(np.zeros((3, samples), np.float32), [0])[0]
    assert features.shape == (3, encoder.num_frames, 16)
    expected = np.minimum(np.arange(encoder.num_frames) * 1024 / 44100 * 50, samples // 320 - 1)
    assert np.allclose(features[1, :, 5], expected, atol=1e-4)


def test_a_window_longer_than_the_encoders_is_split(levels):
    heard = []

    class Short(levels):
        def forward(self, samples_BT, lengths_B=None):
            heard.append(samples_BT.shape[1] / 16000)
            return super().forward(samples_BT, lengths_B)

    sound = 0.1 * np.random.default_rng(0).standard_normal((2, 40000)).astype(np.float32)
    cut, whole = WindowEncoder(Short(0.7), 2.0, "cpu"), WindowEncoder(Short(), 2.0, "cpu")
    short = cut.encode(sound[:, : cut.window_format.encoder_samples], [0])[0]
    assert max(heard) <= 0.7 and cut.num_pieces == 3
    long = whole.encode(sound[:, : whole.window_format.encoder_samples], [0])[0]
    assert torch.allclose(short[:, :25], long[:, :25], atol=1e-5)
    assert short.shape == long.shape and (short - long).abs().mean() < 0.5


def test_an_encoder_without_frames_is_refused(levels):
    encoder = levels()
    encoder.card = encoder.card.model_copy(update={"frame_rate": None})
    with pytest.raises(UsageError, match="has no frames"):
        WindowEncoder(encoder, 1.0, "cpu")


def test_a_missing_stem_is_named(task, toys, tmp_path):
    clip = toys.index(toys.folder)[0]
    with pytest.raises(DataError, match="'song-0': it has no stem 'hiss'"):
        load_songs(task, [Clip("song-0", clip.path, labels={"tone": "tone.wav"})])
    with pytest.raises(DataError, match=r"gone\.wav: no such file.*--partial"):
        load_songs(task, [Clip("song-0", clip.path, labels={"tone": "tone.wav", "hiss": "gone.wav"})])


def test_pebbles_stems_are_read_and_add_up_to_its_mixture(tmp_path, encoder):
    from carrara.bench.tasks import task
    from carrara.data._pebble.suite import write
    from carrara.data.pebble import DATASET

    write(tmp_path, "demo", {"stems": 1}, processes=1)
    songs = load_songs(task("pebble/stems"), DATASET.clips(tmp_path, "stems"))
    assert [song.samples for song in songs] == [8 * 44100]
    for windows in iter_windows(songs, encoder.window_format):
        assert np.allclose(windows.stems_BJCT.sum(1), windows.mixture_BCT, atol=2e-4)
        assert windows.channels == 2 and windows.stems_BJCT.shape[1] == 4


def test_the_constant_answer_is_the_mixture_times_the_least_squares_gain(task, toys, splits, tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    record = bench("majority", task, results=tmp_path / "results", datasets={"toys": toys})[0]
    for stem in task.labels:

        def read(clip, name):
            return soundfile.read(clip.path.with_name(f"{name}.wav"))[0]

        mixtures = np.concatenate([read(clip, "mixture") for clip in splits["train"]]).ravel()
        stems = np.concatenate([read(clip, stem) for clip in splits["train"]]).ravel()
        gain = np.linalg.lstsq(mixtures[:, None], stems, rcond=None)[0][0]
        sdr = []
        for clip in splits["test"]:
            truth, estimate = read(clip, stem), gain * read(clip, "mixture")
            sdr.append(10 * np.log10((truth**2).sum() / ((truth - estimate) ** 2).sum()))
        assert record.scores[f"sdr_{stem}"].value == pytest.approx(np.mean(sdr), abs=1e-3)
