"""What a step does, all of it at once: mixed crops, columns left out, places in the table, mixed targets, modes."""

import numpy as np
import pytest
import torch

from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.run import pretrain
from carrara.pretrain.tagging import train, validate
from carrara.pretrain.tagging.network import heard
from carrara.pretrain.tagging.settings import TaggingOptimiserSettings

BANDS, COLUMNS, PLACES, OUT = 9, 9, 15, 3
NO_MASKS = {"masks__time_masks": 0, "masks__band_masks": 0}


@pytest.fixture
def watched(monkeypatch):
    """What every step had: run, batch, losses, spectrogram, logits, modes of the network; and the modes in scoring."""
    steps, scored = [], []
    loss, forward, score = train._losses, train.answers, validate.answers

    def keep(run, batch):
        steps.append({"run": run, "batch": batch})
        steps[-1]["losses"] = loss(run, batch)
        return steps[-1]["losses"]

    def note(encoder, mel_BFM, patchout, draw):
        calls = []
        hook = encoder.vit.register_forward_hook(lambda module, given, out: calls.append((given, out[-1].shape)))
        logits = forward(encoder, mel_BFM, patchout, draw)
        hook.remove()
        (given, shape), *_ = calls
        steps[-1].update(mel=mel_BFM, logits=logits, kept=given[2], offset=given[3], shape=shape)
        steps[-1]["training"] = [module.training for module in encoder.modules()]
        return logits

    def judge(encoder, mel_BFM):
        scored.append([module.training for module in encoder.modules()])
        return score(encoder, mel_BFM)

    monkeypatch.setattr(train, "_losses", keep)
    monkeypatch.setattr(train, "answers", note)
    monkeypatch.setattr(validate, "answers", judge)
    return steps, scored


def shares(mixed_BX, plain_BX):
    """Return each row's partner and its own share, found by trying every other row as partner."""
    found = []
    for row, mixed_X in enumerate(mixed_BX):
        best = (np.inf, row, 1.0)
        for partner, other_X in enumerate(plain_BX):
            between_X = plain_BX[row] - other_X
            share = float((mixed_X - other_X) @ between_X / (between_X @ between_X)) if partner != row else 1.0
            rest = float((share * plain_BX[row] + (1 - share) * other_X - mixed_X).abs().max())
            best = min(best, (rest, partner, share))
        assert best[0] < 1e-3
        found.append(best[1:])
    return found


def cross_entropy(logits, targets):
    probability = logits.detach().double().sigmoid()
    return float(-(targets * probability.log() + (1 - targets) * (1 - probability).log()).mean())


def test_a_step_leaves_columns_out_and_begins_anywhere_in_the_table(labelled, micro, tmp_path, watched):
    steps, scored = watched
    pretrain(micro(network__frames=156, patchout=OUT), labelled, tmp_path / "run", steps=9, device="cpu")
    assert len(steps) == 9
    for step in steps:
        assert step["shape"][1] == 2 + BANDS * (COLUMNS - OUT)
        kept = step["kept"].tolist()
        assert kept == sorted(set(kept)) and len(kept) == COLUMNS - OUT and set(kept) <= set(range(COLUMNS))
        assert 0 <= step["offset"] <= PLACES - COLUMNS
        assert all(step["training"])
    assert len({tuple(step["kept"].tolist()) for step in steps}) > 5
    assert len({step["offset"] for step in steps}) > 2
    assert scored and not any(mode for modes in scored for mode in modes)


def test_sounds_tags_and_the_teachers_answers_are_mixed_alike(labelled, micro, tmp_path, watched, monkeypatch):
    steps, _ = watched
    teacher = pretrain(micro(), labelled, tmp_path / "teacher", steps=1, device="cpu")
    steps.clear()
    draws = torch.Generator().manual_seed(1)
    answered = []

    def told(teacher, samples_BT, threshold):
        answered.append((torch.rand(len(samples_BT), 4, generator=draws) > 0.5).float())
        return answered[-1]

    monkeypatch.setattr(train, "told", told)
    recipe = micro(teacher__weights=str(teacher), mixup=2.0, **NO_MASKS)
    pretrain(recipe, labelled, tmp_path / "run", steps=3, device="cpu")
    mixes, apart = 0, {"tags": 0.0, "teacher": 0.0}
    for step, given in zip(steps, answered, strict=True):
        run, batch = step["run"], step["batch"]
        plain = heard(run.encoder, batch.samples_BT).flatten(1).double()
        tags = torch.from_numpy(run.crops.tagged.tags_NC[list(batch.items)]).double()
        pairs = shares(step["mel"].flatten(1).double(), plain)
        assert all(share >= 0.5 - 1e-3 for _, share in pairs)
        mixes += sum(share < 0.95 for _, share in pairs)
        for logits, targets, name in zip(step["logits"], (tags, given.double()), ("tags", "teacher")):
            mixed = torch.stack([share * targets[row] + (1 - share) * targets[partner]
                                 for row, (partner, share) in enumerate(pairs)])  # fmt: skip
            assert float(step["losses"][name].detach()) == pytest.approx(cross_entropy(logits, mixed), abs=3e-6)
            apart[name] = max(apart[name], abs(cross_entropy(logits, mixed) - cross_entropy(logits, targets)))
    # What was not mixed would show.
    assert mixes >= 4 and min(apart.values()) > 3e-5


def test_the_optimiser_is_the_specs(labelled, micro, tmp_path, watched):
    settings = TaggingOptimiserSettings()
    assert (settings.learning_rate, settings.weight_decay, settings.betas) == (2e-5, 1e-4, (0.9, 0.999))
    assert (settings.warmup_epochs, settings.hold_until, settings.ramp_down, settings.last) == (5, 50, 50, 0.01)
    pretrain(micro(optimiser__weight_decay=0.03), labelled, tmp_path / "run", steps=1, device="cpu")
    (group,) = watched[0][0]["run"].optimiser.param_groups
    assert (group["weight_decay"], group["betas"], group["eps"]) == (0.03, (0.9, 0.999), 1e-8)
    assert len(group["params"]) == len(list(watched[0][0]["run"].encoder.parameters()))


def test_the_convolutional_networks_norms_learn_in_training_alone(labelled, tmp_path, monkeypatch):
    modes = {"train": [], "validate": []}
    for module, name in ((train, "train"), (validate, "validate")):
        forward = module.answers

        def note(encoder, *rest, forward=forward, name=name):
            modes[name].append({part.training for part in encoder.modules()})
            return forward(encoder, *rest)

        monkeypatch.setattr(module, "answers", note)
    changes = {"network.dim": 0.1, "crop_seconds": 2.05, "batch": 4, "steps": 4, "epoch_clips": 4}
    pretrain(resolve("effnet-tagger", "tiny", changes), labelled, tmp_path / "run", device="cpu")
    assert modes["train"] == [{True}] * 4
    assert modes["validate"] and all(mode == {False} for mode in modes["validate"])
