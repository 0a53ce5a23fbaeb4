"""The beat decoder against a plain Viterbi over every state, and on activations whose beats are known."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from carrara.bench.beat_decoder import LIMIT, beat_times, decode_paths
from carrara.core.errors import UsageError


class PlainViterbi:
    """The model written out state by state, from its description: a state is (interval, position)."""

    def __init__(self, rate):
        intervals = range(max(2, round(60 * rate / 215)), round(60 * rate / 55) + 1)
        self.states = [(interval, position) for interval in intervals for position in range(interval)]
        self.index = {state: index for index, state in enumerate(self.states)}
        self.beat = np.array([position / interval < 1 / 16 for interval, position in self.states])
        size = len(self.states)
        self.change = np.zeros((size, size))
        for index, (interval, position) in enumerate(self.states):
            if position + 1 < interval:
                self.change[index, self.index[interval, position + 1]] = 1
                continue
            weights = {other: math.exp(-100 * abs(other / interval - 1)) for other in intervals}
            weights = {other: weight for other, weight in weights.items() if weight > np.finfo(float).eps}
            for other, weight in weights.items():
                self.change[index, self.index[other, 0]] = weight / sum(weights.values())

    def observed(self, logits):
        """Return the log of each state's observation at each frame."""
        p = 1 / (1 + np.exp(-np.asarray(logits)))
        return np.where(self.beat, np.log(p)[:, None], np.log((1 - p) / 15)[:, None])

    def viterbi(self, logits):
        """Return the most likely states and the log probability of that path."""
        with np.errstate(divide="ignore"):
            change = np.log(self.change)
        observed = self.observed(logits)
        score, back = observed[0] - math.log(len(self.states)), []
        for frame in observed[1:]:
            scores = score[:, None] + change
            back.append(scores.argmax(0))
            score = scores.max(0) + frame
        path = [int(score.argmax())]
        for previous in back[::-1]:
            path.append(int(previous[path[-1]]))
        return [self.states[state] for state in path[::-1]], score.max()

    def log_probability(self, path, logits):
        """Return the log probability of a path of states."""
        indices = [self.index[state] for state in path]
        changes = [self.change[a, b] for a, b in pairwise(indices)]
        observed = self.observed(logits)[np.arange(len(indices)), indices]
        return -math.log(len(self.states)) + np.log(changes).sum() + observed.sum()


def states(starts, intervals, frames):
    """Return the state of each frame on a decoded path."""
    path = [
        (interval, position)
        for start, interval in zip(starts, intervals)
        for position in range(interval)
        if start + position >= 0
    ]
    assert len(path) >= frames
    return path[:frames]


@pytest.mark.parametrize("rate", [2.5, 6.0, 10.0, 17.0])
def test_the_path_is_the_plain_viterbis(rate):
    rng = np.random.default_rng(int(rate * 10))
    plain = PlainViterbi(rate)
    clips = [rng.normal(-1, 3, frames) for frames in (1, 2, 3, 4, 7, 13, 29, 30, 31, 60, 120)]
    decoded = decode_paths([torch.from_numpy(clip) for clip in clips], rate)
    for clip, (starts, intervals) in zip(clips, decoded):
        best, probability = plain.viterbi(clip)
        path = states(starts, intervals, len(clip))
        assert plain.log_probability(path, clip) == pytest.approx(probability, abs=1e-9)
        # On a short clip several paths may have equal probability: those that differ where there is no beat.
        if len(clip) >= 29:
            assert path == best


PLAIN = PlainViterbi(8.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.floats(-13, 13), min_size=1, max_size=40), min_size=1, max_size=5))
def test_no_path_is_more_likely(clips):
    decoded = decode_paths([torch.tensor(clip, dtype=torch.double) for clip in clips], 8.0)
    for clip, (starts, intervals) in zip(clips, decoded):
        probability = PLAIN.log_probability(states(starts, intervals, len(clip)), clip)
        assert probability == pytest.approx(PLAIN.viterbi(clip)[1], abs=1e-8)


def test_beats_are_the_peaks_within_the_beat_states_of_the_path():
    rng = np.random.default_rng(3)
    # At 36 frames a second the longest intervals have beats of three frames.
    plain, clip = PlainViterbi(36.0), rng.normal(-1, 3, 300)
    best, _ = plain.viterbi(clip)
    regions, region = [], []
    for frame, state in enumerate(best):
        if state[1] / state[0] < 1 / 16:
            region.append(frame)
        elif region:
            regions, region = [*regions, region], []
    regions += [region] if region else []
    expected = [max(region, key=lambda frame: clip[frame]) / 36 for region in regions]
    np.testing.assert_allclose(beat_times([torch.from_numpy(clip)], 36.0)[0], expected)


def state_space_beats(logits, rate):
    """Return the beats of the most likely path, frame by frame over all states of [krebs2015]; nothing is shared.

    A column of the lattice is a vector of all (interval, position); all but the first positions come from the position
    before, and the first position of an interval from the last one of any interval.
    """
    intervals = np.arange(max(2, round(60 * rate / 215)), round(60 * rate / 55) + 1)
    first = np.concatenate([[0], np.cumsum(intervals)[:-1]])
    last = first + intervals - 1
    position = np.concatenate([np.arange(interval) / interval for interval in intervals])
    ratio = intervals[None, :] / intervals[:, None]
    change = np.exp(-100 * np.abs(ratio - 1))
    change[change <= np.finfo(float).eps] = 0
    with np.errstate(divide="ignore"):
        log_change = np.log(change / change.sum(1, keepdims=True))
    p = 1 / (1 + np.exp(-logits))
    is_beat = position < 1 / 16
    score = np.where(is_beat, np.log(p[0]), np.log((1 - p[0]) / 15)) - math.log(len(position))
    entered_from = np.zeros((len(p), len(intervals)), dtype=int)
    for frame in range(1, len(p)):
        entries = score[last][:, None] + log_change
        entered_from[frame] = entries.argmax(0)
        score = np.concatenate([[0], score[:-1]])
        score[first] = entries.max(0)
        score += np.where(is_beat, np.log(p[frame]), np.log((1 - p[frame]) / 15))
    state, path = int(score.argmax()), []
    for frame in reversed(range(len(p))):
        path.append(state)
        starts = np.flatnonzero(first == state)
        state = int(last[entered_from[frame, starts[0]]]) if len(starts) else state - 1
    on_beat = is_beat[path[::-1]]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], on_beat, [False]]).astype(int)))
    return [(begin + int(np.argmax(p[begin:end]))) / rate for begin, end in zip(edges[::2], edges[1::2])]


# Frames of the beats in random activations: normal logits of mean -2 and std 3 from NumPy's generator of the seed.
RANDOM_BEATS = {
    (50.0, 1): "9 30 49 70 90 108 127 147 164 183 201 219 237 254 273 293 311 330 349 369 387 406 426 444 463 482 "
    "501 520 537 555 571 589",
    (50.0, 2): "4 23 41 60 79 98 117 136 156 174 194 213 231 251 271 291 309 329 348 365 382 398 415 432 450 466 "
    "483 500 517 535 552 570 589",
    (75.0, 1): "1 33 67 101 133 166 201 234 268 298 330 361 391 419 449 478 507 537 567 597",
    (75.0, 2): "4 41 77 114 147 185 220 256 291 329 365 401 436 472 504 540 574",
}


@pytest.mark.parametrize(("rate", "seed"), RANDOM_BEATS)
def test_beats_in_random_activations_are_those_written_down(rate, seed):
    logits = np.random.default_rng(seed).normal(-2, 3, 600)
    expected = np.array(RANDOM_BEATS[rate, seed].split(), dtype=int) / rate
    np.testing.assert_allclose(state_space_beats(logits, rate), expected)
    np.testing.assert_allclose(beat_times([torch.from_numpy(logits)], rate)[0], expected)


@pytest.mark.parametrize("rate", [50.0, 75.0])
def test_beats_at_the_frame_rates_of_encoders_are_those_of_a_search_over_all_states(rate):
    rng = np.random.default_rng(5)
    clips = [
        rng.normal(mean, std, frames) for mean, std, frames in ((-3, 2, 700), (0, 1, 500), (-1, 5, 900), (-4, 4, 90))
    ]
    for clip, times in zip(clips, beat_times([torch.from_numpy(clip) for clip in clips], rate)):
        np.testing.assert_allclose(times, state_space_beats(clip, rate))


@pytest.mark.parametrize("bpm", [60, 97.3, 120, 181])
@pytest.mark.parametrize("rate", [50.0, 75.0])
def test_a_known_tempo_is_tracked(bpm, rate):
    beats = np.arange(0.37, 20, 60 / bpm)
    logits = torch.full((round(20 * rate),), -5.0)
    frames_S = (torch.from_numpy(beats) * rate).round().long()
    logits[frames_S[frames_S < len(logits)]] = 3.0
    # A third of the beats have no activation, and some activations have no beat.
    logits[frames_S[3::3][:-1]] = -5.0
    logits[torch.arange(40, len(logits), 331)] = 1.0
    times = beat_times([logits], rate)[0]
    assert len(times) == pytest.approx(len(beats), abs=1)
    active = frames_S.numpy()[logits[frames_S.clamp(max=len(logits) - 1)].numpy() > 0]
    # Whole intervals with short beats may miss an active frame by one.
    assert np.isin(active, np.round(times * rate)).mean() > 0.9
    for beat in beats[1:-1]:
        assert np.abs(times - beat).min() < 0.07


def test_clips_decoded_together_equal_clips_decoded_alone():
    rng = torch.Generator().manual_seed(0)
    clips = [torch.randn(frames, generator=rng) * 3 - 2 for frames in (700, 0, 1, 2, 3, 1500, 40, 699)]
    for clip, together in zip(clips, beat_times(clips, 75.0)):
        np.testing.assert_array_equal(together, beat_times([clip], 75.0)[0])
        assert (np.diff(together) > 0).all()
        assert not len(clip) or (together < len(clip) / 75).all()


def test_silence_and_nan_give_no_beats():
    silent = [torch.full((200,), -1000.0), torch.full((200,), math.nan), torch.full((200,), -math.inf), torch.empty(0)]
    assert [len(times) for times in beat_times(silent, 75.0)] == [0, 0, 0, 0]
    assert beat_times([], 75.0) == []
    certain = torch.full((400,), -4.0)
    certain[20::40] = math.inf
    broken = certain.clone()
    broken[5::40] = math.nan
    known = beat_times([certain, certain.clamp(-LIMIT, LIMIT), broken], 75.0)
    np.testing.assert_allclose(known[0], np.arange(20, 400, 40) / 75)
    np.testing.assert_array_equal(known[0], known[1])
    np.testing.assert_array_equal(known[0], known[2])


def test_too_low_a_frame_rate_is_refused():
    with pytest.raises(UsageError, match="1 frames a second are too few"):
        beat_times([torch.ones(9)], 1.0)
