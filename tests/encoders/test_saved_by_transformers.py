"""Folders that the installed transformers writes (`save_pretrained`), in ten shapes, with clips of unequal length."""

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioForSequenceClassification,
    Data2VecAudioModel,
    HubertConfig,
    HubertForCTC,
    HubertForSequenceClassification,
    HubertModel,
    Wav2Vec2FeatureExtractor,
)

from carrara.encoders._hub.load import load, with_settings

SMALL = {
    "vocab_size": 4,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (24,) * 7,
    "num_conv_pos_embedding_groups": 4,
}
HUBERT = {**SMALL, "num_conv_pos_embeddings": 16}
DATA2VEC = {**SMALL, "num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 7}
PRE = {"do_stable_layer_norm": True}
LARGE = {**PRE, "feat_extract_norm": "layer", "conv_bias": True}
# Another front end: a frame every 10 ms from kernels of other lengths.
FRONT_END = {"conv_dim": (24,) * 3, "conv_kernel": (20, 4, 3), "conv_stride": (10, 4, 4)}
SHAPES = {
    "HuBERT base: post-LN, group norm": (HubertModel, HUBERT, {}),
    "pre-LN, group norm": (HubertModel, HUBERT | PRE, {}),
    "HuBERT large: pre-LN, layer norm, convolutions with bias": (HubertModel, HUBERT | LARGE, {}),
    "another front end, an odd positional kernel": (
        HubertModel,
        HUBERT | FRONT_END | {"num_conv_pos_embeddings": 15},
        {},
    ),
    "in shards": (HubertModel, HUBERT, {"max_shard_size": "60KB"}),
    "half precision": (HubertModel, HUBERT, {"dtype": torch.float16}),
    "fine-tuned for CTC": (HubertForCTC, HUBERT | LARGE, {}),
    "fine-tuned to classify, with a weighted sum of layers": (
        HubertForSequenceClassification,
        HUBERT | {"use_weighted_layer_sum": True},
        {},
    ),
    "data2vec-audio": (Data2VecAudioModel, DATA2VEC, {}),
    "data2vec-audio fine-tuned, with biases, in shards": (
        Data2VecAudioForSequenceClassification,
        DATA2VEC | {"conv_bias": True},
        {"max_shard_size": "80KB"},
    ),
}
SECONDS = (1.0, 0.41, 0.73)


@pytest.fixture(params=SHAPES.items(), ids=list(SHAPES))
def saved(request, tmp_path):
    """(folder, the network that transformers saved there, its norm placement)."""
    _, (kind, values, how) = request.param
    torch.manual_seed(0)
    config = (HubertConfig if "Hubert" in kind.__name__ else Data2VecAudioConfig)(**values)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    dtype = how.get("dtype", torch.float32)
    model.to(dtype).save_pretrained(tmp_path, **{key: value for key, value in how.items() if key != "dtype"})
    Wav2Vec2FeatureExtractor(sampling_rate=16_000, do_normalize=False).save_pretrained(tmp_path)
    network = model if kind in (HubertModel, Data2VecAudioModel) else getattr(model, model.base_model_prefix)
    return tmp_path, network.float(), config


def transformers_layers(network, config, samples_BT, mask_BT=None):
    """Return every layer, the last of pre-LN networks after the final norm as transformers 4 gave it."""
    output = network(samples_BT, attention_mask=mask_BT, output_hidden_states=True)
    layers = list(output.hidden_states)
    if config.model_type == "hubert" and config.do_stable_layer_norm:
        layers[-1] = output.last_hidden_state
    return torch.stack(layers, 1)


@torch.no_grad()
def test_clips_of_unequal_length_have_transformers_features(saved):
    folder, network, config = saved
    encoder = load(folder)
    generator = torch.Generator().manual_seed(1)
    clips = [0.1 * torch.randn(int(seconds * 16_000), generator=generator) for seconds in SECONDS]
    lengths_B = torch.tensor([len(clip) for clip in clips])
    batch_BT = pad_sequence(clips, batch_first=True)
    together = encoder(batch_BT, lengths_B)
    for row, clip in zip(together, clips):
        frames = encoder.num_frames(len(clip))
        theirs = transformers_layers(network, config, clip[None])
        assert theirs.shape[2] == frames
        torch.testing.assert_close(encoder(clip[None]), theirs, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(row[:, :frames], theirs[0], atol=1e-4, rtol=1e-4)
        assert not row[:, frames:].any()
    # In a batch of its own, transformers lets the padding leak, as `padding="original"` does.
    mask_BT = (torch.arange(batch_BT.shape[1]) < lengths_B[:, None]).long()
    theirs = transformers_layers(network, config, batch_BT, mask_BT)
    original = with_settings(encoder, {"padding": "original"})(batch_BT, lengths_B)
    for ours, expected, clip in zip(original, theirs, clips):
        frames = encoder.num_frames(len(clip))
        torch.testing.assert_close(ours[:, :frames], expected[:, :frames], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_standardising_is_the_feature_extractors(tmp_path):
    torch.manual_seed(0)
    network = HubertModel(HubertConfig(**(HUBERT | LARGE))).eval()
    network.save_pretrained(tmp_path)
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=16_000, do_normalize=True, return_attention_mask=True)
    extractor.save_pretrained(tmp_path)
    encoder = load(tmp_path)
    generator = torch.Generator().manual_seed(1)
    clips = [0.02 + 0.1 * torch.randn(int(seconds * 16_000), generator=generator) for seconds in SECONDS]
    together = encoder(pad_sequence(clips, batch_first=True), torch.tensor([len(clip) for clip in clips]))
    for row, clip in zip(together, clips):
        standardised_BT = extractor(clip.numpy(), sampling_rate=16_000, return_tensors="pt").input_values
        theirs = transformers_layers(network, network.config, standardised_BT)[0]
        torch.testing.assert_close(row[:, : theirs.shape[1]], theirs, atol=1e-4, rtol=1e-4)
