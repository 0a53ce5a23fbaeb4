"""Eight short clips are overfitted: every recipe with classes predicts over 90 % of the masked frames'."""

import pytest
import soundfile

from carrara.pretrain.metrics_log import read_metrics
from carrara.pretrain.recipes._base import resolve
from carrara.pretrain.run import pretrain

pytestmark = pytest.mark.slow

NETWORK = {
    "network.conv_channels": 24,
    "network.dim": 64,
    "network.num_layers": 2,
    "network.num_heads": 2,
    "network.ffn_dim": 128,
    "objective.final_dim": 32,
    "masking.mask_prob": 0.8,
    "optimiser.learning_rate": 5e-3,
    "crop_seconds": 1.0,
    "batch": 8,
    "steps": 200,
    "checkpoint_every": 200,
    "log_every": 10,
}
CQT = {"targets.cqt.bins": 84, "targets.cqt.bins_per_octave": 12}
LOG_MEL_CHROMA = {"targets.log-mel.k": 12, "targets.log-mel.fraction": 1.0, "targets.chroma.k": 8}
# Residual codebooks after the first are close to noise; with few classes 200 steps suffice.
CODES = {"targets.codes.num_codebooks": 2, "targets.codes.codebook_size": 8, "targets.codes.fraction": 1.0}
RECIPES = {
    "mert-v0": CQT | LOG_MEL_CHROMA | {"targets.chroma.fraction": 1.0},
    "mert-v1-95m-no-mixup": CQT | CODES,
    "mert-v1-95m-random-codebook": CQT | CODES | {"steps": 300},
    "mert-v1-330m": CQT | CODES | {"mixup.probability": 0.0},
    "musichubert-k500": {"targets.mfcc.k": 12, "targets.mfcc.fraction": 1.0},
    "musichubert-mfcc60": {"targets.mfcc.k": 12, "targets.mfcc.fraction": 1.0},
    "musichubert-iter2": {
        "targets.layer.k": 12,
        "targets.layer.fraction": 1.0,
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
def test_eight_clips_are_overfitted(name, clips, tmp_path):
    folder = pretrain(resolve(name, "tiny", NETWORK | RECIPES[name]), clips, tmp_path / "out", device="cpu")
    last = read_metrics(folder / "metrics.jsonl")[-1]
    accuracies = {key: value for key, value in last.items() if key.startswith("accuracy/")}
    assert accuracies
    assert all(accuracy > 0.9 for accuracy in accuracies.values()), accuracies
    assert last.get("relative_mse/cqt", 0) < 0.3
