"""MuQ's folders as PyTorchModelHubMixin writes them, against other libraries' parts put together (conftest.py)."""

import json

import pytest
import torch
from safetensors.torch import save_file

from carrara.core.errors import UsageError, WeightsError
from carrara.encoders._hub.load import build_encoder, load, save_pretrained
from carrara.encoders._hub.official import convert_official
from carrara.encoders.muq import ENCODER, MuqSettings, load_muq_folder

# What the file holds that no frozen network needs, beside the conformer's own positions.
OTHERS = {
    "cls_token": (128,),
    "linear.weight": (64, 128),
    "linear.bias": (64,),
    "recon_proj.weight": (512, 128),
    "rvq.quantizers.0.codebook.weight": (64, 16),
    "rvq.quantizers.0.in_proj.weight_g": (16, 1, 1),
    "rvq.quantizers.0.stale_counter": (64,),
}


def config(twin):
    """Return a config.json in the authors' layout, of the small network."""
    sizes = twin.settings
    return {
        "conv_dim": sizes["channels"],
        "encoder_dim": sizes["dim"],
        "encoder_depth": sizes["num_layers"],
        "label_rate": 25,
        "hop_length": 240,
        "n_mels": 128,
        "codebook_size": 8192,
        "features": ["melspec_2048"],
        "use_rvq_target": True,
        "stat": twin.statistics,
        "w2v2_config": {
            "model_type": "wav2vec2-conformer",
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": sizes["num_heads"],
            "intermediate_size": sizes["ffn_dim"],
            "conv_depthwise_kernel_size": 31,
            "hidden_act": "swish",
            "position_embeddings_type": "rotary",
            "rotary_embedding_base": 10000,
            "layer_norm_eps": 1e-05,
        },
    }


@pytest.fixture
def tensors(twin):
    table = twin.table | {name: torch.ones(shape) for name, shape in OTHERS.items()}
    return {f"model.{name}": tensor.clone() for name, tensor in table.items()}


@pytest.fixture
def folder(twin, tensors, tmp_path):
    folder = tmp_path / "MuQ-small"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config(twin)))
    return folder


@pytest.fixture
def small_shelf(twin, monkeypatch):
    monkeypatch.setitem(ENCODER.variants, "muq", (ENCODER.variants["muq"][0], MuqSettings(**twin.settings)))


def rewritten(folder, **changes):
    """Change a folder's config; a key of two parts is one inside w2v2_config."""
    stated = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        (stated["w2v2_config"] if key in stated["w2v2_config"] else stated)[key] = value
    (folder / "config.json").write_text(json.dumps(stated))
    return stated


@pytest.fixture
def same(twin, noise):
    """Check that an encoder gives the reference's rows."""

    def check(encoder):
        samples_BT = torch.cat([noise(0.5, seed) for seed in (1, 2)])
        with torch.inference_mode():
            actual, expected = encoder.eval()(samples_BT), twin.rows(twin.table, samples_BT)
        for row, (mine, other) in enumerate(zip(actual.unbind(1), expected, strict=True)):
            scale = float(other.abs().mean())
            torch.testing.assert_close(mine / scale, other / scale, atol=1e-4, rtol=1e-4, msg=f"row {row}")

    return check


def test_a_folder_gives_the_reference_layers_with_its_own_statistics(folder, twin, same):
    encoder = load(folder)
    same(encoder)
    assert float(encoder.mel_mean) == twin.statistics["melspec_2048_mean"]
    assert (encoder.card.name, encoder.card.license, encoder.card.num_layers) == ("MuQ-small", "", 2)
    assert encoder.settings == MuqSettings(**twin.settings)


def test_a_folder_of_the_published_name_has_its_card(folder, twin):
    card = load_muq_folder(folder, config(twin), "OpenMuQ/MuQ-large-msd-iter").card
    assert (card.license, card.commercial_use) == ("CC-BY-NC-4.0", False)
    assert card.dim == 128 and card.weights_sha256


def test_a_pickle_is_read_where_there_are_no_safetensors(folder, tensors, same):
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    same(load(folder))


@pytest.mark.parametrize("path", ["", "model.safetensors"])
def test_an_official_folder_or_file_can_be_imported(folder, small_shelf, same, tmp_path, path):
    encoder = convert_official("muq", folder / path)
    same(encoder)
    save_pretrained(encoder, tmp_path / "saved")
    same(load(tmp_path / "saved"))


def test_a_file_without_its_config_has_the_published_statistics(folder):
    (folder / "config.json").unlink()
    actual = ENCODER.load_official("muq", folder / "model.safetensors")
    assert float(actual["mel_mean"]) == pytest.approx(6.768445) and float(actual["mel_deviation"]) == pytest.approx(
        18.41792
    )


def test_random_weights_of_a_folders_network(folder):
    one, same = load(f"{folder}:random-3"), load(f"{folder}:random-3")
    assert torch.equal(one.conv.linear.weight, same.conv.linear.weight)
    assert one.card.num_layers == 2


def test_the_published_size():
    card, settings = ENCODER.variants["muq"]
    with torch.device("meta"):
        network = build_encoder("muq")
    assert card.parameters == network.card.parameters == build_parameters(settings)
    assert (card.num_layers, card.dim, card.sample_rate, card.frame_rate) == (12, 1024, 24_000, 25)
    assert card.license == "CC-BY-NC-4.0" and card.commercial_use is False


def build_parameters(settings):
    """Return the number of weights, counted by hand."""
    width, inner, kernel, channels = settings.dim, settings.ffn_dim, settings.kernel, settings.channels
    feed_forward = 2 * width * inner + inner + width
    attention = 4 * (width * width + width)
    convolution = 3 * width * width + kernel * width + 2 * width  # pointwise to twice and back, filters, batch norm
    layer = 2 * feed_forward + attention + convolution + 5 * 2 * width
    three_norms = 3 * 2 * channels
    first = 2 * (9 * channels + channels) + 9 * channels**2 + channels + three_norms
    second = 3 * (9 * channels**2 + channels) + three_norms
    return settings.num_layers * layer + 2 * width + first + second + channels * 32 * width + width


@pytest.mark.parametrize(
    "key, value",
    [
        ("position_embeddings_type", "relative"),
        ("hidden_act", "gelu"),
        ("rotary_embedding_base", 500),
        ("label_rate", 50),
        ("n_mels", 80),
    ],
)
def test_a_network_of_another_kind_is_refused(folder, key, value):
    rewritten(folder, **{key: value})
    with pytest.raises(UsageError, match=rf"config.json: {key} is .* in a MuQ"):
        load(folder)


def test_a_config_of_another_size_than_the_variants_is_refused(folder):
    with pytest.raises(WeightsError, match="not muq: its dim is 128 where muq has 1024"):
        ENCODER.load_official("muq", folder)


@pytest.mark.parametrize(
    "changes, kind, message",
    [
        ({"stat": {}}, WeightsError, "melspec_2048_mean"),
        ({"stat": None}, WeightsError, "melspec_2048_mean"),
        ({"w2v2_config": 3}, UsageError, "w2v2_config is no table"),
        ({"conv_dim": "many"}, UsageError, "channels"),
        ({"num_attention_heads": 4}, WeightsError, "not that of 4 heads"),
        ({"encoder_depth": 3}, WeightsError, "missing .conformer.layers.2"),
        ({"encoder_depth": 1}, WeightsError, "unknown .conformer.layers.1"),
    ],
)
def test_a_config_that_does_not_fit_is_named(folder, changes, kind, message):
    stated = rewritten(folder, **changes)
    with pytest.raises(kind, match=message):
        load_muq_folder(folder, stated, "small")


def test_a_folder_without_weights_or_with_cut_ones_is_refused(folder, twin):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cut short"):
        load(folder)
    file.unlink()
    with pytest.raises(WeightsError, match=r"neither model.safetensors nor pytorch_model.bin"):
        load(folder)


def test_a_broken_config_beside_the_file_is_named(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config.json: cannot be read"):
        ENCODER.load_official("muq", folder / "model.safetensors")
