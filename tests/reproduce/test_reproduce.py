"""Studies: the verdict is the paired bootstrap's, lines know their published figures, and a run resumes."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from carrara.bench.leaderboard.ranking import Span
from carrara.cli._main import app
from carrara.core.errors import UsageError
from carrara.data._pebble import sizes
from carrara.encoders._hub.load import build, save_pretrained
from carrara.pretrain.recipes._base import resolve
from carrara.reproduce import REGISTRY
from carrara.reproduce._base import Claim, Line, Study, View
from carrara.reproduce._measure import Plan, measured
from carrara.reproduce._page import markdown, values
from carrara.reproduce._verdict import HELD, NOT_HELD, OPEN, Found, verdicts
from carrara.reproduce._view import looked_at

FEW = {"songs": 36, "notes": 36, "voices": 6, "stems": 0, "unlabelled": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Where Pebble is rendered by the first test that asks it."""
    return tmp_path_factory.mktemp("data")


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


@pytest.mark.parametrize("name", REGISTRY.names())
def test_every_line_names_a_recipe_and_a_printed_average(name):
    study = REGISTRY.get(name)
    labels = [one.label for one in study.lines]
    assert len(set(labels)) == len(labels) and study.lines[0].recipe
    for claim in study.claims:
        assert {claim.above, claim.below} <= set(labels)
    found = {one.label: line(one.label, 1.0) for one in study.lines}
    for one, shown in zip(study.lines, values(study, Plan((), None), found, [])["lines"], strict=True):
        assert shown["label"] == one.label
        assert (shown["published"] is not None) == bool(one.published), one.label
        assert {other for other in (one.view and one.view.of, one.after and one.after[0]) if other} <= set(labels)
        if one.recipe:
            resolve(one.recipe, "tiny", one.changes | one.shrunk)
        if one.weights:
            assert resolve(one.recipe, "base", {"initial.weights": "FILE"}).initial.kind == one.weights


# The poster, by eye: averaged weights on MagnaTagATune, and EfficientNet-B0 from its table of downstream tasks.
PRINTED = {
    "maest-init": {"random": 39.0, "deit": 40.2, "passt": 41.0},
    "maest-segment": {"5s": 40.9, "10s": 41.0, "20s": 41.2, "30s": 41.5, "effnet": 37.4},
    "maest-tokens": {"stack-7": 41.3, "stack-10": 39.9, "stack-12": 39.4},
}


@pytest.mark.parametrize("name", PRINTED)
def test_the_poster_s_figures_stand_beside_its_lines(name):
    study = REGISTRY.get(name)
    rows = dict.fromkeys(study.rows, 1.0)
    found = {one.label: Found(one.label, Span(1, 0, 2), rows, 1, 0.0, np.zeros(9)) for one in study.lines}
    shown = values(study, Plan((), None), found, [])["lines"]
    assert {one["label"]: one["published"] for one in shown if one["published"] is not None} == PRINTED[name]


@pytest.mark.parametrize("name", ["maest-init", "maest-segment"])
def test_shortened_crops_fill_the_networks_and_lose_half_their_columns(name):
    for one in REGISTRY.get(name).lines:
        if one.recipe.startswith("maest") and not one.weights:
            recipe = resolve(one.recipe, "tiny", one.changes | one.shrunk)
            columns = (int(recipe.crop_seconds * 16_000 / 256) - 16) // 10 + 1
            assert recipe.crop_seconds == pytest.approx(0.3 * resolve(one.recipe).crop_seconds)
            assert recipe.network.frames == int(recipe.crop_seconds * 16_000 / 256)
            assert abs(recipe.patchout - columns / 2) <= 1


def test_lines_without_their_files_are_shown_with_what_they_need(tmp_path):
    study = REGISTRY.get("maest-init")
    found = {label: line(label, 1.0) for label in ("random", "untrained")}
    for one in found.values():
        one.rows.update(dict.fromkeys(study.rows, 1.0))
    plan = Plan((), tmp_path, labels=("random", "deit", "passt", "untrained"))
    judged = verdicts(study, found, plan.lacking(study))
    told = values(study, plan, found, judged)
    assert [sorted(one) for one in told["lines"]][1:3] == [["label", "needs", "published"]] * 2
    assert [one["verdict"] for one in told["claims"]] == [
        "not decidable: deit not run",
        "not decidable: passt not run",
        "not decidable: passt and deit not run",
        OPEN,
    ]
    page = markdown(study, plan, found, judged, "x")
    assert "| deit | – | – | – | – | – | – | – | – | 40.2 |" in page
    assert (
        "Not run: `deit`, which needs --scale base (the file is of the full network) and --weights deit=FILE: deit_"
        in page
    )
    base = Plan((), tmp_path, "base", weights={"deit": tmp_path / "deit.pth"})
    assert set(base.lacking(study)) == {"passt"}
    assert "pas" in base.lacking(study)["passt"]


def test_a_network_before_training_is_of_a_line_that_can_be_trained(tmp_path):
    plan = Plan((), tmp_path, labels=("deit", "untrained"))
    with pytest.raises(UsageError, match="untrained is another line's network before training; name one that can be"):
        list(measured(REGISTRY.get("maest-init"), plan))


def test_a_study_of_which_nothing_can_run_says_what_it_needs(tmp_path):
    with pytest.raises(UsageError, match="nothing to run: deit needs --scale base .* and --weights deit=FILE"):
        next(measured(REGISTRY.get("maest-init"), Plan((), tmp_path, labels=("deit",))))


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("maest-init", "bert=x", "--weights bert=x: give deit=FILE or passt=FILE"),
        ("maest-init", "deit=none.pth", "--weights deit=none.pth: there is no such file"),
        ("maest-tokens", "deit=none.pth", "--weights deit=none.pth: no line begins from a file"),
    ],
)
def test_weights_that_no_line_can_use_are_refused(name, given, told):
    ended = CliRunner().invoke(app, ["study", name, "--weights", given])
    assert ended.exit_code != 0
    assert told in f"{ended.output}{ended.exception}"


def test_a_view_is_one_layer_with_the_weights_of_its_model(tmp_path):
    """Tokens as the encoder lays them side by side in its stack: cls, dist, average."""
    encoder = build("maest-tiny", 3).eval()
    save_pretrained(encoder, tmp_path / "model")
    samples_BT = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 24_000), dtype=np.float32))
    with torch.inference_mode():
        stack_B1D = encoder(samples_BT)[:, 2]
        for place, tokens in enumerate(("cls", "dist", "average")):
            view = View("model", {"tokens": tokens}, 7, 12)
            seen = looked_at(str(tmp_path / "model"), view, f"{tokens}-7-1", "cpu")
            assert (seen.card.name, seen.card.num_layers, seen.card.dim) == (f"{tokens}-7-1", 0, 128)
            part_B1D = stack_B1D[..., 128 * place : 128 * (place + 1)]
            torch.testing.assert_close(seen(samples_BT), part_B1D[:, None], rtol=1e-5, atol=1e-5)


def test_views_of_one_model_are_asked_apart_and_trained_once(tmp_path, data, monkeypatch):
    small = {"network.dim": 24, "network.num_layers": 2, "network.num_heads": 2, "network.ffn_dim": 24, "batch": 4}
    small |= {"crop_seconds": 1.5, "network.frames": 94, "patchout": 4, "epoch_clips": 8}
    looks = [Line(f"{what}-12", "", view=View("all", {"tokens": what}, 12, 12)) for what in ("cls", "average")]
    study = Study(
        "t",
        "maest-poster-heatmap",
        "MTT",
        (Line("all", "maest-10s", changes=small), *looks, Line("untrained", "")),
        (Claim("x", "cls-12", "average-12"),),
        ("pebble/genre",),
        labelled=True,
    )
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(sizes.SIZES, "demo", FEW)
    monkeypatch.setitem(REGISTRY._loaded, REGISTRY.entry("maest-tokens").module, study)
    words = ["study", "maest-tokens", "-o", str(tmp_path / "out"), "--data-dir", str(data)]
    ended = CliRunner().invoke(app, [*words, "--steps", "2", "--seeds", "1", "--device", "cpu", "--json"])
    assert ended.exit_code == 0, ended.output
    told = json.loads(ended.stdout)
    assert [one["label"] for one in told["lines"]] == ["all", "cls-12", "average-12", "untrained"]
    assert [folder.name for folder in (tmp_path / "out/models").iterdir()] == ["all-1337"]
    chosen = {path.parents[2].name: json.loads(path.read_text()) for path in (tmp_path / "out").rglob("*@1.json")}
    assert {name: one["protocol"]["tried"] for name, one in chosen.items()} == {
        "all-1337": 24, "cls-12-1337": 6, "average-12-1337": 6, "all-1337:random-1337": 24,
    }  # fmt: skip


def test_a_study_runs_from_the_command_line_and_resumes(tmp_path, data, monkeypatch):
    small = {"network.conv_channels": 16, "network.dim": 32, "network.num_layers": 1, "network.ffn_dim": 32}
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
    monkeypatch.setitem(REGISTRY._loaded, REGISTRY.entry("thesis-5-3").module, study)
    words = ["study", "thesis-5.3", "-o", str(tmp_path / "out"), "--data-dir", str(data)]
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
