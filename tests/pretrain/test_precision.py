"""The loss scale changes as fairseq's; half precision trains; an overflow is skipped, logged, and halves the scale."""

import math

import pytest

from carrara.core.errors import DataError
from carrara.core.settings import replace
from carrara.pretrain.metrics_log import read_events, read_metrics
from carrara.pretrain.precision import LossScale
from carrara.pretrain.recipes._base import LossScaleSettings
from carrara.pretrain.run import pretrain


def test_the_scale_halves_at_overflows_doubles_after_clean_steps_and_stops():
    scale = LossScale.of("float16", LossScaleSettings(initial=8, double_after=3, smallest=1))
    seen = []
    for overflow in (0, 0, 1, 0, 0, 0, 0, 1, 1, 1):
        (scale.record_overflow if overflow else scale.record_success)()
        seen.append(scale.value)
    assert seen == [8, 8, 4, 4, 4, 8, 8, 4, 2, 1]
    with pytest.raises(DataError, match="loss scale fell below 1: .* precision=bfloat16"):
        scale.record_overflow()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_only_float16_is_scaled(precision):
    scale = LossScale.of(precision, LossScaleSettings())
    scale.record_success()
    scale.record_overflow()
    assert scale.value == 1


@pytest.fixture(scope="module")
def short(micro):
    return replace(micro, {"steps": 6, "log_every": 1, "checkpoint_every": 6, "network.dropout": 0.0})


@pytest.fixture(scope="module")
def single(short, corpus, tmp_path_factory):
    return read_metrics(pretrain(short, corpus, tmp_path_factory.mktemp("runs") / "x", device="cpu") / "metrics.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "relative"), [("bfloat16", 0.02), ("float16", 0.005)])
def test_half_precision_learns_what_single_precision_does(precision, relative, short, single, corpus, tmp_path):
    folder = pretrain(replace(short, {"precision": precision}), corpus, tmp_path / "x", device="cpu")
    lines = read_metrics(folder / "metrics.jsonl")
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in single], rel=relative)
    assert [line["loss"] for line in lines] != [line["loss"] for line in single]
    assert ("loss_scale" in lines[0]) == (precision == "float16")


@pytest.mark.parametrize(
    "network", [{"attention": "eager", "relaxation": 32.0}, {"deepnorm": True, "norm_placement": "post"}]
)
def test_the_stabilisers_train_in_half_precision(network, short, corpus, tmp_path):
    changes = {f"network.{name}": value for name, value in network.items()} | {"precision": "float16", "steps": 3}
    lines = read_metrics(pretrain(replace(short, changes), corpus, tmp_path / "x", device="cpu") / "metrics.jsonl")
    assert all(math.isfinite(line["loss"]) and line["skipped"] == 0 for line in lines)


def test_an_overflow_is_skipped_logged_and_halves_the_scale(short, corpus, tmp_path):
    # At this scale the first gradients overflow float16; a roll-back is not its cure.
    changes = {"precision": "float16", "loss_scale.initial": 2.0**22, "loss_scale.double_after": 2, "steps": 12}
    half = replace(short, {**changes, "recovery.max_consecutive_skips": 1})
    log = pretrain(half, corpus, tmp_path / "x", device="cpu") / "metrics.jsonl"
    lines, events = read_metrics(log), read_events(log)
    skipped = [line["step"] for line in lines if line["skipped"]]
    assert skipped and skipped[0] == 1 and len(skipped) < 12
    assert [(event["step"], event["event"]) for event in events] == [(step, "skipped") for step in skipped]
    assert all(event["why"] in ("gradient norm inf", "gradient norm nan") for event in events)
    scale, clean = 2.0**22, 0
    for line in lines:
        clean = 0 if line["skipped"] else clean + 1
        if line["skipped"] or clean == 2:
            scale, clean = (scale / 2, 0) if line["skipped"] else (2 * scale, 0)
        assert line["loss_scale"] == scale
        assert math.isfinite(line.get("loss", 0.0))
