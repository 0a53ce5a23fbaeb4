"""The search learns to separate toys, each point by itself, whatever stands beside it; and a record tells all of it."""

import numpy as np
import pytest
import torch

from carrara.bench.config import BenchConfig
from carrara.bench.predictions import predictions_path, read_predictions
from carrara.bench.probes.lr_schedule import Plateau, ProbeHistory
from carrara.bench.probes.probe import ProbeSpec
from carrara.bench.run import bench
from carrara.bench.separation import settings, train
from carrara.bench.separation.evaluate import Ledger, passing
from carrara.bench.separation.frozen_encoder import Ears
from carrara.bench.separation.settings import Separation, separation
from carrara.bench.separation.songs import songs
from carrara.bench.separation.train import Lesson, groups, trained
from carrara.bench.separation.trial import Member, Part, bytes_held
from carrara.bench.task_types.source_separation import TASK_TYPE
from carrara.bench.tasks import task as shelf
from carrara.core.errors import DataError, UsageError

HOW = Separation(hidden=16, batch=8, part=4)
SPECS = [ProbeSpec("0", ("0",), rate, 1) for rate in (1e-3, 1e-2)]


@pytest.fixture
def lesson(task, sides, levels):
    few = task.model_copy(update={"max_epochs": 2, "examples_per_clip": 2})
    return Lesson(few, Ears(levels(), 0.5, "cpu"), songs(few, sides["train"]), songs(few, sides["valid"]), HOW, "cpu")


def test_a_record_of_stems_beats_the_mixture_and_tells_how(task, toys, levels, tmp_path, monkeypatch, sides):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(settings.BY_DATASET, "toys", HOW)
    monkeypatch.setattr("carrara.bench.separation.wiener.post_filter", lambda: "none")
    monkeypatch.setattr("carrara.bench.separation.run.post_filter", lambda: "none")
    monkeypatch.setattr("carrara.bench.protocols.constrained.LEARNING_RATES", (2e-2,))
    (record,) = bench(
        levels(), [task], results=tmp_path / "results", datasets={"toys": toys}, config=BenchConfig(seeds=(1, 2))
    )
    assert record.protocol.tried == 2 and len(record.grid) == 2
    assert record.protocol.chosen["hidden"] == 16 and record.protocol.chosen["post_filter"] == "none"
    assert record.protocol.monitor == "valid sdr"
    found = songs(task, sides["test"])
    ledger = Ledger(len(found), 2)
    for windows in passing(found, Ears(levels(), 0.5, "cpu").reading):
        ledger.add(windows, torch.from_numpy(windows.mixture_BCT)[:, None].expand(-1, 2, -1, -1))
    mixture = ledger.sdr_UJ().mean(0)
    for name, before in zip(("sdr_tone", "sdr_hiss"), mixture):
        score = record.scores[name]
        assert score.value > before + 4 and score.value > 3
        assert (score.unit, score.n, score.scale) == ("track", 3, "dB") and len(score.by_seed) == 2
        assert score.low <= score.value <= score.high
    assert record.scores["sdr"].value == pytest.approx(record.mean_score())
    kept = read_predictions(predictions_path(record, tmp_path / "results"))
    assert kept[1]["song-6"][0] == "song-6" and set(kept[2]["song-8"][1]) == {"sdr_tone", "sdr_hiss"}


def test_a_point_learns_the_same_alone_and_in_company(lesson):
    together = trained(lesson, SPECS)
    for spec, one in zip(SPECS, together):
        (alone,) = trained(lesson, [spec])
        assert alone.course.scores == pytest.approx(one.course.scores, abs=1e-3)
        assert alone.course.losses == pytest.approx(one.course.losses, rel=1e-4)


def test_points_that_do_not_fit_at_once_are_trained_in_groups(lesson, monkeypatch):
    at_once = trained(lesson, SPECS)
    assert len(groups(lesson, SPECS)) == 1
    monkeypatch.setattr(train, "STATE_BYTES", 1)
    assert groups(lesson, SPECS) == [[SPECS[0]], [SPECS[1]]]
    apart = trained(lesson, SPECS)
    for one, other in zip(apart, at_once):
        assert one.course.scores == pytest.approx(other.course.scores, abs=1e-3)
    with_weights = [one.spec for one in apart if one.best is not None]
    assert with_weights == [max(apart, key=lambda one: one.course.best).spec]


def test_threads_change_nothing(lesson):
    one = trained(lesson, SPECS)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        two = trained(lesson, SPECS)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    for first, second in zip(one, two):
        assert second.course.scores == pytest.approx(first.course.scores, abs=1e-2)


def test_the_parts_of_a_step_add_up_to_one_step():
    spec, draws = SPECS[0], torch.Generator().manual_seed(0)
    features = {0: torch.randn(1, 6, 16, generator=draws).expand(4, -1, -1)}
    mixture = torch.rand(1, 6, 2049, generator=draws).expand(4, -1, -1)
    stems = mixture[:, None] * torch.tensor([0.3, 0.7])[:, None, None]
    members = []
    for cuts in (1, 2):
        shape = train.shape_of(spec, 16, 16, 0.0, 2049)
        member = Member(spec, shape, 2, ProbeHistory(Plateau(1e-3, 2), 5, 5), "cpu")
        size = 4 // cuts
        for place in range(cuts):
            part = slice(place * size, (place + 1) * size)
            member.learn(Part({0: features[0][part]}, mixture[part], stems[part], 1 / cuts, place + 1 == cuts))
        members.append(member)
    assert members[0].loss_sum.item() == pytest.approx(members[1].loss_sum.item(), rel=1e-5)
    for one, other in zip(members[0].heads.parameters(), members[1].heads.parameters()):
        assert torch.allclose(one, other, atol=2e-4)


def test_the_loss_is_the_squared_distance_of_magnitudes():
    spec = SPECS[0]
    member = Member(spec, train.shape_of(spec, 16, 16, 0.0, 2049), 1, ProbeHistory(Plateau(1e-3, 2), 5, 5), "cpu")
    features, mixture, stem = torch.randn(2, 6, 16), torch.rand(2, 6, 2049), torch.rand(2, 1, 6, 2049)
    with torch.no_grad():
        mask = member.heads[0].train()(features)
    expected = ((mask * mixture - stem[:, 0]) ** 2).mean().item()
    member.learn(Part({0: features}, mixture, stem, 1.0, True))
    assert member.loss_sum.item() == pytest.approx(expected, rel=1e-5)


def test_marbles_search_of_a_95m_encoder_fits_in_8_gb_in_groups_of_one_layer():
    shape = train.shape_of(SPECS[0], 768, 512, 0.2, 2049)
    parameters = 768 * 512 + 1024 * 512 + 512 * 2049 + 3 * 2 * 4 * 256 * (512 + 256 + 2) + 2 * (512 + 512 + 2049)
    assert bytes_held(shape, 4) == 4 * 5 * 4 * parameters
    assert 6 * bytes_held(shape, 4) < train.STATE_BYTES - 4 * 95e6 < 4 * 2**30


def test_a_task_takes_the_theses_numbers_unless_it_is_pebbles(task):
    assert separation(shelf("musdb18/stems")) == Separation(512, 0.2, 64, 32)
    assert separation(shelf("pebble/stems")).hidden == 64


def test_scores_are_means_over_songs_and_stems(task):
    predictions = [{"sdr_tone": 2.0, "sdr_hiss": 4.0}, {"sdr_tone": 6.0, "sdr_hiss": -1.0}]
    assert TASK_TYPE.metrics(task, ["a", "b"], predictions) == {"sdr_tone": 4.0, "sdr_hiss": 1.5, "sdr": 2.75}
    with pytest.raises(UsageError, match="no metric 'accuracy'"):
        TASK_TYPE.metrics(task.model_copy(update={"extra_metrics": ("accuracy",)}), ["a", "b"], predictions)


def test_a_task_without_windows_is_refused(task, toys, levels, tmp_path):
    endless = task.model_copy(update={"window_seconds": None})
    with pytest.raises(UsageError, match="set window_seconds"):
        bench(levels(), [endless], results=tmp_path, datasets={"toys": toys})


def test_a_song_with_an_undecodable_stem_leaves_the_task_with_partial(task, toys, levels, tmp_path, monkeypatch):
    monkeypatch.setitem(settings.BY_DATASET, "toys", HOW)
    monkeypatch.setattr("carrara.bench.protocols.constrained.LEARNING_RATES", (2e-2,))
    quick = task.model_copy(update={"max_epochs": 1, "examples_per_clip": 2})
    stem = toys.folder / "8" / "hiss.wav"
    content = stem.read_bytes()
    options = {"results": tmp_path, "datasets": {"toys": toys}}
    try:
        stem.write_bytes(b"no sound")
        with pytest.raises(DataError, match=r"1 clips cannot be decoded.*hiss\.wav.*--partial"):
            bench(levels(), [quick], **options)
        (record,) = bench(levels(), [quick], partial=True, **options)
    finally:
        stem.write_bytes(content)
    assert record.partial and record.data.missing == ("song-8",) and record.data.n["test"] == 2


def test_corrupted_test_audio_is_refused(task, toys, levels, tmp_path):
    with pytest.raises(UsageError, match="--corrupt: toys/stems is not scored on corrupted audio"):
        bench(levels(), [task], results=tmp_path, datasets={"toys": toys}, config=BenchConfig(corruptions=("clip",)))


def test_a_head_that_diverges_is_tried_and_is_no_point_of_the_grid(lesson):
    (member,) = trained(lesson, [ProbeSpec("0", ("0",), 1e30, 1)])
    assert member.course.diverged and member.best is None and member.course.best_epoch == -1
    assert not np.isfinite(member.course.best)
