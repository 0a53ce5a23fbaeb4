"""`import carrara`: what it offers, its signatures and types, encoders of every kind, and how results are shown."""

import inspect
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from torch import nn

import carrara
from carrara.core.errors import AudioError, UsageError

ROOT = Path(__file__).parents[2]
FUNCTIONS = ("load", "embed", "find", "bench", "pretrain", "leaderboard", "compare")
RATE = 2000


def test_every_name_is_listed_documented_and_has_a_signature():
    import carrara.bench.run  # a module of the package must not take the function's place

    for name in carrara.__all__:
        assert name in dir(carrara)
        assert getattr(carrara, name).__doc__
    for name in FUNCTIONS:
        parameters = inspect.signature(getattr(carrara, name)).parameters.values()
        assert len(parameters) > 1
        assert all(each.annotation is not inspect.Parameter.empty for each in parameters)
        assert all(each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in parameters)
    with pytest.raises(AttributeError, match="benchh"):
        carrara.benchh  # noqa: B018


def test_registries_are_mappings_with_patterns_and_frames():
    for catalogue in (carrara.encoders, carrara.tasks, carrara.datasets):
        names = list(catalogue)
        assert len(catalogue) == len(names) and names[0] in catalogue and "nothing" not in catalogue
        assert list(catalogue.to_frame().index) == names and catalogue.to_frame().summary.all()
        assert names[0] in repr(catalogue) and names[-1] in catalogue._repr_html_() and len(repr(catalogue)) < 160
    assert carrara.encoders["mert-v1-95m"].sample_rate == 24_000
    assert isinstance(carrara.tasks["pebble/key"], carrara.Task) and carrara.tasks["pebble/key"].name == "pebble/key"
    assert isinstance(carrara.datasets["pebble"], carrara.Dataset)
    assert carrara.tasks("pebble/k*") == ["pebble/key"]
    with pytest.raises(UsageError, match="'pebble/key'"):
        carrara.tasks["pebble/kee"]


@pytest.mark.slow
def test_mypy_sees_types_in_a_script_of_a_user(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import carrara\n"
        "import carrara.bench.run\n"
        "encoder = carrara.load('noise')\n"
        "reveal_type(encoder)\nreveal_type(encoder(__import__('numpy').zeros(10)))\n"
        "reveal_type(carrara.bench(encoder, tasks='pebble/key', seeds=2))\n"
        "reveal_type(carrara.tasks['pebble/key'])\nreveal_type(carrara.encoders['noise'])\n"
        "carrara.bench(encoder, task='pebble/key')\n"
        "carrara.embed('a.wav', 'noise', per='song')\n"
    )
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--cache-dir", tmp_path / "cache", script]
    pytest.importorskip("mypy")
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"MYPYPATH": str(ROOT)})
    revealed = [line.partition('Revealed type is "')[2].rstrip('"') for line in done.stdout.splitlines()]
    types = [name.rpartition(".")[2] for name in revealed if name]
    assert types == ["Encoder", "Tensor", "Records", "Task", "Card"], done.stdout
    assert 'Unexpected keyword argument "task"' in done.stdout
    assert "incompatible type \"Literal['song']\"" in done.stdout
    assert "Found 2 errors" in done.stdout


def test_an_encoder_takes_arrays_and_tensors_of_one_or_two_dimensions():
    encoder = carrara.load("chroma")
    samples = np.random.default_rng(0).standard_normal(2 * encoder.card.sample_rate) * 0.1
    expected = encoder.forward(torch.tensor(samples[None], dtype=torch.float32))
    for given in (samples, samples[None], torch.from_numpy(samples), torch.tensor(samples[None]).float()):
        assert torch.equal(encoder(given), expected)
    for wrong, message in (
        ((samples * 32767).astype(np.int16), "divided by 32768"),
        (np.stack([samples, samples], axis=1), "mono"),
        (samples[None, None], r"shape \[1, 1, "),
    ):
        with pytest.raises(UsageError, match=message):
            encoder(wrong)
    assert len(repr(encoder)) < 120 and "chroma" in repr(encoder) and "<table>" in encoder._repr_html_()


def test_gradients_flow_only_in_training_or_when_requested():
    encoder = carrara.load("mert-tiny:random")
    samples = torch.randn(1, 8000)
    assert not encoder(samples).requires_grad
    assert encoder(samples, gradients=True).requires_grad
    assert encoder(samples.clone().requires_grad_()).requires_grad
    assert not encoder.train()(samples, gradients=False).requires_grad
    assert encoder(samples).requires_grad


def test_a_saved_encoder_comes_back_the_same(tmp_path):
    encoder = carrara.load("mert-tiny:random")
    encoder.save_pretrained(tmp_path / "copy")
    again = carrara.Encoder.from_pretrained(tmp_path / "copy")
    samples = np.random.default_rng(1).standard_normal(8000).astype(np.float32)
    assert torch.equal(encoder(samples), again(samples))
    with pytest.raises(UsageError, match=r"carrara\.load"):
        type(encoder).from_pretrained("noise")


class Levels(nn.Module):
    """Levels of 20 frames a second in two layers of eight values; ignores lengths on purpose."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(RATE // 20, 8, bias=False)

    def forward(self, samples, lengths):
        frames = samples.unfold(1, RATE // 20, RATE // 20)
        first = self.linear(frames).abs()
        return torch.stack([first, first.sqrt()], dim=1)


@pytest.fixture(scope="module")
def tone_folder(tmp_path_factory):
    """Tones of two pitches with their labels."""
    folder = tmp_path_factory.mktemp("tones")
    lines = ["path,split,pitch"]
    for number in range(24):
        split = "train" if number < 12 else "valid" if number < 16 else "test"
        pitch, hertz = ("low", 125) if number % 2 else ("high", 500)
        time = np.arange(RATE) / RATE
        noise = 0.05 * np.random.default_rng(number).standard_normal(RATE)
        soundfile.write(folder / f"{number}.wav", 0.3 * np.sin(2 * np.pi * hertz * time) + noise, RATE)
        lines.append(f"{number}.wav,{split},{pitch}")
    (folder / "labels.csv").write_text("\n".join(lines))
    (folder / "pitch.toml").write_text('data = "."\ntask_type = "multiclass"\nlabel = "pitch"\nmax_epochs = 60\n')
    return folder


def spectrum(samples, lengths):
    """Levels of bands, one vector a clip."""
    return torch.fft.rfft(samples).abs()[:, :1000].unflatten(1, (10, 100)).mean(-1).log1p()


def test_bench_takes_modules_functions_and_names_together(tone_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    torch.manual_seed(0)
    records = carrara.bench(
        [Levels(), spectrum, "noise"],
        tasks=tone_folder / "pitch.toml",
        results=tmp_path / "results",
        protocol="linear",
        sample_rate=RATE,
        seeds=2,
    )
    assert [record.encoder.name for record in records] == ["Levels", "spectrum", "noise"]
    assert records[1].scores["accuracy"].value == 1.0 and records[1].run.seeds == (1234, 1235)
    assert all(isinstance(record, carrara.Record) for record in records)
    frame = records.to_frame()
    assert list(frame.system) == ["Levels", "spectrum", "noise"]
    assert list(frame.value) == [record.scores["accuracy"].value for record in records]
    assert len(repr(records[0])) < 120 and "spectrum" in repr(records) and "<table>" in records._repr_html_()
    with pytest.raises(UsageError, match="sample_rate="):
        carrara.bench(spectrum, tasks=tone_folder / "pitch.toml", results=tmp_path / "results")

    board = carrara.leaderboard(tmp_path / "results")
    table = board.to_frame()
    assert isinstance(table, pd.DataFrame) and set(table.index) == {"Levels", "spectrum", "noise"}
    assert table["pitch"]["value"]["spectrum"] == 100.0 and np.isnan(table["rank"]["noise"])
    assert len(repr(board)) < 120 and "spectrum" in str(board) and "spectrum" in board._repr_html_()
    both = carrara.compare("spectrum", "noise", tmp_path / "results")
    row = both.to_frame().loc["pitch"].iloc[0]
    assert row["difference"] == pytest.approx(row["spectrum"] - row["noise"]) and row["n"] == 8
    assert "1 better" in repr(both) and "spectrum is better" in str(both) and "<table" in both._repr_html_()
    assert carrara.plots.scores(board).save(tmp_path / "scores.svg").read_text().startswith("<svg xmlns=")


def test_clips_of_a_wrapped_network_do_not_depend_on_their_batch():
    from carrara.encoders._hub.any_encoder import resolve_encoder

    torch.manual_seed(0)
    encoder = resolve_encoder(Levels(), sample_rate=RATE)
    assert (encoder.card.frame_rate, encoder.card.num_layers, encoder.card.dim) == (20.0, 1, 8)
    samples = torch.randn(2, 3000)
    together = encoder(samples, torch.tensor([3000, 1050]))
    alone = encoder(samples[1:, :1050])
    assert encoder.num_frames(1050) == alone.shape[2] == 10
    assert torch.equal(together[1, :, :10], alone[0]) and not together[1, :, 10:].any()
    changed = Levels()
    same = resolve_encoder(encoder.function, sample_rate=RATE)
    assert same.card.weights_sha256 == encoder.card.weights_sha256
    assert resolve_encoder(changed, sample_rate=RATE).card.weights_sha256 != encoder.card.weights_sha256
    with pytest.raises(UsageError, match=r"\[batch, dim\]"):
        resolve_encoder(lambda samples, lengths: samples.sum(), sample_rate=RATE)
    with pytest.raises(UsageError, match="is no encoder"):
        resolve_encoder(3)


@pytest.mark.slow
def test_a_model_of_transformers_gives_its_hidden_states():
    transformers = pytest.importorskip("transformers")
    from carrara.encoders._hub.any_encoder import resolve_encoder

    config = transformers.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    model = transformers.Wav2Vec2Model(config).eval()
    encoder = resolve_encoder(model, sample_rate=16_000)
    samples = torch.randn(1, 16_000)
    with torch.no_grad():
        expected = torch.stack(model(samples, output_hidden_states=True).hidden_states, dim=1)
    assert torch.equal(encoder(samples), expected)
    assert encoder.card.num_layers == 2 and encoder.card.frame_rate == pytest.approx(50, abs=0.5)


def test_embed_takes_a_function(tone_folder):
    table = carrara.embed(tone_folder / "0.wav", spectrum, sample_rate=RATE)
    samples, _ = soundfile.read(tone_folder / "0.wav", dtype="float32")
    expected = spectrum(torch.from_numpy(samples)[None], None)[0]
    np.testing.assert_allclose(table["embedding"][0].as_py(), expected, rtol=1e-6)


def test_names_are_all_that_is_offered():
    assert set(dir(carrara)) == {*carrara.__all__, "__version__"}
    assert dir(carrara.plots) == sorted(carrara.plots.__all__)


@pytest.mark.parametrize(
    "samples, lengths, message",
    [
        ("song.mp3", None, r"carrara\.embed\('song\.mp3'"),
        (np.zeros(0, dtype=np.float32), None, "no samples"),
        (np.zeros((2, 8000), dtype=np.float32), [8000, 9000], "from 1 to 8000"),
        (np.zeros((2, 8000), dtype=np.float32), np.array([8000, 0]), "from 1 to 8000"),
        (np.zeros((2, 2, 8000), dtype=np.float32), None, "mono"),
        (np.zeros(8000, dtype=np.int16), None, "32768"),
    ],
)
def test_an_encoder_says_what_it_takes(samples, lengths, message):
    with pytest.raises(UsageError, match=message):
        carrara.load("noise")(samples, lengths)
    assert carrara.load("noise")(np.zeros((2, 8000)), [8000, 4000]).shape[0] == 2


def test_embeddings_are_searched_without_a_file(tone_folder):
    table = carrara.embed(tone_folder, "mfcc")
    assert table["path"].num_chunks == 1
    first = table["path"][0].as_py()
    nearest = carrara.find("row:0", table, count=2)
    assert nearest.num_rows == 2 and first not in nearest["path"].to_pylist()
    vectors = np.stack(table["embedding"].to_numpy(zero_copy_only=False))
    cosines = vectors @ vectors[0] / np.linalg.norm(vectors, axis=1) / np.linalg.norm(vectors[0])
    np.testing.assert_allclose(nearest["similarity"].to_numpy(), np.sort(cosines[1:])[::-1][:2], atol=1e-5)


def test_a_single_undecodable_file_is_said_once(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"none")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AudioError, match=r"a\.wav"):
            carrara.embed(tmp_path / "a.wav", "mfcc")


def test_results_are_short_and_take_one_record_too(tone_folder, tmp_path):
    with pytest.raises(UsageError, match="at least 1"):
        carrara.bench("noise", tone_folder, results=tmp_path, seeds=0)
    records = carrara.bench(["noise", "majority"], tone_folder, results=tmp_path)
    frame = records[0].to_frame()
    assert list(frame.system) == ["noise"] * len(frame) and frame.value[0] == records[0].mean_score()
    board = carrara.leaderboard(records[0])
    assert "1 system on 1 task;" in repr(board)
    with pytest.raises(UsageError, match="folder of the records"):
        carrara.compare("noise", "majority", records)
    assert "on 1 task:" in repr(carrara.compare("noise", "majority", tmp_path))
    for shown in (carrara.tasks["pebble/key"], carrara.datasets["gtzan"], carrara.load("mfcc"), records[0], board):
        assert len(repr(shown)) < 160 and "object at" not in repr(shown)
    assert "1 layer of 120" in repr(carrara.load("mfcc"))
