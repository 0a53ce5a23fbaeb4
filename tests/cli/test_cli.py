"""The commands that list and show, and what all share: streams, exit codes, errors of one line, similar names."""

import json

import pytest
from typer.testing import CliRunner

from carrara.bench.select_tasks import select_tasks
from carrara.cli._main import app
from carrara.cli._registries import KINDS, REGISTRIES
from carrara.core.errors import UsageError


def carrara(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_no_command_prints_help():
    done = carrara()
    assert "demo" in done.output
    assert "pretrain" in done.output


def test_version():
    assert carrara("--version").output.startswith("carrara 0.")


@pytest.mark.parametrize("kind", KINDS)
def test_ls_json_is_names_and_summaries(kind):
    done = carrara("ls", kind, "--json")
    rows = json.loads(done.stdout)
    assert rows
    keys = {"name", "summary"} | ({"status", "needs"} if kind == "encoders" else set())
    assert all(set(row) == keys and row["summary"] for row in rows)
    if kind in REGISTRIES:
        assert [row["name"] for row in rows] == REGISTRIES[kind].names()


def test_ls_encoders_commercial_lists_what_the_licences_allow():
    names = {row["name"] for row in json.loads(carrara("ls", "encoders", "--commercial", "--json").stdout)}
    assert {"musicnn-msd", "musicfm-msd", "hubert-base", "mfcc"} <= names
    assert not {"mert-v1-95m", "maest-30s", "mule", "jukebox-5b", "choi", "mert-tiny"} & names
    for row in json.loads(carrara("ls", "encoders", "--json").stdout):
        shown = json.loads(carrara("show", f"encoders:{row['name']}", "--json").stdout)
        assert (row["name"] in names) == bool(shown["card"]["commercial_use"])


def test_ls_encoders_table_is_the_thesis_table_of_all(monkeypatch):
    """[yuan2023thesis table 6.1]: MAP-Music2Vec 95M, waveform, 20 ms, 30 s, 1k h; MULE log-mel, 2 s, 3 s, 117.5k h."""
    head, *lines = carrara("ls", "encoders", "--table").stdout.splitlines()
    columns = ("encoder", "network", "parameters", "input", "stride", "context", "hours", "pre-training task")
    starts = [head.index(column) for column in columns]
    cells = {line.split()[0]: [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None])] for line in lines}
    assert len(cells) == len(json.loads(carrara("ls", "encoders", "--json").stdout))
    assert cells["music2vec-v1"][1:7] == [
        "7 convolutions, 12 Transformer layers", "93 M", "waveform", "20 ms", "30 s", "1,000",
    ]  # fmt: skip
    assert cells["mule"][2:8] == ["62 M", "log-mel", "2 s", "3 s", "117,500", "contrastive learning"]
    assert cells["jukebox-5b"][4:7] == ["23.78 s", "23.78 s", "60,000–120,000"]
    # 120 columns hold the table with wrapped cells, 80 a block for each encoder; no number is cut.
    monkeypatch.setenv("COLUMNS", "120")
    wide = carrara("ls", "encoders", "--table").stdout.splitlines()
    monkeypatch.setenv("COLUMNS", "80")
    narrow = carrara("ls", "encoders", "--table").stdout.splitlines()
    monkeypatch.delenv("COLUMNS")
    assert max(map(len, wide)) <= 120 and max(map(len, narrow)) <= 80
    assert wide[1].split()[:3] == ["encoder", "network", "parameters"] and narrow[0] == "choi"
    assert next(line for line in wide if line.startswith("jukebox-5b")).count("60,000–120,000") == 1
    rows = json.loads(carrara("ls", "encoders", "--table", "--commercial", "--json").stdout)
    assert {"name", "training_hours", "pretraining_task", "network", "input"} <= set(rows[0])
    assert all(row["commercial_use"] for row in rows)


def test_ls_data_commercial_lists_what_the_licences_allow():
    names = [row["name"] for row in json.loads(carrara("ls", "data", "--commercial", "--json").stdout)]
    # CC0, CC BY 4.0 and CC BY 4.0; the licences of the others forbid it or are not stated.
    assert sorted(names) == ["nsynth", "pebble", "vocalset"]


@pytest.mark.parametrize("flag", ["--table", "--commercial"])
def test_flags_about_encoders_name_the_command(flag):
    done = carrara("ls", "tasks", flag)
    assert done.exit_code == 2 and f"write `carrara ls encoders {flag}`" in done.stderr


def test_ls_encoders_prints_columns_with_the_files_that_each_needs(monkeypatch, tmp_path):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path))
    lines = {line.split()[0]: line for line in carrara("ls", "encoders").stdout.splitlines()}
    assert "  import  2 files from openaipublic.azureedge.net  Jukebox-5B" in lines["jukebox-5b"]
    column = lines["jukebox-5b"].index("Jukebox-5B")
    assert lines["noise"].split()[1] == "ready" and lines["noise"][column:].startswith("A chance-level baseline")
    assert "  import  model.keras  " in lines["mule"] and lines["mule"][column:].startswith("MULE")


@pytest.mark.parametrize(
    ("arguments", "similar"),
    [
        (["ls", "encodes"], "encoders"),
        (["show", "mert-v1-96m"], "mert-v1-95m"),
        (["download", "peble"], "pebble"),
        (["check", "peble"], "pebble"),
        (["bench", "noise", "--suite", "pebbles"], "pebble"),
        (["bench", "noise", "-t", "pebble/kee"], "pebble/key"),
        (["bench", "nois", "-t", "pebble/key"], "noise"),
        (["pretrain", "mert-v9", "--corpus", ".", "-o", "x"], "mert-v0"),
    ],
)
def test_an_unknown_name_is_refused_in_one_line_with_a_similar_one(arguments, similar):
    done = carrara(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert f"'{similar}'" in done.stderr


def test_an_unknown_flag_is_misuse():
    assert carrara("ls", "--colour").exit_code == 2


def test_show_prints_the_card_of_an_encoder():
    card = json.loads(carrara("show", "mert-v1-95m", "--json").stdout)
    assert card["kind"] == "encoders"
    assert card["card"]["sample_rate"] == 24_000
    assert card["card"]["parameters"] == 94_371_712
    assert card["card"]["commercial_use"] is False


@pytest.mark.parametrize("name", ["pebble/key", "data:pebble", "suites:pebble", "mert-v0", "constrained", "noise"])
def test_show_prints_text_and_json(name):
    assert name.split(":")[-1] in carrara("show", name).stdout
    assert json.loads(carrara("show", name, "--json").stdout)["name"] == name.split(":")[-1]


def test_a_missing_dataset_is_reported_with_the_command_that_downloads_it(tmp_path):
    for arguments in (["check", "pebble"], ["show", "pebble", "--clips"]):
        done = carrara(*arguments, "--data-dir", tmp_path)
        assert done.exit_code == 1
        assert "carrara download pebble" in done.stderr


def test_tasks_are_selected_by_suite_name_or_pattern():
    everything, _ = select_tasks("pebble", None)
    assert select_tasks(None, None)[0] == everything
    # Captions need a text tower, and timbre is the instrument task once more, so no suite has them.
    matched = set(select_tasks(None, ["pebble/*"])[0])
    assert matched - {"pebble/caption", "pebble/timbre"} == set(select_tasks("pebble-2", None)[0])
    assert set(select_tasks("pebble-2", None)[0]) > set(everything)
    assert select_tasks(None, ["pebble/key,pebble/beats", "pebble/k*"])[0] == ["pebble/key", "pebble/beats"]
    with pytest.raises(UsageError, match="pebble/key"):
        select_tasks(None, ["pebble/ky"])


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("CARRARA_DEBUG", "")
    done = carrara("--debug", "ls", "encodes")
    assert isinstance(done.exception, UsageError)
