"""Windows against a loop that marks samples; streams against lists; stitching against a recording's own frames."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carrara.audio.windows import merge_overlaps, split_windows, window_spans

sizes = st.integers(1, 60)


@given(samples=st.integers(1, 400), window=sizes, hop=st.none() | sizes, least=st.integers(0, 80))
def test_windows_keep_the_tail_rule(samples, window, hop, least):
    spans = window_spans(samples, window, hop, least)
    step = hop or window
    assert [start for start, _ in spans] == [step * place for place in range(len(spans))]
    decoded = np.zeros(samples, dtype=bool)
    for start, length in spans:
        assert 0 < length <= window
        assert start + length <= samples
        if length < window:
            assert (start, length) == spans[-1]
            assert start + length == samples
            assert len(spans) == 1 or (~decoded[start:]).sum() >= max(least, 1)
        decoded[start : start + length] = True
    following = step * len(spans)
    if samples > window and spans[-1][1] == window:
        assert following + window > samples
        assert (~decoded[following:]).sum() < max(least, 1)
    if step <= window and least <= 1:
        assert decoded.all()


def test_the_cases_of_the_docstring():
    assert window_spans(0, 10) == []
    assert window_spans(7, 10) == [(0, 7)]
    assert window_spans(25, None) == [(0, 25)]
    assert window_spans(25, 10) == [(0, 10), (10, 10), (20, 5)]
    assert window_spans(25, 10, min_tail=6) == [(0, 10), (10, 10)]
    assert window_spans(25, 10, hop=5) == [(0, 10), (5, 10), (10, 10), (15, 10)]
    assert window_spans(26, 10, hop=5) == [(0, 10), (5, 10), (10, 10), (15, 10), (20, 6)]
    assert window_spans(3, 10, min_tail=6) == [(0, 3)]


@given(
    samples=st.integers(0, 300),
    window=st.none() | sizes,
    hop=st.none() | sizes,
    least=st.integers(0, 80),
    block=st.integers(1, 90),
)
def test_windows_of_a_stream_equal_windows_of_the_whole(samples, window, hop, least, block):
    samples_T = np.arange(samples, dtype=np.float32)
    parts = [samples_T[begin : begin + block] for begin in range(0, samples, block)]
    found = list(split_windows(parts, window, hop, least))
    assert [(start, len(part_T)) for start, part_T in found] == window_spans(samples, window, hop, least)
    for start, part_T in found:
        np.testing.assert_array_equal(part_T, samples_T[start : start + len(part_T)])


@given(frames=st.integers(1, 200), window=st.integers(2, 50), overlap=st.integers(0, 30))
def test_merged_windows_equal_the_whole_recording(frames, window, overlap):
    hop = max(window - overlap, 1)
    grid_F = np.arange(frames)
    spans = window_spans(frames, window, hop)
    parts = [(start, {"a": grid_F[start : start + length]}) for start, length in spans]
    joined = list(merge_overlaps(parts))
    np.testing.assert_array_equal(np.concatenate([part["a"] for _, part in joined]), grid_F)
    assert all(len(part["a"]) == 0 or part["a"][0] == place for place, part in joined)


def test_an_overlap_is_shared_in_the_middle():
    parts = [(0, {"a": np.full(10, 0)}), (6, {"a": np.full(10, 1)}), (12, {"a": np.full(10, 2)})]
    joined = np.concatenate([part["a"] for _, part in merge_overlaps(parts)])
    np.testing.assert_array_equal(joined, [0] * 8 + [1] * 6 + [2] * 8)


def test_gaps_stay_and_neighbours_are_untouched():
    parts = [(0, {"a": np.arange(4)}), (4, {"a": np.arange(4)}), (10, {"a": np.arange(4)})]
    assert [(place, len(part["a"])) for place, part in merge_overlaps(parts)] == [(0, 4), (4, 4), (10, 4)]
    assert list(merge_overlaps([])) == []


@pytest.mark.parametrize("count", [1, 2, 5])
def test_merged_arrays_have_equal_lengths(count):
    parts = [(place * 3, {"a": np.zeros((5, 2)), "b": np.zeros((5, 7))}) for place in range(count)]
    for _, part in merge_overlaps(parts):
        assert len(part["a"]) == len(part["b"])
