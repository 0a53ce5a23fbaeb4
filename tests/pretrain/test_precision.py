"""The loss scale goes as fairseq's; half precision trains; an overflow is skipped, told, and halves the scale."""

import math

import pytest
import torch

from carrara.core.errors import DataError
from carrara.core.settings import replace
from carrara.pretrain import gradient
from carrara.pretrain.metrics_log import events, read
from carrara.pretrain.precision import LossScale
from carrara.pretrain.recipes._base import LossScaleSettings
from carrara.pretrain.run import pretrain


def test_the_scale_halves_at_overflows_doubles_after_clean_steps_and_gives_up():
    scale = LossScale.of("float16", LossScaleSettings(initial=8, double_after=3, smallest=1))
    seen = []
    for overflow in (0, 0, 1, 0, 0, 0, 0, 1, 1, 1):
        (scale.overflow if overflow else scale.clear)()
        seen.append(scale.value)
    assert seen == [8, 8, 4, 4, 4, 8, 8, 4, 2, 1]
    with pytest.raises(DataError, match="loss scale fell below 1: .* try precision=bfloat16"):
        scale.overflow()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_only_float16_is_scaled(precision):
    scale = LossScale.of(precision, LossScaleSettings())
    scale.clear()
    scale.overflow()
    assert scale.value == 1


@pytest.fixture(scope="module")
def short(micro):
    return replace(micro, {"steps": 6, "log_every": 1, "checkpoint_every": 6, "network.dropout": 0.0})


@pytest.fixture(scope="module")
def single(short, corpus, tmp_path_factory):
    return read(pretrain(short, corpus, tmp_path_factory.mktemp("runs") / "x", device="cpu") / "journal.jsonl")


@pytest.mark.parametrize(("precision", "relative"), [("bfloat16", 0.02), ("float16", 0.005)])
def test_half_precision_learns_what_single_precision_does(precision, relative, short, single, corpus, tmp_path):
    folder = pretrain(replace(short, {"precision": precision}), corpus, tmp_path / "x", device="cpu")
    lines = read(folder / "journal.jsonl")
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in single], rel=relative)
    assert [line["loss"] for line in lines] != [line["loss"] for line in single]
    assert ("loss_scale" in lines[0]) == (precision == "float16")


@pytest.mark.parametrize(
    "changes", [{"attention": "eager", "relaxation": 32.0}, {"deepnorm": True, "norm_placement": "post"}]
)
def test_the_stabilisers_train_in_half_precision(changes, short, corpus, tmp_path):
    wanted = {f"network.{name}": value for name, value in changes.items()} | {"precision": "float16", "steps": 3}
    lines = read(pretrain(replace(short, wanted), corpus, tmp_path / "x", device="cpu") / "journal.jsonl")
    assert all(math.isfinite(line["loss"]) and line["skipped"] == 0 for line in lines)


def test_an_overflow_is_skipped_told_and_halves_the_scale(short, corpus, tmp_path, monkeypatch):
    norm_of, calls = gradient.norm_of, []

    def overflowing(norm):
        calls.append(1)
        return math.inf if len(calls) in (2, 3) else norm_of(norm)

    monkeypatch.setattr(gradient, "norm_of", overflowing)
    half = replace(short, {"precision": "float16", "loss_scale.double_after": 2, "recovery.max_consecutive_skips": 1})
    journal = pretrain(half, corpus, tmp_path / "x", device="cpu") / "journal.jsonl"
    assert [line["skipped"] for line in read(journal)] == [0, 1, 1, 0, 0, 0]
    assert [line["loss_scale"] for line in read(journal)] == [128, 64, 32, 32, 64, 64]
    told = events(journal)
    assert [(one["step"], one["event"], one["why"], one["loss_scale"]) for one in told] == [
        (2, "skipped", "gradient norm inf", 64),
        (3, "skipped", "gradient norm inf", 32),
    ]
    assert all(torch.isfinite(torch.tensor(line["loss"])) for line in read(journal) if "loss" in line)
