"""The loss against fairseq's formula written out naively, and its normalisation by masked frames."""

import copy
import math

import pytest
import torch
from torch.nn import functional

from carrara.encoders._frame_encoder import FrameGrid
from carrara.encoders._hub.load import build_encoder
from carrara.pretrain.objectives._masked_network import MaskedPrediction, cosine_logits
from carrara.pretrain.recipes._base import ObjectiveSettings
from carrara.pretrain.targets import REGISTRY

GRID = FrameGrid(16_000, 320, 200)
NETWORK = {
    "conv_channels": 8, "dim": 32, "num_layers": 1, "num_heads": 2, "ffn_dim": 32, "position_groups": 4,
    "dropout": 0.0, "attention_dropout": 0.0, "input_dropout": 0.0, "layerdrop": 0.0,
}  # fmt: skip


def noise_contrastive(projected, positive, negatives, temperature=0.1):
    """Return fairseq's loss of one frame: its own class first, then all classes, of which its own copy is removed."""
    candidates = torch.cat([positive[None], negatives])
    logits = functional.cosine_similarity(projected[None], candidates) / temperature
    copies = (candidates == positive).all(dim=-1)
    copies[0] = False
    logits[copies] = -math.inf
    return functional.cross_entropy(logits[None], torch.tensor([0]))


def test_cosine_classes_equal_noise_contrastive_estimation():
    generator = torch.Generator().manual_seed(0)
    projected = torch.randn(20, 16, generator=generator)
    classes = torch.rand(11, 16, generator=generator)
    codes = torch.randint(11, (20,), generator=generator)
    ours = functional.cross_entropy(cosine_logits(projected, classes, 0.1), codes, reduction="sum")
    naive = sum(noise_contrastive(frame, classes[code], classes) for frame, code in zip(projected, codes))
    torch.testing.assert_close(ours, naive, rtol=1e-5, atol=1e-4)


def test_logits_are_in_single_precision_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = cosine_logits(torch.randn(3, 4).bfloat16(), torch.rand(5, 4), 0.1)
    assert logits.dtype == torch.float32


@pytest.fixture(scope="module")
def parts():
    clusters, cqt = REGISTRY.get("clusters"), REGISTRY.get("cqt")
    targets = {
        "a": clusters(clusters.settings_type(k=7), GRID),
        "b": clusters(clusters.settings_type(feature="mfcc-39", k=5, weight=0.5), GRID),
        "cqt": cqt(cqt.settings_type(bins=12, bins_per_octave=12, weight=2.0), GRID),
    }
    torch.manual_seed(0)
    samples = 0.1 * torch.randn(3, 16_000)
    frames = 49
    labels = {
        "a": torch.randint(7, (3, frames, 1)),
        "b": torch.randint(5, (3, frames, 1)),
        "cqt": torch.rand(3, frames, 12),
    }
    mask = torch.rand(3, frames) < 0.5
    model = MaskedPrediction(build_encoder("mert-v0", 0, NETWORK), targets, ObjectiveSettings(final_dim=16), 0)
    return model.eval(), samples, mask, labels


def test_the_whole_loss_equals_a_loop_over_masked_frames(parts):
    model, samples, mask, labels = parts
    losses = model(samples, mask, labels)
    cnn = model.encoder.conv_features(samples)
    hidden = model.encoder.encode_frames(cnn, mask_BF=mask)[:, -1]
    total, errors, count = 0.0, 0.0, 0
    for clip, frame in mask.nonzero():
        count += 1
        small = model.project(hidden[clip, frame])
        total = total + noise_contrastive(small[:16], model.classes[0][labels["a"][clip, frame, 0]], model.classes[0])
        total = total + 0.5 * noise_contrastive(
            small[16:], model.classes[1][labels["b"][clip, frame, 0]], model.classes[1]
        )
        predicted = model.values["cqt"](hidden[clip, frame])
        errors = errors + (predicted - labels["cqt"][clip, frame]).square().mean()
    expected = total + count * (10 * cnn.square().mean() + 2.0 * errors / count)
    assert losses.sums["masked"] == count
    torch.testing.assert_close(losses.loss({"frames": count, "clips": 3}) * count, expected, rtol=1e-4, atol=1e-3)


def test_two_unequal_parts_give_the_gradient_of_the_whole(parts):
    model, samples, mask, labels = parts
    model = copy.deepcopy(model)
    whole = model(samples, mask, labels)
    divisors = {"frames": int(mask.sum()), "clips": len(samples)}
    whole.loss(divisors).backward()
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    for rows in (slice(0, 1), slice(1, 3)):
        part = model(samples[rows], mask[rows], {name: label[rows] for name, label in labels.items()})
        part.loss(divisors).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    for whole_gradient, summed in zip(expected, gradients, strict=True):
        torch.testing.assert_close(whole_gradient, summed, rtol=1e-3, atol=1e-6)


def test_frames_after_the_end_of_the_labels_are_not_predicted(parts):
    model, samples, mask, labels = parts
    shorter = {name: label[:, :47] for name, label in labels.items()}
    assert model(samples, mask[:, :47], shorter).sums["masked"] == int(mask[:, :47].sum())


def test_a_linear_head_is_cross_entropy_of_one_linear_map_per_codebook(parts):
    model, samples, mask, labels = parts
    clusters = REGISTRY.get("clusters")
    targets = {
        "a": clusters(clusters.settings_type(k=7), GRID),
        "b": clusters(clusters.settings_type(feature="mfcc-39", k=5, weight=0.5), GRID),
    }
    settings = ObjectiveSettings(head="linear", feature_penalty=0.0)
    linear = MaskedPrediction(model.encoder, targets, settings, 0).eval()
    assert linear.project is None and len(linear.classes) == 0
    losses = linear(samples, mask, labels)
    hidden = model.encoder.encode_frames(model.encoder.conv_features(samples), mask_BF=mask)[:, -1][mask].double()
    expected = 0.0
    for (name, weight), head in zip({"a": 1.0, "b": 0.5}.items(), linear.logits):
        logits = hidden @ head.weight.double().T + head.bias.double()
        chosen = logits.gather(1, labels[name][mask])[:, 0]
        expected += weight * float((logits.exp().sum(1).log() - chosen).sum().detach())
    assert float(losses.terms["prediction"].sum.detach()) == pytest.approx(expected, rel=1e-5)
