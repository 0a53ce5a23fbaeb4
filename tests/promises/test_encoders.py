"""What every encoder on the shelf keeps; a new file is tested by existing.

Networks whose weights must be had are built with random ones. The large ones are only built without memory (on torch's
meta device) to check their cards; those small enough to run are run.
"""

import pytest
import torch

from carrara.encoders import SHELF
from carrara.encoders._load import build

SMALL = 5_000_000
NAMES = SHELF.names()


def meta(name):
    with torch.device("meta"):
        return build(name)


RUNNABLE = [name for name in NAMES if sum(p.numel() for p in meta(name).parameters()) <= SMALL]


@pytest.fixture(scope="module")
def encoders():
    return {name: build(name).eval() for name in RUNNABLE}


@pytest.fixture
def inference():
    with torch.inference_mode():
        yield


def noise(seconds, rate, seed=0):
    return 0.1 * torch.randn(1, int(seconds * rate), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
def test_the_card_tells_the_truth(name):
    encoder = meta(name)
    card = encoder.card
    assert card.name == name
    assert card.parameters == sum(parameter.numel() for parameter in encoder.parameters())
    assert SHELF.entry(name).summary
    assert card.license or not SHELF.get(name).trained


@pytest.mark.parametrize("name", NAMES)
def test_variants_are_those_the_file_names(name):
    family = SHELF.get(name)
    assert set(family.variants) == {
        entry.name for entry in SHELF.entries.values() if entry.module == SHELF.entry(name).module
    }


@pytest.mark.usefixtures("inference")
@pytest.mark.parametrize("name", RUNNABLE)
class TestOutput:
    def test_shape_and_frame_rate_are_as_declared(self, encoders, name):
        encoder, card = encoders[name], encoders[name].card
        layers = encoder(noise(2, card.sample_rate))
        samples = 2 * card.sample_rate
        assert layers.shape == (1, card.layers + 1, encoder.frames(samples), card.width)
        assert torch.isfinite(layers).all()
        if card.frame_rate:
            assert abs(encoder.frames(samples) - 2 * card.frame_rate) <= 2
        else:
            assert encoder.frames(samples) == 1

    def test_the_same_input_gives_the_same_output(self, encoders, name):
        samples = noise(1, encoders[name].card.sample_rate)
        assert torch.equal(encoders[name](samples), encoders[name](samples))

    def test_a_batch_of_unequal_lengths_gives_what_each_alone_gives(self, encoders, name):
        encoder, rate = encoders[name], encoders[name].card.sample_rate
        seconds = (1.0, 2.0, 0.35)
        clips = [noise(length, rate, seed)[0] for seed, length in enumerate(seconds)]
        batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
        together = encoder(batch, torch.tensor([len(clip) for clip in clips]))
        for row, clip in zip(together, clips):
            alone = encoder(clip[None])[0]
            frames = encoder.frames(len(clip))
            torch.testing.assert_close(row[:, :frames], alone, atol=2e-5, rtol=1e-4)
            assert not row[:, frames:].any()

    @pytest.mark.parametrize("kind", ["silence", "constant", "one sample", "loud"])
    def test_odd_input_stays_finite(self, encoders, name, kind):
        rate = encoders[name].card.sample_rate
        samples = {
            "silence": torch.zeros(1, rate),
            "constant": torch.full((1, rate), 0.5),
            "one sample": torch.full((1, 1), 0.5),
            "loud": 1000 * noise(1, rate),
        }[kind]
        layers = encoders[name](samples)
        assert torch.isfinite(layers).all()
        assert layers.shape[2] == encoders[name].frames(samples.shape[1]) >= 1

    def test_a_minute_is_heard(self, encoders, name):
        encoder, rate = encoders[name], encoders[name].card.sample_rate
        assert encoder(noise(60, rate)).shape[2] == encoder.frames(60 * rate)

    def test_bfloat16_is_near_float32(self, encoders, name):
        samples = noise(1, encoders[name].card.sample_rate)
        exact = encoders[name](samples)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = encoders[name](samples).float()
        assert torch.nn.functional.cosine_similarity(exact.flatten(), rough.flatten(), dim=0) > 0.99

    def test_the_extra_cnn_is_as_declared(self, encoders, name):
        encoder, card = encoders[name], encoders[name].card
        samples = noise(1, card.sample_rate)
        if card.cnn_width is None:
            with pytest.raises(NotImplementedError):
                encoder.cnn(samples)
        else:
            assert encoder.cnn(samples).shape == (1, encoder.frames(card.sample_rate), card.cnn_width)
