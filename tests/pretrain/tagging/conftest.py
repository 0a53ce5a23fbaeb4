"""A folder of short tones with tags that a small network can learn: low or high, steady or pulsed."""

import numpy as np
import pytest
import soundfile

from carrara.pretrain.recipes._base import resolve

RATE = 16_000
MICRO = {
    "network.frames": 96,
    "network.dim": 32,
    "network.num_layers": 2,
    "network.num_heads": 2,
    "network.ffn_dim": 64,
    "crop_seconds": 1.536,
    "patchout": 3,
    "epoch_clips": 12,
    "batch": 4,
    "epochs": 4,
    "optimiser.warmup_epochs": 1,
    "optimiser.hold_until": 2,
    "optimiser.ramp_down": 2,
    "swa.first": 2,
    "swa.every": 1,
    "validate_every": 2,
    "checkpoint_every": 4,
    "log_every": 2,
}


def tone(number, seconds):
    """Return a tone: high where the number is odd, pulsed where its half is."""
    time = np.arange(int(seconds * RATE)) / RATE
    draw = np.random.default_rng(number)
    pitch = draw.uniform(1500, 3000) if number % 2 else draw.uniform(100, 250)
    sound = sum(np.sin(2 * np.pi * pitch * partial * time) / partial for partial in (1, 2))
    pulse = (np.sin(2 * np.pi * 6 * time) > 0) if number // 2 % 2 else 1.0
    return 0.2 * pulse * sound + 0.003 * draw.normal(size=len(time))


@pytest.fixture(scope="session")
def labelled(tmp_path_factory):
    """A folder of 24 tones of one to four seconds with labels.csv, 16 to train and 8 to validate on."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = ["path,split,tags[]"]
    for number in range(24):
        soundfile.write(folder / f"{number}.wav", tone(number, 1 + number % 4), RATE)
        tags = ["high" if number % 2 else "low", "pulsed" if number // 2 % 2 else "steady"]
        rows.append(f"{number}.wav,{'train' if number < 16 else 'valid'},{';'.join(tags)}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="session")
def micro():
    """maest-5s at its tiny scale, smaller still; a function of further changes."""
    return lambda **changes: resolve("maest-5s", "tiny", MICRO | {k.replace("__", "."): v for k, v in changes.items()})
