"""`carrara.plots` makes the pictures of the pages: what they show, in which order, and what cannot be drawn."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

import carrara
from carrara.bench.leaderboard.compare import compare_systems
from carrara.bench.leaderboard.ranking import add_published, build_leaderboards
from carrara.core.errors import UsageError
from carrara.core.record import read_records

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def boards(site_results):
    boards = build_leaderboards(list(read_records(site_results[0])))
    return {f"{each.suite}-{each.protocol}": each for each in boards}


@pytest.fixture
def board(boards):
    return boards["pebble-constrained"]


def texts(figure):
    """Return the texts of a figure, which must be well-formed and must not need a page."""
    root = ElementTree.fromstring(figure.svg)
    assert root.tag == f"{SVG}svg" and "http" not in figure.svg.replace("http://www.w3.org/2000/svg", "")
    return ["".join(node.itertext()).strip() for node in root.iter(f"{SVG}text")]


def test_a_task_has_its_systems_the_best_first_and_published_ones_marked(board, boards):
    names = texts(carrara.plots.task_scores(board, "pebble/key"))
    assert [name for name in names if name[:4] in ("good", "fair", "poor")] == ["good†", "fair", "poor"]
    marble = add_published([boards["marble-14-constrained"]], ["thesis-T6.2"])[0]
    names = texts(carrara.plots.task_scores(marble, "gtzan/genre"))
    assert "fair" in names and "MERT-v1-95M‡" in names
    values = {each.name: each.score("gtzan/genre") for each in marble.published}
    drawn = [name.removesuffix("‡") for name in names if name.endswith("‡")]
    assert drawn == sorted(drawn, key=lambda name: -values[name])
    with pytest.raises(UsageError, match=r"no score on 'pebble/kez'.*pebble/key"):
        carrara.plots.task_scores(board, "pebble/kez")


def test_a_system_stands_beside_the_best_other(board):
    figure = carrara.plots.system_scores(board, "fair")
    assert {"fair", "best other system", *board.tasks} <= set(texts(figure))
    with pytest.raises(UsageError, match="The systems: good, fair, poor"):
        carrara.plots.system_scores(board, "nobody")


def test_differences_are_coloured_by_verdict(site_results):
    results = site_results[0]
    records = list(read_records(results))
    better = carrara.plots.differences(compare_systems(records, "good", "poor", results, "pebble"))
    worse = carrara.plots.differences(compare_systems(records, "poor", "good", results, "pebble"))
    assert "#00734f" in better.svg and "#b3400a" not in better.svg
    assert "#b3400a" in worse.svg and "#00734f" not in worse.svg
    assert "good minus poor, with 95 % intervals" in texts(better)


def test_cost_is_on_a_logarithmic_axis_and_missing_costs_are_said(board):
    figure = carrara.plots.quality_and_cost(board)
    assert {"good", "fair", "poor", "parameters", "10 M", "100 M"} <= set(texts(figure))
    uses = re.findall(r'<use href="#[^"]*" x="([\d.]+)"[^>]*var\(--blue\)', figure.svg)
    drawn = [float(x) for x in uses]
    assert len(drawn) == 3  # 5 M, 90 M and 300 M
    assert (drawn[1] - drawn[0]) / (drawn[2] - drawn[0]) == pytest.approx(np.log(18) / np.log(60), abs=0.01)
    assert "pebble/key" in texts(carrara.plots.quality_and_cost(board, "seconds", "pebble/key"))
    with pytest.raises(UsageError, match="hours of training audio"):
        carrara.plots.quality_and_cost(board, "hours")
    with pytest.raises(UsageError, match="Did you mean 'seconds'"):
        carrara.plots.quality_and_cost(board, "second")


def test_confusions_are_of_classes_with_predictions(board, site_results):
    figures = carrara.plots.confusions(board, site_results[0], "pebble/key")
    assert list(figures) == ["good", "fair", "poor"]
    shown = texts(figures["fair"])
    assert "fair on pebble/key" in shown and shown.count("a") == shown.count("b") == 2
    with pytest.raises(UsageError, match="no confusions"):
        carrara.plots.confusions(board, site_results[0], "pebble/tags")


def test_embeddings_and_an_example_clip():
    rng = np.random.default_rng(0)
    names = texts(carrara.plots.embeddings(rng.standard_normal((12, 4)), ["x", "y"] * 6, "layer 3"))
    assert {"layer 3", "x", "y"} <= set(names)
    tone = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert "beats" in texts(carrara.plots.example_clip(tone, 16000, {"beats": [0.1, 0.6]}))
