"""The heat map of tags over time: what it shows against values computed by hand, and letters that the font lacks."""

import warnings

import numpy as np
import pytest

from carrara.cli._tag_plot import draw_heatmap, format_time, write_heatmap
from carrara.features.tags import TrackTags


def mesh_of(figure):
    return figure.axes[0].collections[0]


def test_windows_are_shown_between_the_midpoints():
    track = TrackTags("x", np.array([0.0, 2.0, 4.0]), np.array([4.0, 4.0, 3.0]), np.zeros((3, 5)))
    edges = mesh_of(draw_heatmap(track, list("abcde"), 1)).get_coordinates()[0, :, 0]
    np.testing.assert_allclose(edges, [0, 3, 4.75, 7])
    assert [format_time(seconds) for seconds in (0, 59.4, 61, 600)] == ["0:00", "0:59", "1:01", "10:00"]


def test_a_heatmap_shows_the_most_probable_tag_first_and_time_to_the_right():
    # By length the means are 0.14, 0.40 and 0.42; of the windows alone speech would be first.
    probability_WK = np.array([[0.1, 0.5, 0.9], [0.1, 0.2, 0.1], [0.3, 0.6, 0.1]])
    track = TrackTags("music/song.wav", np.array([0.0, 4.0, 8.0]), np.array([4.0, 4.0, 2.0]), probability_WK)
    figure = draw_heatmap(track, ["Jazz---Bop", "speech", "Rock---Surf"], 2)
    axes, mesh = figure.axes[0], mesh_of(figure)
    np.testing.assert_array_equal(mesh.get_array(), [[0.9, 0.1, 0.1], [0.5, 0.2, 0.6]])
    np.testing.assert_allclose(mesh.get_coordinates()[0, :, 0], [0, 4, 7.5, 10])
    assert mesh.get_clim() == (0, 1)
    assert axes.get_title("left") == "song.wav"
    assert axes.get_xlim() == (0, 10)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["Rock / Surf", "speech"]
    heights = axes.transData.transform([(0, tick) for tick in axes.get_yticks()])[:, 1]
    assert heights[0] > heights[1]


def test_a_name_that_the_font_lacks_gives_no_warning(tmp_path):
    track = TrackTags("音楽.wav", np.zeros(1), np.ones(1), np.full((1, 1), 0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_heatmap(tmp_path / "x.png", track, ["ジャズ"], 1)
        with pytest.raises(UserWarning, match="another"):
            warnings.warn("another", UserWarning, stacklevel=1)
