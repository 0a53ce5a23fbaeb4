"""The picture of styles over time: what it shows against values made by hand, and letters that the font lacks."""

import warnings

import numpy as np
import pytest

from carrara.cli._tag_plot import clock, drawing, edges, figure_of, style_picture
from carrara.features.tags import TrackTags


def test_windows_are_shown_between_the_midpoints():
    track = TrackTags("x", np.array([0.0, 2.0, 4.0]), np.array([4.0, 4.0, 3.0]), np.zeros((3, 5)))
    np.testing.assert_allclose(edges(track), [0, 3, 4.75, 7])
    assert [clock(seconds) for seconds in (0, 59.4, 61, 600)] == ["0:00", "0:59", "1:01", "10:00"]


def test_a_picture_shows_the_most_probable_style_first_and_time_to_the_right():
    # By length the means are 0.14, 0.40 and 0.42; of the windows alone speech would be first.
    probability_WK = np.array([[0.1, 0.5, 0.9], [0.1, 0.2, 0.1], [0.3, 0.6, 0.1]])
    track = TrackTags("music/song.wav", np.array([0.0, 4.0, 8.0]), np.array([4.0, 4.0, 2.0]), probability_WK)
    drawn = drawing(track, ["Jazz---Bop", "speech", "Rock---Surf"], 2)
    assert drawn.styles == ["Rock / Surf", "speech"]
    np.testing.assert_allclose(drawn.edges, [0, 4, 7.5, 10])
    np.testing.assert_array_equal(drawn.probability_SW, [[0.9, 0.1, 0.1], [0.5, 0.2, 0.6]])
    axes = figure_of(drawn, "song.wav").axes[0]
    mesh = axes.collections[0]
    np.testing.assert_array_equal(mesh.get_array(), drawn.probability_SW)
    np.testing.assert_allclose(mesh.get_coordinates()[0, :, 0], [0, 4, 7.5, 10])
    assert mesh.get_clim() == (0, 1)
    assert axes.get_title("left") == "song.wav"
    assert axes.get_xlim() == (0, 10)
    assert [text.get_text() for text in axes.get_yticklabels()] == drawn.styles
    heights = axes.transData.transform([(0, place) for place in axes.get_yticks()])[:, 1]
    assert heights[0] > heights[1]


def test_a_name_that_the_font_lacks_is_drawn_without_a_word(tmp_path):
    track = TrackTags("音楽.wav", np.zeros(1), np.ones(1), np.full((1, 1), 0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        style_picture(tmp_path / "x.png", track, ["ジャズ"], 1)
        with pytest.raises(UserWarning, match="another"):
            warnings.warn("another", UserWarning, stacklevel=1)
