"""The codec learns some tones, uses its codes, and gives them back; stopped anywhere, it goes on bit for bit."""

import json
import signal

import numpy as np
import pytest
import soundfile
import torch

from carrara.core.errors import DataError, StoreError, UsageError
from carrara.core.settings import replace
from carrara.nn.quantize.rvq_vae import load
from carrara.nn.spectral.multiscale_loss import SpectralDistance
from carrara.pretrain import rvq_vae
from carrara.pretrain.metrics_log import read
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.rvq_vae import teach

CPU = torch.device("cpu")
MICRO = {
    "network.filters": 4,
    "network.latent": 16,
    "network.num_codebooks": 4,
    "network.codebook_size": 32,
    "optimiser.learning_rate": 5e-3,
    "crop_seconds": 0.2,
    "batch": 4,
    "steps": 240,
    "checkpoint_every": 120,
    "log_every": 60,
}
SHORT = {**MICRO, "steps": 8, "checkpoint_every": 4, "log_every": 2}


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    """Four files of a second, one tone with overtones and a little noise each."""
    folder, time = tmp_path_factory.mktemp("tones"), np.arange(16_000) / 16_000
    for number in range(4):
        pitch = 220 * 2 ** (number / 2)
        sound = sum(np.sin(2 * np.pi * pitch * overtone * time) / overtone for overtone in (1, 2, 3))
        hiss = 0.003 * np.random.default_rng(number).normal(size=16_000)
        soundfile.write(folder / f"{number}.wav", 0.2 * sound + hiss, 16_000)
    return folder


def short():
    return resolve("rvq-vae", "tiny", SHORT)


def weights(folder):
    return load(folder).state_dict()


def plain(folder):
    """Return the journal's lines without what the clock decides."""
    return [{key: value for key, value in line.items() if key != "seconds"} for line in read(folder / "journal.jsonl")]


@pytest.fixture(scope="module")
def learnt(tones, tmp_path_factory):
    return teach(resolve("rvq-vae", "tiny", MICRO), [tones], tmp_path_factory.mktemp("learnt"), False, CPU)


@pytest.fixture(scope="module")
def uninterrupted(corpus, tmp_path_factory):
    return teach(short(), [corpus], tmp_path_factory.mktemp("run"), False, CPU)


def test_a_few_tones_are_learnt_and_more_books_help(learnt, tones):
    lines = read(learnt / "journal.jsonl")
    assert [line["step"] for line in lines] == [60, 120, 180, 240]
    distances = [lines[-1][f"distance/{book}"] for book in range(1, 5)]
    untrained = rvq_vae.RVQVAE(load(learnt).settings, 1337)
    sounds = torch.stack([torch.from_numpy(soundfile.read(path)[0]).float() for path in sorted(tones.iterdir())])
    silent = untrained(sounds, torch.Generator().manual_seed(0)).samples_BT.detach()
    assert distances[-1] < 0.4 * float(SpectralDistance(16_000)(silent, sounds))
    assert distances[-1] < 0.6 * lines[0]["distance/4"]
    assert distances[-1] < 0.95 * distances[0]
    assert all(line["skipped"] == line["missing"] == 0 for line in lines)


def test_the_codes_are_in_use(learnt, tones):
    codec = load(learnt)
    sounds = torch.stack([torch.from_numpy(soundfile.read(path)[0]).float() for path in sorted(tones.iterdir())])
    codes = codec.encode(sounds)
    assert codes.shape == (4, 50, 4)
    assert 0 <= int(codes.min()) <= int(codes.max()) < 32
    for book in range(4):
        assert len(torch.unique(codes[..., book])) > 0.3 * 32
    # No two tones ever have a whole row of codes in common.
    rows = [set(map(tuple, tone.tolist())) for tone in codes[:, 5:45]]
    assert len(set.union(*rows)) == sum(map(len, rows))


def test_what_comes_back_has_the_tones_pitch(learnt, tones):
    codec, spectra = load(learnt), []
    sounds = torch.stack([torch.from_numpy(soundfile.read(path)[0]).float() for path in sorted(tones.iterdir())])
    heard = codec.decode(codec.encode(sounds))
    assert heard.shape == sounds.shape
    for batch in (sounds, heard):
        power = torch.fft.rfft(batch[:, 2000:14_000] * torch.hann_window(12_000)).abs().square()
        spectra.append(torch.nn.functional.normalize(power.view(4, -1)[:, :6000].unflatten(1, (240, 25)).sum(2)).T)
    alike = spectra[0].T @ spectra[1]
    assert alike.argmax(dim=0).tolist() == list(range(4))


def test_one_can_hear_what_the_books_keep(learnt):
    for name in ("original", "books-1", "books-2", "books-4"):
        samples, rate = soundfile.read(learnt / "sound" / f"{name}.wav")
        assert rate == 16_000
        assert len(samples) == 3200
        assert np.abs(samples).max() > 0.01


def test_stopped_by_ctrl_c_it_goes_on_bit_for_bit(uninterrupted, corpus, tmp_path, monkeypatch):
    step, taken = rvq_vae._step, []

    def press(*arguments):
        taken.append(1)
        if len(taken) == 3:
            signal.raise_signal(signal.SIGINT)
        return step(*arguments)

    monkeypatch.setattr(rvq_vae, "_step", press)
    with pytest.raises(KeyboardInterrupt):
        teach(short(), [corpus], tmp_path / "run", False, CPU)
    assert len(taken) == 3
    torch.manual_seed(99)
    teach(short(), [corpus], tmp_path / "run", True, CPU)
    assert len(taken) == 8
    ours, theirs = weights(tmp_path / "run"), weights(uninterrupted)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    # The interruption is a line of its own, after which one line averages a step less.
    assert plain(tmp_path / "run")[3:] == plain(uninterrupted)[2:]


def test_a_checkpoint_cut_short_leads_from_the_one_before_to_the_same_end(uninterrupted, corpus, tmp_path):
    folder = teach(short(), [corpus], tmp_path / "run", False, CPU)
    last = folder / "training" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="not whole; going on from previous.safetensors, step 4"):
        teach(short(), [corpus], folder, True, CPU)
    ours, theirs = weights(folder), weights(uninterrupted)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert plain(folder) == plain(uninterrupted)


def test_a_finished_run_is_left_alone_and_mixtures_are_refused(uninterrupted, corpus):
    before = (uninterrupted / "training" / "last.safetensors").stat().st_mtime_ns
    assert teach(short(), [corpus], uninterrupted, True, CPU) == uninterrupted
    assert (uninterrupted / "training" / "last.safetensors").stat().st_mtime_ns == before
    with pytest.raises(StoreError, match="holds a run already; go on with --resume"):
        teach(short(), [corpus], uninterrupted, False, CPU)
    with pytest.raises(StoreError, match="another recipe: network.latent was 16, now 8"):
        teach(replace(short(), {"network.latent": 8}), [corpus], uninterrupted, True, CPU)


def test_what_cannot_be_is_refused(corpus, tmp_path):
    with pytest.raises(UsageError, match="4 crops of 0.2 s has 40 frames, too few to start 41 codes"):
        teach(replace(short(), {"network.codebook_size": 41}), [corpus], tmp_path, False, CPU)
    with pytest.raises(DataError, match="no file is as long as a crop of 60 s"):
        teach(replace(short(), {"crop_seconds": 60}), [corpus], tmp_path, False, CPU)


def test_the_run_file_tells_recipe_and_corpus(uninterrupted):
    told = json.loads((uninterrupted / "run.json").read_text())
    assert told["recipe"] == short().model_dump(mode="json")
    assert told["corpus"]["files"] == 10


def test_the_published_scales_have_eight_books_and_the_spec_s_size():
    base, tiny = resolve("rvq-vae"), resolve("rvq-vae", "tiny")
    assert (base.network.books, base.network.size, base.network.hop) == (8, 1024, 320)
    assert (tiny.network.books, tiny.network.size, tiny.network.hop) == (8, 256, 320)
    halves = rvq_vae.RVQVAE(tiny.network)
    for half in (halves.encoder, halves.decoder):
        # pretraining.md, section 5.2: about 0.23 million weights a half with 8 filters.
        assert 0.18e6 < sum(weight.numel() for weight in half.parameters()) < 0.28e6
