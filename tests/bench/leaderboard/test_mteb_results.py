"""Records as MTEB's results: scores against brute force and trec_eval, files against mteb's loader and its evaluation.

What needs mteb runs where it is installed, as it is with the extra `test`.
"""

from __future__ import annotations

import importlib.util
import json
import zlib

import numpy as np
import pytest
import soundfile
import torch
from sklearn.metrics import ndcg_score
from typer.testing import CliRunner

from carrara import adapters
from carrara.audio.decode import load_audio
from carrara.bench.leaderboard.mteb_results import CUTOFFS, MTEB_TASKS, retrieval_scores, to_mteb_result
from carrara.bench.predictions import predictions_path
from carrara.bench.run import bench
from carrara.cli._main import app
from carrara.core.errors import StoreError, UsageError
from carrara.core.record import write_record
from carrara.encoders._base import Card
from carrara.encoders._text.tower import TextEncoder

RATE, BANDS = 8000, 16
NAME = "song-describer/text-full"
TASK = MTEB_TASKS[NAME]
HAS_MTEB = importlib.util.find_spec("mteb") is not None


class Towers(TextEncoder):
    """Two small towers with random weights: bytes and the spectrum's bands into one space."""

    max_tokens, pad_token = 64, 0

    def __init__(self):
        super().__init__()
        self.card = Card(name="towers", sample_rate=RATE, frame_rate=None, num_layers=0, dim=8, joint_dim=8)
        generator = torch.Generator().manual_seed(0)
        self.text = torch.nn.Parameter(torch.randn(128, 8, generator=generator))
        self.audio = torch.nn.Parameter(torch.randn(BANDS, 8, generator=generator))

    def tokenize(self, texts):
        return [[byte % 127 + 1 for byte in text.encode()] for text in texts]

    def forward_text(self, tokens_NF, valid_NF):
        return (self.text[tokens_NF] * valid_NF[..., None] * torch.arange(1, tokens_NF.shape[1] + 1)[:, None]).sum(1)

    def encode_audio_joint(self, samples_BT, lengths_B=None):
        lengths = [samples_BT.shape[1]] * len(samples_BT) if lengths_B is None else lengths_B.tolist()
        level = torch.stack([torch.fft.rfft(own[:n], n=2 * 4096).abs() for own, n in zip(samples_BT, lengths)])
        bands_BK = level[:, :4096].unflatten(1, (BANDS, -1)).mean(-1).log1p()
        return torch.nn.functional.normalize((bands_BK - bands_BK.mean(1, keepdim=True)) @ self.audio, dim=-1)

    def num_frames(self, samples):
        return 1

    def forward(self, samples_BT, lengths_B=None):
        return self.encode_audio_joint(samples_BT, lengths_B)[:, None, None]


def write_songs(root, recordings, captions, rate=RATE, seconds=0.3):
    """Files of Song Describer's layout; the captions after the first of each recording go to the first recordings."""
    lines = ["caption_id,track_id,caption,is_valid_subset,familiarity,artist_id,album_id,path,duration"]
    for number in range(captions):
        track = number % recordings
        path = root / f"audio/{track % 100:02}/{1000 + track}.2min.mp3"
        if number < recordings:
            path.parent.mkdir(parents=True, exist_ok=True)
            draw = np.random.default_rng(track)
            noise = np.cumsum(draw.normal(size=int(seconds * rate))) * draw.uniform(0, 0.02)
            soundfile.write(path, np.clip(noise + 0.1 * draw.normal(size=noise.shape), -0.9, 0.9), rate, format="MP3")
        text = f"{zlib.crc32(b'%d' % number):x} caption {number}, that says what it is"
        lines.append(f'{number},{1000 + track},"{text}",True,3,{track},6,{track % 100:02}/{1000 + track}.mp3,120.0')
    (root / "song_describer.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A folder of data of the real numbers, the folder of results, and the record."""
    data, results = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARRARA_HOME", str(data / "home"))
        write_songs(data / "song-describer", TASK.recordings, TASK.queries)
        (record,) = bench(Towers(), [NAME], data_dir=data, results=results)
    return data, results, record


def brute_force(ranks, cutoff):
    """The metrics of one query, from which of the first `cutoff` results are relevant."""
    relevant = [rank in ranks for rank in range(1, cutoff + 1)]
    precisions = [sum(relevant[: k + 1]) / (k + 1) for k in range(cutoff) if relevant[k]]
    similarity = -np.arange(max(1001, max(ranks) + 1))[None].astype(float)
    truth = np.array([[rank + 1 in ranks for rank in range(similarity.shape[1])]])
    return {
        "recall": sum(relevant) / len(ranks),
        "precision": sum(relevant) / cutoff,
        "hit_rate": float(any(relevant)),
        "map": sum(precisions) / len(ranks),
        "mrr": 1 / (relevant.index(True) + 1) if any(relevant) else 0.0,
        "ndcg": ndcg_score(truth, similarity, k=cutoff),
    }


def test_scores_equal_brute_force():
    draw = np.random.default_rng(0)
    ranks = [sorted(draw.choice(np.arange(1, 700), draw.integers(1, 6), replace=False).tolist()) for _ in range(40)]
    ranks += [[1], [1, 2], [3], [5, 6, 1200], [1000], [1001]]
    scores = retrieval_scores(ranks)
    for cutoff in CUTOFFS:
        each = [brute_force(own, cutoff) for own in ranks]
        for name in each[0]:
            expected = np.mean([one[name] for one in each])
            assert scores[f"{name}_at_{cutoff}"] == pytest.approx(expected, abs=1e-12), (name, cutoff)
    assert scores["accuracy"] == scores["recall_at_1"]


@pytest.mark.slow
def test_a_record_of_all_of_song_describer_is_written(measured, tmp_path):
    _, results, record = measured
    done = CliRunner().invoke(app, ["leaderboard", str(results), "--mteb", str(tmp_path / "out")])
    assert done.exit_code == 0, done.stderr
    path = tmp_path / "out/results/carrara__towers" / record.encoder.weights_sha256[:12] / f"{TASK.name}.json"
    assert done.stdout.split() == [str(path)]
    values = json.loads(path.read_text())
    (entry,) = values["scores"]["test"]
    for k in (1, 5, 10):
        assert entry[f"recall_at_{k}"] == entry[f"hit_rate_at_{k}"] == pytest.approx(record.scores[f"hit_at_{k}"].value)
    assert entry["map_at_1000"] == entry["mrr_at_1000"] == pytest.approx(record.scores["map"].value)
    assert entry["main_score"] == entry["recall_at_5"]
    again = CliRunner().invoke(app, ["leaderboard", str(results), "--mteb", str(tmp_path / "b"), "--json"])
    assert json.loads(again.stdout)["path"].endswith(f"{TASK.name}.json")


@pytest.mark.slow
def test_what_is_not_the_same_task_is_refused(measured, tmp_path):
    _, results, record = measured

    def refused(*words):
        done = CliRunner().invoke(app, ["leaderboard", *map(str, words)])
        assert done.exit_code == 2 and done.stderr.count("\n") == 1, done.output
        return done.stderr

    other = record.model_copy(update={"task": record.task.model_copy(update={"name": "song-describer/text"})})
    write_record(other, tmp_path / "other")
    line = refused(tmp_path / "other", "--mteb", tmp_path / "out")
    assert f"carrara bench ENCODER -t {NAME}" in line and "no record of a task that MTEB has" in line
    with pytest.raises(UsageError, match="MTEB has no equal task"):
        to_mteb_result(other, results)
    old = record.model_copy(update={"task": record.task.model_copy(update={"version": 0})})
    with pytest.raises(UsageError, match="measure again"):
        to_mteb_result(old, results)
    with pytest.raises(UsageError, match="1106 texts and 706 recordings"):
        to_mteb_result(record.model_copy(update={"partial": True}), results)
    write_record(record, tmp_path / "alone")
    with pytest.raises(StoreError, match="run this task again"):
        to_mteb_result(record, tmp_path / "alone")
    assert not predictions_path(record, tmp_path / "alone").exists()
    assert "leave out --site" in refused(results, "--mteb", tmp_path / "out", "--site", tmp_path / "site")
    assert "leave out -o" in refused(results, "--mteb", tmp_path / "out", "-o", tmp_path / "x.md")
    assert not (tmp_path / "out").exists()


def evaluate_in_mteb(encoder, root):
    """mteb's own evaluation of its own task, with the recordings and captions of a folder instead of the hub's."""
    import mteb
    from datasets import Dataset
    from mteb.tasks.retrieval.zxx import song_describer

    from carrara.data import REGISTRY

    class OwnData(getattr(song_describer, TASK.name)):
        def load_data(self, **options):
            clips = REGISTRY.get("song-describer").clips(root, "full")
            rate = soundfile.info(clips[0].path).samplerate
            audio = [{"array": load_audio(clip.path, rate), "sampling_rate": rate} for clip in clips]
            texts = [(text, clip.id) for clip in clips for text in clip.labels["all_captions"]]
            queries = {"id": [str(n) for n in range(len(texts))], "text": [text for text, _ in texts]}
            split = {
                "corpus": Dataset.from_dict({"id": [clip.id for clip in clips], "audio": audio}),
                "queries": Dataset.from_dict(queries),
                "relevant_docs": {str(n): {owner: 1} for n, (_, owner) in enumerate(texts)},
                "top_ranked": None,
            }
            self.dataset, self.data_loaded = {"default": {"test": split}}, True

    return mteb.evaluate(adapters.mteb(encoder), tasks=[OwnData()], cache=None).task_results[0]


@pytest.mark.slow
@pytest.mark.skipif(not HAS_MTEB, reason="mteb is not installed: pip install carrara[mteb]")
class TestMteb:
    """With the real package."""

    def test_its_loader_reads_the_file_and_its_evaluation_gives_the_same_scores(self, measured, tmp_path):
        import mteb
        from mteb.results import TaskResult

        data, results, record = measured
        done = CliRunner().invoke(app, ["leaderboard", str(results), "--mteb", str(tmp_path)])
        ours = TaskResult.from_disk(next(tmp_path.rglob(f"{TASK.name}.json")))
        theirs = evaluate_in_mteb(Towers(), data / "song-describer")
        assert ours.get_score() == pytest.approx(theirs.get_score(), abs=1e-5), done.output
        assert (ours.task_name, ours.dataset_revision) == (theirs.task_name, theirs.dataset_revision)
        (own,), (expected,) = ours.scores["test"], theirs.scores["test"]
        left_out = {"mteb_version"}  # mteb rounds its scores to five digits
        assert set(expected) - set(own) - left_out == {name for name in expected if name.startswith("nauc")}
        for name in set(own) - left_out:
            assert own[name] == (pytest.approx(expected[name], abs=1e-5) if name != "languages" else ["eng-Latn"]), name
        assert set(own["languages"]) == set(expected["languages"])
        cache = mteb.ResultCache(cache_path=tmp_path)
        (model,) = cache.load_results(include_remote=False).model_results
        assert (model.model_name, model.model_revision) == ("carrara/towers", record.encoder.weights_sha256[:12])
        meta = adapters.mteb(Towers()).mteb_model_meta
        assert (model.model_name, model.model_revision) == (meta.name, meta.revision)

    def test_a_real_towers_network_runs_with_random_weights(self, roberta_json, tmp_path, monkeypatch):
        from torch.utils.data import DataLoader
        from transformers import ClapConfig, ClapModel

        import carrara

        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        audio = {"depths": [1, 1], "hidden_size": 16, "patch_embeds_hidden_size": 8, "num_attention_heads": [1, 2]}
        text = {**sizes, "vocab_size": 400, "max_position_embeddings": 40}
        model = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=16))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.4 * torch.randn(parameter.shape))
        model.save_pretrained(tmp_path / "clap")
        (tmp_path / "clap/tokenizer.json").write_bytes(roberta_json)
        monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
        write_songs(tmp_path / "song-describer", 12, 18, rate=48_000, seconds=1)
        encoder = carrara.load(tmp_path / "clap")
        (record,) = bench(encoder, [NAME], data_dir=tmp_path, results=tmp_path / "out", partial=True)
        theirs = evaluate_in_mteb(encoder, tmp_path / "song-describer")
        (expected,) = theirs.scores["test"]
        # The audio of a tower with random weights is all but the same, and stored features are in half precision, so a
        # rank may differ.
        assert record.scores["map"].value == pytest.approx(expected["mrr_at_1000"], abs=0.02)
        captions = [f"caption {number}" for number in range(5)]
        batches = DataLoader([{"text": text} for text in captions], batch_size=2)
        options = {"task_metadata": None, "hf_split": "test", "hf_subset": "default"}
        encoded = adapters.mteb(encoder).encode(batches, **options)
        np.testing.assert_allclose(encoded, encoder.encode_text(captions).numpy(), atol=1e-6)
        clips = [0.1 * np.random.default_rng(n).normal(size=48_000 + n).astype(np.float32) for n in range(3)]
        rows = [{"audio": {"array": clip, "sampling_rate": 48_000}} for clip in clips]
        encoded = adapters.mteb(encoder).encode(DataLoader(rows, batch_size=2), **options)
        with torch.no_grad():
            alone = torch.cat([encoder.encode_audio_joint(torch.from_numpy(clip)[None]) for clip in clips])
        np.testing.assert_allclose(encoded, alone.numpy(), atol=1e-5)
