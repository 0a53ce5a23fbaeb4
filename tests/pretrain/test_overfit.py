"""Eight short clips are learnt by heart: over 90 % of the masked frames' clusters are named."""

import soundfile

from carrara.pretrain.journal import read
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.run import pretrain

NETWORK = {
    "network.conv_channels": 24,
    "network.width": 64,
    "network.layers": 2,
    "network.heads": 2,
    "network.feed_forward": 128,
    "targets.log-mel.k": 12,
    "targets.log-mel.share": 1.0,
    "targets.chroma.k": 8,
    "targets.chroma.share": 1.0,
    "targets.cqt.bins": 84,
    "targets.cqt.bins_per_octave": 12,
    "objective.final_width": 32,
    "masking.probability": 0.8,
    "optimiser.learning_rate": 5e-3,
    "crop_seconds": 1.0,
    "batch": 8,
    "steps": 200,
    "checkpoint_every": 200,
    "journal_every": 10,
}


def test_eight_clips_are_learnt_by_heart(tmp_path, melody):
    for number in range(8):
        soundfile.write(tmp_path / f"{number}.wav", melody(1, number), 16_000)
    folder = pretrain(resolve("mert-v0", "tiny", NETWORK), tmp_path, tmp_path / "out", device="cpu")
    last = read(folder / "journal.jsonl")[-1]
    assert last["accuracy/log-mel"] > 0.9
    assert last["accuracy/chroma"] > 0.9
    assert last["relative/cqt"] < 0.3
