"""`pebble/caption`: words trained on songs find the pieces that captions describe, above chance."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from carrara.bench.run import bench
from carrara.encoders._text.tower import PROMPTS

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "caption.py"
RATE = 24_000
GENRES, KEYS, SPLITS = ("jazz", "rock"), ("C major", "F minor", "Ab major"), ("train", "valid", "test")


def write_clips(root):
    """Files of Pebble's layout: the key is the pitch, and the genre whether there is noise."""
    lines = []
    for collection, count in (("songs", 72), ("pieces", 36)):
        for number in range(count):
            genre, key = GENRES[number % 2], KEYS[number // 2 % 3]
            time = np.arange(RATE // 2) / RATE
            sound = 0.3 * np.sin(2 * np.pi * 262 * 2 ** (KEYS.index(key) * 4 / 12) * time)
            draw = np.random.default_rng([number, count])
            sound += (0.001, 0.05)[number % 2] * draw.standard_normal(len(time)) * draw.uniform(0.5, 1)
            name = f"{collection}-{number:05}"
            path = root / f"audio/{collection}/{name}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, sound, RATE)
            labels = {"tags": [genre], "key": key, "caption": f"A {genre} piece in {key}."}
            lines.append({"id": name, "files": [f"audio/{collection}/{name}.flac"], "bytes": [1], "seconds": 0.5,
                          "groups": {collection: name}, "sides": {collection: SPLITS[number % 9 // 3]},
                          "labels": labels})  # fmt: skip
    (root / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    meta = {"version": 1, "counts": {"songs": 72, "pieces": 36}, "identity": "0"}
    (root / "meta.json").write_text(json.dumps(meta))


def test_captions_find_their_pieces_above_chance(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    write_clips(tmp_path / "pebble/demo")
    script = runpy.run_path(str(SCRIPT))
    encoder, words = script["train"](tmp_path), script["WORDS"]
    tokens = encoder.tokenize(
        ["A Dark slow hip hop piece in Ab major, played on piano, without drums.", "nothing of it"]
    )
    named = {words[token] for token in tokens[0]}
    assert named == {"dark", "slow", "hip hop", "Ab major", "piano", "no drums"} and tokens[1] == [len(words)]
    assert encoder.encode_text([PROMPTS[0]])[0, words.index("jazz")] == 1
    assert torch.count_nonzero(encoder.encode_text(["hip hop"])) == 0, "of no song in training"
    (record,) = bench(encoder, "pebble/caption", data_dir=tmp_path, results=tmp_path / "out", partial=True)
    # Six captions of two pieces each, in a random order.
    assert script["chance"](tmp_path) < 0.4 and record.scores["map"].value > 0.6
