"""MAEST's files: GitHub's, Lightning's and Hugging Face's folders; round trips; what is refused by name."""

import json

import pytest
import torch
from safetensors.torch import load_file

import carrara
from carrara.core.errors import UsageError, WeightsError
from carrara.encoders import maest
from carrara.encoders._hub.export import export_encoder
from carrara.encoders._hub.load import build_encoder, save_pretrained
from carrara.encoders._hub.official import convert_official
from carrara.encoders._maest import files as files
from carrara.encoders._maest.labels import require_same_labels

LABELS = [f"Jazz---Kind {place}" for place in range(7)]
SMALL = {"dim": 24, "num_layers": 2, "num_heads": 2, "ffn_dim": 48, "classes": 7}


@pytest.fixture(autouse=True)
def small_shelf(monkeypatch):
    """Put networks of the published lengths, but small, in the place of the published ones."""
    for name, frames in (("maest-5s", 312), ("maest-10s", 625)):
        card, settings = maest.ENCODER.variants[name]
        smaller = settings.model_copy(update={**SMALL, "frames": frames})
        monkeypatch.setitem(maest.ENCODER.variants, name, (card, smaller))


@pytest.fixture
def encoder():
    return drawn(build_encoder("maest-5s", 3).eval())


def drawn(network):
    """Draw every parameter, norms around 1 and biases too, so that one in another's place shows."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            gain = parameter.ndim == 1 and name.endswith("weight")
            parameter.normal_(float(gain), 0.2 if parameter.ndim == 1 else 0.1, generator=generator)
    return network


def published(encoder, prefix=""):
    """Return an encoder's weights under the names of GitHub's files."""
    return {prefix + name.removeprefix("vit."): tensor.clone() for name, tensor in encoder.state_dict().items()}


def answers(encoder):
    samples = 0.1 * torch.randn(1, 64000, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return encoder(samples), encoder.predict_tags(samples)


def same(one, other, **tolerance):
    for a, b in zip(answers(one), answers(other)):
        torch.testing.assert_close(a, b, **tolerance)


def front_end(window=512):
    """Return the constants that the authors' later code stores in its checkpoints."""
    return {
        "net.melspectrogram.spec.window": torch.hann_window(window),
        "net.melspectrogram.mel_scale.fb": torch.ones(257, 96),
    }


class Callback:
    """Something that a training program leaves in a checkpoint."""


@pytest.mark.parametrize("kind", ["flat", "lightning", "averaged", "later"])
def test_checkpoints_of_every_writer_are_loaded(tmp_path, encoder, kind):
    path = tmp_path / "discogs-maest-5s.ckpt"
    other = {name: tensor + 1 for name, tensor in published(encoder, "net.").items()}
    content = {
        "flat": published(encoder),
        "lightning": {"epoch": 129, "state_dict": published(encoder, "net."), "callbacks": Callback()},
        "averaged": {"state_dict": {**other, **published(encoder, "net_swa.")}},
        "later": {"state_dict": published(encoder, "net.") | front_end()},
    }[kind]
    torch.save(content, path)
    loaded = convert_official("maest-5s", path).eval()
    assert loaded.card.name == "maest-5s"
    assert loaded.settings.labels == ()
    same(loaded, encoder, atol=0, rtol=0)
    assert maest.ENCODER.load_official("maest-5s", path).keys() == encoder.state_dict().keys()
    assert maest.ENCODER.load_official("maest-5s", tmp_path).keys() == encoder.state_dict().keys()


def test_an_untrained_second_head_may_be_all_zero(tmp_path, encoder):
    torch.save({**published(encoder), "head_dist.weight": torch.zeros(7, 24)}, tmp_path / "a.ckpt")
    assert not convert_official("maest-5s", tmp_path / "a.ckpt").head_dist.weight.any()
    torch.save({**published(encoder), "blocks.1.mlp.fc1.weight": torch.zeros(48, 24)}, tmp_path / "a.ckpt")
    with pytest.raises(WeightsError, match=r"blocks.1.mlp.fc1.weight holds zeros alone"):
        convert_official("maest-5s", tmp_path / "a.ckpt")


def test_labels_beside_a_checkpoint_are_read(tmp_path, encoder):
    torch.save(published(encoder), tmp_path / "a.ckpt")
    for content in (LABELS, dict(enumerate(LABELS)), {"name": "essentia's", "classes": LABELS}):
        (tmp_path / "labels.json").write_text(json.dumps(content))
        assert convert_official("maest-5s", tmp_path / "a.ckpt").settings.labels == tuple(LABELS)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:5], "5 names for a head of 7 styles: none for style 5, 6"),
        ([*LABELS, "Rock---Surf"], "8 names for a head of 7 styles: 'Rock---Surf' beyond it"),
        ([*LABELS[:6], LABELS[0]], "'Jazz---Kind 0' twice"),
        ("Jazz", "no names of styles"),
    ],
)
def test_labels_that_do_not_match_the_head_are_named(tmp_path, encoder, labels, message):
    torch.save(published(encoder), tmp_path / "a.ckpt")
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    with pytest.raises(UsageError, match="labels.json") as problem:
        convert_official("maest-5s", tmp_path / "a.ckpt")
    assert message in str(problem.value)


def test_other_labels_than_an_encoders_own_are_named(encoder):
    named = build_encoder("maest-5s", changes={"labels": LABELS})
    require_same_labels(LABELS, named, "labels.json")
    require_same_labels(["anything"], encoder, "labels.json")
    with pytest.raises(UsageError, match="1 that it does not have .'Jazz---Kind X'.; 1 of its own missing .'Jazz---Ki"):
        require_same_labels([*LABELS[:6], "Jazz---Kind X"], named, "labels.json")
    with pytest.raises(UsageError, match="another order"):
        require_same_labels(LABELS[::-1], named, "labels.json")


def test_missing_and_unknown_keys_are_reported(tmp_path, encoder):
    path = tmp_path / "a.ckpt"
    tensors = published(encoder)
    del tensors["blocks.1.attn.qkv.bias"]
    tensors["blocks.1.attn.qkv.bais"] = torch.zeros(72)
    torch.save(tensors, path)
    with pytest.raises(WeightsError, match=r"a\.ckpt.* 1 missing .*attn\.qkv\.bias.* 1 unknown .*qkv\.bais"):
        convert_official("maest-5s", path)
    torch.save({"state_dict": published(encoder, "net.") | front_end(400)}, path)
    with pytest.raises(WeightsError, match=r"network: 1 unknown \(net\.melspectrogram\.spec\.window\)"):
        convert_official("maest-5s", path)
    torch.save({"state_dict": {"a": 3}}, path)
    with pytest.raises(WeightsError, match="no table of tensors"):
        convert_official("maest-5s", path)
    path.rename(tmp_path / "b.ckpt")
    (tmp_path / "c.ckpt").touch()
    with pytest.raises(WeightsError, match="holds 2 .ckpt files; name one"):
        maest.ENCODER.load_official("maest-5s", tmp_path)


def test_importing_a_folder_that_loads_directly_names_the_command(tmp_path, encoder):
    with pytest.raises(WeightsError, match="holds 0 .ckpt files"):
        maest.ENCODER.load_official("maest-5s", tmp_path)
    files.save_ast_folder(encoder, tmp_path)
    with pytest.raises(WeightsError) as problem:
        maest.ENCODER.load_official("maest-5s", tmp_path)
    assert f"`carrara bench {tmp_path}`" in str(problem.value)
    assert f"carrara.load({str(tmp_path)!r})" in str(problem.value)
    carrara.load(tmp_path)  # as it says


def test_positions_of_another_length_are_interpolated_on_request_only(tmp_path, encoder):
    torch.save(published(encoder), tmp_path / "a.ckpt")
    with pytest.raises(WeightsError, match=r"positions for 5 s \(31 columns\) where 10 s \(62\) .*--interpolate"):
        convert_official("maest-10s", tmp_path / "a.ckpt")
    stretched = convert_official("maest-10s", tmp_path / "a.ckpt", interpolate=True)
    assert stretched.vit.time_new_pos_embed.shape[-1] == 62
    assert torch.equal(stretched.vit.freq_new_pos_embed, encoder.vit.freq_new_pos_embed)


def test_a_hugging_face_folder_is_read_and_exported_unchanged(tmp_path, encoder):
    transformers = pytest.importorskip("transformers")
    files.save_ast_folder(encoder, tmp_path / "ast")
    theirs = transformers.ASTForAudioClassification.from_pretrained(tmp_path / "ast").eval()
    mel = torch.randn(1, 316, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        given = theirs(mel, output_hidden_states=True)
        own = encoder.vit(mel)
        for one, other in zip(own, given.hidden_states, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(encoder.logits(own[-1]), given.logits, atol=1e-4, rtol=1e-4)
    theirs.config.id2label = dict(enumerate(LABELS))
    theirs.save_pretrained(tmp_path / "renamed")  # in the spelling of the version that is installed
    back = carrara.load(tmp_path / "ast")
    renamed = carrara.load(tmp_path / "renamed")
    assert renamed.settings.labels == tuple(LABELS)
    assert back.settings.labels == ()
    assert back.head_dist is None
    assert back.settings.framing == "maest-hf"
    same(back, renamed, atol=1e-6, rtol=1e-6)
    with torch.inference_mode():
        torch.testing.assert_close(back.logits(back.vit(mel)[-1]), encoder.logits(own[-1]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_mel_bins": 128}, "num_mel_bins is 128, and 96 in a MAEST"),
        ({"layer_norm_eps": 1e-3}, "layer_norm_eps is 0.001, and 1e-06 in a MAEST"),
        ({"qkv_bias": False}, "qkv_bias is False, and True in a MAEST"),
        ({"max_length": 626}, r"config.json: max_length is 626, but .* for 316 frames \(5 s\); fetch both files again"),
        ({"max_length": 315}, "max_length is 315"),
        ({"id2label": {"0": "a"}}, "1 names for a head of 7 styles"),
    ],
)
def test_folders_that_do_not_fit_are_named(tmp_path, encoder, config, message):
    files.save_ast_folder(encoder, tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**stored, **config}))
    with pytest.raises((UsageError, WeightsError), match=message) as problem:
        carrara.load(tmp_path)
    assert "--interpolate" not in str(problem.value)


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        ('{"mean": ', "preprocessor_config.json: cannot be read"),
        ("\xff", "preprocessor_config.json: cannot be read"),
        ("[16000]", "preprocessor_config.json: is not the config of a feature extractor"),
        ('{"sampling_rate": 22050}', "preprocessor_config.json: sampling_rate is 22050"),
    ],
)
def test_a_broken_preprocessor_config_is_named_in_one_line(tmp_path, encoder, sound, message):
    files.save_ast_folder(encoder, tmp_path)
    (tmp_path / "preprocessor_config.json").write_bytes(sound.encode("latin-1"))
    with pytest.raises(UsageError, match=message) as problem:
        carrara.load(tmp_path)
    assert "\n" not in str(problem.value)


def test_values_that_a_config_omits_are_maests_defaults(tmp_path, encoder):
    files.save_ast_folder(encoder, tmp_path)
    whole = carrara.load(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    left_out = ("layer_norm_eps", "qkv_bias", "max_length", "num_mel_bins")
    (tmp_path / "config.json").write_text(json.dumps({key: stored[key] for key in stored if key not in left_out}))
    (tmp_path / "preprocessor_config.json").unlink()
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    loaded = carrara.load(tmp_path)
    assert loaded.settings == whole.settings
    # Tensors of the two file formats differ in alignment, and so in the order of a product's sums.
    same(loaded, whole, atol=1e-6, rtol=1e-6)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(WeightsError, match=r"neither model\.safetensors nor pytorch_model\.bin in it"):
        carrara.load(tmp_path)


def test_saved_folders_keep_labels_and_predictions(tmp_path):
    encoder = build_encoder("maest-5s", 1, {"labels": LABELS, "distilled": "separated"}).eval()
    save_pretrained(encoder, tmp_path)
    loaded = carrara.load(tmp_path)
    assert loaded.settings == encoder.settings
    same(loaded, encoder, atol=0, rtol=0)
    with pytest.raises(UsageError, match="cls alone"):
        files.save_ast_folder(loaded, tmp_path / "ast")


def test_labels_beside_a_checkpoint_are_imported(tmp_path):
    settings = maest.ENCODER.variants["maest-5s"][1]
    file = tmp_path / "discogs-maest-5s-pw-129e-swa.ckpt"
    assert maest.ENCODER.settings_from_files("maest-5s", settings, file).labels == ()
    names = [f"Genre---Style {place}" for place in range(7)]
    (tmp_path / "labels.json").write_text(json.dumps({"classes": names}))
    assert maest.ENCODER.settings_from_files("maest-5s", settings, file).labels == tuple(names)
    (tmp_path / "labels.json").write_text(json.dumps(names[:-1]))
    with pytest.raises(UsageError, match="6 names for a head of 7 styles"):
        maest.ENCODER.settings_from_files("maest-5s", settings, file)


def test_it_is_exported_for_transformers_and_read_back(tmp_path, encoder):
    from transformers import ASTForAudioClassification

    folder = export_encoder(encoder.eval(), "transformers", tmp_path / "hf")
    theirs = ASTForAudioClassification.from_pretrained(folder).eval()
    frames = encoder.settings.shape.columns * 10 + 6
    mel = torch.randn(1, frames, 96, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        torch.testing.assert_close(encoder.logits(encoder.vit(mel)[-1]), theirs(mel).logits, atol=1e-4, rtol=1e-4)
