"""The codec fits some tones and reconstructs them, and its codes are in use; a stopped training resumes bit for bit."""

import json
import signal

import numpy as np
import pytest
import soundfile
import torch

from carrara.core.errors import DataError, StoreError, UsageError
from carrara.core.settings import replace
from carrara.nn.quantize.rvq_vae import RVQVAE
from carrara.nn.spectral.multiscale_loss import SpectralDistance
from carrara.pretrain.codec_folder import load_codec
from carrara.pretrain.metrics_log import read_metrics
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.run import pretrain

pytestmark = pytest.mark.slow

CLOCK = ("seconds", "audio_hours_per_hour", "flops_per_second", "data_wait_fraction", "eta_seconds")
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


def assert_same_weights(folder, other):
    first, second = (load_codec(each).state_dict() for each in (folder, other))
    assert not [name for name in first if not torch.equal(first[name], second[name])]


def metrics_without_times(folder):
    """Return the metrics of a log without those of the clock."""
    return [
        {key: value for key, value in line.items() if key not in CLOCK}
        for line in read_metrics(folder / "metrics.jsonl")
    ]


@pytest.fixture(scope="module")
def trained(tones, tmp_path_factory):
    return pretrain(resolve("rvq-vae", "tiny", MICRO), tones, tmp_path_factory.mktemp("trained"), device="cpu")


@pytest.fixture(scope="module")
def uninterrupted(corpus, tmp_path_factory):
    return pretrain(short(), corpus, tmp_path_factory.mktemp("run"), device="cpu")


def test_a_few_tones_are_fitted_and_more_codebooks_help(trained, tones):
    lines = read_metrics(trained / "metrics.jsonl")
    assert [line["step"] for line in lines] == [60, 120, 180, 240]
    distances = [lines[-1][f"distance/{count}"] for count in range(1, 5)]
    untrained = RVQVAE(load_codec(trained).settings, 1337)
    sounds = torch.stack([torch.from_numpy(soundfile.read(path)[0]).float() for path in sorted(tones.iterdir())])
    untrained.books.start(untrained.latents(sounds), torch.Generator().manual_seed(0))
    silent = untrained(sounds, 4).samples_BT.detach()
    assert distances[-1] < 0.4 * float(SpectralDistance(16_000)(silent, sounds))
    assert distances[-1] < 0.6 * lines[0]["distance/4"]
    assert distances[-1] < 0.95 * distances[0]
    assert all(line["skipped"] == line["missing"] == 0 for line in lines)


def test_the_codes_are_in_use(trained, tones):
    codec = load_codec(trained)
    sounds = torch.stack([torch.from_numpy(soundfile.read(path)[0]).float() for path in sorted(tones.iterdir())])
    codes = codec.encode(sounds)
    assert codes.shape == (4, 50, 4)
    assert 0 <= int(codes.min()) <= int(codes.max()) < 32
    for codebook in range(4):
        assert len(torch.unique(codes[..., codebook])) > 0.3 * 32
    # No two tones ever have a whole row of codes in common.
    rows = [set(map(tuple, tone.tolist())) for tone in codes[:, 5:45]]
    assert len(set.union(*rows)) == sum(map(len, rows))


def test_reconstructions_have_the_pitch_of_the_tones(trained, tones):
    codec, spectra = load_codec(trained), []
    sounds = torch.stack([torch.from_numpy(soundfile.read(path)[0]).float() for path in sorted(tones.iterdir())])
    decoded = codec.decode(codec.encode(sounds))
    assert decoded.shape == sounds.shape
    for batch in (sounds, decoded):
        power = torch.fft.rfft(batch[:, 2000:14_000] * torch.hann_window(12_000)).abs().square()
        spectra.append(torch.nn.functional.normalize(power.view(4, -1)[:, :6000].unflatten(1, (240, 25)).sum(2)).T)
    similarity = spectra[0].T @ spectra[1]
    assert similarity.argmax(dim=0).tolist() == list(range(4))


def test_audio_of_each_number_of_codebooks_is_written(trained):
    for name in ("original", "codebooks-1", "codebooks-2", "codebooks-4"):
        samples, rate = soundfile.read(trained / "sound" / f"{name}.wav")
        assert rate == 16_000
        assert len(samples) == 3200
        assert np.abs(samples).max() > 0.01


def test_stopped_by_ctrl_c_it_resumes_bit_for_bit(uninterrupted, corpus, tmp_path, before_optimiser_steps):
    taken = []

    def press(number):
        taken.append(number)
        if number == 3:
            signal.raise_signal(signal.SIGINT)

    before_optimiser_steps(press)
    with pytest.raises(KeyboardInterrupt):
        pretrain(short(), corpus, tmp_path / "run", device="cpu")
    assert len(taken) == 3
    torch.manual_seed(99)
    pretrain(short(), corpus, tmp_path / "run", resume=True, device="cpu")
    assert len(taken) == 8
    assert_same_weights(tmp_path / "run", uninterrupted)
    # The interruption is a line of its own, after which one line averages a step less.
    assert metrics_without_times(tmp_path / "run")[3:] == metrics_without_times(uninterrupted)[2:]


def test_a_checkpoint_cut_short_leads_from_the_one_before_to_the_same_end(uninterrupted, corpus, tmp_path):
    folder = pretrain(short(), corpus, tmp_path / "run", device="cpu")
    last = folder / "training" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="not whole; going on from previous.safetensors, step 4"):
        pretrain(short(), corpus, folder, resume=True, device="cpu")
    assert_same_weights(folder, uninterrupted)
    assert metrics_without_times(folder) == metrics_without_times(uninterrupted)


def test_a_finished_run_is_left_alone_and_mixtures_are_refused(uninterrupted, corpus):
    before = (uninterrupted / "training" / "last.safetensors").stat().st_mtime_ns
    assert pretrain(short(), corpus, uninterrupted, resume=True, device="cpu") == uninterrupted
    assert (uninterrupted / "training" / "last.safetensors").stat().st_mtime_ns == before
    with pytest.raises(StoreError, match="holds a run already; go on with --resume"):
        pretrain(short(), corpus, uninterrupted, device="cpu")
    with pytest.raises(StoreError, match="has another recipe: network.latent was 16, now 8"):
        pretrain(replace(short(), {"network.latent": 8}), corpus, uninterrupted, resume=True, device="cpu")


def test_impossible_settings_are_refused(corpus, tmp_path):
    with pytest.raises(UsageError, match="4 crops of 0.2 s has 40 frames, too few to start 41 codes"):
        pretrain(replace(short(), {"network.codebook_size": 41}), corpus, tmp_path, device="cpu")
    with pytest.raises(DataError, match="no file is as long as a crop of 60 s"):
        pretrain(replace(short(), {"crop_seconds": 60}), corpus, tmp_path, device="cpu")


def test_the_run_file_has_recipe_and_corpus(uninterrupted):
    content = json.loads((uninterrupted / "run.json").read_text())
    assert content["recipe"] == short().model_dump(mode="json")
    assert content["corpus"]["files"] == 10


def test_the_scales_have_eight_codebooks_and_the_stated_size():
    base, tiny = resolve("rvq-vae"), resolve("rvq-vae", "tiny")
    assert (base.network.num_codebooks, base.network.codebook_size, base.network.hop) == (8, 1024, 320)
    assert (tiny.network.num_codebooks, tiny.network.codebook_size, tiny.network.hop) == (8, 256, 320)
    codec = RVQVAE(tiny.network)
    for half in (codec.encoder, codec.decoder):
        # About 0.23 million weights a half with 8 filters [notes/pretraining §5.2].
        assert 0.18e6 < sum(weight.numel() for weight in half.parameters()) < 0.28e6


def test_two_ranks_do_what_one_process_does_and_either_goes_on_with_the_other(
    start_ranks, wait_for, uninterrupted, corpus, tmp_path
):
    folder = tmp_path / "two"
    codes, messages = wait_for(start_ranks(short(), corpus, folder))
    assert codes == [0, 0], messages
    assert_close(folder, uninterrupted)
    training = folder / "training"
    # One process goes on from the two ranks' checkpoint of step 4, and two from that of one process.
    (training / "previous.safetensors").replace(training / "last.safetensors")
    pretrain(short(), corpus, folder, resume=True, device="cpu")
    assert_close(folder, uninterrupted)
    (training / "previous.safetensors").replace(training / "last.safetensors")
    codes, messages = wait_for(start_ranks(short(), corpus, folder))
    assert codes == [0, 0], messages
    assert_close(folder, uninterrupted)


def assert_close(folder, other):
    losses = [[line["loss"] for line in read_metrics(each / "metrics.jsonl")] for each in (folder, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    first, second = (load_codec(each).state_dict() for each in (folder, other))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-4, atol=1e-5, msg=name)


def test_micro_batches_and_activation_checkpointing_change_nothing(uninterrupted, corpus, tmp_path):
    changes = {"accumulation_steps": 3, "activation_checkpointing": True}
    assert_close(pretrain(replace(short(), changes), corpus, tmp_path / "run", device="cpu"), uninterrupted)


def test_half_precision_trains(corpus, tmp_path):
    for precision in ("bfloat16", "float16"):
        half = pretrain(replace(short(), {"precision": precision}), corpus, tmp_path / precision, device="cpu")
        losses = [line["loss"] for line in read_metrics(half / "metrics.jsonl")]
        assert losses[-1] < losses[0]


def test_it_starts_from_a_codec(uninterrupted, corpus, tmp_path):
    changes = {"steps": 1, "optimiser.learning_rate": 1e-12}
    folder = pretrain(replace(short(), changes), corpus, tmp_path / "run", start=uninterrupted, device="cpu")
    first, second = (load_codec(each) for each in (folder, uninterrupted))
    for name, weight in first.named_parameters():
        torch.testing.assert_close(weight, second.get_parameter(name))
    assert json.loads((folder / "run.json").read_text())["initialization"]["from"] == str(uninterrupted)
    assert pretrain(
        replace(short(), changes), corpus, folder, start=uninterrupted, resume=True, device="cpu"
    ) == folder  # fmt: skip
    with pytest.raises(UsageError, match="is another codec: latent is 16 there and 8 here"):
        pretrain(replace(short(), {"network.latent": 8}), corpus, tmp_path / "x", start=uninterrupted, device="cpu")
    assert not (tmp_path / "x").exists()


def test_it_cannot_be_probed_or_sharded(corpus, tmp_path):
    with pytest.raises(UsageError, match="--probe measures encoders, and a codec is none; leave it out"):
        pretrain(short(), corpus, tmp_path / "x", probe=lambda encoder: {}, device="cpu")
    with pytest.raises(UsageError, match="this network is small, leave it out with --set fsdp=false"):
        pretrain(replace(short(), {"fsdp": True}), corpus, tmp_path / "x", device="cpu")
    assert not (tmp_path / "x").exists()
