"""The data of the site: averages, differences, scores by class, addresses that are safe, and folders it may not use."""

import json
import math
import shutil
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest
import soundfile
from sklearn.metrics import average_precision_score, r2_score, recall_score
from typer.testing import CliRunner

from carrara.bench.leaderboard.compare import compare_systems
from carrara.bench.site.board_data import round_for_page, slug_names
from carrara.bench.site.task_data import MAX_HARDEST, class_scores
from carrara.bench.site.write import write_site
from carrara.cli._main import app
from carrara.core.errors import StoreError
from carrara.core.record import read_record, read_records
from carrara.core.settings import parse_settings
from carrara.core.task import Task


@pytest.fixture(scope="module")
def site(site_results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "new"
    write_site(folder, list(read_records(site_results[0])), site_results[0])
    return folder


def read_data(site, name):
    """Return a JSON file, after checking that its twin holds the same value."""
    value = json.loads((site / "data" / f"{name}.json").read_text())
    script = (site / "data" / f"{name}.js").read_text().strip()
    assert script.startswith("carraraData(") and script.endswith(");")
    key, _, text = script.removeprefix("carraraData(").removesuffix(");").partition(", ")
    assert json.loads(key) == name and json.loads(text) == value
    return value


def test_a_board_has_levels_marks_and_the_published_systems(site):
    index = read_data(site, "leaderboard")
    boards = {board["id"]: board for board in index["boards"]}
    assert list(boards) == ["marble-14-constrained", "pebble-constrained", "pebble-linear"]
    board = boards["pebble-constrained"]
    assert [task["level"] for task in board["tasks"]] == ["acoustic", "performance", "high-level", "high-level"]
    names = [index["systems"][entry["system"]]["name"] for entry in board["entries"]]
    assert names == ["good", "fair", "poor"]
    good, _, poor = board["entries"]
    numbers = {task["name"]: number for number, task in enumerate(board["tasks"])}
    assert good["results"][str(numbers["pebble/key"])][3] == "†"
    assert poor["results"][str(numbers["pebble/tags"])][3] == "*"
    # A partial record counts in no mean.
    assert "acoustic" in good["levels"] and "acoustic" not in poor["levels"]
    key, genre = (good["results"][str(numbers[name])][0] for name in ("pebble/key", "pebble/genre"))
    assert good["levels"]["high-level"][0] == pytest.approx((key + genre) / 2, abs=1e-3)
    assert {system["name"] for system in boards["marble-14-constrained"]["published"]} >= {"MERT-v1-95M"}


def test_every_cell_has_its_record(site):
    index = read_data(site, "leaderboard")
    for board in index["boards"]:
        for entry in board["entries"]:
            system = index["systems"][entry["system"]]
            for number in entry["results"]:
                task = board["tasks"][int(number)]
                record = read_record(site / "records" / system["slug"] / board["id"] / f"{task['slug']}.json")
                assert (record.encoder.name, record.task.name) == (system["name"], task["name"])


def test_differences_are_those_of_the_compare_command(site, site_results):
    results, _ = site_results
    pairs = read_data(site, "compare/pebble-constrained/good")
    assert set(pairs) == {"fair", "poor"}
    records = [record for record in read_records(results) if record.protocol.name == "constrained"]
    for other in pairs:
        expected = {each.task: each for each in compare_systems(records, "good", other, results, "pebble").tasks}
        assert {each["task"] for each in pairs[other]["tasks"]} == set(expected)
        for each in pairs[other]["tasks"]:
            task = expected[each["task"]]
            assert each["difference"] == pytest.approx(list(vars(task.difference).values()), abs=1e-3)
            assert each["p"] == pytest.approx(task.p_holm, rel=1e-2) and each["verdict"] == task.verdict


def test_scores_by_class_are_those_of_scikit_learn(site, site_results):
    _, written = site_results
    truths, predictions = written["fair", "pebble/key"]
    data = read_data(site, "tasks/pebble-constrained/pebble-key")
    expected = 100 * recall_score(truths, predictions, average=None)
    assert data["scores"]["fair"] == pytest.approx(expected, abs=0.01)
    assert data["classes"] == [[name, int(np.sum(truths == n))] for n, name in enumerate("abc")]
    truths, predictions = written["fair", "pebble/tags"]
    expected = [100 * average_precision_score(truths[:, n], predictions[:, n]) for n in range(2)]
    assert read_data(site, "tasks/pebble-constrained/pebble-tags")["scores"]["fair"] == pytest.approx(
        expected, abs=0.01
    )
    truths, predictions = written["fair", "pebble/emotion"]
    expected = 100 * r2_score(truths, predictions, multioutput="raw_values")
    emotion = read_data(site, "tasks/pebble-constrained/pebble-emotion")
    assert emotion["scores"]["fair"] == pytest.approx(expected, abs=0.01)


def test_a_class_without_units_has_no_recall_and_windows_vote():
    facts = {"version": 1, "dataset": "d", "split_scheme": "s", "task_type": "multiclass", "label": "l"}
    facts |= {"labels": ("a", "b", "c"), "metrics": ("accuracy_windows",), "monitor": "m", "category": "acoustic"}
    task = parse_settings(Task, {**facts, "aggregate": "window"}, "test")
    _, counts, recall = class_scores(task, [0, 0, 1], [[0, 0, 1], [1, 1, 0], [1, 1]])
    assert counts == [2, 1, 0] and recall[:2] == [50.0, 100.0] and math.isnan(recall[2])


def test_a_record_without_predictions_is_not_compared_with_the_reason(write_record_of, tmp_path):
    for system in ("a", "b"):
        write_record_of(tmp_path / "results", system, "pebble/key", 0.5)
    write_site(tmp_path / "site", list(read_records(tmp_path / "results")), tmp_path / "results")
    pair = read_data(tmp_path / "site", "compare/pebble-constrained/a")["b"]
    assert pair["tasks"] == []
    assert pair["not_comparable"] == [{"task": "pebble/key", "reason": "no predictions beside the record of a"}]


@pytest.mark.parametrize("value", [63.050000000000004, 64.25, 64.75, 7.6499999999999995, -7.25, -7.35, 0.05, 12.3456])
def test_the_page_shows_the_tenths_of_the_terminal(value):
    """JavaScript's toFixed rounds the exact value, halves away from zero."""
    given = round_for_page(value)
    assert abs(given - value) < 6e-4
    assert str(Decimal(given).quantize(Decimal("0.1"), ROUND_HALF_UP)) == f"{value:.1f}"


def test_slugs_are_safe_and_distinct_where_case_is_ignored():
    names = ["a/b", "a:b", "A-B", "../..", "<script>", "é", "x" * 300, "x" * 301]
    slugs = slug_names(names)
    assert len({slug.lower() for slug in slugs.values()}) == len(names)
    assert all(
        slug and all(char.isascii() and (char.isalnum() or char in "_-") for char in slug) for slug in slugs.values()
    )


def test_a_site_replaces_a_site_and_no_other_folder(site, site_results, tmp_path):
    results, _ = site_results
    copy = tmp_path / "copy"
    shutil.copytree(site, copy)
    records = [record for record in read_records(results) if record.encoder.name != "poor"]
    summary = write_site(copy, records, results)
    assert summary.systems == 2 and not (copy / "records" / "poor").exists()
    (tmp_path / "own.txt").write_text("mine")
    with pytest.raises(StoreError, match="other files"):
        write_site(tmp_path, records, results)
    assert (tmp_path / "own.txt").read_text() == "mine"
    with pytest.raises(StoreError, match="name a folder"):
        write_site(tmp_path / "own.txt", records, results)


def test_the_command_shows_good_records_and_names_the_broken_one(site_results, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(site_results[0], results)
    broken = next(results.rglob("pebble__key@1.json"))
    broken.write_text(broken.read_text()[:100])
    # Below the results: a second run must not read the site's copies of the records.
    for _ in range(2):
        with pytest.warns(UserWarning, match=f"left out: .*{broken.name}"):
            done = CliRunner().invoke(app, ["leaderboard", str(results), "--site", str(results / "site"), "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout.splitlines()[-1])["records"] == 13
    refused = CliRunner().invoke(app, ["leaderboard", str(results), "--site", str(tmp_path / "s"), "-o", "x.md"])
    assert refused.exit_code == 2 and "--site" in refused.stderr


def test_the_hardest_clips_are_those_with_the_largest_mean_error(site, site_results):
    _, written = site_results
    systems = ("good", "fair", "poor")
    key = read_data(site, "tasks/pebble-constrained/pebble-key")["hardest"]
    wrong_U = np.mean([written[name, "pebble/key"][0] != written[name, "pebble/key"][1] for name in systems], axis=0)
    order = sorted(range(len(wrong_U)), key=lambda unit: (-wrong_U[unit], unit))[:MAX_HARDEST]
    assert [each["clip"] for each in key] == [f"clip-{unit:02}" for unit in order]
    assert [each["error"] for each in key] == pytest.approx([wrong_U[unit] for unit in order], abs=1e-4)
    truths = written["good", "pebble/key"][0]
    assert all(each["truth"] == "abc"[truths[int(each["clip"][-2:])]] and each["systems"] == 3 for each in key)
    emotion = read_data(site, "tasks/pebble-constrained/pebble-emotion")["hardest"]
    pairs = [written[name, "pebble/emotion"] for name in systems]
    error_U = np.mean([np.abs(truth - predicted).mean(axis=1) for truth, predicted in pairs], axis=0)
    assert [each["clip"] for each in emotion] == [f"clip-{unit:02}" for unit in np.argsort(-error_U)[:MAX_HARDEST]]
    assert "truth" not in emotion[0]


def test_sound_of_the_hardest_clips_is_copied_where_the_dataset_has_it(site_results, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(site_results[0], results)
    for path in results.rglob("*.json"):
        record = json.loads(path.read_text())
        record["data"]["name"] = "folder"
        path.write_text(json.dumps(record))
    music = tmp_path / "data" / "folder"
    music.mkdir(parents=True)
    tone_T = 0.3 * np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
    names = [f"clip-{unit:02}" for unit in range(0, 40, 2)]  # the others have moved
    for name in names:
        soundfile.write(music / f"{name}.wav", tone_T, 44100)
    (music / "labels.csv").write_text("path,id,label\n" + "".join(f"{name}.wav,{name},x\n" for name in names))
    write_site(tmp_path / "site", list(read_records(results)), results, data_dir=music)
    hardest = read_data(tmp_path / "site", "tasks/pebble-constrained/pebble-key")["hardest"]
    assert any(each["sound"] for each in hardest)
    for each in hardest:
        assert bool(each["sound"]) == (each["clip"] in names)
        if each["sound"]:
            samples_T, rate = soundfile.read(tmp_path / "site" / each["sound"])
            assert rate == 24000 and len(samples_T) == pytest.approx(24000, abs=2400)
            spectrum = np.abs(np.fft.rfft(samples_T[4800:19200]))
            assert np.argmax(spectrum) * 24000 / 14400 == pytest.approx(440, abs=3)
    write_site(tmp_path / "site", list(read_records(results)), results)  # without --data-dir nothing of it stays
    assert not (tmp_path / "site" / "audio").exists()


def test_clips_a_second_are_those_of_the_slowest_run(site):
    boards = {board["id"]: board for board in read_data(site, "leaderboard")["boards"]}
    rates = [entry["clips_per_second"] for entry in boards["pebble-constrained"]["entries"]]
    assert rates == pytest.approx([44 / 60, 44 / 60, 44 / 2], abs=1e-3)  # 3 train, 1 valid, 40 test
