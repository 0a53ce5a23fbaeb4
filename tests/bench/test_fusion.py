"""Fusions: features side by side against NumPy, weights against scikit-learn, records, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from carrara.bench.fusion import FOLDS, FusedMatrix, build_provider, fit_weights
from carrara.bench.leaderboard.compare import compare_systems
from carrara.bench.protocols import constrained
from carrara.bench.task_types import REGISTRY
from carrara.core.errors import UsageError
from carrara.core.record import read_records
from carrara.encoders._base import Encoder
from carrara.encoders._fused import FusedEncoder, fuse
from carrara.encoders._hub.load import load
from carrara.encoders._hub.spec import split_fusion
from carrara.features.windows import WindowSpec


@pytest.fixture
def slow_bands(bands):
    """Give bands with half as many frames and one layer, under another name."""

    class Slow(Encoder):
        def __init__(self):
            super().__init__()
            self.inner = bands()
            changes = {"name": "slow", "frame_rate": 5.0, "num_layers": 0, "weights_sha256": "c" * 64}
            self.card = self.inner.card.model_copy(update=changes)

        def num_frames(self, samples):
            return max(1, samples // 400)

        def forward(self, samples_BT, lengths_B=None):
            layers = self.inner(samples_BT, lengths_B)[:, :1, ::2]
            return layers[:, :, : self.num_frames(samples_BT.shape[1])]

    return Slow


def test_a_plus_names_a_fusion_unless_it_is_a_folder(tmp_path):
    assert split_fusion("a+b") == ["a", "b"] == split_fusion("a+b:late")
    assert split_fusion("a + b+c") == ["a", "b", "c"] and split_fusion("a") == []
    (tmp_path / "a+b").mkdir()
    assert split_fusion(tmp_path / "a+b") == []
    fused = load("chroma+mfcc")
    assert isinstance(fused, FusedEncoder) and fused.card.name == "chroma+mfcc" and not fused.is_late
    assert fused.card.dim == load("chroma").card.dim + load("mfcc").card.dim and fused.card.frame_rate is None
    assert load("chroma+mfcc:late").card.name == "chroma+mfcc:late" and load("chroma+mfcc:late").is_late
    assert fused.hash_weights() != load("chroma+noise").hash_weights()
    with pytest.raises(UsageError, match="each once"):
        load("chroma+chroma")
    with pytest.raises(UsageError, match="one of its parts"):
        fused(torch.zeros(1, 22_050))
    with pytest.raises(UsageError, match="mfcc"):
        load("chroma+mfc")


@pytest.mark.parametrize("frames", [False, True])
def test_features_are_those_of_the_parts_side_by_side(bands, slow_bands, tones, task, tmp_path, frames):
    parts = [bands(), slow_bands()]
    fused = fuse(parts, is_late=False)
    assert (fused.card.num_layers, fused.card.frame_rate, fused.card.dim) == (1, 5.0, 16)
    spec = WindowSpec(window_seconds=None, pool="frames" if frames else "mean")
    kind = task("beat_tracking", label="beats", labels=("beat",), metrics=("beat_f_70ms",), monitor="beat_f_70ms")
    own_task = kind if frames else task()
    task_type = REGISTRY.get(own_task.task_type)
    options = {"datasets": {"tones": tones}, "home": tmp_path}

    def load_split(encoder):
        return build_provider(encoder, None, "cpu", **options).load(own_task, task_type, spec).splits["test"]

    both, (first, second) = load_split(fused), map(load_split, parts)
    assert both.frame_rate == (5.0 if frames else None)
    for clip in range(len(both.clips)):
        rows = both.rows_U[clip]
        own = {name: first.layers[name][first.rows_U[clip]] for name in ("0", "1")}
        other = second.layers["0"][second.rows_U[clip]]
        if frames:
            # Frame i of 5 a second is at (i + 1/2) / 5 s, in frame 2 i + 1 of 10 a second.
            own = {name: matrix[1::2] for name, matrix in own.items()}
        for name in ("0", "1"):
            np.testing.assert_array_equal(both.layers[name][rows], np.concatenate([own[name], other], axis=1))


def test_weights_of_late_fusion_are_those_of_scikit_learn():
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 2, 300)
    parts = [scale * (2 * truth - 1 + noise * draw.standard_normal(300)) for scale, noise in ((0.3, 1), (2, 3))]
    logits = torch.tensor(np.stack([[np.zeros(300), part] for part in parts]).transpose(0, 2, 1))
    folds = [(logits[:, fold::FOLDS], torch.tensor(truth[fold::FOLDS])) for fold in range(FOLDS)]
    weights = fit_weights(lambda z, y: F.cross_entropy(z[0], y)[None], folds)
    expected = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-8).fit(np.stack(parts, 1), truth).coef_[0]
    np.testing.assert_allclose(weights, expected, rtol=1e-3)
    useless = torch.stack([logits[0], -logits[0]])
    only_one = fit_weights(lambda z, y: F.cross_entropy(z[0], y)[None], [(useless, torch.tensor(truth))])
    assert only_one[0] - only_one[1] > 0 and only_one.min() >= 0


@pytest.mark.parametrize("aggregate", ["embedding", "logit"])
def test_records_of_fusions_are_compared_with_their_parts(measure, task, tags, bands, slow_bands, tmp_path, aggregate):
    pitch = task(window_seconds=0.5, aggregate=aggregate)
    systems = [bands(), slow_bands(), fuse([bands(), slow_bands()], False), fuse([bands(), slow_bands()], True)]
    for system in systems:
        measure(pitch, tags, encoder=system)
    records = {(record.encoder.name, record.task.name): record for record in read_records(tmp_path / "results")}
    late = records["bands+slow:late", "tones/pitch"]
    assert set(late.protocol.chosen["weights"]) == set(late.protocol.chosen["parts"]) == {"bands", "slow"}
    assert min(late.protocol.chosen["weights"].values()) >= 0
    assert late.protocol.chosen["parts"]["bands"] == records["bands", "tones/pitch"].protocol.chosen
    for fusion in ("bands+slow", "bands+slow:late"):
        assert records[fusion, "tones/pitch"].mean_score() > 0.7
        for part in ("bands", "slow"):
            comparison = compare_systems(records.values(), fusion, part, tmp_path / "results")
            assert {each.task for each in comparison.tasks} == {"tones/pitch", "tones/tags"}
            assert not comparison.not_comparable


def test_frames_and_numbers_are_fused_late(measure, task, bands, slow_bands):
    beats = task(
        "beat_tracking", label="beats", labels=("beat",), metrics=("beat_f_70ms",), monitor="beat_f_70ms",
        name="tones/beats", max_epochs=3,
    )  # fmt: skip
    height = task(
        "regression", label="height", labels=("height",), metrics=("r2_height",), monitor="r2", name="tones/height"
    )
    records = measure(beats, height, encoder=fuse([bands(), slow_bands()], True), seeds=(1, 2))
    assert [record.task.name for record in records] == ["tones/beats", "tones/height"]
    assert records[1].mean_score() > 0.8 and len(records[1].protocol.chosen_by_seed) == 2


def test_protocols_without_features_or_logits_refuse_a_fusion(measure, task, bands, slow_bands):
    with pytest.raises(UsageError, match="--protocol constrained"):
        measure(task(), encoder=fuse([bands(), slow_bands()], False), protocol="unconstrained")
    retrieval = task("retrieval", labels=("similarity",), metrics=("map",), monitor="map", name="tones/same")
    with pytest.raises(UsageError, match="no logits to combine; use bands.slow"):
        measure(retrieval, encoder=fuse([bands(), slow_bands()], True))


def test_a_concatenation_of_layers_is_one_more_candidate(measure, task, bands):
    record = measure(task(), settings={"layers": "transformer,concat:last2"})[0]
    assert {point.layer for point in record.grid} == {"0", "1", "weighted-sum", "concat:last2"}
    alone = measure(task(), settings={"layers": "concat:last2"})[0]
    assert {point.layer for point in alone.grid} == {"concat:last2"} and alone.mean_score() > 0.7
    by_both = {(point.layer, point.learning_rate): point.valid for point in record.grid}
    for point in alone.grid:
        assert by_both[point.layer, point.learning_rate] == pytest.approx(point.valid)
    few = measure(task(), settings={"layers": "concat:last2"}, protocol="few-shot")[0]
    assert few.protocol.chosen["layer"] == "concat:last2"
    with pytest.raises(UsageError, match="bands has 2 layers"):
        measure(task(), settings={"layers": "concat:last3"})
    with pytest.raises(UsageError, match="concat:last4"):
        measure(task(), settings={"layers": "concat:first"})


def test_side_by_side_is_numpys_concatenation():
    draw = np.random.default_rng(0)
    first, second = draw.standard_normal((6, 2)), draw.standard_normal((9, 3))
    matrix = FusedMatrix([first, second], [np.array([5, 1, 0]), np.array([8, 2, 3])])
    assert matrix.shape == (3, 5) and len(matrix) == 3
    np.testing.assert_array_equal(matrix[np.array([2, 0])], np.hstack([first[[0, 5]], second[[3, 8]]]))
    concat = constrained.LayerConcat((first, second[:6]))
    assert concat.shape == (6, 5)
    np.testing.assert_array_equal(concat[np.array([4, 4])], np.hstack([first[[4, 4]], second[[4, 4]]]))
