"""The report: one page that parses, holds every system and score, fetches nothing, and runs nothing from a name."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from carrara.bench.leaderboard.ranking import build_leaderboard
from carrara.bench.report.page import format_label, render_report, write_report
from carrara.bench.report.plots import best_by_layer, group_keys, mean_drop, measured_corruptions
from carrara.core.errors import StoreError
from carrara.core.record import GridPoint, Record

VOID = {"meta", "br", "link", "img", "hr", "input"}
HOSTILE = "<script>alert(1)</script>\"'&$x_1^2$"


def record(system, task, score, layers=("0", "1", "2", "weighted-sum", "cnn"), command="carrara demo"):
    return Record.model_validate(
        {
            "task": {
                "name": task,
                "version": 1,
                "fingerprint": "f" * 64,
                "task": {"metrics": ["accuracy"], "monitor": "accuracy"},
            },
            "data": {"name": task.partition("/")[0], "index": "i", "n": {"train": 300, "valid": 61, "test": 120}},
            "encoder": {
                "name": system,
                "weights_sha256": "ab" * 32,
                "output_version": 1,
                "parameters": 1234567,
                "license": "MIT",
            },
            "protocol": {"name": "constrained", "version": 1, "tried": 6, "chosen": {"layer": "0"}, "monitor": "valid"},
            "grid": [
                {"layer": layer, "learning_rate": rate, "valid": score, "epoch": 3, "epochs": 9}
                for layer in layers
                for rate in (0.001, 0.01)
            ],
            "scores": {"accuracy": {"value": score, "low": score - 0.04, "high": score + 0.03, "unit": "clip", "n": 9}},
            "run": {
                "seed": 7,
                "device": "cpu",
                "seconds": {"features": 2.5, "probes": 11.25},
                "versions": {"torch": "2.13.0"},
                "git": "c0ffee",
                "date": "2026-11-21",
                "command": command,
            },
        }
    )


RECORDS = [
    record("mert-tiny", "pebble/key", 0.617),
    record("mert-tiny", "pebble/genre", 0.533),
    record("chroma", "pebble/key", 0.381, layers=("0",)),
    record("noise", "pebble/genre", -1.5),
]


class Page(HTMLParser):
    """What a page holds: whether its elements nest, its attributes, its text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    metrics = [
        {"step": step, "loss": 3 - step / 9, "loss/chroma": 2.0, "accuracy/chroma": 0.1 * step, "cqt_error": 0.5,
         "cqt_error_of_mean": 1.0, "learning_rate": 1e-3, "seconds": 60.0 * step, "note": "text", "skipped": 0}
        for step in range(1, 6)
    ]  # fmt: skip
    labels = {"key": "A minor", "tempo": 97.53125, "beats": [0.1 * beat for beat in range(20)], "downbeats": [0.0, 1.0]}
    samples = np.sin(np.arange(48_000) / 9).astype(np.float32)
    example = {"samples": samples, "sample_rate": 24_000, "labels": labels, "name": "song-12"}
    path = write_report(folder / "out" / "report.html", RECORDS, metrics=metrics, examples=[example], title="A report")
    return path.read_text(encoding="utf-8")


def test_it_parses_and_holds_every_system_and_score(full):
    page = Page(full)
    words = " ".join(page.words)
    for expected in ("A report", "Pebble scores, constrained protocol", "mert-tiny", "chroma", "noise"):
        assert expected in words
    for score in ("61.7", "53.3", "38.1", "-150.0", "57.7 to 64.7"):
        assert score in words.replace("  ", " ")
    for fact in ("1,234,567", "22.5", "ab" * 32, "torch 2.13.0", "carrara demo", "c0ffee", "300 / 61 / 120"):
        assert fact in words
    for fact in ("song-12", "A minor", "97.531", "20 in all", "5.0 minutes"):
        assert fact in words
    assert page.tags.count("svg") == 4
    assert "scope" in {name for _, name, _ in page.attributes}


def test_the_page_loads_and_runs_nothing_external(full):
    page = Page(full)
    assert "://" not in full
    assert "script" not in page.tags
    assert "link" not in page.tags
    addresses = [value for _, name, value in page.attributes if name in {"src", "href"}]
    assert addresses
    assert all(value.startswith(("#", "data:image/", "data:audio/mpeg;")) for value in addresses)
    for target in re.findall(r"url\((.*?)\)", full):
        assert target.startswith("#")


def test_each_reference_in_a_plot_has_one_element(full):
    ids = re.findall(r' id="([^"]+)"', full)
    assert len(ids) == len(set(ids))
    referenced = set(re.findall(r'href="#([^"]+)"', full)) | set(re.findall(r"url\(#([^)]+)\)", full))
    assert referenced <= set(ids)


def test_hostile_names_are_text():
    text = render_report([record(HOSTILE, "pebble/key", 0.5, command=HOSTILE)], title=HOSTILE,
                   examples=[{"samples": np.zeros(10), "sample_rate": 8000, "labels": {HOSTILE: HOSTILE}}],
                   maps=[{"features": np.eye(4), "labels": [HOSTILE, *"abc"], "title": HOSTILE}])  # fmt: skip
    page = Page(text)
    assert "script" not in page.tags
    assert "<script" not in text
    assert any(HOSTILE in words for words in page.words)


def test_reports_of_one_record_and_of_none_are_rendered():
    Page(render_report([RECORDS[0]]))
    page = render_report([])
    Page(page)
    assert "Pre-training" not in page
    Page(render_report(RECORDS, metrics=[{"step": 1, "loss": 2.0}]))


def test_an_unwritable_report_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        write_report(tmp_path / "file" / "report.html", RECORDS)


def test_the_best_of_each_layer():
    grid = [
        GridPoint(layer=layer, learning_rate=rate, valid=valid, epoch=1, epochs=2)
        for layer, rate, valid in (("1", 0.1, 0.2), ("1", 0.2, 0.4), ("0", 0.1, 0.3), ("1", 0.3, float("nan")))
    ]
    assert best_by_layer(grid, 1.0) == {"1": 0.4, "0": 0.3}
    assert best_by_layer(grid) == pytest.approx({"1": 40, "0": 30})


def test_a_metrics_logs_keys_are_grouped():
    keys = ["loss", "loss/a", "cqt_error", "accuracy/a", "loss/b", "cqt_error_of_mean", "accuracy/b", "loss"]
    assert group_keys(keys) == {
        "loss": ["loss", "loss/a", "loss/b"],
        "cqt_error": ["cqt_error", "cqt_error_of_mean"],
        "accuracy": ["accuracy/a", "accuracy/b"],
    }


def test_labels_are_shown_short():
    assert format_label(0.5) == "0.5"
    assert format_label({"valence": 0.12345, "arousal": -1.0}) == "valence 0.123, arousal -1"
    assert format_label(["a"] * 13).endswith("… (13 in all)")
    assert format_label(("pop", "calm")) == "pop, calm"


def test_robustness_is_over_the_tasks_that_were_measured_on_corrupted_audio():
    corrupted = {"noise:10db": {"accuracy": {"value": 0.3, "low": 0.2, "high": 0.4, "unit": "clip", "n": 9}}}
    key = record("mert-tiny", "pebble/key", 0.6).model_dump(by_alias=True) | {"robustness": corrupted}
    records = [
        Record.model_validate(key),
        record("mert-tiny", "pebble/genre", 0.9),
        record("chroma", "pebble/key", 0.4),
    ]
    leaderboard = build_leaderboard(records)
    systems = {system.name: system for system in leaderboard.systems}
    assert measured_corruptions(leaderboard) == ("noise:10db",)
    assert mean_drop(systems["mert-tiny"], "noise:10db") == (pytest.approx(60), pytest.approx(30))
    assert mean_drop(systems["chroma"], "noise:10db") is None
    page = render_report(records)
    assert "Robustness" in page and "noise:10db" in page
    assert "corrupted test audio" not in render_report(RECORDS)


def test_all_seeds_are_named():
    first = record("mert-tiny", "pebble/key", 0.617)
    several = first.model_copy(update={"run": first.run.model_copy(update={"seeds": (7, 8, 9)})})
    assert "seeds 7, 8, 9</dd>" in render_report([several])
    assert "seed 7</dd>" in render_report([first])
