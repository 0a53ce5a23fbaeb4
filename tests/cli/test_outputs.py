"""`-o` endings are obeyed or refused, lists and patterns name recordings, and names are no hub ids."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner

from carrara.cli._main import app
from carrara.core.errors import UsageError
from carrara.encoders._hub.spec import parse_encoder_spec


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    folder = tmp_path_factory.mktemp("music")
    for number in range(3):
        (folder / f"{number}").mkdir()
        noise = 0.1 * np.random.default_rng(number).standard_normal(16_000)
        soundfile.write(folder / f"{number}" / f"{number}.wav", noise, 16_000)
    return folder


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def carrara(*arguments, code=0, stdin=None):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    assert done.exit_code == code, done.output
    return done


def test_embeddings_are_the_same_in_every_format(music, tmp_path):
    for name in ("out.parquet", "out.csv", "out.npy"):
        carrara("embed", music, "-e", "mfcc", "-o", tmp_path / name)
    table = pq.read_table(tmp_path / "out.parquet").to_pandas()
    expected = np.stack(table["embedding"])
    frame = pd.read_csv(tmp_path / "out.csv")
    assert list(frame.columns[:5]) == ["path", "start", "duration", "layer", "e0"]
    assert list(frame["path"]) == list(table["path"])
    np.testing.assert_array_equal(frame.iloc[:, 4:].to_numpy(np.float32), expected)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)
    assert list(pd.read_csv(tmp_path / "out.rows.csv")["path"]) == list(table["path"])
    printed = carrara("embed", music, "-e", "mfcc", "-o", "-").stdout
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(printed)), frame)
    assert not list(tmp_path.glob("*.parts")) and not list(tmp_path.glob("*.pdf"))


def test_recordings_come_from_patterns_and_lists(music, tmp_path):
    def embedded(*arguments, **options):
        done = carrara("embed", *arguments, "-e", "mfcc", "-o", tmp_path / "out.csv", "--overwrite", **options)
        assert "0 failed" in done.stderr
        return sorted(Path(path).name for path in pd.read_csv(tmp_path / "out.csv")["path"])

    assert embedded(f"{music}/**/*.wav") == ["0.wav", "1.wav", "2.wav"]
    assert embedded(f"{music}/[01]/*.wav") == ["0.wav", "1.wav"]
    (tmp_path / "list.txt").write_text(f"{music}/0/0.wav\n\n{music}/2\n")
    assert embedded("--files-from", tmp_path / "list.txt") == ["0.wav", "2.wav"]
    assert embedded("--files-from", "-", f"{music}/0", stdin=f"{music}/1/1.wav\n") == ["0.wav", "1.wav"]
    assert "no audio file matches" in carrara("embed", f"{music}/*.mp3", "-e", "mfcc", "-o", "a.csv", code=1).stderr


@pytest.mark.parametrize("name", ["out.csv", "out.npy"])
def test_a_table_that_is_written_anew_loses_no_recording(music, tmp_path, name):
    whole, part = sorted(music.glob("*/*.wav")), sorted(music.glob("*/*.wav"))[:1]
    output, rows = tmp_path / name, tmp_path / ("out.csv" if name == "out.csv" else "out.rows.csv")
    carrara("embed", *whole, "-e", "noise", "-o", output)
    before = output.read_bytes()
    done = carrara("embed", *part, "-e", "noise", "-o", output, code=2)
    assert f"holds {whole[1]}, which is not named" in done.stderr and output.read_bytes() == before
    carrara("embed", *whole, "-e", "noise", "-o", output)
    assert output.read_bytes() == before
    carrara("embed", *part, "-e", "noise", "-o", output, "--overwrite")
    assert list(pd.read_csv(rows)["path"]) == list(map(str, part))
    rows.write_text("path,label\na.wav,calm\n")
    assert "no table of embeddings" in carrara("embed", *part, "-e", "noise", "-o", output, code=2).stderr


def test_a_missing_folder_is_no_hub_id(tmp_path):
    (tmp_path / "models").mkdir()
    for spec in ("models/mert", "./mert", "~/mert", f"{tmp_path}/mert"):
        with pytest.raises(UsageError, match="no such folder"):
            parse_encoder_spec(spec)
    assert parse_encoder_spec("m-a-p/MERT-v1-95M:random-3").kind == "hub"
    assert parse_encoder_spec("mert_v0").source == "mert-v0"
    assert parse_encoder_spec("models:random").seed == 0


def test_gpu_is_answered_with_cuda():
    assert "write cuda" in carrara("bench", "noise", "-t", "pebble/key", "--device", "gpu", code=2).stderr


def test_nothing_to_resume_is_said(music):
    command = ("pretrain", "mert-v0", "-c", music, "-o", "mine", "--from", "mert-v9", "--resume")
    assert "mine holds no run to resume" in carrara(*command, code=2).stderr
