"""Mixtures are sums of random stretches; whole songs, window by window, give the naive SDR; oracles score high."""

from collections import Counter

import numpy as np
import pytest
import soundfile
import soxr
import torch

from carrara.bench.separation import spectrum, wiener
from carrara.bench.separation.evaluate import Ledger, estimated, masked, passing
from carrara.bench.separation.frozen_encoder import Ears
from carrara.bench.separation.songs import draw, load_mixtures, songs
from carrara.bench.separation.wiener import filtered, post_filter
from carrara.core.clip import Clip
from carrara.core.errors import DataError, UsageError


@pytest.fixture
def ears(levels):
    return Ears(levels(), 0.5, "cpu")


def naive_sdr(truth, estimate):
    return 10 * np.log10((np.sum(truth**2) + 1e-7) / (np.sum((truth - estimate) ** 2) + 1e-7))


def heard(path):
    return soundfile.read(path)[0].T


def judged(found, ears, estimate):
    ledger = Ledger(len(found), 2)
    for windows in passing(found, ears.reading):
        ledger.add(windows, estimate(windows))
    return ledger.sdr_UJ()


def truth_masks(windows):
    """Return each stem's share of the magnitudes, from mono."""
    magnitudes = spectrum.spectrum(torch.from_numpy(windows.stems_BJCT.mean(2))).abs()
    return magnitudes / magnitudes.sum(1, keepdim=True).clamp_min(1e-9)


def test_an_epoch_hears_each_stem_of_each_song_as_often(task, sides, ears):
    found = songs(task, sides["train"])
    drawn = draw(found, 16, ears.reading.window, seed=1, epoch=0)
    assert len(drawn) == 64
    for stem in range(2):
        assert Counter(mixture[stem].song for mixture in drawn) == dict.fromkeys(range(4), 16)
    stretches = [one for mixture in drawn for one in mixture]
    assert 0.25 <= min(one.gain for one in stretches) < 0.35 and 1.15 < max(one.gain for one in stretches) <= 1.25
    for one in stretches:
        assert 0 <= one.start <= found[one.song].samples - ears.reading.window
    assert any(mixture[0].song != mixture[1].song for mixture in drawn)
    assert drawn == draw(found, 16, ears.reading.window, seed=1, epoch=0)
    assert drawn != draw(found, 16, ears.reading.window, seed=1, epoch=1)
    assert drawn != draw(found, 16, ears.reading.window, seed=2, epoch=0)


def test_a_mixture_is_the_sum_of_its_stretches_and_the_encoder_hears_it(task, sides, ears):
    found = songs(task, sides["train"])
    drawn = draw(found, 1, ears.reading.window, seed=3, epoch=0)
    made = load_mixtures(found, drawn, ears.reading)
    for mixture, stems, heard_S in zip(drawn, made.stems_BJT, made.heard_BS):
        for one, name, samples in zip(mixture, ("tone", "hiss"), stems):
            whole = heard(sides["train"][one.song].path.parent / f"{name}.wav").mean(0)
            stretch = one.gain * whole[one.start : one.start + ears.reading.window]
            assert np.allclose(samples, stretch, atol=1e-6)
        theirs = soxr.resample(stems.sum(0), 44100, 16000, "HQ")
        assert abs(len(theirs) - len(heard_S)) <= 1
        assert np.allclose(heard_S[: len(theirs)], theirs[: len(heard_S)], atol=1e-5)


def test_a_song_shorter_than_a_window_is_filled_up_with_silence(task, toys, levels):
    ears = Ears(levels(), 3.0, "cpu")
    found = songs(task, toys.index(toys.folder)[:2])
    made = load_mixtures(found, draw(found, 1, ears.reading.window, 0, 0), ears.reading)
    assert made.stems_BJT.shape[-1] == ears.reading.window
    assert np.all(made.stems_BJT[..., found[1].samples :] == 0) and np.any(made.stems_BJT)


def test_a_song_judged_in_windows_has_the_sdr_of_the_whole(task, sides, ears):
    found = songs(task, sides["test"])
    halves = judged(
        found, ears, lambda windows: 0.5 * torch.from_numpy(windows.mixture_BCT)[:, None].expand(-1, 2, -1, -1)
    )
    for clip, sdr_J in zip(sides["test"], halves):
        mixture = heard(clip.path)
        for name, value in zip(("tone", "hiss"), sdr_J):
            assert value == pytest.approx(naive_sdr(heard(clip.path.parent / f"{name}.wav"), 0.5 * mixture), abs=1e-4)


def test_one_channel_twice_counts_as_two(task, tmp_path, ears):
    rng = np.random.default_rng(0)
    sounds = {"tone": 0.1 * rng.standard_normal(30000), "hiss": 0.1 * rng.standard_normal(30000)}
    for name, samples in {**sounds, "mixture": sum(sounds.values())}.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, 44100, "FLOAT")
    clip = Clip("a", tmp_path / "mixture.wav", labels={"tone": "tone.wav", "hiss": "hiss.wav"})
    found = songs(task, [clip])
    (windows,) = passing(found, ears.reading)
    assert windows.channels == 2 and windows.mixture_BCT.shape[1] == 1
    sdr_J = judged(found, ears, lambda windows: torch.from_numpy(windows.mixture_BCT)[:, None].expand(-1, 2, -1, -1))[0]
    stereo = {name: np.stack([samples, samples]) for name, samples in sounds.items()}
    expected = [naive_sdr(stereo[name], stereo["tone"] + stereo["hiss"]) for name in ("tone", "hiss")]
    assert sdr_J == pytest.approx(expected, abs=1e-4)


def test_the_true_shares_of_the_magnitudes_separate_well(task, sides, ears):
    found = songs(task, sides["test"])
    mixture = judged(found, ears, lambda w: torch.from_numpy(w.mixture_BCT)[:, None].expand(-1, 2, -1, -1))
    oracle = judged(found, ears, lambda w: estimated(w, masked(truth_masks(w)), "cpu"))
    assert oracle.min() > 10 and np.all(oracle > mixture + 8)
    nothing = judged(found, ears, lambda w: estimated(w, masked(torch.zeros_like(truth_masks(w))), "cpu"))
    assert np.allclose(nothing, 0, atol=1e-4)


def test_the_filter_brings_the_true_shares_nearer_to_the_stems(task, sides, ears):
    pytest.importorskip("norbert")
    found = songs(task, sides["test"])
    plain = judged(found, ears, lambda w: estimated(w, masked(truth_masks(w)), "cpu"))
    better = judged(found, ears, lambda w: estimated(w, filtered(truth_masks(w)), "cpu"))
    assert post_filter().startswith("norbert-")
    assert better.mean() > plain.mean() + 1


def test_without_the_library_the_masks_alone_count(monkeypatch):
    def absent(name):
        raise wiener.PackageNotFoundError(name)

    monkeypatch.setattr(wiener, "version", absent)
    assert post_filter() == "none"
    masks, spectra = torch.rand(2, 3, 4, 5), torch.randn(2, 2, 4, 5, dtype=torch.complex64)
    assert torch.allclose(filtered(masks)(spectra), masks[:, :, None] * spectra[:, None])


def test_features_stand_on_the_spectrograms_frames(levels):
    class Clock(levels):
        """Answers with the number of its frame."""

        def forward(self, samples_BT, lengths_B=None):
            count = torch.arange(self.num_frames(samples_BT.shape[1]), dtype=torch.float32)
            return count[None, None, :, None].expand(len(samples_BT), 1, -1, 16)

    ears = Ears(Clock(), 1.0, "cpu")
    found = ears.hear(np.zeros((3, ears.reading.heard), np.float32), [0])[0]
    assert found.shape == (3, ears.frames, 16)
    wanted = np.minimum(np.arange(ears.frames) * 1024 / 44100 * 50, ears.reading.heard // 320 - 1)
    assert np.allclose(found[1, :, 5], wanted, atol=1e-4)


def test_a_window_longer_than_the_encoder_should_hear_is_cut(levels):
    heard = []

    class Short(levels):
        def forward(self, samples_BT, lengths_B=None):
            heard.append(samples_BT.shape[1] / 16000)
            return super().forward(samples_BT, lengths_B)

    sound = 0.1 * np.random.default_rng(0).standard_normal((2, 40000)).astype(np.float32)
    cut, whole = Ears(Short(0.7), 2.0, "cpu"), Ears(Short(), 2.0, "cpu")
    short = cut.hear(sound[:, : cut.reading.heard], [0])[0]
    assert max(heard) <= 0.7 and cut.pieces == 3
    long = whole.hear(sound[:, : whole.reading.heard], [0])[0]
    assert torch.allclose(short[:, :25], long[:, :25], atol=1e-5)
    assert short.shape == long.shape and (short - long).abs().mean() < 0.5


def test_an_encoder_without_frames_is_refused(levels):
    encoder = levels()
    encoder.card = encoder.card.model_copy(update={"frame_rate": None})
    with pytest.raises(UsageError, match="answers once a clip"):
        Ears(encoder, 1.0, "cpu")


def test_a_missing_stem_is_told_by_name(task, toys, tmp_path):
    clip = toys.index(toys.folder)[0]
    with pytest.raises(DataError, match="'song-0': it has no stem 'hiss'"):
        songs(task, [Clip("song-0", clip.path, labels={"tone": "tone.wav"})])
    with pytest.raises(DataError, match=r"gone\.wav: no such file.*--partial"):
        songs(task, [Clip("song-0", clip.path, labels={"tone": "tone.wav", "hiss": "gone.wav"})])


def test_pebbles_stems_are_read_and_add_up_to_its_mixture(tmp_path, ears):
    from carrara.bench.tasks import task
    from carrara.data._pebble.suite import write
    from carrara.data.pebble import DATASET

    write(tmp_path, "demo", {"stems": 1}, processes=1)
    found = songs(task("pebble/stems"), DATASET.clips(tmp_path, "stems"))
    assert [song.samples for song in found] == [8 * 44100]
    for windows in passing(found, ears.reading):
        assert np.allclose(windows.stems_BJCT.sum(1), windows.mixture_BCT, atol=2e-4)
        assert windows.channels == 2 and windows.stems_BJCT.shape[1] == 4
