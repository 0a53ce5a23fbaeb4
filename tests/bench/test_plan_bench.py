"""`carrara plan bench`: its arithmetic in closed form, the store's size against a store, and the command on Pebble."""

import json
import math

import pytest
from typer.testing import CliRunner

from carrara.bench import task_types, tasks
from carrara.bench.plan import Speed, TaskSize, estimate_features, estimate_probes, measure_size
from carrara.bench.protocols.constrained import PROTOCOL
from carrara.bench.task_data import FeatureProvider
from carrara.cli._main import app
from carrara.encoders._hub.load import load
from carrara.features.plan import DRIFT, Estimate

COUNTS = {"train": 600, "valid": 100, "test": 300}


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CARRARA_DATA", raising=False)


def spec_of(name, encoder):
    task = tasks.task(name)
    return task, PROTOCOL.window_spec(task, task_types.REGISTRY.get(task.task_type), encoder.card, PROTOCOL.settings())


def test_features_take_the_speed_times_the_audio_and_their_rows_on_disk():
    seconds, disk = estimate_features(TaskSize(COUNTS, 30.0, 0.0, 1.0), Speed(0.02, 0.0), row_bytes=2 * 13 * 768)
    assert seconds.expected == pytest.approx(1000 * 30 * 0.02)
    assert seconds.high / seconds.expected == pytest.approx(math.exp(2 * DRIFT))
    assert seconds.expected / seconds.low == pytest.approx(math.exp(2 * DRIFT))
    assert disk.low == disk.expected == disk.high
    assert disk.expected == pytest.approx(1000 * 2 * 13 * 768, rel=0.01)
    # Independent errors add in squares; frames are as many as the audio is long.
    seconds, disk = estimate_features(TaskSize(COUNTS, 30.0, 0.3, 2250.0), Speed(0.02, 0.4), row_bytes=10)
    assert math.log(seconds.high / seconds.expected) == pytest.approx(2 * math.sqrt(0.3**2 + 0.4**2 + DRIFT**2))
    assert math.log(disk.high / disk.expected) == pytest.approx(2 * 0.3)


@pytest.mark.parametrize(("patience", "max_epochs", "fewest"), [(20, 100, 21), (20, 10, 10), (3, 100, 4)])
def test_probes_take_from_patience_to_max_epochs(patience, max_epochs, fewest):
    task = tasks.task("gtzan/genre").model_copy(update={"stop_patience": patience, "max_epochs": max_epochs})
    probes = estimate_probes(task, TaskSize(COUNTS, 30.0, 0.0, 1.0), Speed(0.001, 0.0))
    epoch = 0.001 * 700  # of training and validation clips
    assert probes.low == pytest.approx(epoch * fewest / math.exp(2 * DRIFT))
    assert probes.high == pytest.approx(epoch * max_epochs * math.exp(2 * DRIFT))
    assert probes.expected**2 == pytest.approx(epoch**2 * fewest * max_epochs)


@pytest.mark.parametrize(("aggregate", "rows"), [("embedding", 1), ("logit", 6), ("window", 6)])
def test_probes_read_each_window_unless_windows_are_averaged(aggregate, rows):
    task = tasks.task("gtzan/genre").model_copy(update={"aggregate": aggregate})
    size = TaskSize(COUNTS, 30.0, 0.0, 6.0)
    whole = estimate_probes(task, size, Speed(0.001, 0.0))
    single = estimate_probes(task.model_copy(update={"aggregate": "embedding"}), size, Speed(0.001, 0.0))
    assert whole.high == pytest.approx(rows * single.high)


def test_estimates_add_and_multiply_with_their_ranges():
    total = Estimate(2.0, 1.0, 4.0) + Estimate(3.0, 2.0, 5.0) * 10
    assert total == Estimate(32.0, 21.0, 54.0)


def test_a_dataset_that_is_not_at_hand_has_the_size_that_it_states(tmp_path):
    encoder = load("chroma-mfcc")
    task, spec = spec_of("gtzan/genre", encoder)
    size = measure_size(FeatureProvider(encoder, tmp_path), task, spec)
    assert (size.counts, size.clip_seconds) == ({"train": 443, "valid": 197, "test": 290}, 30.0)
    assert size.relative_error == pytest.approx(0.5 / 30) and not size.clips


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("name", ["pebble/key", "pebble/beats"])
def test_rows_and_disk_are_those_of_the_store(tiny_pebble, tmp_path, name):
    encoder = load("mert-tiny:random")
    task, spec = spec_of(name, encoder)
    provider = FeatureProvider(encoder, tiny_pebble, limit=2, home=tmp_path / "home")
    size = measure_size(provider, task, spec)
    provider.load(task, task_types.REGISTRY.get(task.task_type), spec)
    card = encoder.card
    _, disk = estimate_features(size, Speed(1.0, 0.0), 2 * card.dim * (card.num_layers + 1))
    files = [path for path in (tmp_path / "home/features").rglob("*") if path.suffix in (".f16", ".jsonl")]
    assert disk.expected == pytest.approx(sum(path.stat().st_size for path in files), rel=0.05)


def run(*arguments):
    return CliRunner().invoke(app, ["plan", "bench", *map(str, arguments)])


@pytest.mark.slow
@pytest.mark.slow
def test_the_command_prints_sane_numbers_for_pebble(tiny_pebble, tmp_path):
    names = "pebble/key,pebble/genre,pebble/beats,pebble/stems,gtzan/genre,covers80/covers"
    options = ("chroma-mfcc", "-t", names, "--data-dir", tiny_pebble, "--seconds", 1, "--price", 2)
    result = run(*options, "--json")
    assert result.exit_code == 0, result.stderr
    (plan,) = json.loads(result.stdout)
    key, genre, gtzan = plan["tasks"][:3]
    assert [part["task"] for part in (key, genre, gtzan)] == ["pebble/key", "pebble/genre", "gtzan/genre"]
    assert key["clips"] == genre["clips"] == 72 and key["is_on_disk"] and not gtzan["is_on_disk"]
    assert genre["feature_seconds"]["high"] == genre["disk_bytes"]["high"] == 0.0  # those of pebble/key
    assert "no frames" in plan["left_out"]["pebble/beats"] and "trains no probe" in plan["left_out"]["pebble/stems"]
    for estimate in (key["feature_seconds"], gtzan["feature_seconds"], genre["probe_seconds"], plan["seconds"]):
        assert 0 < estimate["low"] < estimate["expected"] < estimate["high"] < 86_400
    for bound in ("expected", "low", "high"):
        assert plan["price"]["here"][bound] == pytest.approx(2 * plan["seconds"][bound] / 3600)
    start = Estimate.around(plan["start_seconds"], DRIFT)
    for bound, started in (("expected", start.expected), ("low", start.low), ("high", start.high)):
        parts = plan["feature_seconds"][bound] + plan["probe_seconds"][bound]
        assert plan["seconds"][bound] == pytest.approx(started + parts)
    assert plan["memory_bytes"]["expected"] > 1e8
    assert not (tmp_path / "home").exists()  # nothing is written
    text = run("noise", "-t", "pebble/key", "--data-dir", tiny_pebble, "--seconds", 1).stdout
    assert [line.split("\t")[0] for line in text.splitlines()] == [
        "encoder", "pebble/key", "features on cpu", "probes on cpu", "time on cpu", "memory", "disk"
    ]  # fmt: skip


def test_mistakes_are_one_line(tmp_path):
    for arguments, message in [
        (("noise",), "give --suite NAME"),
        (("noise", "--suite", "marbel-14"), "there is no suite"),
        (("noise", "-t", "pebble/key", "--set", "head=lstm"), "leave --set out"),
        (("noise+chroma-mfcc", "-t", "pebble/key", "--data-dir", tmp_path), "plan the encoders"),
    ]:
        result = run(*arguments)
        assert result.exit_code in (1, 2) and message in result.stderr, result.stderr
        assert len(result.stderr.splitlines()) == 1
