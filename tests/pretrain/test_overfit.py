"""Eight short clips are learnt by heart: every recipe that names classes names over 90 % of the masked frames'."""

import pytest
import soundfile

from carrara.pretrain.metrics_log import read
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.run import pretrain

NETWORK = {
    "network.conv_channels": 24,
    "network.width": 64,
    "network.layers": 2,
    "network.heads": 2,
    "network.feed_forward": 128,
    "objective.final_width": 32,
    "masking.probability": 0.8,
    "optimiser.learning_rate": 5e-3,
    "crop_seconds": 1.0,
    "batch": 8,
    "steps": 200,
    "checkpoint_every": 200,
    "journal_every": 10,
}
CQT = {"targets.cqt.bins": 84, "targets.cqt.bins_per_octave": 12}
LOG_MEL_CHROMA = {"targets.log-mel.k": 12, "targets.log-mel.share": 1.0, "targets.chroma.k": 8}
# Residual books past the first hold what is close to noise; few classes keep 200 steps enough.
CODES = {"targets.codes.books": 2, "targets.codes.size": 8, "targets.codes.share": 1.0}
RECIPES = {
    "mert-v0": CQT | LOG_MEL_CHROMA | {"targets.chroma.share": 1.0},
    "mert-v1-95m-no-mixup": CQT | CODES,
    "mert-v1-95m-random-codebook": CQT | CODES | {"steps": 300},
    "mert-v1-330m": CQT | CODES | {"mixup.probability": 0.0},
    "musichubert-k500": {"targets.mfcc.k": 12, "targets.mfcc.share": 1.0},
    "musichubert-mfcc60": {"targets.mfcc.k": 12, "targets.mfcc.share": 1.0},
    "musichubert-iter2": {
        "targets.layer.k": 12,
        "targets.layer.share": 1.0,
        "targets.layer.encoder": "mert-tiny:random",
    },
}


@pytest.fixture(scope="module")
def clips(melody, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for number in range(8):
        soundfile.write(folder / f"{number}.wav", melody(1, number), 16_000)
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_eight_clips_are_learnt_by_heart(name, clips, tmp_path):
    folder = pretrain(resolve(name, "tiny", NETWORK | RECIPES[name]), clips, tmp_path / "out", device="cpu")
    last = read(folder / "journal.jsonl")[-1]
    accuracies = {key: value for key, value in last.items() if key.startswith("accuracy/")}
    assert accuracies
    assert all(accuracy > 0.9 for accuracy in accuracies.values()), accuracies
    assert last.get("relative/cqt", 0) < 0.3
