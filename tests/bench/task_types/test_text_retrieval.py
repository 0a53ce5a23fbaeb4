"""Text retrieval: metrics against brute force, and a run on files of Song Describer's layout with a stand-in tower."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from carrara.bench.run import bench
from carrara.bench.task_types import REGISTRY
from carrara.bench.tasks import task as load_task
from carrara.bench.text_retrieval import rank_positives
from carrara.core.clip import Clip
from carrara.core.errors import DataError, UsageError
from carrara.data import REGISTRY as DATASETS
from carrara.encoders._base import Card
from carrara.encoders._text.tower import TextEncoder

TEXT = REGISTRY.get("text_retrieval")
TASK = load_task("song-describer/text")
RATE = 8000
WORDS = {"low": 200.0, "middle": 500.0, "high": 1100.0, "shrill": 2500.0}


def brute_force(ranks):
    """The metrics of one query from a list of which ranks are relevant, straight from their definitions."""
    relevant = [rank + 1 in ranks for rank in range(max(ranks))]
    precisions = [sum(relevant[: k + 1]) / (k + 1) for k in range(len(relevant)) if relevant[k]]
    return {
        "map": sum(precisions) / len(ranks),
        "mrr": 1 / (relevant.index(True) + 1),
        **{f"hit_at_{k}": float(any(relevant[:k])) for k in (1, 5, 10)},
        "r_precision": sum(relevant[: len(ranks)]) / len(ranks),
    }


def test_scores_equal_brute_force_on_a_thousand_texts():
    draw = np.random.default_rng(0)
    truths, predictions, expected, first = [], [], [], []
    while len(expected) < 1000:
        count = int(draw.integers(0, 4))
        audio, texts = draw.normal(size=(30, 5)), draw.normal(size=(count, 5))
        positive = draw.random((count, 30)) < 0.1
        ranks = [each.tolist() for each in rank_positives(texts, audio, positive)]
        for text, row, rank_R in zip(texts, positive, ranks):
            cosine = [float(text @ a / np.linalg.norm(text) / np.linalg.norm(a)) for a in audio]
            ranked = sorted(range(30), key=lambda i: -cosine[i])
            assert rank_R == [1 + ranked.index(i) for i in ranked if row[i]]
            if rank_R:
                expected.append(brute_force(rank_R))
                first.append(rank_R[0])
        truths.append([f"text {i}" for i in range(count)])
        predictions.append(ranks)
    scores = TEXT.metrics(TASK, truths, predictions)
    for name in expected[0]:
        assert scores[name] == pytest.approx(np.mean([each[name] for each in expected]), abs=1e-12), name
    assert scores["median_rank"] == np.median(first)
    assert scores["with_positive"] == len(expected) / sum(map(len, truths)) < 1


def test_labels():
    clips = [Clip("a", Path("a.wav"), labels={"captions": "slow"}), Clip("b", Path("b.wav"))]
    assert TEXT.truths(TASK, clips) == [["slow"], []]
    with pytest.raises(DataError, match="no clip has captions"):
        TEXT.truths(TASK, clips[1:])
    for wrong in (7, [""], ["slow", None]):
        with pytest.raises(DataError, match="not a text or texts"):
            TEXT.truths(TASK, [Clip("a", Path("a.wav"), labels={"captions": wrong})])


class Towers(TextEncoder):
    """A text tower that knows four words, and an audio tower that hears four pitches; the words are their names."""

    def __init__(self) -> None:
        super().__init__()
        facts = {
            "sample_rate": RATE,
            "frame_rate": 10.0,
            "num_layers": 1,
            "dim": 8,
            "joint_dim": 4,
            "weights_sha256": "c" * 64,
        }
        self.card = Card(name="towers", **facts)

    def encode_text(self, texts):
        rows = [[float(word in text) + 0.01 for word in WORDS] for text in texts]
        return torch.nn.functional.normalize(torch.tensor(rows), dim=-1)

    def encode_audio_joint(self, samples, lengths=None):
        vectors = []
        for index, sound in enumerate(samples):
            own = sound if lengths is None else sound[: int(lengths[index])]
            level = torch.fft.rfft(own).abs()
            bins = [round(hz * len(own) / RATE) for hz in WORDS.values()]
            vectors.append(torch.stack([level[max(0, b - 3) : b + 4].max() for b in bins]))
        return torch.nn.functional.normalize(torch.stack(vectors), dim=-1)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Files of Song Describer's layout: recordings of one pitch, captions that name it, one caption not validated."""
    root = tmp_path_factory.mktemp("data") / "song-describer"
    header = ["caption_id", "track_id", "caption", "is_valid_subset", "familiarity", "artist_id", "album_id", "path"]
    rows = [[*header, "duration"]]
    for number, (word, hz) in enumerate(WORDS.items()):
        track = 1000000 + number
        path = root / f"audio/{number:02}/{track}.2min.mp3"
        path.parent.mkdir(parents=True)
        time = np.arange(2 * RATE) / RATE
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * hz * time), RATE, format="MP3")
        file = f"{number:02}/{track}.mp3"
        rows.append([number, track, f"A {word} sound, held\nfor long", "True", 3, 5, 6, file, 200.5])
        rows.append([50 + number, track, "I like it", "" if number else "False", 1, 5, 6, file, 200.5])
    with (root / "song_describer.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


def test_song_describers_files_are_read(copy):
    dataset = DATASETS.get("song-describer")
    clip = dataset.clips(copy, "valid")[1]
    assert clip.labels["captions"] == ["A middle sound, held\nfor long"] and len(clip.labels["all_captions"]) == 2
    assert clip.id == "1000001" and clip.split == "test" and clip.group == "5"
    report = dataset.check(copy)
    assert not report.missing and not report.unreadable and not report.extra and not report.leaks
    assert report.differing == (
        "valid/test: 4 clips, should be 546",
        "full/test: 4 clips, should be 706",
    )
    with pytest.raises(DataError, match="carrara download song-describer"):
        dataset.index(copy.parent / "elsewhere")


def test_texts_find_their_recordings(copy, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    common = {"data_dir": copy.parent, "results": tmp_path / "out", "partial": True}
    valid, full = bench(Towers(), ["song-describer/text", "song-describer/text-full"], **common)
    assert valid.scores["map"].value == 1 and valid.scores["median_rank"].value == 1
    assert str(valid.scores["median_rank"]).startswith("1.0 [") and str(valid.scores["map"]).startswith("100.0 [")
    assert valid.scores["median_rank"].better == "lower"
    assert valid.data.n == {"train": 0, "valid": 0, "test": 4} and valid.protocol.chosen == {"space": "joint"}
    # "I like it" is a caption of all four, so all four are its positives.
    assert full.scores["map"].value == 1 and full.scores["r_precision"].value == 1
    assert not bench("noise", "song-describer/text", **common)
    assert "noise has no text tower" in capsys.readouterr().err
    with pytest.raises(UsageError, match="text_retrieval trains no probe; use --protocol constrained"):
        bench(Towers(), "song-describer/text", protocol="linear", **common)
