"""Runs the original graphs of musicnn's wheel in TensorFlow and writes musicnn_reference.json beside this file.

Run once, in an environment of its own with TensorFlow 2.21 and librosa 0.11:
`python make_musicnn_reference.py musicnn-0.1.0-py3-none-any.whl`. The clip is a closed form of sample numbers (see
`clip`); its mel bands are librosa's with reflected edges, in single precision, so that nothing overflows.
"""

import json
import sys
import tempfile
import zipfile
from pathlib import Path

import librosa
import numpy as np
import tensorflow as tf

WINDOW = 187
FEATURES = {"musicnn": ("model/moments/mean", "model/Max"), "vgg": ("model/Flatten/flatten/Reshape",)}
EVERY = {"musicnn": 25, "vgg": 5}


def clip():
    """7 s at 16 kHz: a tone of three harmonics that slides up an octave and pulses, over a second, steady one."""
    seconds = np.arange(7 * 16_000) / 16_000
    phase = 2 * np.pi * 220 * 7 / np.log(2) * (2 ** (seconds / 7) - 1)
    pulse = np.maximum(np.cos(2 * np.pi * 2.5 * seconds), 0) ** 4
    tone = sum(np.sin(k * phase) / k for k in (1, 2, 3))
    return (0.05 * pulse * tone + 0.01 * np.sin(2 * np.pi * 1500 * seconds)).astype(np.float32)


def windows(samples):
    """The log-mel windows of musicnn without its half precision, [windows, 187, 96]."""
    mel = librosa.feature.melspectrogram(y=samples, sr=16_000, n_fft=512, hop_length=256, n_mels=96, pad_mode="reflect")
    logarithm = np.log10(10_000 * mel.T + 1)
    return logarithm[: len(logarithm) // WINDOW * WINDOW].reshape(-1, WINDOW, 96)


def run(folder, kind, mel):
    """The original graph's sigmoid outputs and features, mean over the windows."""
    graph = tf.compat.v1.MetaGraphDef()
    graph.ParseFromString((folder / ".meta").read_bytes())
    for node in graph.graph_def.node:
        node.attr.pop("_output_shapes", None)  # newer TensorFlows infer others and refuse the graph
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.train.import_meta_graph(graph).restore(session, f"{folder}/")
        feed = {"model/Placeholder:0": mel, "model/Placeholder_2:0": False}
        names = ("model/Sigmoid", *FEATURES[kind])
        tags, *features = session.run([f"{name}:0" for name in names], feed)
    features = np.concatenate([part.reshape(len(mel), -1) for part in features], axis=1)
    return tags.mean(axis=0), features.mean(axis=0)


def main():
    tf.compat.v1.disable_eager_execution()
    mel = windows(clip())
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(sys.argv[1]).extractall(folder)
        for name in ("MTT_musicnn", "MSD_musicnn", "MTT_vgg", "MSD_vgg"):
            kind = name.partition("_")[2]
            tags, features = run(Path(folder) / "musicnn" / name, kind, mel)
            found[name] = {
                "tags": [float(f"{value:.7g}") for value in tags],
                "every": EVERY[kind],
                "features": [float(f"{value:.7g}") for value in features[:: EVERY[kind]]],
            }
    text = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in found.items())
    Path(__file__).with_name("musicnn_reference.json").write_text(f"{{\n{text}\n}}\n")


if __name__ == "__main__":
    main()
