"""Contrastive pairs: the views, the loss against a closed form, and a run in all its forms."""

import numpy as np
import pytest
import soxr
import torch
from safetensors.torch import load_file

import carrara
from carrara.core.errors import DataError, UsageError
from carrara.pretrain.distributed import Dist
from carrara.pretrain.metrics_log import read_metrics
from carrara.pretrain.objectives.contrastive import cut_views, pair_loss
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.recipes.contrastive import PairSettings
from carrara.pretrain.run import build_run, pretrain

RATE = 24_000
MICRO = {
    "network.dim": 32,
    "network.num_layers": 2,
    "network.num_heads": 2,
    "network.hidden": 16,
    "pairs.view_seconds": 0.4,
    "pairs.max_semitones": 2,
    "pairs.group": 2,
    "pairs.projection_dim": 8,
    "crop_seconds": 1.0,
    "optimiser.epsilon": 1e-6,
    "batch": 4,
    "steps": 6,
    "checkpoint_every": 2,
    "log_every": 1,
}


@pytest.fixture(scope="module")
def recipe():
    return resolve("contrastive", "tiny", MICRO)


@pytest.fixture(scope="module")
def alone(recipe, corpus, tmp_path_factory):
    return pretrain(recipe, corpus, tmp_path_factory.mktemp("runs") / "alone", device="cpu")


def tensors(folder):
    return load_file(folder / "training" / "last.safetensors")


def test_the_loss_is_the_closed_form():
    rng = np.random.default_rng(0)
    views = rng.normal(size=(6, 5))
    views /= np.linalg.norm(views, axis=1, keepdims=True)
    logits = views @ views.T / 0.2
    expected, correct = [], []
    for view in range(6):
        others = [other for other in range(6) if other != view]
        partner = (view + 3) % 6
        expected.append(np.log(np.exp(logits[view, others]).sum()) - logits[view, partner])
        correct.append(max(others, key=lambda other: logits[view, other]) == partner)
    loss, is_correct = pair_loss(torch.from_numpy(views), torch.tensor([4, 5, 6]), 0.2)
    np.testing.assert_allclose(loss, expected)
    assert is_correct.tolist() == correct


def test_views_of_the_same_recording_are_no_negatives():
    views = torch.nn.functional.normalize(torch.randn(6, 5, generator=torch.Generator().manual_seed(1)), dim=1)
    loss, _ = pair_loss(views, torch.tensor([4, 4, 6]), 0.5)
    logits = (views @ views.T / 0.5).numpy()
    # For the first view: its own, and both views of the second crop are left out, not its partner.
    expected = np.log(np.exp(logits[0, [3, 2, 5]]).sum()) - logits[0, 3]
    assert float(loss[0]) == pytest.approx(float(expected), rel=1e-5)


def test_views_do_not_overlap_and_play_at_the_drawn_speed():
    settings = PairSettings(view_seconds=0.5, max_semitones=5)
    rising = torch.linspace(-0.5, 0.5, 2 * RATE)
    drawn = set()
    for item in range(40):
        (first, second), semitones = cut_views(rising, (7, 0, item), settings)
        again, _ = cut_views(rising, (7, 0, item), settings)
        assert torch.equal(first, again[0]) and torch.equal(second, again[1])
        assert len(first) == len(second) == RATE // 2 and abs(semitones) <= 5
        drawn.add(semitones)
        speed = 2 ** (semitones / 12)
        slope = float(first[4000:8000].diff().mean()) * (2 * RATE - 1)
        assert slope == pytest.approx(speed, rel=2e-3)
        assert float(second[100]) > float(first[-100])
    assert len(drawn) == 11
    tone = torch.sin(2 * np.pi * 440 * torch.arange(2 * RATE) / RATE)
    (view, _), semitones = cut_views(tone, (7, 0, 3), settings)
    spectrum = np.abs(np.fft.rfft(view.numpy() * np.hanning(12_000), 2**18))
    peak = float(np.fft.rfftfreq(2**18, 1 / RATE)[spectrum.argmax()])
    assert peak == pytest.approx(440 * 2 ** (semitones / 12), rel=1e-3)


def test_no_change_of_speed_cuts_the_crop_itself():
    crop = torch.randn(RATE, generator=torch.Generator().manual_seed(2))
    (first, second), semitones = cut_views(crop, (1, 2, 3), PairSettings(view_seconds=0.5, max_semitones=0))
    assert semitones == 0 and torch.equal(torch.cat([first, second]), crop)


def test_training_learns_to_recognise_views(corpus, tmp_path):
    recipe = resolve("contrastive", "tiny", {**MICRO, "pairs.group": 4, "steps": 40, "optimiser.learning_rate": 3e-3})
    folder = pretrain(recipe, corpus, tmp_path / "run", device="cpu")
    losses = [line["loss"] for line in read_metrics(folder / "metrics.jsonl")]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.2
    encoder = carrara.load(folder)
    samples = torch.randn(1, RATE, generator=torch.Generator().manual_seed(0))
    assert encoder(samples).shape == (1, 3, 25, 32) and encoder.card.training_hours is not None
    assert "other view" in (folder / "README.md").read_text()


def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(recipe, alone, corpus, tmp_path):
    run = build_run(recipe, [corpus], tmp_path / "resumed", False, Dist(device=torch.device("cpu")))
    from carrara.pretrain.train import compute_gradient, save

    for step, batch in enumerate(run.objective.iter_batches(0, 4)):
        for group in run.optimiser.param_groups:
            group["lr"] = run.objective.learning_rate(step)
        compute_gradient(run, batch)
        run.optimiser.step()
        run.step += 1
    save(run)
    run.log.close()
    resumed = pretrain(recipe, corpus, tmp_path / "resumed", resume=True, device="cpu")
    first, second = tensors(alone), tensors(resumed)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_step_means_the_same_however_its_groups_are_divided(recipe, alone, corpus, tmp_path):
    divided = pretrain(recipe, corpus, tmp_path / "divided", changes={"accumulation_steps": 2}, device="cpu")
    for name, tensor in tensors(alone).items():
        torch.testing.assert_close(tensors(divided)[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_another_run_starts_from_the_weights(recipe, alone, corpus, tmp_path):
    run = build_run(recipe, [corpus], tmp_path / "next", False, Dist(device=torch.device("cpu")), str(alone))
    run.log.close()
    former = carrara.load(alone).state_dict()
    assert all(torch.equal(tensor, former[name]) for name, tensor in run.objective.encoder.state_dict().items())


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"accumulation_steps": 4}, "pairs.group=2|do not divide"),
        ({"batch": 5}, "multiple of pairs.group"),
        ({"crop_seconds": 0.8}, "two views at any speed"),
        ({"encoder": "noise"}, "not trained by pairs|noise"),
    ],
)
def test_what_cannot_be_trained_is_refused(changes, problem, corpus, tmp_path):
    with pytest.raises(UsageError, match=problem):
        pretrain("contrastive", corpus, tmp_path / "run", scale="tiny", changes={**MICRO, **changes}, device="cpu")


def test_one_file_is_no_corpus(recipe, tmp_path):
    import soundfile

    soundfile.write(tmp_path / "one.wav", np.random.default_rng(0).normal(size=3 * RATE) * 0.1, RATE)
    with pytest.raises(DataError, match="one file"):
        pretrain(recipe, tmp_path / "one.wav", tmp_path / "run", device="cpu")


def test_speeds_are_soxrs():
    crop = torch.randn(2 * RATE, generator=torch.Generator().manual_seed(5))
    settings = PairSettings(view_seconds=0.5, max_semitones=5)
    (first, _), semitones = cut_views(crop, (1, 0, 0), settings)
    played = soxr.resample(crop.numpy(), RATE * 2 ** (semitones / 12), RATE, quality="MQ")
    windows = np.lib.stride_tricks.sliding_window_view(played, len(first))
    assert (np.abs(windows[:, :32] - first.numpy()[:32]).max(1) == 0).any()
