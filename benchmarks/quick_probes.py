"""Linear probes on every layer of an encoder, in a minute: for comparing recipes, not for reports.

    carrara download pebble
    python benchmarks/quick_probes.py ENCODER... --pebble ~/mir_datasets/pebble/demo --real DIR [--tasks key,note]

DIR is what benchmarks/real_audio.py built. For each task a ridge classifier on standardised features, pooled over time
by the mean, or by mean and standard deviation; penalty and layer by validation accuracy. Prints the test accuracy, and
that of every layer. `carrara bench` measures with MARBLE's search and intervals; nothing here has an interval.

Letters: N clips, L layers, D features, K classes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
import torch

import carrara
from carrara.encoders._base import Encoder

PEBBLE = {"key": "songs", "genre": "songs", "pitch": "notes", "family": "notes", "technique": "technique"}
REAL = {
    "instrument": ("notes", "family"), "note": ("notes", "note"), "real-key": ("keys", "key"),
    "style": ("scores", "style"), "drum": ("drums", "drum"), "soundtrack": ("games", "game"),
    "language": ("speech", "language"),
}  # fmt: skip
PENALTIES = (30.0, 300.0, 3000.0)
BATCH, MAX_SONGS, SHORTEST_SECONDS = 8, 400, 0.2


class Example(NamedTuple):
    """A clip of a file in seconds (None means all of it), its class and its split."""

    path: Path
    start: float
    duration: float | None
    label: str
    split: str


def main() -> None:
    """Print a line for each encoder and task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", nargs="+")
    parser.add_argument("--pebble", type=Path)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--tasks", default="")
    arguments = parser.parse_args()
    tasks = read_pebble(arguments.pebble) if arguments.pebble else {}
    tasks |= read_real(arguments.real) if arguments.real else {}
    selected = arguments.tasks.split(",") if arguments.tasks else list(tasks)
    for name in arguments.encoders:
        encoder = carrara.load(name)
        features: dict[tuple[tuple[Path, float], ...], np.ndarray] = {}
        for task in selected:
            examples = tasks[task]
            clips = tuple((example.path, example.start) for example in examples)
            if clips not in features:
                features[clips] = pooled_features(encoder, examples)
            scores = {}
            for pooling, end in (("mean", encoder.card.dim), ("mean and std", 2 * encoder.card.dim)):
                by_layer = [probe(layer_ND, examples) for layer_ND in features[clips][:, :, :end].transpose(1, 0, 2)]
                layers = " ".join(f"{100 * test:.0f}" for _, test in by_layer)
                scores[pooling] = f"{100 * max(by_layer)[1]:.1f} ({layers})"
            print(f"{name}\t{task}\t" + "\t".join(f"{pooling}: {text}" for pooling, text in scores.items()), flush=True)


def read_pebble(root: Path) -> dict[str, list[Example]]:
    """Return the examples of some of Pebble's tasks; of songs the first 400."""
    entries = [json.loads(line) for line in (root / "index.jsonl").open(encoding="utf-8")]
    return {
        label: [
            Example(root / entry["files"][0], 0.0, None, str(entry["labels"][label]), entry["sides"][scheme])
            for entry in entries
            if scheme in entry["sides"] and label in entry["labels"]
        ][: MAX_SONGS if scheme == "songs" else None]
        for label, scheme in PEBBLE.items()
    }


def read_real(root: Path) -> dict[str, list[Example]]:
    """Return the examples of the folder that real_audio.py built."""
    tasks = {}
    for task, (folder, label) in REAL.items():
        rows = [json.loads(line) for line in (root / folder / "labels.jsonl").open(encoding="utf-8")]
        tasks[task] = [
            Example(root / folder / row["path"], row.get("start", 0.0), row.get("duration"), row[label], row["split"])
            for row in rows
        ]
    return tasks


def pooled_features(encoder: Encoder, examples: list[Example]) -> np.ndarray:
    """Return means and standard deviations over each clip's own frames, `[N, L, 2 D]`."""
    rows = []
    for first in range(0, len(examples), BATCH):
        clips = [_load(example, encoder.card.sample_rate) for example in examples[first : first + BATCH]]
        lengths_B = torch.tensor([len(clip_T) for clip_T in clips])
        samples_BT = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(clip_T) for clip_T in clips], batch_first=True)
        with torch.inference_mode():
            layers_BLFD = encoder(samples_BT, lengths_B)
        for layers_LFD, length in zip(layers_BLFD, lengths_B.tolist()):
            own_LFD = layers_LFD[:, : encoder.num_frames(length)]
            rows.append(torch.cat([own_LFD.mean(1), own_LFD.std(1, correction=0)], -1).numpy())
    return np.stack(rows)


def probe(features_ND: np.ndarray, examples: list[Example]) -> tuple[float, float]:
    """Return validation and test accuracy of the best of three ridge classifiers."""
    split_N = np.array([example.split for example in examples])
    classes, labels_N = np.unique([example.label for example in examples], return_inverse=True)
    train_N = split_N == "train"
    mean_D, std_D = features_ND[train_N].mean(0), features_ND[train_N].std(0)
    x_ND = (features_ND - mean_D) / (std_D + 1e-6)
    targets_NK = np.eye(len(classes))[labels_N[train_N]]
    mean_K = targets_NK.mean(0)
    u, s, vt = np.linalg.svd(x_ND[train_N], full_matrices=False)
    results = []
    for penalty in PENALTIES:
        weights_DK = vt.T @ ((s / (s * s + penalty))[:, None] * (u.T @ (targets_NK - mean_K)))
        is_right_N = (x_ND @ weights_DK + mean_K).argmax(1) == labels_N
        results.append((float(is_right_N[split_N == "valid"].mean()), float(is_right_N[split_N == "test"].mean())))
    return max(results, key=lambda result: result[0])


def _load(example: Example, sample_rate: int) -> np.ndarray:
    info = soundfile.info(example.path)
    frames = round((example.duration or info.duration) * info.samplerate)
    start = round(example.start * info.samplerate)
    samples, rate = soundfile.read(example.path, frames=frames, start=start, dtype="float32", always_2d=True)
    mono_T = soxr.resample(samples.mean(1), rate, sample_rate)
    missing = round(SHORTEST_SECONDS * sample_rate) - len(mono_T)
    return np.pad(mono_T, (0, max(missing, 0)))


if __name__ == "__main__":
    main()
