"""MuQ-MuLan's folders: MuQ of other libraries' parts (conftest.py), transformers' XLM-R, numpy for what follows."""

import json
import shutil

import numpy as np
import pytest
import scipy.special
import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

import carrara
from carrara.core.errors import UsageError, WeightsError
from carrara.encoders._hub.import_official import import_official
from carrara.encoders._hub.load import build_encoder
from carrara.encoders._hub.official import convert_official
from carrara.encoders.muq_mulan import ENCODER, convert_mulan_tensors, split_into_mulan_windows

RATE = 24_000
TEXTS = ["jazz standard", "a much longer text about heavy metal and string quartets", "reggae"]
TEXT_DIM, PROJECTED, JOINT, HEADS, HEAD_DIM, TOP_LAYERS = 128, 96, 24, 2, 16, 2
CONFIG = {
    "mulan": {"sr": 24000, "clip_secs": 10, "dim_latent": JOINT, "hierarchical_contrastive_loss": False},
    "audio_model": {"name": "OpenMuQ/MuQ-large-msd-iter", "model_dim": 128, "use_layer_idx": -1},
    "text_model": {"name": "xlm-roberta-base", "model_dim": None, "use_layer_idx": -1},
    "audio_transformer": {"dim": PROJECTED, "tf_depth": 0, "heads": 8, "dim_head": 64, "ff_mult": 4},
    "text_transformer": {"dim": TEXT_DIM, "tf_depth": TOP_LAYERS, "heads": HEADS, "dim_head": HEAD_DIM, "ff_mult": 4},
}


def top_shapes(layers, dim, inner, head_dim):
    """Names and shapes of the layers after XLM-R as the authors' module builds them."""
    hidden = int(dim * 4 * 2 / 3)
    shapes = {}
    for layer in range(layers):
        stem = f"mulan.text.transformer.layers.{layer}."
        shapes |= {
            f"{stem}0.norm.learned_gamma": (dim,),
            f"{stem}0.q_scale": (head_dim,),
            f"{stem}0.k_scale": (head_dim,),
            f"{stem}0.to_q.weight": (inner, dim),
            f"{stem}0.to_kv.weight": (2 * inner, dim),
            f"{stem}0.to_out.0.weight": (dim, inner),
            f"{stem}1.0.learned_gamma": (dim,),
            f"{stem}1.1.weight": (2 * hidden, dim),
            f"{stem}1.4.weight": (dim, hidden),
        }
    return shapes


def head_shapes(dim, projected, text_dim, joint):
    linears = {
        "audio.proj": (projected, dim),
        "audio_to_latents": (joint, projected),
        "text_to_latents": (joint, text_dim),
    }
    shapes = {f"mulan.{name}.weight": shape for name, shape in linears.items()}
    shapes |= {f"mulan.{name}.bias": shape[:1] for name, shape in linears.items()}
    return shapes | {
        "mulan.audio.aggregator.weight": (1, 25, 1),
        "mulan.audio.aggregator.bias": (1,),
        "mulan.contrast.temperatures": (1, 1, 1),
    }


@pytest.fixture(scope="module")
def xlm_roberta():
    torch.manual_seed(1)
    config = XLMRobertaConfig(
        vocab_size=130,
        hidden_size=TEXT_DIM,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=50,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    model = XLMRobertaModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape))
    return model


@pytest.fixture(scope="module")
def tensors(twin, xlm_roberta):
    generator = torch.Generator().manual_seed(2)
    shapes = top_shapes(TOP_LAYERS, TEXT_DIM, HEADS * HEAD_DIM, HEAD_DIM)
    shapes |= head_shapes(128, PROJECTED, TEXT_DIM, JOINT)
    table = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    table |= {f"mulan.audio.model.model.{name}": tensor.clone() for name, tensor in twin.table.items()}
    table["mulan.audio.model.model.cls_token"] = torch.ones(128)
    return table | {f"mulan.text.model.{name}": tensor for name, tensor in xlm_roberta.state_dict().items()}


@pytest.fixture(scope="module")
def folder(tensors, xlmr_json, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mulan")
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_bytes(xlmr_json)
    return folder


@pytest.fixture(scope="module")
def encoder(folder):
    return carrara.load(folder)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def numpy_text(hidden_FD, tensors):
    """A text's unit vector from XLM-R's output, as the authors describe it, in double precision."""
    table = {name: tensor.double().numpy() for name, tensor in tensors.items() if name.startswith("mulan.text")}

    def norm(x, gamma):
        return gamma * (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    x = hidden_FD
    for layer in range(TOP_LAYERS):
        attention, ffn = (f"mulan.text.transformer.layers.{layer}.{part}." for part in (0, 1))
        normed = norm(x, table[f"{attention}norm.learned_gamma"])
        q = normed @ table[f"{attention}to_q.weight"].T
        k, v = np.split(normed @ table[f"{attention}to_kv.weight"].T, 2, axis=-1)
        heads = []
        for head in range(HEADS):
            own = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
            queries = unit(q[:, own]) * table[f"{attention}q_scale"]
            keys = unit(k[:, own]) * table[f"{attention}k_scale"]
            heads.append(scipy.special.softmax(8 * queries @ keys.T, axis=-1) @ v[:, own])
        x = x + np.concatenate(heads, axis=-1) @ table[f"{attention}to_out.0.weight"].T
        normed = norm(x, table[f"{ffn}0.learned_gamma"])
        values, gate = np.split(normed @ table[f"{ffn}1.weight"].T, 2, axis=-1)
        gelu = gate * 0.5 * (1 + scipy.special.erf(gate / np.sqrt(2)))
        x = x + (gelu * values) @ table[f"{ffn}4.weight"].T
    return unit(x.mean(0) @ table["mulan.text_to_latents.weight"].T + table["mulan.text_to_latents.bias"])


@torch.no_grad()
def test_texts_are_those_of_the_authors_description_alone_and_in_a_batch(encoder, folder, tensors, xlm_roberta):
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    actual = encoder.encode_text(TEXTS)
    for text, row in zip(TEXTS, actual):
        hidden = xlm_roberta(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0]
        np.testing.assert_allclose(row, numpy_text(hidden.double().numpy(), tensors), atol=1e-5)
        torch.testing.assert_close(encoder.encode_text([text])[0], row, atol=1e-6, rtol=0)


@torch.no_grad()
def test_audio_is_the_projection_of_the_last_layer_of_each_window(encoder, twin, tensors, noise, monkeypatch):
    monkeypatch.setitem(twin.statistics, "melspec_2048_mean", 6.768444971712967)
    monkeypatch.setitem(twin.statistics, "melspec_2048_std", 18.417922652295623)
    samples = noise(13)
    rows = twin.rows(twin.table, samples)
    torch.testing.assert_close(encoder(samples)[0], torch.stack(rows, dim=1)[0], atol=2e-4, rtol=1e-4)
    windows = [samples[:, : 10 * RATE], torch.cat([samples[:, 10 * RATE :], samples[:, : 7 * RATE]], dim=1)]
    vectors = []
    for window in windows:
        frames = twin.rows(twin.table, window)[-1][0].double().numpy()
        weights = {name: tensor.double().numpy() for name, tensor in tensors.items() if "audio" in name}
        projected = frames @ weights["mulan.audio.proj.weight"].T + weights["mulan.audio.proj.bias"]
        latent = projected.mean(0) @ weights["mulan.audio_to_latents.weight"].T + weights["mulan.audio_to_latents.bias"]
        vectors.append(unit(latent))
    np.testing.assert_allclose(encoder.encode_audio_joint(samples)[0], unit(np.mean(vectors, axis=0)), atol=1e-5)


def test_the_last_window_is_filled_up_with_the_beginning_once():
    samples = torch.arange(25.0 * RATE)
    windows = split_into_mulan_windows(samples)
    assert windows.shape == (3, 10 * RATE)
    assert torch.equal(windows[2], torch.cat([samples[20 * RATE :], samples[: 5 * RATE]]))
    assert torch.equal(split_into_mulan_windows(samples[: 20 * RATE]), samples[: 20 * RATE].view(2, -1))
    short = samples[: 3 * RATE]
    assert torch.equal(split_into_mulan_windows(short), torch.cat([short, short])[None])
    filled = torch.cat([samples[: 6 * RATE], samples[: 4 * RATE]])
    assert torch.equal(split_into_mulan_windows(samples[: 6 * RATE]), filled[None])


def test_clips_in_a_batch_are_those_alone(encoder, noise):
    clips = [noise(12, 1)[0], noise(1, 2)[0], noise(10, 3)[0]]
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    together = encoder.encode_audio_joint(batch, torch.tensor([len(clip) for clip in clips]))
    for row, clip in zip(together, clips):
        torch.testing.assert_close(row, encoder.encode_audio_joint(clip[None])[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "license"), [("MuQ-MuLan-large", "CC-BY-NC-4.0"), ("large", "")])
def test_only_a_folder_of_the_published_name_has_its_licence(folder, tmp_path, name, license):
    shutil.copytree(folder, tmp_path / name)
    assert carrara.load(tmp_path / name).card.license == license


def test_a_saved_folder_is_the_same(encoder, noise, tmp_path):
    encoder.save_pretrained(tmp_path / "again")
    again = carrara.load(tmp_path / "again")
    assert torch.equal(again.encode_text(TEXTS), encoder.encode_text(TEXTS))
    assert torch.equal(again.encode_audio_joint(noise(2)), encoder.encode_audio_joint(noise(2)))


def test_import_takes_the_folder_and_the_file_of_the_published_sizes_only(folder, encoder, noise, monkeypatch):
    with pytest.raises(WeightsError, match="not the weights of this network"):
        convert_official("muq-mulan", folder)
    card = ENCODER.variants["muq-mulan"][0]
    monkeypatch.setitem(ENCODER.variants, "muq-mulan", (card, encoder.settings))
    for path in (folder, folder / "pytorch_model.bin"):
        imported = convert_official("muq-mulan", path).eval()
        assert torch.equal(imported.encode_text(TEXTS), encoder.encode_text(TEXTS))
        assert torch.equal(imported(noise(1)), encoder(noise(1)))


def test_the_hub_gives_weights_and_vocabulary_from_two_repositories(folder, encoder, monkeypatch, tmp_path):
    def snapshot(repository, allow_patterns):
        here = tmp_path / repository
        here.mkdir(parents=True, exist_ok=True)
        own = {"OpenMuQ/MuQ-MuLan-large": ["pytorch_model.bin", "config.json"]}.get(repository, ["tokenizer.json"])
        for name in set(own) & set(allow_patterns):
            (here / name).write_bytes((folder / name).read_bytes())
        return str(here)

    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    card = ENCODER.variants["muq-mulan"][0]
    monkeypatch.setitem(ENCODER.variants, "muq-mulan", (card, encoder.settings))
    expected = encoder.encode_text(TEXTS)
    assert torch.equal(carrara.load("muq-mulan").encode_text(TEXTS), expected)
    imported = import_official("muq-mulan").folders["muq-mulan"]
    assert (imported / "tokenizer.json").read_bytes() == encoder.tokenizer_json
    assert torch.equal(carrara.load(imported).encode_text(TEXTS), expected)


def test_names_and_shapes_at_full_size_are_the_authors(twin):
    config = XLMRobertaConfig(vocab_size=250_002, max_position_embeddings=514, type_vocab_size=1)
    with torch.device("meta"):
        own = build_encoder("muq-mulan")
        body = twin.conformer(1024, 12, 16, 4096).state_dict()
        text = XLMRobertaModel(config, add_pooling_layer=False).state_dict()
    shapes = twin.front_shapes(512, 1024) | {f"conformer.{name}": tuple(tensor.shape) for name, tensor in body.items()}
    shapes = {f"mulan.audio.model.model.{name}": shape for name, shape in shapes.items()}
    shapes |= {f"mulan.text.model.{name}": tuple(tensor.shape) for name, tensor in text.items()}
    shapes |= top_shapes(8, 768, 512, 64) | head_shapes(1024, 768, 768, 512)
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    tensors["mulan.audio.model.model.conformer.embed_positions.inv_freq"] = torch.tensor(
        [10_000.0 ** (-2 * pair / 64) for pair in range(32)]
    )
    own_shapes = {name: tensor.shape for name, tensor in own.state_dict().items()}
    converted = convert_mulan_tensors(tensors, own.settings, "official")
    assert {name: tensor.shape for name, tensor in converted.items()} == own_shapes
    assert own.card.parameters == ENCODER.variants["muq-mulan"][0].parameters


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [("mulan", "sr", 16000), ("audio_model", "use_layer_idx", 6), ("audio_transformer", "tf_depth", 8)],
)
def test_other_kinds_are_refused(folder, tmp_path, table, key, value):
    (tmp_path / "pytorch_model.bin").write_bytes((folder / "pytorch_model.bin").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, table: {**CONFIG[table], key: value}}))
    with pytest.raises(UsageError, match=f"{table}.{key} is not .* others are not supported"):
        carrara.load(tmp_path)


def test_another_networks_weights_are_refused(tmp_path):
    save_file({"conv.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(WeightsError, match="not those of a MuQ-MuLan"):
        carrara.load(tmp_path)
