"""The expected gap of a selection: that of candidates whose truth is known, and of one candidate alone."""

import numpy as np
import pytest

SCRIPT = "selection_gap"


def test_the_gap_of_equal_candidates_is_what_the_best_is_above_the_truth(script):
    """84 candidates that guess: selected by chance, each is right half of the time on other clips."""
    rng = np.random.default_rng(3)
    met, nested = [], []
    for seed in range(20):
        scores_CN = (rng.random((84, 60)) < 0.5).astype(float)
        gap, optimism = script.expected_gaps(scores_CN, list(map(str, range(60))), 60, seed)
        met.append(scores_CN.mean(1).max() - 0.5)
        nested.append(gap)
        assert optimism > 0
    assert np.mean(nested) == pytest.approx(np.mean(met), abs=0.04) and np.mean(met) > 0.12


def test_a_candidate_without_rivals_has_no_gap(script):
    rng = np.random.default_rng(4)
    scores_CN = (rng.random((1, 200)) < 0.7).astype(float)
    gap, optimism = script.expected_gaps(scores_CN, [str(clip // 2) for clip in range(200)], 400)
    assert abs(gap) < 0.01 and abs(optimism) < 0.01


def test_clips_of_a_group_are_left_out_together(script):
    """Two groups: a candidate is right on one of them only, so the selected one is wrong on what is left out."""
    scores_CN = np.repeat([[1.0, 0.0], [0.0, 1.0]], 10, axis=1)
    gap, _ = script.expected_gaps(scores_CN, ["a"] * 10 + ["b"] * 10, 200)
    assert gap == 0.5
