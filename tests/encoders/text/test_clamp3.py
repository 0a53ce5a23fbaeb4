"""CLaMP 3 from a checkpoint of the authors' layout: transformers' BERT and XLM-R around MERT, windows and segments."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

import carrara
from carrara.core.errors import UsageError, WeightsError
from carrara.encoders._hub.load import build_encoder, save_pretrained
from carrara.encoders._hub.official import convert_official
from carrara.encoders.clamp3 import ENCODER, FILES, Clamp3Settings

RATE = 24_000
MERT = {"num_layers": 1, "num_heads": 2, "ffn_dim": 48, "conv_channels": 16, "dim": 48}
SIZES = {"num_layers": 2, "num_heads": 3, "ffn_dim": 64, "joint_dim": 20}
TEXT = {"text_dim": 32, "text_layers": 2, "text_heads": 2, "text_ffn_dim": 64, "vocabulary": 130, "positions": 140}
TEXTS = ["jazz standard", "a much longer text about heavy metal and string quartets", "reggae"]
WEIGHTS = next(iter(FILES["clamp3"])).rpartition("/")[2]


def noise(seconds, seed=0):
    return 0.3 + 0.1 * torch.randn(round(seconds * RATE), generator=torch.Generator().manual_seed(seed))


def bert(dim, layers, heads, ffn_dim):
    return BertModel(
        BertConfig(
            vocab_size=1, hidden_size=dim, num_hidden_layers=layers, num_attention_heads=heads,
            intermediate_size=ffn_dim, max_position_embeddings=128,
        )
    ).eval()  # fmt: skip


def xlm_roberta(dim, layers, heads, ffn_dim, vocabulary, positions):
    return XLMRobertaModel(
        XLMRobertaConfig(
            vocab_size=vocabulary, hidden_size=dim, num_hidden_layers=layers, num_attention_heads=heads,
            intermediate_size=ffn_dim, max_position_embeddings=positions, type_vocab_size=1, layer_norm_eps=1e-5,
        )
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def parts():
    """The authors' modules: their audio model, text model and two projections, with random weights."""
    torch.manual_seed(0)
    parts = torch.nn.ModuleDict(
        {
            "audio_model": bert(48, *list(SIZES.values())[:3]),
            "text_model": xlm_roberta(*TEXT.values()),
            "audio_proj": torch.nn.Linear(48, 20),
            "text_proj": torch.nn.Linear(32, 20),
        }
    )
    with torch.no_grad():
        for parameter in parts.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return parts.eval()


@pytest.fixture(scope="module")
def folder(parts, xlmr_json, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clamp3")
    symbolic = {"symbolic_proj.weight": torch.ones(2, 2), "symbolic_model.patch_embedding.weight": torch.ones(2, 2)}
    content = {"model": {**parts.state_dict(), **symbolic}, "optimizer": {}, "epoch": 3, "min_eval_loss": 1.5}
    torch.save(content, folder / WEIGHTS)
    (folder / "tokenizer.json").write_bytes(xlmr_json)
    return folder


@pytest.fixture(scope="module")
def encoder(folder, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARRARA_HOME", str(home))
        mert = build_encoder("mert-v1-95m", 3, MERT)
        save_pretrained(mert, home / "encoders" / "mert-v1-95m")
        settings = Clamp3Settings(mert=mert.settings.model_copy(update={"standardise": False}), **SIZES, **TEXT)
        patch.setitem(ENCODER.variants, "clamp3", (ENCODER.variants["clamp3"][0], settings))
        return convert_official("clamp3", folder).eval()


def mert_vectors(encoder, samples):
    """MERT's mean over rows and frames of windows of 5 s of the standardised recording, as the authors take it."""
    standard = (samples - samples.mean()) / torch.sqrt(samples.var(unbiased=False) + 1e-7)
    windows = [standard[start : start + 5 * RATE] for start in range(0, len(standard), 5 * RATE)]
    if len(windows) > 1 and len(windows[-1]) < RATE:
        windows.pop()
    return torch.stack([encoder.mert(window)[0].mean(dim=1).mean(dim=0) for window in windows])


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@torch.no_grad()
@pytest.mark.parametrize(("seconds", "windows"), [(0.4, 1), (3.0, 1), (10.5, 2), (16.0, 4)])
def test_audio_is_that_of_the_authors_description(encoder, parts, seconds, windows):
    samples = noise(seconds)
    vectors = mert_vectors(encoder, samples)
    assert len(vectors) == windows == encoder.num_frames(len(samples))
    zero = torch.zeros(1, 48)
    hidden = parts["audio_model"](inputs_embeds=torch.cat([zero, vectors, zero])[None], output_hidden_states=True)
    expected = torch.stack(hidden.hidden_states, dim=1)[:, :, 1:-1]
    torch.testing.assert_close(encoder(samples), expected, atol=1e-5, rtol=1e-4)
    pooled = parts["audio_proj"](hidden.last_hidden_state.mean(dim=1))[0]
    np.testing.assert_allclose(encoder.encode_audio_joint(samples[None])[0], unit(pooled.numpy()), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("windows", [126, 127, 300])
def test_more_than_a_segment_is_averaged_as_the_authors_do(encoder, parts, windows, monkeypatch):
    vectors = torch.randn(windows, 48, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(encoder, "embed_windows", lambda samples_T: vectors)
    padded = torch.cat([torch.zeros(1, 48), vectors, torch.zeros(1, 48)])
    segments = [padded[start : start + 128] for start in range(0, len(padded), 128)]
    weights = [len(segment) for segment in segments]
    segments[-1] = padded[-128:]
    outputs = [parts["audio_model"](inputs_embeds=segment[None]).last_hidden_state[0] for segment in segments]
    joint = np.average([parts["audio_proj"](output.mean(0)).numpy() for output in outputs], axis=0, weights=weights)
    samples = torch.zeros(1, windows * 5 * RATE)
    np.testing.assert_allclose(encoder.encode_audio_joint(samples)[0], unit(joint), atol=1e-5)
    outputs[-1] = outputs[-1][-weights[-1] :]
    torch.testing.assert_close(encoder(samples)[0, -1], torch.cat(outputs)[1:-1], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_texts_are_those_of_transformers_alone_and_in_a_batch(encoder, parts, folder):
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    rows = encoder.encode_text(TEXTS)
    for text, row in zip(TEXTS, rows):
        hidden = parts["text_model"](torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state
        expected = unit(parts["text_proj"](hidden.mean(dim=1))[0].numpy())
        np.testing.assert_allclose(row, expected, atol=1e-5)
        torch.testing.assert_close(encoder.encode_text([text])[0], row, atol=1e-6, rtol=0)


def test_clips_in_a_batch_are_those_alone(encoder):
    clips = [noise(11, 1), noise(0.3, 2), noise(5.5, 3)]
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    together = encoder.encode_audio_joint(batch, torch.tensor([len(clip) for clip in clips]))
    for row, clip in zip(together, clips):
        torch.testing.assert_close(row, encoder.encode_audio_joint(clip[None])[0], atol=1e-5, rtol=0)


def test_a_saved_folder_is_the_same(encoder, tmp_path):
    encoder.save_pretrained(tmp_path / "again")
    again = carrara.load(tmp_path / "again")
    assert torch.equal(again.encode_text(TEXTS), encoder.encode_text(TEXTS))
    assert torch.equal(again(noise(6)), encoder(noise(6)))


def test_without_mert_the_error_says_what_to_import(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError, match="clamp3: needs MERT-v1-95M too; run `carrara import mert-v1-95m` first"):
        convert_official("clamp3", folder)


def test_a_file_that_is_no_checkpoint_is_refused(parts, tmp_path):
    torch.save(parts.state_dict(), tmp_path / WEIGHTS)
    with pytest.raises(WeightsError, match="is no checkpoint of a CLaMP 3"):
        convert_official("clamp3", tmp_path)


def test_names_and_shapes_at_full_size_are_the_authors():
    with torch.device("meta"):
        encoder, mert = build_encoder("clamp3"), build_encoder("mert-v1-95m")
        models = {"audio_model": bert(768, 12, 12, 3072), "text_model": xlm_roberta(768, 12, 12, 3072, 250_002, 514)}
    shapes = {
        f"{part}.{name}": value.shape for part, model in models.items() for name, value in model.state_dict().items()
    }
    shapes = {name: shape for name, shape in shapes.items() if ".pooler." not in name}
    shapes |= {f"mert.{name}": value.shape for name, value in mert.state_dict().items()}
    for part in ("audio_proj", "text_proj"):
        shapes |= {f"{part}.weight": torch.Size([768, 768]), f"{part}.bias": torch.Size([768])}
    assert {name: value.shape for name, value in encoder.state_dict().items()} == shapes
    assert encoder.card.parameters == ENCODER.variants["clamp3"][0].parameters
