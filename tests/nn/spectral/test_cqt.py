"""The CQT against nnAudio's, against librosa's, and against its definition as a sum."""

import contextlib
import gc
import io
import math

import librosa
import numpy as np
import pytest
import torch

from carrara.core.errors import DataError, UsageError
from carrara.nn.spectral import cqt
from carrara.nn.spectral.cqt import CQT, MatrixCQT, kernel_spectra, kernel_taps, make_kernels
from carrara.nn.spectral.cqt_target import compute_bin_statistics, cqt_target

REAL = ("game.wav", "game-1.mp3", "ending.ogg")
KINDS = ("tone", "chord", "noise", "silence", "one sample", "short", *REAL)
SHAPES = [(24_000, 84, 12), (16_000, 84, 12), (16_000, 336, 48)]


@pytest.fixture(scope="module")
def peers():
    with contextlib.redirect_stdout(io.StringIO()):
        from nnAudio.features.cqt import CQT1992v2

        return {
            (rate, bins, octave): CQT1992v2(
                rate, hop_length=320, fmin=32.7, n_bins=bins, bins_per_octave=octave, pad_mode="constant", verbose=False
            )
            for rate, bins, octave in SHAPES
        }


@pytest.fixture(scope="module")
def ours():
    return {(rate, bins, octave): CQT(rate, 320, bins, octave) for rate, bins, octave in SHAPES}


def by_definition(samples, rate, hop, bins, octave, lowest, bin, frame):
    """One value of the transform: the sum over one kernel's taps, in double precision."""
    hertz = lowest * 2 ** (bin / octave)
    length = math.ceil(rate / hertz / (2 ** (1 / octave) - 1))
    steps = np.arange(length)
    hann = np.sin(np.pi * steps / length) ** 2
    places = frame * hop + steps - math.ceil(length / 2)
    sizes = np.array([samples[place] if 0 <= place < len(samples) else 0.0 for place in places])
    kernel = hann / hann.sum() * np.exp(-2j * np.pi * hertz / rate * steps)
    return abs((sizes * kernel).sum()) * math.sqrt(length)


def test_reflecting_edges_are_those_of_numpy():
    samples = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
    padded = np.pad(samples, 6400, mode="reflect")
    got = CQT(8000, 320, 42, 12, 65.4, padding="reflect")(torch.from_numpy(samples)[None])[0]
    for bin in (0, 20, 41):
        for frame in (0, 4, 9):
            expected = by_definition(padded, 8000, 320, 42, 12, 65.4, bin, frame + 20)
            assert float(got[frame, bin]) == pytest.approx(expected, abs=1e-3 * float(got.max()))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_magnitudes_are_those_of_nnaudio(sound, ours, peers, shape, kind):
    samples = torch.from_numpy(sound(kind, shape[0]))[None]
    with torch.no_grad():
        expected = peers[shape](samples).transpose(1, 2)
    got = ours[shape](samples)
    assert got.shape == expected.shape == (1, samples.shape[1] // 320 + 1, shape[1])
    # An isolated sample is as loud at all frequencies, so what each kernel leaves out far from its own adds up.
    limit = 2e-3 if kind == "one sample" else 1e-4
    assert (got - expected).abs().max() <= limit * expected.max()


@pytest.mark.parametrize("mode, padding, edge", [("constant", "zeros", 0), ("reflect", "reflect", 34)])
@pytest.mark.parametrize("kind", ["tone", "chord", "noise", *REAL])
def test_magnitudes_are_near_those_of_librosa_of_equal_bandwidth(sound, kind, mode, padding, edge):
    samples, octave = sound(kind, 22_050), 36
    step = 2 ** (1 / octave)
    # librosa's kernels are (r² + 1) / (r² − 1) cycles long, nnAudio's 1 / (r − 1).
    scale = (step**2 - 1) / (step**2 + 1) / (step - 1)
    expected = np.abs(
        librosa.cqt(samples, n_bins=252, bins_per_octave=octave, fmin=32.7, filter_scale=scale, pad_mode=mode)
    )
    got = CQT(22_050, 512, 252, octave, padding=padding)(torch.from_numpy(samples)[None])[0].T.numpy()
    assert got.shape == expected.shape
    # librosa resamples between octaves; it reflects each octave after that, so that frames near the ends differ.
    inside = slice(edge, got.shape[1] - edge)
    assert np.abs(got - expected)[:, inside].max() < 0.02 * expected.max()
    error = np.square(got - expected)[:, inside].mean() / np.square(expected)[:, inside].mean()
    assert error < 0.008**2


@pytest.mark.parametrize(
    "rate, hop, bins, octave, lowest",
    [(4000, 7, 30, 12, 50.0), (2000, 2, 12, 4, 30.0), (8000, 1024, 60, 24, 200.0), (6000, 750, 12, 12, 40.0)],
)
@pytest.mark.parametrize("length", [1, 700, 5000])
def test_any_shape_is_the_sum_of_the_definition(rate, hop, bins, octave, lowest, length):
    samples = np.random.default_rng(length).standard_normal(length).astype(np.float32)
    module = CQT(rate, hop, bins, octave, lowest)
    got = module(torch.from_numpy(samples)[None])[0]
    assert got.shape == (length // hop + 1, bins)
    scale = max(float(got.max()), 1e-6)
    for bin in (0, bins // 3, bins // 2, bins - 1):
        for frame in sorted({0, len(got) // 3, len(got) - 1}):
            expected = by_definition(samples, rate, hop, bins, octave, lowest, bin, frame)
            assert float(got[frame, bin]) == pytest.approx(expected, abs=2e-3 * scale)


def test_a_long_clip_in_blocks_equals_one_block_of_it(ours):
    rate = 16_000
    module = ours[(rate, 84, 12)]
    samples = 0.1 * torch.randn(1, 70 * rate, generator=torch.Generator().manual_seed(1))
    whole = module(samples)
    assert whole.shape[1] == 70 * 50 + 1
    # Frames depend on nearby samples only: five seconds from the middle, with context, give the same frames.
    for second in (20, 33, 64):
        part = module(samples[:, second * rate : (second + 5) * rate])
        inside = slice((second + 2) * 50, (second + 3) * 50)
        torch.testing.assert_close(part[:, 100:150], whole[:, inside], atol=2e-5, rtol=1e-3)


def test_a_tone_is_loudest_in_its_own_bin_and_frame(ours):
    time = torch.arange(48_000) / 16_000
    burst = torch.sin(2 * torch.pi * 32.7 * 2 ** (200 / 48) * time) * torch.exp(-(((time - 1.5) / 0.05) ** 2))
    cqt = ours[(16_000, 336, 48)](burst[None])[0]
    assert divmod(int(cqt.argmax()), 336) == (75, 200)


def test_clips_of_a_batch_are_independent(ours, sound):
    module = ours[(16_000, 84, 12)]
    clips = torch.stack([torch.from_numpy(sound(kind, 16_000)) for kind in ("tone", "noise")])
    torch.testing.assert_close(module(clips)[1], module(clips[1:])[0], atol=1e-6, rtol=1e-4)


def test_autocast_changes_nothing_and_no_kernel_is_saved(sound, same_under_autocast, ours):
    module = ours[(16_000, 336, 48)]
    same_under_autocast(module, torch.from_numpy(sound("chord", 16_000))[None])
    assert not module.state_dict()
    assert not module(torch.ones(1, 4000, requires_grad=True)).requires_grad


def test_plans_made_in_inference_mode_serve_training_too():
    module = CQT(16_000, 320, 84, 12)
    with torch.inference_mode():
        first = module(torch.ones(1, 8000))
    torch.testing.assert_close(module(torch.ones(1, 8000)), first.clone())


def test_kernels_have_the_lengths_of_the_paper():
    known = make_kernels(24_000, 336, 48, 32.7)
    assert known.lengths[0] == 50_460
    assert known.lengths[-1] == 400
    assert known.frequencies[-1] == pytest.approx(4125.6, abs=0.1)


@pytest.mark.parametrize("bin", [0, 17, 41])
def test_spectra_in_closed_form_are_those_of_the_taps(bin):
    known = make_kernels(8000, 42, 12, 100.0)
    taps = kernel_taps(known, bin).numpy()
    placed = np.zeros(4096, dtype=complex)
    placed[(np.arange(known.lengths[bin]) - math.ceil(known.lengths[bin] / 2)) % 4096] = taps[0] + 1j * taps[1]
    got = kernel_spectra(known, range(bin, bin + 1), torch.tensor([-5]), 2053, 4096)[0].numpy()
    np.testing.assert_allclose(got, np.fft.fft(placed).conj()[np.arange(-5, 2048)], atol=1e-10)


def test_targets_and_bin_statistics_are_those_of_the_formulas():
    gains = torch.tensor([1.0, 9.0, 0.0])
    cqts = [gains * torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    frames = torch.cat([cqt.flatten(0, 1) for cqt in cqts])
    known = compute_bin_statistics(iter(cqts))
    torch.testing.assert_close(known.mean_M, frames.mean(dim=0))
    torch.testing.assert_close(known.std_M, frames.std(dim=0, correction=0))
    assert cqt_target(cqts[0], "magnitude") is cqts[0]
    torch.testing.assert_close(cqt_target(cqts[0], "log"), torch.log(1 + 100 * cqts[0]))


@pytest.mark.parametrize(
    "wrong, kind, says",
    [
        (lambda: CQT(8000, 160), UsageError, "above half the sample rate of 8000 Hz; take at most 333 bins"),
        (lambda: CQT(16_000, 1), UsageError, "hop by 1 samples"),
        (lambda: CQT(16_000, 320)(torch.zeros(2, 0)), UsageError, "no samples"),
        (lambda: cqt_target(torch.ones(1, 1, 1), "power"), UsageError, "no CQT target 'power'"),
        (lambda: compute_bin_statistics([]), DataError, "at least one frame"),
    ],
)
def test_invalid_cqt_settings_are_refused(wrong, kind, says):
    with pytest.raises(kind, match=says):
        wrong()


def test_the_number_of_bins_in_the_error_message_is_valid():
    assert CQT(8000, 160, bins=333)(torch.zeros(1, 1600)).shape == (1, 11, 333)


@pytest.mark.parametrize("samples", [1, 700, 24_000, 100_003])
def test_matrix_products_give_the_magnitudes_of_the_ffts(samples):
    """Also in bins that are 100 dB below the loudest, where a kernel that ends elsewhere would show."""
    time_T = torch.arange(samples) / 16_000
    noise_T = 1e-3 * torch.randn(samples, generator=torch.Generator().manual_seed(0))
    samples_BT = torch.stack([0.3 * torch.sin(2 * math.pi * 220 * time_T) + noise_T, 30 * noise_T])
    cqt = CQT(16_000, 320, 84, 12, double_long=True)
    expected = cqt(samples_BT)
    difference = (MatrixCQT(cqt)(samples_BT) - expected).abs().amax((1, 2))
    assert bool((difference < 3e-6 * expected.amax((1, 2))).all())


def test_the_spectra_of_many_tunings_stay_within_a_limit_and_change_nothing(monkeypatch):
    samples = torch.randn(1, 22_050, generator=torch.Generator().manual_seed(0))
    transforms = [CQT(22_050, 512, 252, 36, 32.7 * 2 ** (tuning / 432), padding="reflect") for tuning in range(8)]
    expected = [transform(samples) for transform in transforms]
    monkeypatch.setattr(cqt, "PLAN_BYTES", 2**21)  # one of them; all eight are 12 MB
    for transform, magnitudes in zip(transforms, expected):
        assert torch.equal(transform(samples), magnitudes)
    CQT(22_050, 512, 252, 36, 31.0, padding="reflect")(samples)
    gc.collect()
    held = [tensor for tensor in gc.get_objects() if type(tensor) is torch.Tensor and tensor.dtype == torch.complex64]
    assert 0 < sum(tensor.nbytes for tensor in held) < 2**22
