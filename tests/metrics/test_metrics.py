"""The measures against scikit-learn and mir_eval, and their counted forms against samples written out."""

from __future__ import annotations

import mir_eval
import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from carrara.data._pebble.labels import KEYS
from carrara.metrics.accuracy import accuracy
from carrara.metrics.key import key_weighted, key_weighted_2017
from carrara.metrics.r2 import r2
from carrara.metrics.ranking import average_precision, roc_auc


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(st.integers(2, 40), st.integers(0, 10**6), st.sampled_from([0, 1, 3]))
def test_tag_measures_equal_scikit_learn_with_ties(units, seed, decimals):
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, 2, (units, 5))
    scores = draw.standard_normal((units, 5)).round(decimals)
    area, precision = roc_auc(truth, scores)[0], average_precision(truth, scores)[0]
    for tag in range(5):
        if 0 < truth[:, tag].sum() < units:
            assert area[tag] == pytest.approx(sk.roc_auc_score(truth[:, tag], scores[:, tag]), abs=1e-9)
            expected = sk.average_precision_score(truth[:, tag], scores[:, tag])
            assert precision[tag] == pytest.approx(expected, abs=1e-9)
        else:
            assert np.isnan(area[tag]) and np.isnan(precision[tag])


@pytest.mark.parametrize("measure", [roc_auc, average_precision, r2])
def test_counts_equal_the_sample_written_out(measure):
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 2, (30, 4)).astype(float)
    truth[:, 3] = 0
    truth[4, 3] = 1
    scores = draw.standard_normal((30, 4)).round(1)
    counts = draw.multinomial(30, np.full(30, 1 / 30), 50)
    found = measure(truth, scores, counts)
    assert np.isnan(found[:, 3]).any() and not np.isnan(found[:, 3]).all()
    for counts_U, row in zip(counts, found):
        picks = np.repeat(np.arange(30), counts_U)
        np.testing.assert_allclose(row, measure(truth[picks], scores[picks])[0], atol=1e-9)


def test_r2_equals_scikit_learn_far_from_zero():
    draw = np.random.default_rng(1)
    truth = draw.standard_normal((50, 3)) * [1, 100, 0.01] + [0, 1e4, 5]
    answer = truth + draw.standard_normal((50, 3)) * [0.5, 200, 0.005]
    np.testing.assert_allclose(r2(truth, answer)[0], sk.r2_score(truth, answer, multioutput="raw_values"), rtol=1e-9)
    assert np.isnan(r2(np.ones((4, 1)), np.zeros((4, 1)))).all()


def test_accuracy_equals_scikit_learn():
    draw = np.random.default_rng(2)
    truth, answer = draw.integers(0, 4, (2, 77))
    assert accuracy(truth, answer) == pytest.approx(sk.accuracy_score(truth, answer))


def test_key_scores_by_the_rules_and_by_mir_eval():
    place = {key: number for number, key in enumerate(KEYS)}

    def both(truth, answer):
        pair = np.array([place[truth]]), np.array([place[answer]])
        return key_weighted(*pair, KEYS), key_weighted_2017(*pair, KEYS)

    assert both("C major", "C major") == (1, 1)
    assert both("C major", "G major") == (0.5, 0.5)
    assert both("C major", "F major") == (0, 0.5)
    assert both("C major", "A minor") == (0.3, 0.3)
    assert both("Db major", "Bb minor") == (0.3, 0.3)
    assert both("C major", "C minor") == (0.2, 0.2)
    assert both("C major", "Gb major") == (0, 0)
    draw = np.random.default_rng(3)
    truth, answer = draw.integers(0, 24, (2, 200))
    expected = np.mean([mir_eval.key.weighted_score(KEYS[a], KEYS[b]) for a, b in zip(truth, answer)])
    assert key_weighted(truth, answer, KEYS) == pytest.approx(expected)


SEMITONES = dict(zip(("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B"), range(12)))


def mirex_score(truth, prediction, with_fifth_below):
    """MIREX's rules, from the keys' names: by interval upwards and modes alone."""
    (tonic, mode), (other, other_mode) = truth.split(), prediction.split()
    up = (SEMITONES[other] - SEMITONES[tonic]) % 12
    if mode == other_mode:
        return {0: 1.0, 7: 0.5, 5: 0.5 * with_fifth_below}.get(up, 0.0)
    relative = 9 if mode == "major" else 3
    return {relative: 0.3, 0: 0.2}.get(up, 0.0)


@pytest.mark.parametrize("installed", ["as installed", "with the announced default"])
def test_all_576_pairs_of_keys(monkeypatch, installed):
    if installed != "as installed":
        original = mir_eval.key.weighted_score

        def announced(reference_key, estimated_key, allow_descending_fifths=True):
            fifth_below = original(estimated_key, reference_key) == 0.5 and allow_descending_fifths
            return 0.5 if fifth_below else original(reference_key, estimated_key)

        monkeypatch.setattr(mir_eval.key, "weighted_score", announced)
        assert announced("C major", "F major") == 0.5
    keys = tuple(f"{tonic} {mode}" for mode in ("major", "minor") for tonic in SEMITONES)
    # Another order than before, so that no table is remembered.
    keys = keys if installed == "as installed" else keys[::-1]
    truth, answer = (each.ravel() for each in np.indices((24, 24)))
    for metric, below in ((key_weighted, False), (key_weighted_2017, True)):
        expected = [mirex_score(keys[a], keys[b], below) for a, b in zip(truth, answer)]
        own = [metric([a], [b], keys) for a, b in zip(truth, answer)]
        assert own == expected and len(own) == 576
    assert sum(mirex_score(a, b, False) for a in keys for b in keys) == pytest.approx(24 * (1 + 0.5 + 0.3 + 0.2))
