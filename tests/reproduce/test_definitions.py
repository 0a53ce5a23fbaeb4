"""Definitions of the reproductions: rows differ only in what they are about, and what rows select is right."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from carrara.cli._main import app
from carrara.core.errors import UsageError
from carrara.core.settings import iter_paths
from carrara.data import REGISTRY as DATA
from carrara.data._pebble import sizes
from carrara.encoders._hub.load import build_encoder, load, save_pretrained
from carrara.features.embedding_map import measure_separation, read_points
from carrara.pretrain.recipes._base import resolve
from carrara.reproduce import REGISTRY
from carrara.reproduce._base import AblationRow, Hypothesis, LayerSelection, Reproduction
from carrara.reproduce._curves import Course, describe_flattening, draw_curves, has_diverged, loss_fall
from carrara.reproduce._page import published_value, training_markdown
from carrara.reproduce._purity import genre_purity
from carrara.reproduce._run import ReproductionPlan, select_layer, train_row, training_log, validation_keys
from carrara.reproduce._verdict import HELD, NOT_HELD, OPEN, decide_stability

ROOT = Path(__file__).parents[2]
INDEX = ROOT / "docs/studies/index.md"
# What the rows of each reproduction may differ in from its first row, by path or the beginning of one.
MASKS = ("masking.mask_length", "masking.mask_prob")
CROPS = ("crop_seconds", "batch")
TOP = "targets.teacher.top_layers"
V1_NETWORK = ("encoder", "network", "targets", "mixup", "masking.pool", "loss_scale")
MAEST = ("encoder", "network.frames", "crop_seconds", "patchout", "initial", "labels", "epochs")
DIFFERENCES = {
    "appendix-b": (),
    "maest-init": MAEST,
    "maest-segment": (*MAEST, "network", "mixup", "spec_augment", "optimiser"),
    "maest-tokens": (),
    "music2vec-poster": (*MASKS, *CROPS, TOP),
    "scaling": (*V1_NETWORK, *(f"network.{name}" for name in ("dim", "num_layers", "num_heads", "ffn_dim"))),
    "stability": (
        "network.norm_placement",
        "network.deepnorm",
        "network.relaxation",
        "optimiser.max_grad_norm",
        "optimiser.learning_rate",
    ),
    "thesis-4-1": (
        "encoder",
        "network",
        "targets",
        "masking",
        "objective",
        "optimiser",
        "recovery",
        "target_rms",
        *CROPS,
    ),
    "thesis-4-2": ("targets",),
    "thesis-4-3": (*MASKS, *CROPS, TOP),
    "thesis-5-3": V1_NETWORK,
    "thesis-5-4": V1_NETWORK,
}


def resolve_row(row, scale="tiny"):
    small = row.small_changes if scale != "base" else {}
    return resolve(row.recipe, scale, {**row.changes, **small})


def value_at(tree, path):
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def paths_that_differ(first, second):
    first, second = first.model_dump(mode="json"), second.model_dump(mode="json")
    paths = {*iter_paths(first), *iter_paths(second)}
    leaves = {path for path in paths if not isinstance(value_at(first, path) or value_at(second, path), dict)}
    return {path for path in leaves if value_at(first, path) != value_at(second, path)}


@pytest.mark.parametrize("scale", ["tiny", "base"])
@pytest.mark.parametrize("name", REGISTRY.names())
def test_rows_differ_only_in_what_they_are_about(name, scale):
    rows = [row for row in REGISTRY.get(name).rows if row.recipe]
    first = resolve_row(rows[0], scale)
    for row in rows[1:]:
        differing = paths_that_differ(first, resolve_row(row, scale))
        unexplained = {path for path in differing if not path.startswith(DIFFERENCES[name])}
        assert not unexplained, (row.label, unexplained)


@pytest.mark.parametrize("scale", ["tiny", "base"])
@pytest.mark.parametrize("name", REGISTRY.names())
def test_rows_that_a_hypothesis_compares_have_as_much_audio_a_step(name, scale):
    """At tiny scale and at the published size; a longer training is the contrast itself where a row has more steps."""
    reproduction = REGISTRY.get(name)
    if name == "maest-segment":
        return  # the poster compares lengths at the same number of crops
    if name == "maest-init":
        return  # `notes` is a former training of `after-notes` and of other crops
    for hypothesis in reproduction.hypotheses:
        pair = [reproduction.row(label) for label in (hypothesis.better, hypothesis.worse)]
        recipes = [resolve_row(row, scale) for row in pair if row.recipe]
        if len(recipes) == 2 and "MusicHuBERT" not in hypothesis.text:
            seconds = [recipe.crop_seconds * recipe.batch for recipe in recipes]
            assert seconds[0] == pytest.approx(seconds[1], rel=0.05), hypothesis.text
            assert recipes[0].steps == recipes[1].steps


def test_the_index_of_studies_has_every_claim_with_the_papers_numbers():
    lines = INDEX.read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    claims = {
        (claim, study.strip("[`").split("`")[0]): (number, verdict) for claim, number, _, verdict, study in cells[1:]
    }
    expected = {(each.text, name) for name in REGISTRY.names() for each in REGISTRY.get(name).hypotheses}
    assert set(claims) == expected
    for name in REGISTRY.names():
        reproduction = REGISTRY.get(name)
        for hypothesis in reproduction.hypotheses:
            number, verdict = claims[hypothesis.text, name]
            rows = [reproduction.row(label) for label in (hypothesis.better, hypothesis.worse)]
            values = [published_value(reproduction, row) for row in rows]
            if None not in values:
                assert number == f"{values[0]:.1f} against {values[1]:.1f}"
                assert values[0] > values[1], hypothesis.text  # the claim is the paper's own
            assert verdict.strip("*") in {"held", "not held", "not decidable", "not run"}


def test_every_page_of_a_reproduction_is_linked_from_the_index():
    pages = {page.name for page in (ROOT / "docs/reproductions").glob("*.md")} - {"index.md"}
    text = INDEX.read_text(encoding="utf-8")
    assert [page for page in pages if f"(../reproductions/{page})" not in text] == []
    sources = {f"{REGISTRY.get(name).source}.md" for name in REGISTRY.names()}
    assert pages <= sources


@pytest.mark.parametrize("name", REGISTRY.names())
def test_rows_with_another_corpus_say_what_it_is(name, tmp_path):
    reproduction = REGISTRY.get(name)
    plan = ReproductionPlan((tmp_path,), tmp_path)
    missing = plan.missing_weights(reproduction)
    for row in reproduction.rows:
        if row.corpus:
            assert missing[row.label].startswith(f"--other-corpus {row.corpus}=FOLDER: ")
            given = ReproductionPlan((tmp_path,), tmp_path, corpora={row.corpus: tmp_path / "other"})
            assert given.files(row) == (tmp_path / "other",)
            assert row.label not in given.missing_weights(reproduction)


def test_a_fraction_of_a_corpus_is_its_first_files_by_name(tmp_path):
    for number in range(8):
        (tmp_path / "b" if number % 2 else tmp_path / "a").mkdir(exist_ok=True)
        ((tmp_path / "b" if number % 2 else tmp_path / "a") / f"{number}.flac").touch()
    (tmp_path / "a/notes.txt").touch()
    plan = ReproductionPlan((tmp_path,), tmp_path)
    quarter = plan.files(AblationRow("x", corpus_fraction=0.25))
    assert [str(path.relative_to(tmp_path)) for path in quarter] == ["a/0.flac", "a/2.flac"]
    assert plan.files(AblationRow("x")) == (tmp_path,)
    with pytest.raises(UsageError, match="--corpus: x needs audio files or folders of them"):
        ReproductionPlan((tmp_path / "a/notes.txt",), tmp_path).files(AblationRow("x", corpus_fraction=0.5))


@pytest.mark.parametrize("protocol", ["constrained", "linear:layers=concat:last4"])
def test_a_row_that_selects_a_layer_has_no_other_to_choose(protocol, tmp_path):
    poster = REGISTRY.get("music2vec-poster")
    plan = ReproductionPlan((tmp_path,), tmp_path, protocol=protocol)
    layers = {row.label: plan.bench_config(poster, 1, row).settings.get("layers") for row in poster.rows}
    assert {label for label, value in layers.items() if value is None} == {"conv", "last"}
    assert {value for value in layers.values() if value} == {protocol.partition("=")[2] or "transformer+cnn"}


def test_pairs_of_tokens_are_parts_of_the_stack(tmp_path):
    encoder = build_encoder("maest-tiny", 3).eval()
    save_pretrained(encoder, tmp_path / "model")
    samples_BT = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 24_000), dtype=np.float32))
    with torch.inference_mode():
        stack_B13D = encoder(samples_BT)[:, 2].unflatten(-1, (3, 128))
        for thirds in ((0, 1), (0, 2), (1, 2)):
            selection = LayerSelection("model", {"tokens": "stack"}, 6, 12, thirds)
            layer = select_layer(str(tmp_path / "model"), selection, "pair", "cpu")
            assert layer.card.dim == 256
            expected_B1D = stack_B13D[..., list(thirds), :].flatten(-2)
            torch.testing.assert_close(layer(samples_BT), expected_B1D[:, None], rtol=1e-5, atol=1e-5)


def test_the_convolutions_output_is_selected_as_a_layer(tmp_path):
    encoder = build_encoder("music2vec-tiny", 3).eval()
    save_pretrained(encoder, tmp_path / "model")
    samples_BT = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 16_000), dtype=np.float32))
    layer = select_layer(str(tmp_path / "model"), LayerSelection("m", {}, 0, 12, is_cnn=True), "conv", "cpu")
    with torch.inference_mode():
        torch.testing.assert_close(layer(samples_BT)[:, 0], encoder.forward_with_cnn(samples_BT)[1])
    assert layer.card.dim == encoder.card.cnn_dim


def test_purity_is_that_of_the_map():
    rng = np.random.default_rng(0)
    mean_ND, genre_N = rng.standard_normal((60, 8)), rng.choice(["jazz", "rock", "folk"], 60)
    purity_N = genre_purity(mean_ND, genre_N)
    assert purity_N.mean() == pytest.approx(measure_separation(mean_ND, genre_N).purity)
    # By hand for one song: cosines to all others, the ten nearest.
    unit_ND = mean_ND / np.linalg.norm(mean_ND, axis=1, keepdims=True)
    nearest = np.argsort(-unit_ND[1:] @ unit_ND[0])[:10] + 1
    assert purity_N[0] == pytest.approx(np.mean(genre_N[nearest] == genre_N[0]))


def test_a_loss_has_flattened_or_diverged():
    falling, flat = [1 - 0.01 * step for step in range(100)], [1.0] * 100
    assert loss_fall(flat) == 0 and loss_fall([1.0] * 9) is None
    # Means of .705 … .895 reversed: the fifth before the last is .305 on average, the last .105.
    assert loss_fall(falling) == pytest.approx((0.305 - 0.105) / 0.305)
    assert not has_diverged(falling) and not has_diverged(flat)
    assert has_diverged([1.0] * 50 + [5.0] * 10) and has_diverged([1.0, math.nan]) and has_diverged([])
    curves = {"a": [[{"step": step, "loss": loss} for step, loss in enumerate(falling)]]}
    assert describe_flattening(curves).endswith("`a` 65.6 % (not flat).")


def test_stability_is_held_where_only_the_other_broke():
    pairs = (("good", "bad"), ("bad", "good"), ("good", "good"))
    reproduction = Reproduction("t", "s", "", (), tuple(Hypothesis("x", *pair) for pair in pairs), measures="training")
    verdicts = decide_stability(reproduction, {"good": False, "bad": True}, 3)
    assert [verdict.verdict for verdict in verdicts] == [HELD, NOT_HELD, OPEN]


@pytest.mark.parametrize(("seeds", "shown"), [(1, "held (1 seed)"), (3, "**held**")])
def test_a_verdict_is_bold_from_three_seeds_on(tmp_path, seeds, shown):
    rows = (AblationRow("good", "r", outcome="stable"), AblationRow("bad", "r", outcome="crashed"))
    reproduction = Reproduction("t", "s", "", rows, (Hypothesis("x", "good", "bad"),), measures="training")
    courses = {
        "good": Course("good", (), 0, 0, 0, 2.5, 8.0),
        "bad": Course("bad", ("step 7: gone",), 0, 1, 3, None, None),
    }
    verdicts = decide_stability(reproduction, {"good": False, "bad": True}, seeds)
    page = training_markdown(reproduction, ReproductionPlan((), tmp_path, seeds=seeds), courses, verdicts, "x", {})
    assert f"| x | {shown} |" in page
    assert "| bad | 1 stopped, 1 stuck | – | – | 3 | crashed |" in page and "`bad`: step 7: gone" in page


def test_curves_are_drawn_with_the_panels_that_have_data(tmp_path):
    lines = [{"step": step, "loss": 1 / step, "gradient_norm": 1.0, "loss_scale": 2.0**step} for step in range(1, 9)]
    draw_curves(tmp_path / "a.png", {"x": [lines]})
    draw_curves(tmp_path / "b.png", {"x": [[{"step": 1, "loss": 1.0}]]})
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    heights = [int.from_bytes((tmp_path / name).read_bytes()[20:24], "big") for name in ("a.png", "b.png")]
    assert heights[0] > 2 * heights[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["thesis-5-3", "--other-corpus", "speech=x"], "--other-corpus speech=x: no row has another corpus"),
        (["thesis-4-1", "--other-corpus", "other=x"], "--other-corpus other=x: give speech=FOLDER"),
        (["thesis-4-1", "--other-corpus", "speech=none"], "--other-corpus speech=none: there is no such folder"),
        (["appendix-b", "--model", "x=y"], "--model x=y: write it as ROW=ENCODER. The rows: trained,"),
    ],
)
def test_misused_corpora_and_models_are_refused(words, message):
    done = CliRunner().invoke(app, ["reproduce", *words])
    assert done.exit_code == 2
    assert message in done.stderr


FEW = {"songs": 36, "notes": 36, "voices": 6, "stems": 0, "unlabelled": 4}
SMALL = ["network.conv_channels=16", "network.dim=32", "network.num_layers=4", "network.num_heads=2", "batch=4"]
SMALL += ["network.ffn_dim=32"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a folder in which the first test that needs Pebble renders it."""
    return tmp_path_factory.mktemp("data")


def run_small(monkeypatch, tmp_path, data, *words, changes=SMALL):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(sizes.SIZES, "demo", FEW)
    options = [word for change in changes for word in ("--set", change)]
    output = ["-o", str(tmp_path / "out"), "--data-dir", str(data), "--device", "cpu", "--json"]
    done = CliRunner().invoke(app, ["reproduce", *words, *options, *output])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.slow
def test_stability_is_run_from_the_command_line(tmp_path, data, monkeypatch):
    changes = [*SMALL, "targets.codes.num_codebooks=1", "targets.codes.codebook_size=8"]
    words = ["stability", "--rows", "relaxed,deepnorm", "--steps", "12", "--seeds", "1"]
    values = run_small(monkeypatch, tmp_path, data, *words, changes=changes)
    assert [row["label"] for row in values["rows"]] == ["deepnorm", "relaxed"]
    assert all(row["highest_norm"] > 0 and row["lowest_scale"] > 0 for row in values["rows"])
    assert [each["hypothesis"]["better"] for each in values["hypotheses"]] == ["relaxed"]
    page = (tmp_path / "out/thesis-FA.1.md").read_text()
    assert "(thesis-FA.1-curves.png)" in page and "Fall of the loss" in page and "collapsed at 20,000 steps" in page
    assert (tmp_path / "out/thesis-FA.1-curves.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_purity_by_layer_is_that_of_the_features(tmp_path, data, monkeypatch):
    save_pretrained(build_encoder("mert-tiny", 3), tmp_path / "model")
    words = ["appendix-b", "--rows", "trained,layer-3,layer-12,untrained", "--seeds", "1"]
    words += ["--model", f"trained={tmp_path / 'model'}"]
    values = run_small(monkeypatch, tmp_path, data, *words, changes=[])
    purity = {row["label"]: row["average"]["value"] for row in values["rows"]}
    assert purity["trained"] == purity["layer-12"]
    songs = [clip for clip in DATA.get("pebble").index(data / "pebble/demo") if clip.labels.get("genre")]
    stores = [meta.parent for meta in (tmp_path / "out/features").rglob("meta.json")]
    measured = []
    for store in stores:
        points = read_points(store, songs, ["4"]).labelled("genre")
        measured.append(100 * measure_separation(points.layers["4"], points.labels["genre"]).purity)
    assert purity["trained"] == pytest.approx(min(measured, key=lambda value: abs(value - purity["trained"])), abs=1e-3)


@pytest.mark.slow
def test_rows_with_other_corpora_steps_and_last_weights_are_trained(tmp_path, data, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(sizes.SIZES, "demo", FEW)
    pebble = DATA.get("pebble")
    root = pebble.root(data)
    pebble.download(root)
    files = tuple(clip.path for clip in pebble.clips(root, "unlabelled"))
    small = dict(word.split("=") for word in SMALL)
    small = {path: int(value) for path, value in small.items()}
    rows = (
        AblationRow("music", "music2vec", changes=small),
        AblationRow("half", "music2vec", changes=small, corpus_fraction=0.5, steps_factor=2.0),
        AblationRow("speech", "music2vec", changes=small, corpus="speech"),
    )
    reproduction = Reproduction("t", "thesis-T4.3", "ALL9", rows, ())
    speech = tmp_path / "speech"
    speech.mkdir()
    noise_T = 0.1 * np.random.default_rng(0).standard_normal(12 * 16_000)
    soundfile.write(speech / "a.flac", noise_T, 16_000)
    plan = ReproductionPlan(files, tmp_path / "out", steps=2, seeds=1, corpora={"speech": speech})
    folders = {row.label: Path(train_row(reproduction, row, plan, 1337)) for row in rows}
    runs = {label: json.loads((folder / "run.json").read_text()) for label, folder in folders.items()}
    assert {label: run["corpus"]["files"] for label, run in runs.items()} == {"music": 4, "half": 2, "speech": 1}
    assert {label: run["recipe"]["steps"] for label, run in runs.items()} == {"music": 2, "half": 4, "speech": 2}

    network = {"network.dim": 24, "network.num_layers": 2, "network.num_heads": 2, "network.ffn_dim": 24, "batch": 4}
    tagger = network | {"crop_seconds": 1.5, "network.frames": 94, "patchout": 4, "epoch_clips": 8, "epochs": 2}
    tagger |= {"swa.first": 1, "swa.every": 1, "optimiser.warmup_epochs": 1, "optimiser.hold_until": 1}
    rows = (AblationRow("all", "maest-10s", changes=tagger), AblationRow("last", last_weights_of="all"))
    reproduction = Reproduction("t", "maest-poster-segment", "MTT", rows, (), is_supervised=True)
    plan = ReproductionPlan((root,), tmp_path / "tags", seeds=1)
    averaged, last = (Path(train_row(reproduction, row, plan, 1337)) for row in rows)
    assert last == averaged / "last" and (last / "model.safetensors").is_file()
    assert [path.name for path in (tmp_path / "tags/models").iterdir()] == ["all-1337"]
    keys = [validation_keys(row)[-1] for row in rows]
    log = training_log(reproduction, rows[1], plan, 1337)
    assert all(any(key in line for line in log) for key in keys) and keys[0] != keys[1]

    # A row from official weights, with a file of DeiT's format in the network's size.
    tensors = deit_tensors(dim=24, layers=2)
    torch.save({"model": tensors}, tmp_path / "deit.pth")
    poster = REGISTRY.get("maest-init")
    changes = tagger | {"precision": "float32", "accumulation_steps": 1}
    given = {"deit": tmp_path / "deit.pth"}
    plan = ReproductionPlan((root,), tmp_path / "init", "base", seeds=1, weights=given, changes=changes)
    assert "deit" not in plan.missing_weights(poster) and "passt" in plan.missing_weights(poster)
    encoder = load(train_row(poster, poster.row("deit"), plan, 1337))
    assert encoder.card.trained_on[0] == "ImageNet"
    trained = encoder.get_parameter("vit.blocks.1.mlp.fc1.weight")
    # Two steps at 2e-5 change them by little.
    torch.testing.assert_close(trained, tensors["blocks.1.mlp.fc1.weight"], atol=1e-3, rtol=0)


def deit_tensors(dim, layers):
    """Return random tensors with the names and shapes of DeiT's distilled file for 384 pixels, in another size."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "cls_token": (1, 1, dim), "dist_token": (1, 1, dim), "pos_embed": (1, 2 + 24 * 24, dim),
        "patch_embed.proj.weight": (dim, 3, 16, 16), "patch_embed.proj.bias": (dim,),
        "norm.weight": (dim,), "norm.bias": (dim,),
    }  # fmt: skip
    for block in range(layers):
        for name, shape in {
            "norm1": (dim,), "norm2": (dim,), "attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim),
            "mlp.fc1": (dim, dim), "mlp.fc2": (dim, dim),
        }.items():  # fmt: skip
            shapes |= {f"blocks.{block}.{name}.weight": shape, f"blocks.{block}.{name}.bias": shape[:1]}
    for head in ("head", "head_dist"):
        shapes |= {f"{head}.weight": (1000, dim), f"{head}.bias": (1000,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")
def test_speech_is_rendered_in_files_of_thirty_seconds(tmp_path):
    command = [sys.executable, ROOT / "benchmarks/speech_corpus.py", tmp_path / "speech", "--files", "2"]
    subprocess.run(command, check=True)
    files = sorted((tmp_path / "speech").iterdir())
    assert [soundfile.info(file).duration for file in files] == [30.0, 30.0]
    assert files[0].read_bytes() != files[1].read_bytes()
