"""Chords, melody, structure and tempo: metrics against mir_eval and closed forms, targets, decoding, intervals."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import mir_eval
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from carrara.bench.interval import confidence_intervals
from carrara.bench.task_types import REGISTRY
from carrara.bench.task_types._base import Frames
from carrara.core.clip import Clip
from carrara.core.errors import DataError, UsageError
from carrara.core.task import Task
from carrara.data._pebble.labels import TONICS
from carrara.metrics.melody import melody_accuracies

TRIADS = ("N", *(f"{tonic}:{mode}" for mode in ("maj", "min") for tonic in TONICS))
CHORDS = (*TRIADS, "C:7", "A:min7", "F:maj7", "G:sus4", "E:maj/3", "B:dim", "X", "D:min/5", "Ab:maj6", "F#:hdim7")


def make_task(task_type, labels, metrics, **changes):
    return Task(
        version=1, dataset="d", split_scheme="s", task_type=task_type, label="x", labels=labels, metrics=metrics[:1],
        extra_metrics=metrics[1:], monitor=metrics[0], category="score", name="d/x", **changes,
    )  # fmt: skip


def random_track(draw, values, end, gaps=False):
    edges = np.concatenate([[0.0], np.sort(draw.uniform(0.1, end - 0.1, draw.integers(2, 9))), [end]]).round(3)
    track = [[low, high, values[draw.integers(len(values))]] for low, high in pairwise(edges) if high > low]
    return [segment for segment in track if not gaps or draw.random() < 0.8] or track


def clip_of(value):
    return Clip("a", Path("a.wav"), labels={"x": value})


CHORD_TASK = make_task(
    "chord_recognition", TRIADS, ("chord_majmin", "chord_sevenths", "chord_root", "chord_frame_accuracy")
)


def test_chord_scores_are_those_of_mir_eval_weighted_by_seconds():
    draw, chords = np.random.default_rng(0), REGISTRY.get("chord_recognition")
    truths, predictions, right, whole = [], [], np.zeros(3), np.zeros(3)
    for _ in range(150):
        end = draw.uniform(4, 20)
        truth, predicted = random_track(draw, CHORDS, end), random_track(draw, CHORDS[:32], draw.uniform(4, 20))
        expected = mir_eval.chord.evaluate(
            np.array([t[:2] for t in truth]), [t[2] for t in truth],
            np.array([t[:2] for t in predicted]), [t[2] for t in predicted],
        )  # fmt: skip
        found = chords.metrics(CHORD_TASK, [truth], [predicted])
        for index, name in enumerate(("majmin", "sevenths", "root")):
            part, seconds = (sums[0] for sums in chords.unit_sums(CHORD_TASK, [truth], [predicted])[f"chord_{name}"])
            right[index], whole[index] = right[index] + part, whole[index] + seconds
            if seconds:
                assert found[f"chord_{name}"] == pytest.approx(expected[name], abs=1e-9)
            else:
                assert expected[name] == 0
        truths.append(truth)
        predictions.append(predicted)
    pooled = chords.metrics(CHORD_TASK, truths, predictions)
    assert [pooled[f"chord_{n}"] for n in ("majmin", "sevenths", "root")] == pytest.approx((right / whole).tolist())
    interval = confidence_intervals(CHORD_TASK, chords, truths, [predictions], draws=200)["chord_majmin"]
    assert interval.method == "wilson" and interval.low < pooled["chord_majmin"] < interval.high


def test_chord_frames_are_counted_where_the_task_knows_the_chord():
    chords = REGISTRY.get("chord_recognition")
    truth = [[0.0, 1.0, "C:maj7"], [1.0, 2.0, "G:sus4"], [2.0, 3.0, "A:min"]]
    predicted = [[0.0, 2.5, "C:maj"], [2.5, 3.0, "A:min"]]
    assert chords.metrics(CHORD_TASK, [truth], [predicted])["chord_frame_accuracy"] == pytest.approx(15 / 20)


def test_chord_targets_loss_and_decoding():
    chords = REGISTRY.get("chord_recognition")
    truth = chords.truths(CHORD_TASK, [clip_of([[1.0, 2.0, "A:min7"], [0, 1.0, "N"], [2.0, 3.0, "G:sus4"]])])
    (target,) = chords.targets(CHORD_TASK, None, truth, Frames([8], 2.0))
    minor = float(TRIADS.index("A:min"))
    np.testing.assert_array_equal(target[:, 0], [0, 0, minor, minor, *[np.nan] * 4])
    logits = torch.randn(3, 8, 25, generator=torch.Generator().manual_seed(0))
    expected = [F.cross_entropy(own[:4], torch.tensor(target[:4, 0]).long()) for own in logits]
    torch.testing.assert_close(chords.loss(logits, torch.tensor(target)), torch.stack(expected))
    best = torch.full((2, 6, 25), -1.0)
    best[0, :4, 3] = best[0, 4:, 0] = best[1, :, 5] = 1
    found = chords.decode(CHORD_TASK, None, [best], Frames([6], 2.0))
    assert found == [[[[0.0, 2.0, TRIADS[3]], [2.0, 3.0, "N"]]], [[[0.0, 3.0, TRIADS[5]]]]]
    for wrong, problem in (
        ([[0, 1, "H:maj"]], "no chord in Harte"), ("C", "not a list of"), ([[0, 2, "C"], [1, 3, "D"]], "overlaps"),
        ([[2, 1, "C"]], "no time"), ([[0, math.nan, "C"]], "no time"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=problem):
            chords.truths(CHORD_TASK, [clip_of(wrong)])
    with pytest.raises(UsageError, match="no chord"):
        chords.check(CHORD_TASK.model_copy(update={"labels": ("N", "do")}))


MELODY_TASK = make_task(
    "melody", ("rest", *map(str, range(40, 90))), ("melody_raw_pitch", "melody_raw_chroma", "melody_overall")
)


def test_melody_scores_are_those_of_mir_eval():
    draw, melody = np.random.default_rng(1), REGISTRY.get("melody")
    for _ in range(60):
        end = round(draw.uniform(3, 9), 2)
        notes = (220 * 2 ** (draw.integers(0, 25, 6) / 12)).tolist()
        truth = random_track(draw, notes, end, gaps=True)
        guesses = [*(hz * 2 ** (draw.normal(0, 0.6) / 12) for hz in notes), -notes[0], 2 * notes[1], -notes[2] / 2]
        predicted = random_track(draw, guesses, end)
        times = (np.arange(round(truth[-1][1] * 100)) + 0.5) / 100

        def sample(track, times=times):
            return np.array([next((hz for low, high, hz in track if low <= t < high), 0.0) for t in times])

        ref, est = sample(truth), sample(predicted)
        expected = mir_eval.melody.evaluate(times, ref, times, est)
        found = melody.metrics(MELODY_TASK, [truth], [predicted])
        for name, key in (("raw_pitch", "Raw Pitch"), ("raw_chroma", "Raw Chroma"), ("overall", "Overall")):
            assert found[f"melody_{name}"] == pytest.approx(expected[f"{key} Accuracy"], abs=0.02)
    truth = [[0.0, 1.0, 440.0], [1.0, 2.0, 220.0]]
    exact = melody.metrics(MELODY_TASK, [truth, []], [[[0.0, 1.0, -440.0], [1.0, 2.0, 440.0]], []])
    assert exact == {"melody_raw_pitch": 0.5, "melody_raw_chroma": 1.0, "melody_overall": 0.0}


def test_a_melody_that_rests_throughout_is_scored_without_a_warning(recwarn):
    rests, truth = [[0.0, 2.0, -220.0]], [[0.0, 1.0, 220.0]]
    scores = melody_accuracies(truth, rests)
    # Its pitch counts, its voicing does not.
    assert scores == {"melody_raw_pitch": 1.0, "melody_raw_chroma": 1.0, "melody_overall": 0.0}
    assert not recwarn.list


def test_melody_targets_and_decoding():
    melody = REGISTRY.get("melody")
    truth = melody.truths(MELODY_TASK, [clip_of([[0.5, 1.0, 440.0], [1.5, 2.0, 20.0]])])
    (target,) = melody.targets(MELODY_TASK, None, truth, Frames([5], 2.0))
    np.testing.assert_array_equal(target[:, 0], [0, 30, 0, np.nan, 0])
    logits = torch.zeros(1, 3, 51)
    logits[0, :, 30] = 1
    logits[0, 2, 0] = 2
    assert melody.decode(MELODY_TASK, None, [logits], Frames([3], 2.0)) == [[[[0, 1.0, 440.0], [1.0, 1.5, -440.0]]]]
    with pytest.raises(DataError, match="not a frequency"):
        melody.truths(MELODY_TASK, [clip_of([[0, 1, "A4"]])])
    with pytest.raises(UsageError, match="MIDI"):
        melody.check(MELODY_TASK.model_copy(update={"labels": ("60", "rest")}))


BOUNDARIES = ("boundary_f_500ms", "boundary_f_3s", "boundary_f_500ms_trimmed", "boundary_f_3s_trimmed")
STRUCTURE_TASK = make_task(
    "structure", ("intro", "verse", "chorus"), (*BOUNDARIES, "segment_pairwise_f", "segment_label_accuracy")
)


def test_structure_scores_are_those_of_mir_eval():
    draw, structure = np.random.default_rng(2), REGISTRY.get("structure")
    for _ in range(100):
        end = round(draw.uniform(10, 40), 2)
        truth, predicted = (random_track(draw, STRUCTURE_TASK.labels, end) for _ in range(2))
        intervals = [np.array([t[:2] for t in track]) for track in (truth, predicted)]
        found = structure.metrics(STRUCTURE_TASK, [truth], [predicted])
        for name, window, trim in zip(BOUNDARIES, (0.5, 3, 0.5, 3), (False, False, True, True)):
            assert found[name] == pytest.approx(mir_eval.segment.detection(*intervals, window, trim=trim)[2])
        expected = mir_eval.segment.pairwise(
            intervals[0], [t[2] for t in truth], intervals[1], [t[2] for t in predicted]
        )[2]
        assert found["segment_pairwise_f"] == pytest.approx(expected)
        times = np.arange(0.0005, end, 0.001)
        same = [
            next(t[2] for t in truth if t[0] <= s < t[1]) == next(t[2] for t in predicted if t[0] <= s < t[1])
            for s in times[::20]
        ]
        assert found["segment_label_accuracy"] == pytest.approx(np.mean(same), abs=0.05)


def test_structure_targets_and_decoding():
    structure = REGISTRY.get("structure")
    truth = structure.truths(STRUCTURE_TASK, [clip_of([[0, 4, "verse"], [4, 8, "solo"], [8, 12, "chorus"]])])
    state = structure.fit(STRUCTURE_TASK, truth)
    assert state == pytest.approx(2 * 2 / 12)
    (target,) = structure.targets(STRUCTURE_TASK, state, truth, Frames([24], 2.0))
    assert np.flatnonzero(target[:, 0]).tolist() == [7, 8, 15, 16]
    assert target[:, 1].tolist() == [1] * 8 + [-1] * 8 + [2] * 8
    logits = torch.full((1, 24, 4), -8.0)
    logits[0, [7, 8, 15, 16], 0] = 8.0
    logits[0, :8, 2] = logits[0, 8:, 3] = 3.0
    ((found,),) = structure.decode(STRUCTURE_TASK, state, [logits], Frames([24], 2.0))
    assert [label for _, _, label in found] == ["verse", "chorus", "chorus"]
    assert [start for start, _, _ in found] == pytest.approx([0, 4, 8], abs=0.5)
    padded = torch.tensor(target)
    padded[20:] = math.nan
    draw = torch.randn(2, 24, 4, generator=torch.Generator().manual_seed(0))
    section = padded[:20, 1].long().masked_fill(padded[:20, 1] < 0, -100)
    expected = [
        F.binary_cross_entropy_with_logits(own[:20, 0], padded[:20, 0]) + F.cross_entropy(own[:20, 1:], section)
        for own in draw
    ]
    torch.testing.assert_close(structure.loss(draw, padded), torch.stack(expected))


TEMPO_TASK = make_task("tempo", ("tempo",), ("tempo_accuracy1", "tempo_accuracy2"))


def test_tempo_accuracies_equal_brute_force():
    draw, tempo = np.random.default_rng(3), REGISTRY.get("tempo")
    truth = draw.uniform(50, 200, 500)
    guess = truth * draw.choice([1, 2, 3, 1 / 2, 1 / 3, 1.5], 500) * draw.uniform(0.94, 1.06, 500)
    found = tempo.metrics(TEMPO_TASK, truth.tolist(), guess.tolist())
    first = sum(abs(g - t) <= 0.04 * t for t, g in zip(truth, guess)) / 500
    second = sum(any(abs(g - m * t) <= 0.04 * m * t for m in (1, 2, 3, 0.5, 1 / 3)) for t, g in zip(truth, guess)) / 500
    assert found == {"tempo_accuracy1": pytest.approx(first), "tempo_accuracy2": pytest.approx(second)}
    # A tempo of mir_eval's first kind: exactly right counts.
    assert tempo.metrics(TEMPO_TASK, [100.0], [100.0]) == {"tempo_accuracy1": 1.0, "tempo_accuracy2": 1.0}


def test_a_tempo_survives_its_targets():
    tempo = REGISTRY.get("tempo")
    truths = tempo.truths(TEMPO_TASK, [clip_of("90.5"), clip_of(33), clip_of(211.0)])
    targets = torch.tensor(tempo.targets(TEMPO_TASK, None, truths, None))
    torch.testing.assert_close(targets.sum(1), torch.ones(3))
    (found,) = tempo.decode(TEMPO_TASK, None, targets.clamp(min=1e-9).log()[None], None)
    assert found == pytest.approx(truths, rel=0.01)
    logits = torch.randn(2, 3, 80, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([F.cross_entropy(own, targets) for own in logits])
    torch.testing.assert_close(tempo.loss(logits, targets), expected)
    # Beats give the median tempo; their order and one that was left out do not matter.
    assert tempo.truths(TEMPO_TASK, [clip_of([2.5, 0.5, 1.0, 1.5, 3.0, 4.0])]) == [pytest.approx(120)]
    for wrong in ([], [1.0], [1.0, 1.0]):
        with pytest.raises(DataError, match="not times of beats"):
            tempo.truths(TEMPO_TASK, [clip_of(wrong)])
    for wrong in ("fast", 0, math.inf, math.nan):
        with pytest.raises(DataError, match="not beats per minute"):
            tempo.truths(TEMPO_TASK, [clip_of(wrong)])


def test_downbeats_are_decoded_as_bars():
    beats = REGISTRY.get("beat_tracking")
    task = make_task("beat_tracking", ("downbeat",), ("beat_f_70ms",))
    bars = np.arange(0.6, 15.9, 1.5)
    logits = torch.full((1, 800, 1), -5.0)
    logits[0, np.round(bars * 50).astype(int)] = 3.0
    # The beats between, two in a bar, are weaker; 120 a minute are no downbeats.
    for beat in (0.5, 1.0):
        logits[0, np.round((bars[:-1] + beat) * 50).astype(int)] = -2.0
    ((found,),) = beats.decode(task, None, [logits], Frames([800], 50.0))
    assert found == pytest.approx(bars, abs=0.011)
    ((as_beats,),) = beats.decode(task.model_copy(update={"labels": ("beat",)}), None, [logits], Frames([800], 50.0))
    assert len(as_beats) >= 3 * len(bars) - 2
