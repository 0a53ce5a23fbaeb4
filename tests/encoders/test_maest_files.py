"""MAEST's files: GitHub's, Lightning's and Hugging Face's in both spellings; round trips; what is refused by name."""

import json
import math

import pytest
import torch

import carrara
from carrara.core.errors import UsageError, WeightsError
from carrara.encoders import _maest_files as files
from carrara.encoders import maest
from carrara.encoders._export import export
from carrara.encoders._load import build, save_pretrained
from carrara.encoders._maest_keys import FREQUENCY, TIME, from_hub, native, resized, split_positions, to_hub
from carrara.encoders._maest_labels import agree
from carrara.encoders._official import convert
from carrara.nn.vit import VitShape

LABELS = [f"Jazz---Kind {place}" for place in range(7)]
SMALL = {"width": 24, "layers": 2, "heads": 2, "feed_forward": 48, "classes": 7}


@pytest.fixture(autouse=True)
def small_shelf(monkeypatch):
    """Put networks of the published lengths, but small, in the place of the published ones."""
    for name, frames in (("maest-5s", 312), ("maest-10s", 625)):
        card, settings = maest.ENCODER.variants[name]
        smaller = settings.model_copy(update={**SMALL, "frames": frames})
        monkeypatch.setitem(maest.ENCODER.variants, name, (card, smaller))


@pytest.fixture
def encoder():
    network = build("maest-5s", 3).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(5)
    return network


def published(encoder, prefix=""):
    """Return an encoder's weights under the names of GitHub's files."""
    return {prefix + name.removeprefix("vit."): tensor.clone() for name, tensor in encoder.state_dict().items()}


def answers(encoder):
    samples = 0.1 * torch.randn(1, 64000, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return encoder(samples), encoder.tags(samples)


def same(one, other, **tolerance):
    for a, b in zip(answers(one), answers(other)):
        torch.testing.assert_close(a, b, **tolerance)


class Callback:
    """Something that a training program leaves in a checkpoint."""


@pytest.mark.parametrize("kind", ["flat", "lightning", "averaged"])
def test_checkpoints_load_whoever_wrote_them(tmp_path, encoder, kind):
    path = tmp_path / "discogs-maest-5s.ckpt"
    other = {name: tensor + 1 for name, tensor in published(encoder, "net.").items()}
    content = {
        "flat": published(encoder),
        "lightning": {"epoch": 129, "state_dict": published(encoder, "net."), "callbacks": Callback()},
        "averaged": {"state_dict": {**other, **published(encoder, "net_swa.")}},
    }[kind]
    torch.save(content, path)
    loaded = convert("maest-5s", path).eval()
    assert loaded.card.name == "maest-5s"
    assert loaded.settings.labels == ()
    same(loaded, encoder, atol=0, rtol=0)
    assert maest.official("maest-5s", path).keys() == encoder.state_dict().keys()
    assert maest.official("maest-5s", tmp_path).keys() == encoder.state_dict().keys()


def test_labels_beside_a_checkpoint_are_taken(tmp_path, encoder):
    torch.save(published(encoder), tmp_path / "a.ckpt")
    for content in (LABELS, dict(enumerate(LABELS)), {"name": "essentia's", "classes": LABELS}):
        (tmp_path / "labels.json").write_text(json.dumps(content))
        assert convert("maest-5s", tmp_path / "a.ckpt").settings.labels == tuple(LABELS)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (LABELS[:5], "5 names for a head of 7 styles: none for style 5, 6"),
        ([*LABELS, "Rock---Surf"], "8 names for a head of 7 styles: 'Rock---Surf' beyond it"),
        ([*LABELS[:6], LABELS[0]], "'Jazz---Kind 0' twice"),
        ("Jazz", "no names of styles"),
    ],
)
def test_labels_that_do_not_match_the_head_are_named(tmp_path, encoder, labels, said):
    torch.save(published(encoder), tmp_path / "a.ckpt")
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    with pytest.raises(UsageError, match="labels.json") as problem:
        convert("maest-5s", tmp_path / "a.ckpt")
    assert said in str(problem.value)


def test_other_labels_than_an_encoders_own_are_named(encoder):
    named = build("maest-5s", changes={"labels": LABELS})
    agree(LABELS, named, "labels.json")
    agree(["anything"], encoder, "labels.json")
    with pytest.raises(UsageError, match="1 that it does not have .'Jazz---Kind X'.; 1 of its own missing .'Jazz---Ki"):
        agree([*LABELS[:6], "Jazz---Kind X"], named, "labels.json")
    with pytest.raises(UsageError, match="another order"):
        agree(LABELS[::-1], named, "labels.json")


def test_missing_and_unknown_keys_are_reported(tmp_path, encoder):
    path = tmp_path / "a.ckpt"
    tensors = published(encoder)
    del tensors["blocks.1.attn.qkv.bias"]
    tensors["blocks.1.attn.qkv.bais"] = torch.zeros(72)
    torch.save(tensors, path)
    with pytest.raises(WeightsError, match=r"a\.ckpt.* 1 missing .*attn\.qkv\.bias.* 1 unknown .*qkv\.bais"):
        convert("maest-5s", path)
    torch.save({"state_dict": {"a": 3}}, path)
    with pytest.raises(WeightsError, match="no table of tensors"):
        convert("maest-5s", path)
    path.unlink()
    with pytest.raises(WeightsError, match="0 .ckpt files"):
        maest.official("maest-5s", tmp_path)


def test_another_length_is_stretched_only_when_told(tmp_path, encoder):
    torch.save(published(encoder), tmp_path / "a.ckpt")
    with pytest.raises(WeightsError, match=r"positions for 5 s \(31 columns\) where 10 s \(62\) .*--interpolate"):
        convert("maest-10s", tmp_path / "a.ckpt")
    stretched = convert("maest-10s", tmp_path / "a.ckpt", interpolate=True)
    assert stretched.vit.time_new_pos_embed.shape[-1] == 62
    assert torch.equal(stretched.vit.freq_new_pos_embed, encoder.vit.freq_new_pos_embed)


def stretched(values, size):
    """Return a list at `size` places by cubic convolution with a = -0.75, the ends repeated."""

    def weight(distance, a=-0.75):
        x = abs(distance)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    count, found = len(values), []
    for place in range(size):
        at = (place + 0.5) * count / size - 0.5
        near = range(math.floor(at) - 1, math.floor(at) + 3)
        found.append(sum(weight(at - one) * values[min(max(one, 0), count - 1)] for one in near))
    return found


def test_tables_are_stretched_by_cubic_interpolation_each_along_its_own_axis():
    """From PaSST's 12 rows and 99 columns to 9 and 187."""
    time, frequency = torch.randn(1, 4, 1, 99), torch.randn(1, 4, 12, 1)
    found = resized({TIME: time, FREQUENCY: frequency, "head.1.bias": torch.ones(3)}, VitShape(frames=1875, width=4))
    assert found[TIME].shape == (1, 4, 1, 187)
    assert found[FREQUENCY].shape == (1, 4, 9, 1)
    for width in range(4):
        for name, table, size in ((TIME, time, 187), (FREQUENCY, frequency, 9)):
            wanted = torch.tensor(stretched(table[0, width].flatten().tolist(), size))
            torch.testing.assert_close(found[name][0, width].flatten(), wanted, atol=1e-4, rtol=1e-4)
    assert torch.equal(found["head.1.bias"], torch.ones(3))


def test_a_hugging_face_folder_and_back(tmp_path, encoder):
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


def test_names_of_both_versions_of_transformers_are_read(encoder):
    older = to_hub(encoder.state_dict())
    renamed = (
        ("encoder.layer.", "layers."),
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    )
    newer = {}
    for name, tensor in older.items():
        for old, new in renamed:
            name = name.replace(old, new)
        newer[name] = tensor
    assert not older.keys() & {name for name in newer if "layers" in name}
    one, other = from_hub(older, 9, "old"), from_hub(newer, 9, "new")
    wanted = {name for name in encoder.state_dict() if not name.startswith("head_dist")}
    assert one.keys() == other.keys() == wanted
    for name in wanted - {FREQUENCY, TIME}:
        assert torch.equal(one[name], encoder.state_dict()[name])
        assert torch.equal(other[name], one[name])
    # The published key table, by one example a kind.
    assert older["audio_spectrogram_transformer.embeddings.position_embeddings"].shape == (1, 2 + 9 * 31, 24)
    qkv = encoder.vit.blocks[1].attn.qkv.weight
    torch.testing.assert_close(
        older["audio_spectrogram_transformer.encoder.layer.1.attention.attention.key.weight"], qkv[24:48]
    )
    assert "classifier.dense.weight" in older


def test_summed_positions_are_split_back():
    frequency, time, first = torch.randn(1, 4, 9, 1), torch.randn(1, 4, 1, 31), torch.randn(1, 2, 4)
    rows = [first[0, 0], first[0, 1]] + [frequency[0, :, f, 0] + time[0, :, 0, t] for f in range(9) for t in range(31)]
    found = split_positions(torch.stack(rows)[None], 9, "x")
    torch.testing.assert_close(found[FREQUENCY] + found[TIME], frequency + time)
    assert torch.equal(found["vit.new_pos_embed"], first)
    with pytest.raises(WeightsError, match="an AST but no MAEST"):
        split_positions(torch.randn(1, 2 + 9 * 31, 4), 9, "x")
    with pytest.raises(WeightsError, match="not 2 and 9 rows"):
        split_positions(torch.randn(1, 280, 4), 9, "x")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"num_mel_bins": 128}, "num_mel_bins is 128, and 96 in a MAEST"),
        ({"max_length": 626}, "positions for 5 s"),
        ({"id2label": {"0": "a"}}, "1 names for a head of 7 styles"),
    ],
)
def test_folders_that_do_not_fit_are_named(tmp_path, encoder, config, said):
    files.save_ast_folder(encoder, tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**stored, **config}))
    with pytest.raises((UsageError, WeightsError), match=said):
        carrara.load(tmp_path)


def test_own_folders_keep_labels_and_answers(tmp_path):
    encoder = build("maest-5s", 1, {"labels": LABELS, "distilled": "separated"}).eval()
    save_pretrained(encoder, tmp_path)
    loaded = carrara.load(tmp_path)
    assert loaded.settings == encoder.settings
    same(loaded, encoder, atol=0, rtol=0)
    with pytest.raises(UsageError, match="cls alone"):
        files.save_ast_folder(loaded, tmp_path / "ast")


def test_names_without_a_prefix_are_native(encoder):
    assert native(published(encoder)).keys() == encoder.state_dict().keys()


def test_names_beside_a_checkpoint_come_along_when_it_is_imported(tmp_path):
    settings = maest.ENCODER.variants["maest-5s"][1]
    file = tmp_path / "discogs-maest-5s-pw-129e-swa.ckpt"
    assert maest.ENCODER.told("maest-5s", settings, file).labels == ()
    names = [f"Genre---Style {place}" for place in range(7)]
    (tmp_path / "labels.json").write_text(json.dumps({"classes": names}))
    assert maest.ENCODER.told("maest-5s", settings, file).labels == tuple(names)
    (tmp_path / "labels.json").write_text(json.dumps(names[:-1]))
    with pytest.raises(UsageError, match="6 names for a head of 7 styles"):
        maest.ENCODER.told("maest-5s", settings, file)


def test_it_is_exported_for_transformers_and_read_back(tmp_path, encoder):
    from transformers import ASTForAudioClassification

    folder = export(encoder.eval(), "transformers", tmp_path / "hf")
    theirs = ASTForAudioClassification.from_pretrained(folder).eval()
    frames = encoder.settings.shape.columns * 10 + 6
    mel = torch.randn(1, frames, 96, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        torch.testing.assert_close(encoder.logits(encoder.vit(mel)[-1]), theirs(mel).logits, atol=1e-4, rtol=1e-4)
