"""The teacher against data2vec's definition written out: average, decay, targets."""

import copy

import pytest
import torch
from torch.nn import functional

from carrara.core.errors import UsageError
from carrara.encoders._frame_encoder import FrameGrid
from carrara.encoders._hub.load import build_encoder
from carrara.pretrain.targets.teacher import TARGET, TeacherSettings

SMALL = {"conv_channels": 8, "dim": 32, "num_layers": 3, "num_heads": 2, "ffn_dim": 48, "position_groups": 4}


@pytest.fixture
def student():
    return build_encoder("music2vec-tiny", 3, SMALL)


@pytest.fixture
def teacher(student):
    target = TARGET(TeacherSettings(top_layers=2), FrameGrid(16000, 320, 199))
    target.attach(student)
    return target


def noise(seed=0, batch=2):
    return torch.randn(batch, 8000, generator=torch.Generator().manual_seed(seed)) * 0.1


def test_the_decay_rises_in_a_straight_line_and_stays(teacher):
    for step, decay in ((0, 0.999), (15_000, 0.99945), (30_000, 0.9999), (90_000, 0.9999)):
        assert teacher.decay_at(step) == pytest.approx(decay, abs=1e-12)


def test_the_average_moves_by_one_part_and_copies_the_positions(student, teacher):
    before = copy.deepcopy(teacher.average.state_dict())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    teacher.update(15_000)
    decay = 0.99945
    now = student.encoder.state_dict()
    for name, value in teacher.average.state_dict().items():
        expected = now[name] if name.startswith("pos_conv_embed") else decay * before[name] + (1 - decay) * now[name]
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)


def test_targets_are_the_normalised_mean_of_the_top_feed_forward_outputs(student, teacher):
    samples = noise()
    model = copy.deepcopy(student).eval()
    x = model.feature_projection(model.conv_features(samples))
    x = model.encoder.layer_norm(x + model.encoder.pos_conv_embed(x))
    outputs = []
    for layer in model.encoder.layers:
        x = layer.layer_norm(x + layer.attention(x))
        forward = layer.feed_forward(x)
        outputs.append(functional.instance_norm(forward.transpose(1, 2)).transpose(1, 2))
        x = layer.final_layer_norm(x + forward)
    expected = (outputs[-1] + outputs[-2]) / 2
    student.train()
    labels = teacher.labels(samples, 20)
    torch.testing.assert_close(labels, expected[:, :20], atol=2e-4, rtol=1e-3)
    assert labels.shape == (2, 20, 32) and labels.dtype == torch.float32 and not labels.requires_grad
    torch.testing.assert_close(labels, teacher.labels(samples, 20))


def test_the_average_is_no_parameter_of_anything_trained_and_is_saved_whole(student, teacher):
    assert not [parameter for parameter in teacher.parameters() if parameter.requires_grad]
    assert {name.removeprefix("average.") for name in teacher.state_dict()} == {
        *student.encoder.state_dict(),
        "mean_M",
    }
    other_student = build_encoder("music2vec-tiny", 4, SMALL)
    other = TARGET(TeacherSettings(top_layers=2), FrameGrid(16000, 320, 199))
    other.attach(other_student)
    other.load_state_dict(teacher.state_dict())
    other_student.load_state_dict(student.state_dict())
    torch.testing.assert_close(other.labels(noise(), 9), teacher.labels(noise(), 9))


def test_the_target_of_a_constant_channel_is_zero(teacher):
    with torch.no_grad():
        for layer in teacher.average.layers:
            layer.feed_forward.output_dense.weight[1] = 0
            layer.feed_forward.output_dense.bias[1] = 4.0
    labels = teacher.labels(noise(), 20)
    assert not labels[..., 1].any() and labels[..., 0].any()
    assert torch.isfinite(teacher.labels(noise()[:, :400], 1)).all()


def test_more_layers_than_there_are_is_refused(student):
    with pytest.raises(UsageError, match="top_layers=4, but the network has 3 layers"):
        TARGET(TeacherSettings(top_layers=4), FrameGrid(16000, 320, 199)).attach(student)
