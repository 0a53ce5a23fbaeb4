"""Studies: the verdict is the paired bootstrap's, lines know their published figures, and a run resumes."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from carrara.app.cli import app
from carrara.app.studies import SHELF
from carrara.app.studies._base import Claim, Line, Study
from carrara.app.studies._measure import Plan
from carrara.app.studies._page import values
from carrara.app.studies._verdict import HELD, NOT_HELD, OPEN, Found, verdicts
from carrara.bench.board.ranking import Span
from carrara.data._pebble import sizes
from carrara.pretrain.recipes._base import resolve

FEW = {"songs": 36, "notes": 36, "voices": 6, "stems": 0, "unlabelled": 4}


def line(label, mean, spread=1.0):
    drawn = mean + spread * np.random.default_rng(0).standard_normal(1000)
    return Found(label, Span(mean, mean - 2 * spread, mean + 2 * spread), {"pebble/key": mean}, 3, 10.0, drawn)


def test_a_claim_is_held_not_held_or_open():
    lines = {"a": line("a", 60), "b": line("b", 50), "c": line("c", 60.1, spread=5)}
    study = Study(
        "t",
        "thesis-T5.3",
        "ALL4",
        (),
        (Claim("x", "a", "b"), Claim("y", "b", "a"), Claim("z", "c", "a")),
        ("pebble/key",),
    )
    assert [one.word for one in verdicts(study, lines)] == [HELD, NOT_HELD, OPEN]
    # The draws of a and b are the same clips, so what they share cancels.
    assert verdicts(study, lines)[0].difference.low == pytest.approx(10)


@pytest.mark.parametrize("name", SHELF.names())
def test_every_line_names_a_recipe_and_a_printed_average(name):
    study = SHELF.get(name)
    labels = [one.label for one in study.lines]
    assert len(set(labels)) == len(labels) and study.lines[0].recipe
    for claim in study.claims:
        assert {claim.above, claim.below} <= set(labels)
    found = {one.label: line(one.label, 1.0) for one in study.lines}
    for one, shown in zip(study.lines, values(study, Plan((), None), found, [])["lines"]):
        assert (shown["published"] is not None) == bool(one.published), one.label
        if one.recipe and not one.after:
            resolve(one.recipe, "tiny", one.changes)


def test_a_study_runs_from_the_command_line_and_resumes(tmp_path, monkeypatch):
    small = {"network.conv_channels": 16, "network.width": 32, "network.layers": 1, "network.feed_forward": 32}
    small |= {"targets.mfcc.k": 8, "batch": 4}
    study = Study(
        "t",
        "thesis-T5.3",
        "ALL4",
        (
            Line("mfcc", "musichubert-k100", "", small),
            Line("untrained", ""),
        ),
        (Claim("any teacher is better than none", "mfcc", "untrained"),),
        ("pebble/key", "pebble/emotion"),
    )
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(sizes.SIZES, "demo", FEW)
    monkeypatch.setitem(SHELF._loaded, SHELF.entry("thesis-5-3").module, study)
    words = ["study", "thesis-5.3", "-o", str(tmp_path / "out"), "--data-dir", str(tmp_path / "data")]
    words += ["--steps", "3", "--seeds", "2", "--device", "cpu", "--json"]
    first = CliRunner().invoke(app, words)
    assert first.exit_code == 0, first.output
    told = json.loads(first.stdout)
    assert [one["label"] for one in told["lines"]] == ["mfcc", "untrained"]
    assert told["claims"][0]["verdict"] in {HELD, NOT_HELD, OPEN}
    assert (tmp_path / "out/thesis-T5.3.png").read_bytes()[:4] == b"\x89PNG"
    assert "| mfcc |" in (tmp_path / "out/thesis-T5.3.md").read_text()
    models = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    assert len([path for path in models if path.name == "model.safetensors"]) == 2
    second = CliRunner().invoke(app, words)
    assert json.loads(second.stdout) == told
    assert {path: path.stat().st_mtime_ns for path in models} == models
