"""Official folders, written by transformers itself with random weights: every layer equal, nothing run."""

import json

import pytest
import torch
from transformers import Data2VecAudioConfig, Data2VecAudioModel, HubertConfig, HubertForCTC, HubertModel

from carrara.core.errors import UsageError, WeightsError
from carrara.encoders._load import load

SMALL = {
    "vocab_size": 4,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (24,) * 7,
    "num_conv_pos_embedding_groups": 4,
}


def drawn(model):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def sound(rate=16_000):
    return 0.1 * torch.randn(2, rate, generator=torch.Generator().manual_seed(0))


def hubert(**changes):
    return HubertConfig(**{**SMALL, "num_conv_pos_embeddings": 16, **changes})


@torch.no_grad()
@pytest.mark.parametrize("kind", ["post", "pre", "layer"])
@pytest.mark.parametrize("spelling", ["safetensors", "new pickle", "old pickle", "shards"])
def test_a_hubert_folder_is_equal_layer_by_layer(tmp_path, kind, spelling):
    norm = "layer" if kind == "layer" else "group"
    model = drawn(HubertModel(hubert(do_stable_layer_norm=kind == "pre", feat_extract_norm=norm)))
    model.save_pretrained(tmp_path, max_shard_size="60KB" if spelling == "shards" else "1GB")
    if "pickle" in spelling:
        tensors = model.state_dict()
        if spelling == "old pickle":
            names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
            for new, old in names.items():
                tensors = {name.replace(new, old): tensor for name, tensor in tensors.items()}
        torch.save(tensors, tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    encoder = load(tmp_path)
    theirs = model(sound(), output_hidden_states=True)
    ours = encoder(sound())
    rows = list(theirs.hidden_states)
    if kind == "pre":
        rows[-1] = theirs.last_hidden_state
    torch.testing.assert_close(ours, torch.stack(rows, 1), atol=1e-5, rtol=1e-4)
    assert encoder.card.layers == 2 and encoder.card.width == 32 and encoder.card.frame_rate == 50
    assert encoder.card.weights == load(tmp_path).card.weights


@torch.no_grad()
def test_a_data2vec_folder_is_equal_layer_by_layer(tmp_path):
    config = Data2VecAudioConfig(**SMALL, num_conv_pos_embeddings=3, conv_pos_kernel_size=7)
    model = drawn(Data2VecAudioModel(config))
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"sampling_rate": 16000, "do_normalize": False}))
    theirs = model(sound(), output_hidden_states=True).hidden_states
    torch.testing.assert_close(load(tmp_path)(sound()), torch.stack(theirs, 1), atol=2e-5, rtol=1e-4)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"sampling_rate": 16000, "do_normalize": True}))
    assert load(tmp_path).settings.standardise


@torch.no_grad()
def test_a_mert_folder_is_known_by_its_rate_and_its_prefix_and_heads_fall_away(tmp_path):
    model = drawn(HubertModel(hubert()))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {
        "model_type": "mert_model",
        "feature_extractor_cqt": False,
        "attention_relax": 32.0,
        "auto_map": {"AutoModel": "modeling_MERT.MERTModel"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"sampling_rate": 24000, "do_normalize": True}))
    (tmp_path / "modeling_MERT.py").write_text("raise SystemExit('remote code was run')\n")
    tensors = {f"mert_model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {"final_proj.weight": torch.zeros(2, 2), "label_embs_concat": torch.zeros(4, 2)}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    encoder = load(tmp_path)
    assert type(encoder.settings).__name__ == "MertSettings" and encoder.card.frame_rate == 75
    heard = sound(24_000)
    normal = (heard - heard.mean(1, keepdim=True)) / (heard.var(1, unbiased=False, keepdim=True) + 1e-7).sqrt()
    theirs = model(normal, output_hidden_states=True).hidden_states
    torch.testing.assert_close(encoder(heard), torch.stack(theirs, 1), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_fine_tuned_model_gives_its_encoder(tmp_path):
    model = drawn(HubertForCTC(hubert()))
    model.save_pretrained(tmp_path)
    theirs = model.hubert(sound(), output_hidden_states=True).hidden_states
    torch.testing.assert_close(load(tmp_path)(sound()), torch.stack(theirs, 1), atol=1e-5, rtol=1e-4)


def test_random_weights_of_an_official_folder(tmp_path):
    drawn(HubertModel(hubert())).save_pretrained(tmp_path)
    one, other = load(f"{tmp_path}:random"), load(f"{tmp_path}:random-2")
    assert one.card.name.endswith(":random") and one.card.weights != other.card.weights != load(tmp_path).card.weights


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_what_is_not_right_is_named(tmp_path):
    drawn(HubertModel(hubert())).save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    content, text = weights.read_bytes(), config.read_text()
    weights.unlink()
    with pytest.raises(WeightsError, match="neither model.safetensors nor pytorch_model.bin"):
        load(tmp_path)
    torch.save({"x": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="run code"):
        load(tmp_path)
    weights.write_bytes(content)
    config.write_text(text.replace('"hidden_size": 32', '"hidden_size": 64'))
    with pytest.raises(WeightsError, match="another shape"):
        load(tmp_path)
    for change, says in (
        ({"model_type": "bert"}, "a 'bert' model"),
        ({"feature_extractor_cqt": True}, "CQT input"),
        ({"conv_dim": [24] * 6 + [32]}, "2 widths"),
    ):
        config.write_text(json.dumps(json.loads(text) | change))
        with pytest.raises(UsageError, match=says):
            load(tmp_path)
