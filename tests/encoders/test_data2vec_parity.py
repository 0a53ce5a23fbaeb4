"""The data2vec-shaped network against Hugging Face's with the same random weights, every layer."""

import torch
from transformers import Data2VecAudioConfig, Data2VecAudioModel, Wav2Vec2FeatureExtractor

from carrara.encoders._hub.load import build_encoder
from carrara.formats.weights import load_state_dict_strict

CHANGES = {
    "conv_channels": 24,
    "dim": 32,
    "num_layers": 3,
    "num_heads": 4,
    "ffn_dim": 48,
    "position_groups": 4,
}


def twin():
    config = Data2VecAudioConfig(
        vocab_size=4,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=(24,) * 7,
        num_conv_pos_embeddings=5,
        conv_pos_kernel_size=19,
        num_conv_pos_embedding_groups=4,
    )
    model = Data2VecAudioModel(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def ours(model, **changes):
    encoder = build_encoder("music2vec-v1", changes={**CHANGES, **changes}).eval()
    load_state_dict_strict(encoder, model.state_dict(), "transformers")
    return encoder


def noise(*shape):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_every_layer_equals_hugging_face():
    model, x = twin(), noise(2, 5000)
    theirs = model(x, output_hidden_states=True)
    layers = ours(model, standardise=False)(x)
    assert len(theirs.hidden_states) == layers.shape[1]
    for i, row in enumerate(theirs.hidden_states):
        torch.testing.assert_close(layers[:, i], row, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layers[:, -1], theirs.last_hidden_state, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_standardising_equals_hugging_faces_feature_extractor():
    model = twin()
    clips = [3 * noise(5000) + 0.2, noise(2300) - 0.1]
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    given = extractor([clip.numpy() for clip in clips], sampling_rate=16000, padding=True, return_tensors="pt")
    theirs = model(**given, output_hidden_states=True).hidden_states
    encoder, lengths = ours(model, padding="original"), torch.tensor([5000, 2300])
    layers = encoder(torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), lengths)
    for i, row in enumerate(theirs):
        for clip, frames in enumerate(encoder.frame_lengths(lengths)):
            torch.testing.assert_close(layers[clip, i, :frames], row[clip, :frames], atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_masked_does_not_leak_where_the_published_positions_do():
    model, lengths = twin(), torch.tensor([5000, 2300])
    batch = noise(2, 5000)
    for padding, leaks in (("original", True), ("masked", False)):
        encoder = ours(model, padding=padding)
        alone = encoder(batch[1:, :2300])[0]
        together = encoder(batch, lengths)[1, :, : encoder.num_frames(2300)]
        assert bool((alone - together).abs().max() > 1e-3) is leaks
