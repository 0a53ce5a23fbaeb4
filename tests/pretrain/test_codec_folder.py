"""A codec's folder: what is saved comes back, and anything else is refused by name."""

import pytest
import torch

from carrara.core.errors import UsageError, WeightsError
from carrara.nn.quantize.rvq_vae import RVQVAE, CodecSettings
from carrara.pretrain.codec_folder import load_codec, save_codec

TINY = CodecSettings(sample_rate=16_000, filters=4, latent=8, num_codebooks=3, codebook_size=16)


def test_a_codec_comes_back_as_it_was(tmp_path):
    samples = 0.1 * torch.randn(2, 16_000, generator=torch.Generator().manual_seed(1))
    codec = RVQVAE(TINY, seed=3).train()
    codec.books.start(codec.latents(samples), torch.Generator().manual_seed(0))
    save_codec(codec.eval(), tmp_path)
    loaded = load_codec(tmp_path)
    assert loaded.settings == TINY
    assert not loaded.training
    codes = codec.encode(samples)
    assert torch.equal(loaded.encode(samples), codes)
    assert torch.equal(loaded.decode(codes), codec.decode(codes))


def test_a_folder_without_a_codec_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="config.json: no RVQ-VAE .*carrara pretrain rvq-vae"):
        load_codec(tmp_path)
    (tmp_path / "config.json").write_text('{"rvq-vae": {"filtres": 3}}')
    with pytest.raises(UsageError, match="filtres"):
        load_codec(tmp_path)
