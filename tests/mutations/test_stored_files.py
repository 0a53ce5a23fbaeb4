"""Mutated records, predictions, logs, feature stores, label stores, tables of embeddings and configs of encoders."""

import base64
import itertools
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

import carrara
from carrara.bench.predictions import predictions_path, read_predictions, write_predictions
from carrara.cli._main import app
from carrara.core.clip import Clip
from carrara.core.errors import StoreError
from carrara.core.record import Record, read_record, write_record
from carrara.encoders._hub.load import load, save_pretrained
from carrara.features.cache import list_stores
from carrara.features.embedding_table import EmbeddingTable
from carrara.features.neighbour_index import NeighbourIndex, update_index
from carrara.features.store import FeatureStore
from carrara.pretrain.corpus.label_store import LabelStore
from carrara.pretrain.metrics_log import MetricsLog, read_events, read_metrics, read_probes

TASK = {"version": 1, "dataset": "pebble", "split_scheme": "key", "task_type": "multiclass", "label": "key",
        "labels": ["C major", "A minor"], "metrics": ["accuracy"], "monitor": "accuracy",
        "category": "score"}  # fmt: skip

DRAWS = np.random.default_rng(0).standard_normal(200).astype("<f2")


def record(encoder):
    return Record.model_validate(
        {
            "task": {"name": "pebble/key", "version": 1, "fingerprint": "f" * 16, "task": TASK},
            "data": {"name": "pebble", "index": "i", "n": {"train": 3, "valid": 1, "test": 12}},
            "encoder": {"name": encoder, "weights_sha256": "0123456789abcdef", "output_version": 1, "parameters": 10},
            "protocol": {"name": "constrained", "version": 1, "tried": 6, "chosen": {"layer": "0"}, "monitor": "acc"},
            "grid": [{"layer": "0", "learning_rate": 0.001, "valid": 0.5, "epoch": 3, "epochs": 9}],
            "scores": {"accuracy": {"value": 0.5, "low": 0.3, "high": 0.7, "unit": "clip", "n": 12,
                                    "draws": base64.b64encode(DRAWS.tobytes()).decode()}},
            "run": {"seed": 0, "device": "cpu", "seconds": {"probe": 1.5}, "versions": {}, "git": "",
                    "date": "2026-11-21", "command": "carrara bench"},
        }
    )  # fmt: skip


def written(results, encoder, seed):
    rng, clips = np.random.default_rng(seed), [Clip(f"c{n}", results) for n in range(12)]
    entry = record(encoder)
    truths = [n % 2 for n in range(12)]
    write_predictions(predictions_path(entry, results), clips, truths, [rng.integers(2, size=12).tolist()], [0])
    return write_record(entry, results)


def invoke(*arguments):
    """Return the result of a command that ends without a traceback."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), (done.exception, done.output)
    return done


def test_records(tmp_path, survive):
    path = written(tmp_path, "mfcc", 0)
    assert survive(path, lambda: read_record(path), "records") > 50


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_mutated_record_among_good_ones_costs_itself_only(tmp_path, survive):
    path = written(tmp_path, "mfcc", 0)
    written(tmp_path, "good", 1)
    written(tmp_path, "noise", 2)

    def show():
        done = invoke("leaderboard", tmp_path, "--json")
        assert done.exit_code == 0 and "good" in {entry["system"] for entry in json.loads(done.stdout)}
        invoke("compare", "good", "noise", "--results", tmp_path)
        invoke("compare", "good", "mfcc", "--results", tmp_path)

    survive(path, show, "leaderboard", times=40)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_predictions(tmp_path, survive):
    written(tmp_path, "good", 1)
    path = predictions_path(record("mfcc"), tmp_path)
    written(tmp_path, "mfcc", 0)
    assert survive(path, lambda: read_predictions(path), "predictions") > 20
    survive(path, lambda: invoke("compare", "good", "mfcc", "--results", tmp_path), "compare", times=40)


@pytest.mark.parametrize("truth", ["NaN", "[[1]]", "9" * 5000, "1e999", "[" * 5000, ""])
def test_predictions_with_other_values_are_not_compared(tmp_path, truth):
    import pyarrow
    from pyarrow import parquet

    written(tmp_path, "good", 1)
    written(tmp_path, "mfcc", 0)
    for encoder in ("good", "mfcc"):
        path = predictions_path(record(encoder), tmp_path)
        values = {"id": ["a", "b"], "seed": [0, 0], "truth": [truth, "1"], "prediction": [truth, "0"]}
        parquet.write_table(pyarrow.table(values), path)
    done = invoke("compare", "good", "mfcc", "--results", tmp_path)
    assert "run this task again" in " ".join(done.output.split())


def test_logs(tmp_path, survive):
    lines = [{"step": 0, "event": "started", "reason": "x"}]
    lines += [{"step": n, "loss": 1.0 / n, "seconds": 2.0 * n} for n in range(1, 12)]
    lines += [{"step": 12, "probes": {"pebble/key": {"score": 0.5, "low": 0.4, "high": 0.6}}}]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def read():
        content = path.read_bytes()
        read_metrics(path), read_events(path), read_probes(path)
        MetricsLog(tmp_path, 9).close()  # as --resume opens it
        path.write_bytes(content)

    assert survive(path, read, "log") == 0


@pytest.mark.parametrize(
    "bad", [b"\xff\xfe\n", b"[1]\n", b"3\n", b"{\n", b'{"step": "x"}\n', b'{"loss": 1}\n', b"NaN\n"]
)
def test_a_damaged_line_of_a_log_costs_itself_only(tmp_path, bad):
    good = [b'{"step": %d, "loss": 1.0}\n' % step for step in range(1, 5)]
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join([*good[:2], bad, *good[2:], b'{"step": 5, "lo']))
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3, 4]
    MetricsLog(tmp_path, 3).close()
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3]


@pytest.mark.parametrize("name", ["items.jsonl", "meta.json"])
def test_feature_stores(tmp_path, survive, monkeypatch, name):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path))
    folder = tmp_path / "features" / "mfcc" / "key"
    meta = {"encoder": "mfcc", "window": 1.0, "sample_rate": 16_000}
    with FeatureStore(folder, {"0": 3}, meta).writer() as writer:
        for item in range(6):
            writer.append({"0": np.ones((2, 3), np.float32)})
            writer.commit(f"{item}")

    def read():
        list_stores()
        store = FeatureStore(folder, {"0": 3}, meta)
        assert store.rows == sum(item.rows for item in store.items.values()) <= 12
        assert len(store.layer("0")) == store.rows

    refused = survive(folder / name, read, name, names=False)
    assert refused > 20


def test_label_stores(tmp_path, survive):
    store = LabelStore(tmp_path / "codes", 2, "origin")
    for item in range(5):
        store.append(f"i{item}", np.zeros((4, 2), np.int16))
    store.close()
    (path,) = (tmp_path / "codes").glob("*.jsonl")

    def read():
        content = path.read_bytes(), {file: file.read_bytes() for file in path.parent.iterdir()}
        opened = LabelStore(tmp_path / "codes", 2, "origin")
        for item in range(5):
            if f"i{item}" in opened:
                assert len(opened.read(f"i{item}", 0, 4)) <= 4
        opened.close()
        for file, data in content[1].items():
            file.write_bytes(data)

    survive(path, read, "codes", names=False)


def test_tables_of_embeddings(tmp_path, survive):
    import soundfile

    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(8000), 8000)
    out = tmp_path / "o.parquet"
    embed = ("embed", tmp_path / "a.wav", "-e", "mfcc", "-o", out, "--device", "cpu")
    assert invoke(*embed).exit_code == 0

    def read():
        content = out.read_bytes()
        invoke(*embed)
        out.write_bytes(content)

    survive(out, read, "embed", times=40)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A table of 600 rows, of which a search compares those that the graph leads to, and its index."""
    pytest.importorskip("usearch")
    folder = tmp_path_factory.mktemp("library")
    names, draw = [f"{row}.wav" for row in range(600)], np.random.default_rng(0)
    columns = {
        "path": pa.array(names), "start": pa.array([0.0] * 600), "duration": pa.array([1.0] * 600),
        "layer": pa.array(["mean"] * 600),
        "embedding": pa.array(list(draw.standard_normal((600, 8)).astype("f")), pa.list_(pa.float32(), 8)),
    }  # fmt: skip
    settings = {"encoder": "mfcc", "weights_sha256": "0" * 64, "output_version": 1, "encoder_settings": {}}
    metadata = {"settings": json.dumps(settings), "files": json.dumps([[name, "a" * 64] for name in names])}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), folder / "lib.parquet")
    update_index(EmbeddingTable(folder / "lib.parquet", standardise=True), folder / "lib.index")
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["index.json", "graph-1.usearch", "rows-1.arrow", "vectors.f32"])
def test_indexes(library, survive, name):
    """Native code maps graph and rows, and would end the process: they are refused before."""
    query_D = np.ones(8, np.float32) / np.sqrt(8, dtype=np.float32)

    def read():
        opened = NeighbourIndex(library / "lib.index")
        for row, _ in itertools.islice(opened.nearest(query_D), 20):
            assert opened.path_R[row].as_py().endswith(".wav") and opened.sha256(row)

    refused = survive(library / "lib.index" / name, read, name, times=100, names=False)
    assert refused == 100 or name in ("index.json", "vectors.f32")
    (library / "lib.index" / name).write_bytes(b"")
    if name != "vectors.f32":
        with pytest.raises(StoreError, match="damaged.*--rebuild"):
            update_index(EmbeddingTable(library / "lib.parquet", standardise=True), library / "lib.index")
    update_index(EmbeddingTable(library / "lib.parquet", standardise=True), library / "lib.index", rebuild=True)
    read()


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_configs_of_encoders(tmp_path, survive, name):
    encoder = carrara.load("mert-tiny:random")
    if name == "config.json":
        save_pretrained(encoder, tmp_path / "e")
    else:
        assert invoke("export", "mert-tiny:random", "--format", "transformers", "-o", tmp_path / "e").exit_code == 0
    with torch.no_grad():
        survive(tmp_path / "e" / name, lambda: load(tmp_path / "e"), name, times=60, names=False)
