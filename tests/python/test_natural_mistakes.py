"""What people type by mistake into a notebook: each gets one line that says what to give instead."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from torch import nn

import carrara
from carrara.core.errors import StoreError, UsageError, did_you_mean
from carrara.core.paths import user_path, user_paths

RATE = 16_000
NOISE = 0.1 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32)


@pytest.fixture
def recordings(tmp_path):
    """Return a folder with three recordings of noise, which get louder."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    for number in (1, 2, 3):
        soundfile.write(folder / f"{number}.wav", number * NOISE, RATE)
    return folder


def two_levels(samples, lengths):
    return torch.stack([samples.std(1), samples.abs().mean(1)], dim=1)


class Convolution(nn.Module):
    def forward(self, samples):
        return samples[:, None]


@pytest.mark.parametrize("paths", [NOISE, [NOISE, NOISE], torch.zeros(8), b"song.wav", None, 5, {"path": ["a.wav"]}])
def test_files_are_named_by_paths(paths):
    with pytest.raises(
        UsageError, match=r"^paths: give a path or a list of paths, not .*carrara.load\(NAME\)\(samples\)"
    ):
        carrara.embed(paths, "noise")
    with pytest.raises(UsageError, match="^corpus: give a path"):
        carrara.pretrain("mert-v0", corpus=paths, output="unused")
    with pytest.raises(UsageError, match="^queries: give a path"):
        carrara.find(paths, "table.parquet")


def test_paths_of_python_may_begin_with_a_tilde(recordings, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "music").symlink_to(recordings)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    song = next(iter(sorted(recordings.rglob("*.wav"))))
    below = Path("~/music") / song.relative_to(recordings)
    assert carrara.embed("~/music", "noise").num_rows == len(carrara.embed(recordings, "noise"))
    assert carrara.embed([below, str(below)], "noise").num_rows == 1
    carrara.load("noise").save_pretrained("~/encoder")
    assert carrara.load("~/encoder").card.name == "encoder"
    with pytest.raises(StoreError, match=f"^{tmp_path}/results: no such folder"):
        carrara.leaderboard("~/results")
    with pytest.raises(StoreError, match=f"^{tmp_path}/results: no such folder"):
        carrara.compare("a", "b", "~/results")
    assert os.listdir() == []
    assert user_paths(("~/a", Path("~/b"), "s3://c/~/d"), "x") == [f"{tmp_path}/a", tmp_path / "b", "s3://c/~/d"]
    with pytest.raises(UsageError, match="^results: give a path, not None"):
        user_path(None, "results")


def test_a_device_is_looked_at_wherever_it_is_given():
    for given in ("auto", "cpu", torch.device("cpu")):
        assert carrara.load("noise", device=given).card.name == "noise"
    for function in (
        lambda device: carrara.load("noise", device=device),
        lambda device: carrara.bench("noise", device=device),
    ):
        with pytest.raises(UsageError, match="^--device gpu: write cuda"):
            function("gpu")
        with pytest.raises(UsageError, match="^--device 0: is no device"):
            function(0)
    with pytest.raises(UsageError, match="^--device gpu: write cuda"):
        carrara.embed("song.wav", "noise", device="gpu")


@pytest.mark.parametrize(
    ("samples", "lengths", "message"),
    [
        ([NOISE, NOISE[:100]], None, "no array of numbers.*padded and their lengths"),
        (None, None, "no array of numbers"),
        (np.array([NOISE, None], dtype=object), None, "no array of numbers"),
        (NOISE, RATE, "one for each of the 1 clip; given 16000"),
        (np.stack([NOISE, NOISE]), [RATE], "one for each of the 2 clips"),
    ],
)
def test_an_encoder_refuses_what_is_no_batch(samples, lengths, message):
    with pytest.raises(UsageError, match=f"^noise: .*{message}"):
        carrara.load("noise")(samples, lengths)


def test_arrays_that_torch_refuses_or_warns_of_are_copied(recwarn):
    encoder = carrara.load("chroma")
    reversed_view, read_only = NOISE[::-1], np.broadcast_to(NOISE, (2, len(NOISE)))
    assert torch.equal(encoder(reversed_view), encoder(reversed_view.copy()))
    assert torch.equal(encoder(read_only), encoder([NOISE, NOISE]))
    assert not recwarn.list


@pytest.mark.parametrize(
    ("encoder", "rate", "message"),
    [
        (Convolution, RATE, r"^Convolution: is a class; give an instance of it, such as Convolution\("),
        (None, RATE, "^a value of the type NoneType is no encoder; give a name"),
        (["noise"], RATE, "^a value of the type list is no encoder"),
        (two_levels, 16, "^two_levels: sample_rate=16: give whole samples a second"),
        (two_levels, "16k", "^two_levels: sample_rate='16k': give whole"),
        (two_levels, -RATE, "^two_levels: sample_rate=-16000: give whole"),
        (
            lambda samples: samples,
            RATE,
            "returned 1 layer of 16000 values for 1 s and 1 of 32000 for 2 s; only the frames",
        ),
        (lambda samples: samples.mean(1), RATE, r"returned \[1\] for a batch of 1, not"),
        (lambda samples: samples.numpy(), RATE, "returned ndarray, .*torch.from_numpy"),
        (nn.Conv1d(1, 8, 400, 160), RATE, r"returned \[8, 98\] for a batch of 1"),
    ],
)
def test_what_is_no_encoder_is_said_before_a_file_is_read(encoder, rate, message):
    with pytest.raises(UsageError, match=message):
        carrara.embed("song.wav", encoder, sample_rate=rate)


def test_a_sample_rate_may_be_a_whole_float(recordings):
    tables = [carrara.embed(recordings, two_levels, sample_rate=rate) for rate in (2000, 2000.0, np.float64(2000))]
    assert tables[0].equals(tables[1]) and tables[0].equals(tables[2])


def test_a_model_of_transformers_that_takes_spectrograms_gets_a_cure():
    from transformers import ASTConfig, ASTModel

    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
        "max_length": 64,
    }
    with pytest.raises(UsageError, match="^ASTModel: does not take samples .*call.* its feature extractor first"):
        carrara.embed("song.wav", ASTModel(ASTConfig(**sizes)), sample_rate=RATE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": []}, "^tasks: an empty list"),
        ({"tasks": 3}, "^tasks: give names, patterns, files or tasks, not a value of the type int"),
        ({"tasks": "pebble/key", "seeds": "3"}, "^seeds: "),
        ({"tasks": "pebble/key", "overwrite": True}, "^overwrite=True: give one of never, missing, always"),
        ({"tasks": "pebble/key", "limit": 0}, "^limit=0: give a number of clips"),
        ({"tasks": "pebble/key", "limit": -3}, "^limit=-3: "),
        ({"tasks": "pebble/key", "limit": "8"}, "^limit='8': "),
        ({"tasks": "pebble/key", "settings": ["head=svm"]}, "^settings: give them by dotted path in a dictionary"),
        ({"tasks": "pebble/key", "data_dir": 5}, "^data_dir: give a path"),
        ({"encoders": {"mine": "noise"}, "tasks": "pebble/key"}, "^a value of the type dict is no encoder"),
        ({"encoders": None, "tasks": "pebble/key"}, "^a value of the type NoneType is no encoder"),
    ],
)
def test_bench_refuses_before_it_measures(options, message):
    with pytest.raises(UsageError, match=message):
        carrara.bench(**{"encoders": "noise", **options})


def test_bench_refuses_a_file_of_results_before_it_measures(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file: is a file; give the folder of the records"):
        carrara.bench("noise", "pebble/key", tmp_path / "nowhere", tmp_path / "file")


def test_find_names_the_table_that_is_in_memory(recordings):
    table = carrara.embed(recordings, "mfcc")
    with pytest.raises(UsageError, match=f"^row:99: the table has no such row .0 to {table.num_rows - 1}"):
        carrara.find("row:99", table)
    with pytest.raises(UsageError, match="^library: give the file of a table, or the pyarrow.Table"):
        carrara.find("row:0", table.to_pandas())
    for count in (0, -1, "5"):
        with pytest.raises(UsageError, match=f"^count={count!r}: give how many"):
            carrara.find("row:0", table, count=count)
    assert carrara.find("row:0", table, count=np.int64(2)).num_rows == 2


@pytest.mark.parametrize("results", [None, 5, ["results"], pd.DataFrame({"system": []})])
def test_a_leaderboard_is_of_records(results):
    with pytest.raises(UsageError, match="^results: give the folder of the records, a record or a list of records"):
        carrara.leaderboard(results)


def test_systems_are_compared_by_name():
    with pytest.raises(UsageError, match="^compare: give the names of two systems"):
        carrara.compare(carrara.load("noise"), "mfcc")


def test_plots_take_what_leaderboards_take(tmp_path):
    with pytest.raises(UsageError, match="^results: give the folder of the records"):
        carrara.plots.scores(5)
    with pytest.raises(StoreError, match="no such folder of results"):
        carrara.plots.layers(tmp_path / "nothing")
    with pytest.raises(UsageError, match="^there are no records"):
        carrara.plots.robustness([])


def test_catalogues_are_mappings_and_suggest_names_in_other_case():
    for catalogue in (carrara.encoders, carrara.tasks, carrara.datasets):
        name = next(iter(catalogue))
        assert catalogue.get("nothing") is None and catalogue.get(name) == catalogue[name]
        assert next(catalogue.items()) == (name, next(catalogue.values())) and 0 not in catalogue
        with pytest.raises(UsageError, match="there is no .* 0"):
            catalogue[0]
    assert "mert_v0" in carrara.encoders and carrara.encoders["mert_v0"].name == "mert-v0"
    assert did_you_mean("CHOI", ["chroma", "choi"]) == " Did you mean 'choi'?"


def test_a_card_is_a_line_and_a_table():
    card = carrara.encoders["mert-v1-95m"]
    assert repr(card) == "<card mert-v1-95m: 24,000 Hz, 13 layers of 768, 75 frames a second, 94,371,712 parameters>"
    assert f"<td>{card.license}</td>" in card._repr_html_()


def test_a_misspelt_name_is_suggested_by_the_traceback():
    with pytest.raises(AttributeError) as raised:
        carrara.leader_board  # noqa: B018
    assert (raised.value.name, raised.value.obj) == ("leader_board", carrara)
