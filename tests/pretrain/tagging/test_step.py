"""All parts of a step together: mixed crops, dropped columns, offsets of positions, mixed targets, training mode."""

import numpy as np
import pytest
import torch

from carrara.pretrain.distributed import Dist
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.run import build_run, pretrain
from carrara.pretrain.tagging.network import input_mel
from carrara.pretrain.tagging.settings import TaggingOptimiserSettings
from carrara.pretrain.train import compute_gradient, train

BANDS, COLUMNS, POSITIONS, DROPPED = 9, 9, 15, 3
NO_MASKS = {"spec_augment__time_masks": 0, "spec_augment__band_masks": 0}


def build(recipe, corpus, folder):
    return build_run(recipe, [corpus], folder, False, Dist())


def mixup_pairs(mixed_BX, plain_BX):
    """Return each row's partner and its own weight, searched among all other rows."""
    pairs = []
    for row, mixed_X in enumerate(mixed_BX):
        best = (np.inf, row, 1.0)
        for partner, other_X in enumerate(plain_BX):
            difference_X = plain_BX[row] - other_X
            weight = (
                float((mixed_X - other_X) @ difference_X / (difference_X @ difference_X)) if partner != row else 1.0
            )
            error = float((weight * plain_BX[row] + (1 - weight) * other_X - mixed_X).abs().max())
            best = min(best, (error, partner, weight))
        assert best[0] < 1e-3
        pairs.append(best[1:])
    return pairs


def cross_entropy(logits, targets):
    probability = logits.detach().double().sigmoid()
    return float(-(targets * probability.log() + (1 - targets) * (1 - probability).log()).mean())


def test_a_step_drops_columns_and_begins_anywhere_in_the_positions(labelled, micro, tmp_path):
    run = build(micro(network__frames=156, patchout=DROPPED, steps=9), labelled, tmp_path / "run")
    steps, validation_modes = [], []

    def record(module, inputs, output):
        modes = [part.training for part in run.objective.encoder.modules()]
        if torch.is_grad_enabled():
            steps.append((inputs[2].tolist(), inputs[3], output[-1].shape[1]))
            assert all(modes)
        else:
            validation_modes.extend(modes)

    run.objective.encoder.vit.register_forward_hook(record)
    train(run)
    assert len(steps) == 9
    for kept, offset, tokens in steps:
        assert tokens == 2 + BANDS * (COLUMNS - DROPPED)
        assert kept == sorted(set(kept)) and len(kept) == COLUMNS - DROPPED and set(kept) <= set(range(COLUMNS))
        assert 0 <= offset <= POSITIONS - COLUMNS
    assert len({tuple(kept) for kept, _, _ in steps}) > 5
    assert len({offset for _, offset, _ in steps}) > 2
    assert validation_modes and not any(validation_modes)


class RandomTeacher:
    """Predicts random tags, at least one per clip, and remembers them."""

    def __init__(self):
        self.rng, self.predictions = torch.Generator().manual_seed(1), []

    def predict_tags(self, samples_BT):
        tags = (torch.rand(len(samples_BT), 4, generator=self.rng) > 0.5).float()
        tags[:, 0] = torch.maximum(tags[:, 0], (tags.sum(1) == 0).float())
        self.predictions.append(tags)
        return tags


def test_audio_tags_and_the_teachers_predictions_are_mixed_alike(labelled, micro, tmp_path):
    weights = pretrain(micro(), labelled, tmp_path / "teacher", steps=1, device="cpu")
    run = build(micro(teacher__weights=str(weights), mixup=2.0, **NO_MASKS), labelled, tmp_path / "run")
    run.objective.teacher = RandomTeacher()
    mels, logits = [], {"tags": [], "teacher": []}
    encoder = run.objective.encoder
    encoder.vit.register_forward_hook(lambda module, inputs, output: mels.append(inputs[0]))
    encoder.head.register_forward_hook(lambda module, inputs, output: logits["tags"].append(output))
    encoder.head_dist.register_forward_hook(lambda module, inputs, output: logits["teacher"].append(output))
    mixed, effect = 0, {"tags": 0.0, "teacher": 0.0}
    for step in range(3):
        batch = run.objective.stream.read_batch(step)
        sums = compute_gradient(run, batch).sums
        plain = input_mel(run.objective.encoder, batch.samples_BT).flatten(1).double()
        tags = torch.from_numpy(run.objective.corpus.tags_NC[list(batch.item_indices)]).double()
        pairs = mixup_pairs(mels[step].flatten(1).double(), plain)
        assert all(weight >= 0.5 - 1e-3 for _, weight in pairs)
        mixed += sum(weight < 0.95 for _, weight in pairs)
        for name, targets in (("tags", tags), ("teacher", run.objective.teacher.predictions[step].double())):
            expected = torch.stack([weight * targets[row] + (1 - weight) * targets[partner]
                                    for row, (partner, weight) in enumerate(pairs)])  # fmt: skip
            entropy = cross_entropy(logits[name][step], expected)
            assert float(sums[name]) / len(tags) == pytest.approx(entropy, abs=3e-6)
            effect[name] = max(effect[name], abs(entropy - cross_entropy(logits[name][step], targets)))
    # Targets that are not mixed would give another loss.
    assert mixed >= 4 and min(effect.values()) > 3e-5


def test_the_optimiser_is_the_published_one(labelled, micro, tmp_path):
    settings = TaggingOptimiserSettings()
    assert (settings.learning_rate, settings.weight_decay, settings.betas) == (2e-5, 1e-4, (0.9, 0.999))
    assert (settings.warmup_epochs, settings.hold_until, settings.ramp_down, settings.last) == (5, 50, 50, 0.01)
    run = build(micro(optimiser__weight_decay=0.03), labelled, tmp_path / "run")
    (group,) = run.optimiser.param_groups
    assert (group["weight_decay"], group["betas"], group["eps"]) == (0.03, (0.9, 0.999), 1e-8)
    assert len(group["params"]) == len(list(run.objective.encoder.parameters()))


def test_the_convolutional_networks_norms_learn_in_training_alone(labelled, tmp_path):
    changes = {"network.width_multiplier": 0.1, "crop_seconds": 2.05, "batch": 4, "steps": 4, "epoch_clips": 4}
    run = build(resolve("effnet-tagger", "tiny", changes), labelled, tmp_path / "run")
    modes = {True: [], False: []}

    def record(module, inputs, output):
        modes[torch.is_grad_enabled()].append({part.training for part in run.objective.encoder.modules()})

    run.objective.encoder.network.register_forward_hook(record)
    train(run)
    assert modes[True] == [{True}] * 4
    assert modes[False] and all(mode == {False} for mode in modes[False])
