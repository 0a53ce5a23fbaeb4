"""Official folders, written by transformers itself with random weights: every layer equal, nothing run."""

import argparse
import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Data2VecAudioConfig, Data2VecAudioModel, HubertConfig, HubertForCTC, HubertModel

from carrara.core.errors import UsageError, WeightsError
from carrara.encoders._hub.load import load, model_card
from carrara.formats.weights import save_tensors

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


def write_raw(folder):
    """Say in a folder that samples go into its network as they are, as transformers' models take them."""
    (folder / "preprocessor_config.json").write_text('{"do_normalize": false}')


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
    write_raw(tmp_path)
    encoder = load(tmp_path)
    theirs = model(sound(), output_hidden_states=True)
    ours = encoder(sound())
    rows = list(theirs.hidden_states)
    if kind == "pre":
        rows[-1] = theirs.last_hidden_state
    torch.testing.assert_close(ours, torch.stack(rows, 1), atol=1e-5, rtol=1e-4)
    assert encoder.card.num_layers == 2 and encoder.card.dim == 32 and encoder.card.frame_rate == 50
    assert encoder.card.weights_sha256 == load(tmp_path).card.weights_sha256


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
def test_a_mert_folder_is_recognised_by_rate_and_prefix_and_its_heads_are_dropped(tmp_path):
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
    samples = sound(24_000)
    normal = (samples - samples.mean(1, keepdim=True)) / (samples.var(1, unbiased=False, keepdim=True) + 1e-7).sqrt()
    theirs = model(normal, output_hidden_states=True).hidden_states
    torch.testing.assert_close(encoder(samples), torch.stack(theirs, 1), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_fine_tuned_model_gives_its_encoder(tmp_path):
    model = drawn(HubertForCTC(hubert()))
    model.save_pretrained(tmp_path)
    write_raw(tmp_path)
    theirs = model.hubert(sound(), output_hidden_states=True).hidden_states
    torch.testing.assert_close(load(tmp_path)(sound()), torch.stack(theirs, 1), atol=1e-5, rtol=1e-4)


def test_random_weights_of_an_official_folder(tmp_path):
    drawn(HubertModel(hubert())).save_pretrained(tmp_path)
    first, other = load(f"{tmp_path}:random"), load(f"{tmp_path}:random-2")
    assert (
        first.card.name.endswith(":random")
        and first.card.weights_sha256 != other.card.weights_sha256 != load(tmp_path).card.weights_sha256
    )


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_missing_or_wrong_files_are_named(tmp_path):
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
    for change, message in (
        ({"model_type": "bert"}, "a 'bert' model"),
        ({"feature_extractor_cqt": True}, "CQT input"),
        ({"conv_dim": [24] * 6 + [32]}, "2 widths"),
    ):
        config.write_text(json.dumps(json.loads(text) | change))
        with pytest.raises(UsageError, match=message):
            load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_act": "relu"},
        {"feat_extract_activation": "relu"},
        {"layer_norm_eps": 1e-3},
        {"feat_proj_layer_norm": False},
        {"conv_pos_batch_norm": True},
    ],
)
def test_unsupported_config_values_are_refused_and_absent_ones_mean_transformers_defaults(tmp_path, change):
    drawn(HubertModel(hubert())).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    ((key, value),) = change.items()
    path.write_text(json.dumps({other: config[other] for other in config if other != key}))
    assert load(tmp_path)
    path.write_text(json.dumps(config | change))
    with pytest.raises(UsageError, match=f"config.json: {key} is {value!r}, and {HubertConfig().to_dict()[key]!r} in"):
        load(tmp_path)


@torch.no_grad()
def test_data2vecs_config_is_read_as_transformers_reads_it(tmp_path):
    config = Data2VecAudioConfig(**SMALL, num_conv_pos_embeddings=3, conv_pos_kernel_size=7)
    config.do_stable_layer_norm, config.feat_extract_norm = True, "group"
    model = drawn(Data2VecAudioModel(config))
    model.save_pretrained(tmp_path)
    assert '"do_stable_layer_norm": true' in (tmp_path / "config.json").read_text()
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false}')
    theirs = model(sound(), output_hidden_states=True).hidden_states
    torch.testing.assert_close(load(tmp_path)(sound()), torch.stack(theirs, 1), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": "abc"}, "config.json: dim: "),
        ({"hidden_size": 0}, "config.json: dim: "),
        ({"conv_dim": 7}, "conv_dim is 7, not a list"),
        ({"conv_dim": []}, r"conv_dim is \[\], not a list"),
        ({"conv_dim": [[24]]}, "conv_dim is .*, not a list"),
        ({"conv_kernel": [10, 3]}, "conv_kernels and conv_strides"),
        ({"num_conv_pos_embeddings": None}, "config.json: position_kernel: "),
        ({"sample_rate": {"a": 1}}, "config.json: sample_rate: "),
        ({"feat_extract_norm": "batch"}, "config.json: conv_norm: "),
        ({"model_type": ["hubert"]}, "a \\['hubert'\\] model"),
        ({"num_hidden_layers": 10**9}, "states 1000000000 layers"),
    ],
)
def test_a_malformed_config_is_one_line(tmp_path, change, message):
    drawn(HubertModel(hubert())).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises((UsageError, WeightsError), match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"sampling_rate"', "\xff", '{"sampling_rate": "fast"}'])
def test_a_malformed_preprocessor_config_is_one_line(tmp_path, content):
    drawn(HubertModel(hubert())).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("table", ["text", ["a"], {"a": 1}, {"a": "../x"}, {}])
def test_a_malformed_table_of_shards_is_reported(tmp_path, table):
    drawn(HubertModel(hubert())).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    with pytest.raises(WeightsError, match="names no shards beside it"):
        load(tmp_path)


GAIN = "encoder.pos_conv_embed.conv.parametrizations.weight.original0"


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("encoder.layer_norm.weight", "hubert.encoder.layer_norm.weight"),
        (GAIN, GAIN.replace("parametrizations.weight.original0", "weight_g")),
    ],
)
@pytest.mark.parametrize("spelling", ["one file", "shards"])
def test_two_names_that_become_one_are_refused(tmp_path, name, twin, spelling):
    model = drawn(HubertModel(hubert()))
    model.save_pretrained(tmp_path)
    tensors = model.state_dict()
    save_tensors(tensors | {twin: torch.zeros_like(tensors[name])}, tmp_path / "model.safetensors")
    if spelling == "shards":
        (tmp_path / "model.safetensors").rename(tmp_path / "one.safetensors")
        save_tensors({name: tensors[name]}, tmp_path / "other.safetensors")
        shards = {"a": "one.safetensors", "b": "other.safetensors"}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(WeightsError, match="two tensors in it mean"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["v1", "music2vec-v1", "MERT-v1-95M", "m-a-p/MERT-v1-95M"])
def test_only_the_whole_repository_on_the_hub_has_its_card(tmp_path, name, monkeypatch):
    folder = tmp_path / name
    drawn(HubertModel(hubert())).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"sampling_rate": 24000, "do_normalize": false}')
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repository, allow_patterns: str(folder))
    assert load(folder).card.license == "" and not load(folder).settings.standardise
    if "/" in name:
        assert load(name).card.license == "CC-BY-NC-4.0" and not load(name).settings.standardise
        (folder / "preprocessor_config.json").unlink()
        assert load(name).settings.standardise


@pytest.mark.parametrize("kind", ["hubert", "data2vec", "mert-330m"])
def test_a_folder_that_does_not_say_is_standardised_as_marble_does_and_says_so(tmp_path, kind):
    model = (
        Data2VecAudioModel(Data2VecAudioConfig(**SMALL))
        if kind == "data2vec"
        else HubertModel(hubert(do_stable_layer_norm=kind == "mert-330m"))
    )
    folder = tmp_path / kind
    model.save_pretrained(folder)
    expected = kind != "mert-330m"
    words = "scaled to mean 0 and variance 1" if expected else "as they are"
    with pytest.warns(UserWarning, match=f"{words}, as in MARBLE; no preprocessor_config.json"):
        encoder = load(folder)
    assert encoder.settings.standardise is encoder.card.is_standardised is expected
    assert words in model_card(encoder.card)
    write_raw(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(folder).card.is_standardised is False


@torch.no_grad()
@pytest.mark.parametrize("spelling", ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.", "Lightning"])
@pytest.mark.parametrize("kind", ["safetensors", "pickle"])
def test_names_that_wrappers_have_changed_are_read(tmp_path, spelling, kind):
    model = drawn(HubertModel(hubert()))
    model.save_pretrained(tmp_path)
    expected = load(tmp_path)(sound())
    tensors = load_file(tmp_path / "model.safetensors")
    if spelling == "Lightning" and kind == "safetensors":
        pytest.skip("Lightning writes pickles")
    (tmp_path / "model.safetensors").unlink()
    prefix = "model." if spelling == "Lightning" else spelling
    tensors = {prefix + name: tensor for name, tensor in tensors.items()}
    if kind == "safetensors":
        save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    elif spelling == "Lightning":
        states = [{"state": {}, "param_groups": []}]
        content = {"epoch": 3, "pytorch-lightning_version": "2.2.0", "state_dict": tensors, "optimizer_states": states}
        torch.save({**content, "hyper_parameters": {"lr": 1e-3}}, tmp_path / "pytorch_model.bin")
    else:
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    assert torch.equal(load(tmp_path)(sound()), expected)


@torch.no_grad()
def test_pickled_shards_are_read_and_a_missing_one_is_named(tmp_path):
    drawn(HubertModel(hubert())).save_pretrained(tmp_path)
    expected = load(tmp_path)(sound())
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names, table = sorted(tensors), {}
    for number, part in enumerate((names[:20], names[20:]), start=1):
        file = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save({name: tensors[name] for name in part}, tmp_path / file)
        table |= dict.fromkeys(part, file)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": table}))
    assert torch.equal(load(tmp_path)(sound()), expected)
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(WeightsError, match="pytorch_model-00002-of-00002.bin"):
        load(tmp_path)


def test_a_checkpoint_whose_objects_are_not_read_says_what_to_save(tmp_path):
    model = drawn(HubertModel(hubert()))
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    content = {"state_dict": model.state_dict(), "args": argparse.Namespace(x=1)}
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin: this pickle .*save its tensors alone .*state_dict"):
        load(tmp_path)
