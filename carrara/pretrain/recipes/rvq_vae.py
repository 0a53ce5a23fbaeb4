"""RVQ-VAE: our own small codec, trained on a corpus; its eight codebooks are a target that can be listened to.

The result is not an encoder but a target: `codes` with source `rvq-vae`. MERT's target is EnCodec [defossez2022] (24
kHz, 8 codebooks of 1024, 75 frames a second), whose weights we do not ship; this codec has the same label layout.
Adam's betas are EnCodec's; the learning rate is higher than its 3e-4, because there is no discriminator. EnCodec's
weights of 0.1 for the waveform and 1 for the spectra are fractions of the gradient, which its balancer ensures; bare
losses differ in size (a sample's error is some hundredths, a spectral distance 2 to 9). On 8 melodies (4 filters, 32
codes, 300 steps of 3.2 s) the spectral distance of unseen ones was 2.95 with a weight of 10 for the waveform, 3.12 with
1, 3.17 with 0.1, and 3.07 at a third of the learning rate (measured 2026-11-21).

Scales: `base` has 16 filters and 1024 codes, for a GPU. `small`: 8 filters. `tiny`: 8 filters, 256 codes, 16 kHz (50
frames a second, for students of MERT-v0's architecture): 0.65 s a step on one core, a quarter of an hour.
"""

from __future__ import annotations

from pydantic import Field

from carrara.nn.quantize.rvq_vae import CodecSettings
from carrara.pretrain.recipes._base import OptimiserSettings, RecipeFamily, TrainingSettings

VARIANTS = {
    "rvq-vae": "RVQ-VAE: a codec of 8 codebooks trained on the corpus, as a target that can be decoded to audio"
}


class CodecRecipe(TrainingSettings):
    """Everything that determines a training of the codec except the corpus.

    Attributes:
        network: settings of the codec.
        waveform, commitment: weights of these losses; the spectral distance has weight 1.

    The other settings are those of `Recipe` and `TrainingSettings`.
    """

    network: CodecSettings = CodecSettings()
    optimiser: OptimiserSettings = OptimiserSettings(
        learning_rate=1e-3, warmup_fraction=0.01, betas=(0.5, 0.9), weight_decay=0.0, max_grad_norm=1.0
    )
    waveform: float = Field(default=10.0, ge=0)
    commitment: float = Field(default=1.0, ge=0)
    crop_seconds: float = Field(default=1.0, gt=0)
    batch: int = Field(default=64, ge=1)
    steps: int = Field(default=300_000, ge=1)
    checkpoint_every: int = Field(default=1000, ge=1)
    log_every: int = Field(default=100, ge=1)


RECIPE = RecipeFamily(
    variants={"rvq-vae": CodecRecipe(network=CodecSettings(filters=16))},
    scales={
        "base": {},
        "small": {"network.filters": 8, "steps": 50_000},
        "tiny": {
            "network.sample_rate": 16_000,
            "network.filters": 8,
            "network.codebook_size": 256,
            "optimiser.learning_rate": 3e-3,
            "batch": 16,
            "steps": 1500,
            "checkpoint_every": 150,
            "log_every": 20,
        },
    },
)
