"""Reproductions: verdicts are the paired bootstrap's, rows have their published figures, and a run resumes."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from carrara.bench.leaderboard.ranking import Interval
from carrara.cli._main import app
from carrara.core.errors import UsageError
from carrara.data._pebble import sizes
from carrara.encoders._hub.load import build_encoder, save_pretrained
from carrara.pretrain.recipes._base import resolve
from carrara.reproduce import REGISTRY
from carrara.reproduce._base import AblationRow, Hypothesis, LayerSelection, Reproduction
from carrara.reproduce._page import page_markdown, page_values
from carrara.reproduce._run import ReproductionPlan, run_reproduction, select_layer
from carrara.reproduce._verdict import HELD, NOT_HELD, OPEN, RowResult, decide_hypotheses

pytestmark = pytest.mark.slow

FEW = {"songs": 36, "notes": 36, "voices": 6, "stems": 0, "unlabelled": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a folder in which the first test that needs Pebble renders it."""
    return tmp_path_factory.mktemp("data")


def make_result(label, mean, std=1.0, tasks=("pebble/key",)):
    drawn = mean + std * np.random.default_rng(0).standard_normal(1000)
    interval = Interval(mean, mean - 2 * std, mean + 2 * std)
    return RowResult(label, interval, dict.fromkeys(tasks, mean), (mean,) * 3, 10.0, drawn, groups=100)


def test_a_hypothesis_is_held_not_held_or_open():
    results = {"a": make_result("a", 60), "b": make_result("b", 50), "c": make_result("c", 60.1, std=5)}
    pairs = (("a", "b"), ("b", "a"), ("c", "a"))
    reproduction = Reproduction("t", "thesis-T5.3", "ALL4", (), tuple(Hypothesis("x", *pair) for pair in pairs))
    verdicts = decide_hypotheses(reproduction, results)
    assert [each.verdict for each in verdicts] == [HELD, NOT_HELD, OPEN]
    # The draws of a and b are the same clips, so what they have in common cancels.
    assert verdicts[0].difference.low == pytest.approx(10)


@pytest.mark.parametrize("name", REGISTRY.names())
def test_rows_that_a_hypothesis_compares_have_equal_masks_unless_it_is_about_them(name):
    reproduction = REGISTRY.get(name)
    masks = {}
    for row in reproduction.rows:
        if row.recipe:
            recipe = resolve(row.recipe, "tiny", row.changes | row.small_changes)
            masks[row.label] = getattr(recipe, "masking", None)
    for hypothesis in reproduction.hypotheses:
        pair = [masks[label] for label in (hypothesis.better, hypothesis.worse) if label in masks]
        assert len(pair) < 2 or pair[0] == pair[1] or "mask" in hypothesis.text, hypothesis.text


@pytest.mark.parametrize("name", REGISTRY.names())
def test_every_row_names_a_recipe_and_a_printed_average(name):
    reproduction = REGISTRY.get(name)
    labels = [row.label for row in reproduction.rows]
    assert len(set(labels)) == len(labels) and reproduction.rows[0].recipe
    for hypothesis in reproduction.hypotheses:
        assert {hypothesis.better, hypothesis.worse} <= set(labels)
    results = {label: make_result(label, 1.0) for label in labels}
    values = page_values(reproduction, ReproductionPlan((), None), results, [])["rows"]
    for row, shown in zip(reproduction.rows, values, strict=True):
        assert shown["label"] == row.label
        assert (shown["published"] is not None) == bool(row.published), row.label
        referenced = {row.selection and row.selection.model_of, row.initial_model and row.initial_model[0]}
        assert {label for label in referenced if label} <= set(labels)
        if row.recipe:
            resolve(row.recipe, "tiny", row.changes | row.small_changes)
        if row.official_weights:
            recipe = resolve(row.recipe, "base", {"initial.weights": "FILE"})
            assert recipe.initial.kind == row.official_weights


# The poster, by eye: averaged and last weights on MagnaTagATune, and EfficientNet-B0 of its downstream table.
PRINTED = {
    "maest-init": {"random": 39.0, "deit": 40.2, "passt": 41.0},
    "maest-segment": {"5s": 40.9, "10s": 41.0, "20s": 41.2, "30s": 41.5, "effnet": 37.4}
    | {"5s-last": 40.8, "10s-last": 41.1, "20s-last": 41.2, "30s-last": 41.7},
    "maest-tokens": {"stack-7": 41.3, "stack-10": 39.9, "stack-12": 39.4},
}


@pytest.mark.parametrize("name", PRINTED)
def test_the_posters_figures_are_shown_beside_its_rows(name):
    reproduction = REGISTRY.get(name)
    results = {row.label: make_result(row.label, 1.0, tasks=reproduction.tasks) for row in reproduction.rows}
    rows = page_values(reproduction, ReproductionPlan((), None), results, [])["rows"]
    assert {row["label"]: row["published"] for row in rows if row["published"] is not None} == PRINTED[name]


@pytest.mark.parametrize("name", ["maest-init", "maest-segment"])
def test_shortened_crops_fill_the_networks_and_lose_half_their_columns(name):
    for row in REGISTRY.get(name).rows:
        if row.recipe.startswith("maest") and not row.official_weights:
            recipe = resolve(row.recipe, "tiny", row.changes | row.small_changes)
            columns = (int(recipe.crop_seconds * 16_000 / 256) - 16) // 10 + 1
            assert recipe.crop_seconds == pytest.approx(0.3 * resolve(row.recipe).crop_seconds)
            assert recipe.network.frames == int(recipe.crop_seconds * 16_000 / 256)
            assert abs(recipe.patchout - columns / 2) <= 1


def test_rows_without_their_files_are_shown_with_what_they_need(tmp_path):
    reproduction = REGISTRY.get("maest-init")
    results = {label: make_result(label, 1.0, tasks=reproduction.tasks) for label in ("random", "untrained")}
    plan = ReproductionPlan((), tmp_path, labels=("random", "deit", "passt", "untrained"))
    verdicts = decide_hypotheses(reproduction, results, plan.missing_weights(reproduction))
    values = page_values(reproduction, plan, results, verdicts)
    assert [sorted(row) for row in values["rows"]][1:3] == [["label", "needs", "published"]] * 2
    assert [verdict["verdict"] for verdict in values["hypotheses"]] == [
        "not decidable: deit not run",
        "not decidable: passt not run",
        "not decidable: passt and deit not run",
        OPEN,
    ]
    page = page_markdown(reproduction, plan, results, verdicts, "x")
    assert "| deit | – | – | – | – | – | – | – | – | 40.2 |" in page
    assert (
        "Not run: `deit`, which needs --scale base (the file is of the full network) and --weights deit=FILE: deit_"
        in page
    )
    base = ReproductionPlan((), tmp_path, "base", weights={"deit": tmp_path / "deit.pth"})
    assert set(base.missing_weights(reproduction)) == {"passt"}
    assert "pas" in base.missing_weights(reproduction)["passt"]


def test_an_untrained_network_is_that_of_a_row_that_can_be_trained(tmp_path):
    plan = ReproductionPlan((), tmp_path, labels=("deit", "untrained"))
    with pytest.raises(UsageError, match="untrained is another row's network before training; name one that can be"):
        list(run_reproduction(REGISTRY.get("maest-init"), plan))


def test_a_reproduction_without_runnable_rows_names_what_they_need(tmp_path):
    plan = ReproductionPlan((), tmp_path, labels=("deit",))
    with pytest.raises(UsageError, match="nothing to run: deit needs --scale base .* and --weights deit=FILE"):
        next(run_reproduction(REGISTRY.get("maest-init"), plan))


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("maest-init", "--weights", "bert=x", "--weights bert=x: give deit=FILE or passt=FILE"),
        ("maest-init", "--weights", "deit=none.pth", "--weights deit=none.pth: there is no such file"),
        ("maest-tokens", "--weights", "deit=none.pth", "--weights deit=none.pth: no row starts from a file"),
        ("maest-tokens", "--rows", "stack-8", "has no row 'stack-8'. Did you mean 'stack-7'"),
        ("stability", "--tasks", "pebble/key", "--tasks: stability measures no tasks; leave it out"),
        ("thesis-5-3", "--tasks", "pebble/kee", "there is no task 'pebble/kee'. Did you mean 'pebble/key'"),
        ("thesis-5-3", "--protocol", "linaer", "Did you mean 'linear'"),
        ("thesis-5-3", "--protocol", "linear:layer=1", "there is no setting 'layer'. Did you mean 'layers'"),
    ],
)
def test_misused_options_are_refused(name, option, value, message):
    done = CliRunner().invoke(app, ["reproduce", name, option, value])
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_selected_layer_has_the_weights_of_its_model(tmp_path):
    """The encoder's stack has cls, dist and average side by side."""
    encoder = build_encoder("maest-tiny", 3).eval()
    save_pretrained(encoder, tmp_path / "model")
    samples_BT = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 24_000), dtype=np.float32))
    with torch.inference_mode():
        stack_B1D = encoder(samples_BT)[:, 2]
        for index, tokens in enumerate(("cls", "dist", "average")):
            selection = LayerSelection("model", {"tokens": tokens}, 7, 12)
            layer = select_layer(str(tmp_path / "model"), selection, f"{tokens}-7-1", "cpu")
            assert (layer.card.name, layer.card.num_layers, layer.card.dim) == (f"{tokens}-7-1", 0, 128)
            part_B1D = stack_B1D[..., 128 * index : 128 * (index + 1)]
            torch.testing.assert_close(layer(samples_BT), part_B1D[:, None], rtol=1e-5, atol=1e-5)


def test_rows_that_differ_in_layer_share_one_trained_model(tmp_path, data, monkeypatch):
    small = {"network.dim": 24, "network.num_layers": 2, "network.num_heads": 2, "network.ffn_dim": 24, "batch": 4}
    small |= {"crop_seconds": 1.5, "network.frames": 94, "patchout": 4, "epoch_clips": 8}
    layers = [
        AblationRow(f"{tokens}-12", selection=LayerSelection("all", {"tokens": tokens}, 12, 12))
        for tokens in ("cls", "average")
    ]
    reproduction = Reproduction(
        "t",
        "maest-poster-heatmap",
        "MTT",
        (AblationRow("all", "maest-10s", changes=small), *layers, AblationRow("untrained")),
        (Hypothesis("x", "cls-12", "average-12"),),
        ("pebble/genre",),
        is_supervised=True,
    )
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(sizes.SIZES, "demo", FEW)
    monkeypatch.setitem(REGISTRY.loaded, REGISTRY.get_entry("maest-tokens").module, reproduction)
    words = ["reproduce", "maest-tokens", "-o", str(tmp_path / "out"), "--data-dir", str(data)]
    done = CliRunner().invoke(app, [*words, "--steps", "2", "--seeds", "1", "--device", "cpu", "--json"])
    assert done.exit_code == 0, done.output
    assert [row["label"] for row in json.loads(done.stdout)["rows"]] == ["all", "cls-12", "average-12", "untrained"]
    assert [folder.name for folder in (tmp_path / "out/models").iterdir()] == ["all-1337"]
    records = {path.parents[2].name: json.loads(path.read_text()) for path in (tmp_path / "out").rglob("*@1.json")}
    assert {name: record["protocol"]["tried"] for name, record in records.items()} == {
        "all-1337": 24, "cls-12-1337": 6, "average-12-1337": 6, "all-1337_random-1337": 24,
    }  # fmt: skip


def test_a_reproduction_runs_from_the_command_line_and_resumes(tmp_path, data, monkeypatch):
    small = {"network.conv_channels": 16, "network.dim": 32, "network.num_layers": 1, "network.ffn_dim": 32}
    small |= {"targets.mfcc.k": 8, "batch": 4}
    reproduction = Reproduction(
        "t",
        "thesis-T5.3",
        "ALL4",
        (AblationRow("mfcc", "musichubert-k100", changes=small), AblationRow("untrained")),
        (Hypothesis("training is better than no training", "mfcc", "untrained"),),
        ("pebble/key", "pebble/emotion"),
    )
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(sizes.SIZES, "demo", FEW)
    monkeypatch.setitem(REGISTRY.loaded, REGISTRY.get_entry("thesis-5-3").module, reproduction)
    words = ["reproduce", "thesis-5.3", "-o", str(tmp_path / "out"), "--data-dir", str(data)]
    words += ["--steps", "3", "--seeds", "2", "--device", "cpu", "--json"]
    first = CliRunner().invoke(app, words)
    assert first.exit_code == 0, first.output
    values = json.loads(first.stdout)
    assert [row["label"] for row in values["rows"]] == ["mfcc", "untrained"]
    assert values["hypotheses"][0]["verdict"] in {HELD, NOT_HELD, OPEN}
    assert (tmp_path / "out/thesis-T5.3.png").read_bytes()[:4] == b"\x89PNG"
    assert "| mfcc |" in (tmp_path / "out/thesis-T5.3.md").read_text()
    models = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    assert len([path for path in models if path.name == "model.safetensors"]) == 2
    second = CliRunner().invoke(app, words)
    assert json.loads(second.stdout) == values
    fewer = CliRunner().invoke(app, [*words, "--tasks", "pebble/emotion"])
    assert json.loads(fewer.stdout)["tasks"] == ["pebble/emotion"]
    scores = {row["label"]: row["tasks"] for row in json.loads(fewer.stdout)["rows"]}
    assert scores == {row["label"]: {"pebble/emotion": row["tasks"]["pebble/emotion"]} for row in values["rows"]}
    quick = CliRunner().invoke(app, [*words, "--tasks", "pebble/emotion", "--protocol", "linear:pooling=mean-std"])
    assert json.loads(quick.stdout)["protocol"] == "linear:pooling=mean-std"
    assert "protocol `linear:pooling=mean-std`" in (tmp_path / "out/thesis-T5.3.md").read_text()
    records = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("*@1.json")]
    assert {(each["task"]["name"], each["protocol"]["name"]) for each in records} == {
        ("pebble/key", "constrained"),
        ("pebble/emotion", "constrained"),
        ("pebble/emotion", "linear:pooling=mean-std"),
    }
    assert {path: path.stat().st_mtime_ns for path in models} == models
