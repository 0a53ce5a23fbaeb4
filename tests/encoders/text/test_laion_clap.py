"""LAION-CLAP against transformers' ClapModel: folders that it saved, both towers, odd lengths, and refused texts."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast
from typer.testing import CliRunner

import carrara
from carrara.audio.decode import load_audio
from carrara.cli._main import app
from carrara.core.errors import UsageError, WeightsError
from carrara.encoders._hub.load import build_encoder
from carrara.encoders._hub.official import convert_official
from carrara.encoders._text.tower import PROMPTS
from carrara.encoders.laion_clap import ENCODER, ClapEncoder, ClapSettings, split_into_windows
from carrara.formats.weights import hash_tensors

RATE = 48_000
TEXTS = ["jazz standard", "a much longer text about heavy metal and string quartets", ""]
NAMES = sorted(ENCODER.variants)


def clap_config():
    text = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return ClapConfig(
        text_config={**text, "vocab_size": 400, "max_position_embeddings": 40},
        audio_config={
            "depths": [1, 2, 2, 1],
            "hidden_size": 64,
            "patch_embeds_hidden_size": 8,
            "num_attention_heads": [1, 2, 2, 4],
        },
        projection_dim=16,
    )


def noise(seconds, seed=0):
    return 0.1 * torch.randn(round(seconds * RATE), generator=torch.Generator().manual_seed(seed))


def log_mel(samples):
    extractor = ClapFeatureExtractor(frequency_min=50, truncation="rand_trunc")
    return torch.from_numpy(np.array(extractor(samples.numpy(), sampling_rate=RATE)["input_features"])).float()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = ClapModel(clap_config()).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_((0.4 if "text_model" in name else 0.1) * torch.randn(parameter.shape))
        norm = model.audio_model.audio_encoder.batch_norm
        norm.running_mean.normal_(-20, 5)
        norm.running_var.uniform_(50, 200)
    return model


@pytest.fixture(scope="module")
def folder(model, roberta_json, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clap")
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(roberta_json)
    return folder


@pytest.fixture(scope="module")
def encoder(folder):
    return carrara.load(folder)


@torch.no_grad()
def test_audio_is_that_of_transformers(encoder, model):
    samples = noise(10)
    torch.testing.assert_close(encoder.mel(samples[None]), log_mel(samples)[0], atol=1e-4, rtol=0)
    expected = model.audio_model(log_mel(samples)).pooler_output
    torch.testing.assert_close(encoder(samples)[:, 0, 0], expected, atol=1e-5, rtol=1e-5)
    joint = encoder.encode_audio_joint(samples[None])
    torch.testing.assert_close(joint, model.get_audio_features(log_mel(samples)).pooler_output, atol=1e-5, rtol=0)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_the_text_tower_takes_no_memory_until_a_text_comes(tmp_path):
    text = {"text_dim": 256, "text_layers": 1, "text_heads": 4, "text_ffn_dim": 64, "vocabulary": 16_000}
    settings = ClapSettings(dim=8, depths=(1, 2, 2, 1), heads=(1, 2, 2, 4), **text)
    saved = ClapEncoder(settings, ENCODER.variants["laion-clap-general"][0]).eval()
    saved.save_pretrained(tmp_path)
    loaded = carrara.load(tmp_path)
    weights, clip = tmp_path / "model.safetensors", noise(10)[None]

    def mapped_kilobytes():
        mappings = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())
        return sum(int(re.search(r"Rss: +(\d+)", own)[1]) for own in mappings if str(weights) in own)

    assert loaded.hash_weights() == saved.hash_weights() == hash_tensors(dict(load_file(weights)))
    tower = sum(4 * value.numel() for key, value in saved.named_parameters() if key.startswith("text_"))
    torch.testing.assert_close(loaded.encode_audio_joint(clip), saved.encode_audio_joint(clip), atol=1e-5, rtol=0)
    assert tower > 16_000_000 and mapped_kilobytes() < 4_000
    tokens = torch.arange(2, 12)[None], torch.ones(1, 10, dtype=torch.bool)
    torch.testing.assert_close(loaded.forward_text(*tokens), saved.forward_text(*tokens), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("seconds", [0.3, 3.7, 9.99])
def test_short_clips_are_repeated_as_by_transformers(encoder, model, seconds):
    expected = model.get_audio_features(log_mel(noise(seconds))).pooler_output
    torch.testing.assert_close(encoder.encode_audio_joint(noise(seconds)[None]), expected, atol=1e-5, rtol=0)


def test_windows_of_a_long_clip_follow_each_other_and_the_last_ends_with_it():
    samples = torch.arange(25 * RATE)
    windows = split_into_windows(samples)
    assert windows[:, 0].tolist() == [0, 10 * RATE, 15 * RATE]
    assert windows[:, -1].tolist() == [10 * RATE - 1, 20 * RATE - 1, 25 * RATE - 1]
    assert torch.equal(split_into_windows(samples[: 10 * RATE]), samples[None, : 10 * RATE])


def test_a_long_clip_is_the_mean_of_its_windows_in_a_batch_as_alone(encoder):
    clips = [noise(20, 1), noise(3, 2)]
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    together = encoder.encode_audio_joint(batch, torch.tensor([len(clip) for clip in clips]))
    halves = encoder.encode_audio_joint(clips[0].view(2, -1))
    mean = torch.nn.functional.normalize(halves.mean(0), dim=0)
    torch.testing.assert_close(together[0], mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(together[1:], encoder.encode_audio_joint(clips[1][None]), atol=1e-6, rtol=0)


@torch.no_grad()
def test_texts_are_those_of_transformers_alone_and_in_a_batch(encoder, model, folder):
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="<pad>")
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    expected = model.get_text_features(inputs["input_ids"], attention_mask=inputs["attention_mask"]).pooler_output
    assert expected.shape == (3, 16)
    actual = encoder.encode_text(TEXTS)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat([encoder.encode_text([text]) for text in TEXTS]), actual, atol=1e-6, rtol=0)
    assert encoder.encode_text([]).shape == (0, 16)


def test_a_text_beyond_the_positions_is_cut_and_keeps_its_end(encoder, folder):
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    expected = tokenizer("jazz " * 100, truncation=True, max_length=38)["input_ids"]
    assert encoder.tokenize(["jazz " * 100]) == [expected]
    assert torch.isfinite(encoder.encode_text(["jazz " * 100])).all()


def test_a_saved_folder_reads_texts_too(encoder, tmp_path):
    encoder.save_pretrained(tmp_path / "again")
    again = carrara.load(tmp_path / "again")
    assert torch.equal(again.encode_text(TEXTS), encoder.encode_text(TEXTS))
    assert again.card.joint_dim == 16
    (tmp_path / "again" / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=r"again: has no tokenizer\.json.* put the one of its authors beside"):
        carrara.load(tmp_path / "again").encode_text(["jazz"])


@pytest.mark.parametrize(
    ("name", "license"), [("larger_clap_general", "Apache-2.0"), ("clap", ""), ("laion_clap", ""), ("general", "")]
)
def test_only_a_folder_of_the_published_name_has_its_licence(folder, tmp_path, name, license):
    shutil.copytree(folder, tmp_path / name)
    assert carrara.load(tmp_path / name).card.license == license


def test_a_tower_that_tells_no_texts_apart_is_refused(model, roberta_json, tmp_path):
    broken = ClapModel(clap_config()).eval()
    broken.load_state_dict(model.state_dict())
    with torch.no_grad():
        broken.text_projection.linear1.weight.mul_(1e-3)
        broken.text_projection.linear2.bias.fill_(1.0)
    broken.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(roberta_json)
    encoder = carrara.load(tmp_path)
    with pytest.raises(UsageError, match=r"mean cosine of 20 prompts (0\.9|1\.0).*, not below 0\.9"):
        encoder.encode_text(["jazz", "metal"])
    assert encoder.encode_audio_joint(noise(1)[None]).shape == (1, 16)


def test_the_prompts_are_twenty_different_texts():
    assert len(PROMPTS) == len(set(PROMPTS)) == 20


@pytest.mark.parametrize("texts", ["jazz", [1], [b"jazz"]])
def test_what_is_no_list_of_texts_is_refused(encoder, texts):
    with pytest.raises(UsageError, match="give a list of texts"):
        encoder.encode_text(texts)


def test_a_damaged_tokenizer_is_named(folder, encoder):
    damaged = carrara.load(folder)
    damaged.tokenizer_json = b"{}"
    with pytest.raises(WeightsError, match=r"its tokenizer\.json cannot be read"):
        damaged.encode_text(["jazz"])


@pytest.mark.parametrize("change", [{"enable_fusion": True}, {"hidden_act": "relu"}, {"patch_size": 8}])
def test_other_kinds_of_clap_are_refused(change, tmp_path):
    config = clap_config()
    for key, value in change.items():
        setattr(config.audio_config, key, value)
    config.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=f"{next(iter(change))} is .* other CLAPs are not supported"):
        carrara.load(tmp_path)


def laion_names(state):
    """Return ClapModel's tensors as the authors' program names and joins them, with what only training needs."""
    named = {}
    swin = {
        "attention.output.dense": "attn.proj",
        "attention.self.relative_position_bias_table": "attn.relative_position_bias_table",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
    }
    for key, tensor in state.items():
        if key.startswith("audio_model.audio_encoder."):
            name = "audio_branch." + key.removeprefix("audio_model.audio_encoder.").replace("batch_norm.", "bn0.")
            if ".attention.self.query." in name:
                others = [state[key.replace(".query.", f".{part}.")] for part in ("key", "value")]
                named[name.replace("attention.self.query", "attn.qkv")] = torch.cat([tensor, *others])
                continue
            for ours, theirs in swin.items():
                name = name.replace(ours, theirs)
            if ".attention." not in name:
                named[name] = tensor
        elif key.startswith("text_model.") and not key.endswith("token_type_ids"):
            named[key.replace("text_model.", "text_branch.")] = tensor
        elif "_projection." in key:
            named[key.replace("linear1", "0").replace("linear2", "2")] = tensor
    named |= {
        "logit_scale_a": torch.ones([]),
        "logit_scale_t": torch.ones([]),
        "text_transform.sequential.0.weight": torch.ones(2, 2),
        "audio_transform.sequential.3.bias": torch.ones(2),
        "audio_branch.spectrogram_extractor.stft.conv_real.weight": torch.ones(2, 1, 4),
        "audio_branch.logmel_extractor.melW": torch.ones(4, 4),
        "audio_branch.tscam_conv.weight": torch.ones(2, 2, 1, 1),
        "audio_branch.head.bias": torch.ones(2),
        "audio_branch.layers.0.blocks.1.attn_mask": torch.ones(2, 2),
        "audio_branch.layers.0.blocks.0.attn.relative_position_index": torch.ones(2, 2),
    }
    return {f"module.{name}": tensor for name, tensor in named.items()}


@torch.no_grad()
@pytest.mark.parametrize("form", ["folder", "file"])
def test_the_authors_checkpoint_is_the_same_network(model, encoder, roberta_json, tmp_path, monkeypatch, form):
    config = clap_config()
    config.text_config.layer_norm_eps = 1e-5
    theirs = ClapModel(config).eval()
    theirs.load_state_dict(model.state_dict())
    checkpoint = {"epoch": 15, "name": "music", "state_dict": laion_names(model.state_dict()), "optimizer": {"step": 3}}
    torch.save(checkpoint, tmp_path / "music_audioset_epoch_15_esc_90.14.pt")
    (tmp_path / "tokenizer.json").write_bytes(roberta_json)
    name = "laion-clap-music-audioset"
    card, published = ENCODER.variants[name]
    own = {"text_eps": published.text_eps, "max_tokens": published.max_tokens}
    assert own == {"text_eps": 1e-5, "max_tokens": 77}
    monkeypatch.setitem(ENCODER.variants, name, (card, encoder.settings.model_copy(update=own)))
    path = tmp_path if form == "folder" else tmp_path / "music_audioset_epoch_15_esc_90.14.pt"
    ours = convert_official(name, path).eval()
    samples = noise(10)
    expected = theirs.get_audio_features(log_mel(samples)).pooler_output
    torch.testing.assert_close(ours.encode_audio_joint(samples[None]), expected, atol=1e-5, rtol=0)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), pad_token="<pad>")
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    expected = theirs.get_text_features(inputs["input_ids"], attention_mask=inputs["attention_mask"]).pooler_output
    torch.testing.assert_close(ours.encode_text(TEXTS), expected, atol=1e-5, rtol=0)


def test_another_checkpoint_is_refused(tmp_path):
    torch.save({"state_dict": {"step": 3}}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"x\.pt: is no checkpoint of a LAION-CLAP"):
        convert_official("laion-clap-music-audioset", tmp_path / "x.pt")


@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes_at_full_size_are_those_of_transformers(name):
    audio = {"depths": [2, 2, 12, 2], "hidden_size": 1024, "patch_embeds_hidden_size": 128}
    config = ClapConfig(audio_config=audio, projection_dim=512)
    with torch.device("meta"):
        expected = {key: value.shape for key, value in ClapModel(config).state_dict().items()}
        actual = {key: value.shape for key, value in build_encoder(name).state_dict().items()}
    constants = ("logit_scale_a", "logit_scale_t", "position_ids", "token_type_ids", "relative_position_index")
    assert ENCODER.variants[name][0].parameters == 193_913_882 - 2  # without the loss's two scales
    assert actual == {key: shape for key, shape in expected.items() if not key.endswith(constants)}


def write_song_describer(root, texts):
    lines = ["caption_id,track_id,caption,is_valid_subset,familiarity,artist_id,album_id,path,duration"]
    for number, text in enumerate(texts):
        yield root / f"song-describer/audio/00/{number}.2min.mp3"
        lines.append(f'{number},{number},"{text}",True,3,{number},6,00/{number}.mp3,200.5')
    (root / "song-describer/song_describer.csv").write_text("\n".join(lines) + "\n")


def write_pebble(root, texts):
    meta, lines = {"version": 1, "counts": {"pieces": len(texts)}, "identity": "0"}, []
    for number, text in enumerate(texts):
        name = f"pieces-{number:05}"
        yield root / f"pebble/demo/audio/pieces/{name}.flac"
        entry = {"id": name, "files": [f"audio/pieces/{name}.flac"], "bytes": [1], "seconds": 1.0,
                 "groups": {"pieces": name}, "sides": {"pieces": "test"}, "labels": {"caption": text}}  # fmt: skip
        lines.append(json.dumps(entry))
    (root / "pebble/demo/meta.json").write_text(json.dumps(meta))
    (root / "pebble/demo/index.jsonl").write_text("\n".join(lines) + "\n")


TEXT_TASKS = ("song-describer/text", "song-describer/text-full", "pebble/caption")


@pytest.mark.parametrize("task", TEXT_TASKS)
def test_recordings_are_searched_by_text_from_the_command_line(encoder, folder, tmp_path, monkeypatch, task):
    """The score on files of a dataset's layout is that of the towers' own vectors, ranked by hand."""
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    clips, texts = [], PROMPTS[:6]
    layout = write_pebble if task.startswith("pebble") else write_song_describer
    for number, path in enumerate(layout(tmp_path, texts)):
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise(1, number).numpy() * (1 + number), RATE)
        clips.append(torch.from_numpy(load_audio(path, RATE)))
    words = ["bench", str(folder), "-t", task, "--partial", "--data", str(tmp_path), "--json"]
    done = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "out"), "--device", "cpu"])
    assert done.exit_code == 0, done.stderr
    (record,) = json.loads(done.stdout)
    with torch.no_grad():
        audio = torch.cat([encoder.encode_audio_joint(clip[None]) for clip in clips]).numpy()
    cosine = encoder.encode_text(texts).numpy() @ audio.T
    ranks = [1 + int((row > row[number]).sum()) for number, row in enumerate(cosine)]
    assert record["scores"]["map"]["value"] == pytest.approx(np.mean([1 / rank for rank in ranks]), abs=1e-9)
    assert record["scores"]["median_rank"]["value"] == np.median(ranks)
