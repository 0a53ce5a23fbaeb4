"""Continuing: encoder and heads come along where they mean the same, and what was drawn anew is told everywhere."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import carrara
from carrara.core.errors import StoreError, UsageError, WeightsError
from carrara.core.settings import read as read_settings
from carrara.core.settings import replace
from carrara.encoders import _official
from carrara.encoders._load import build, load, save_pretrained
from carrara.pretrain import heads
from carrara.pretrain.heads import Kept, former, official
from carrara.pretrain.journal import events
from carrara.pretrain.objective import MaskedPrediction, cosine_logits
from carrara.pretrain.ranks import Ranks
from carrara.pretrain.recipes._base import ObjectiveSettings, resolve
from carrara.pretrain.run import _made, pretrain
from carrara.pretrain.start import Start, put
from carrara.pretrain.targets._base import Grid, Target, TargetSettings

CPU = Ranks(device=torch.device("cpu"))


@pytest.fixture(scope="module")
def small(micro):
    """Two label sets and a CQT, two steps."""
    return replace(micro, {"steps": 2, "checkpoint_every": 1, "batch": 2, "network.layers": 1})


@pytest.fixture(scope="module")
def first(small, corpus, tmp_path_factory):
    return pretrain(small, corpus, tmp_path_factory.mktemp("runs") / "first", device="cpu")


def trained(folder):
    tensors = load_file(folder / "training" / "last.safetensors")
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}


def begun(recipe, corpus, folder, start=""):
    """Return the weights of a run that has taken no step, and its targets."""
    run = _made(recipe, [corpus], folder, False, CPU, str(start))
    run.journal.close()
    return run.model.state_dict(), run.targets


def test_a_former_run_comes_along_whole(first, small, corpus, tmp_path, capsys):
    tensors, targets = begun(replace(small, {"optimiser.learning_rate": 1e-4}), corpus / "0", tmp_path / "x", first)
    wanted = trained(first)
    assert tensors.keys() == wanted.keys()
    assert not [name for name in tensors if not torch.equal(tensors[name], wanted[name])]
    fitted = load_file(first / "targets" / "chroma.safetensors")
    assert all(torch.equal(value, fitted[name]) for name, value in targets["chroma"].state_dict().items())
    told = capsys.readouterr().err.strip().splitlines()
    assert told == [
        f"{tmp_path / 'x'}: started from {first}: encoder taken; heads taken: log-mel, chroma, cqt; "
        "re-initialised: nothing"
    ]


def test_what_does_not_fit_is_drawn_anew_and_told_everywhere(first, small, corpus, tmp_path, capsys):
    other = replace(small, {"targets.chroma.k": 7, "targets.log-mel.weight": 2.0, "steps": 1})
    plain, _ = begun(other, corpus, tmp_path / "plain")
    folder = tmp_path / "x"
    tensors, _ = begun(other, corpus, folder, first)
    wanted, final = trained(first), small.objective.final_width
    for name in ("classes.0", "values.cqt.weight", "values.cqt.bias"):
        assert torch.equal(tensors[name], wanted[name])
    assert torch.equal(tensors["project.weight"][:final], wanted["project.weight"][:final])
    assert torch.equal(tensors["project.weight"][final:], plain["project.weight"][final:])
    assert torch.equal(tensors["classes.1"], plain["classes.1"]) and len(tensors["classes.1"]) == 7
    line = "encoder taken; heads taken: log-mel, cqt; re-initialised: chroma (k was 6, now 7)"
    assert line in capsys.readouterr().err
    record = json.loads((folder / "run.json").read_text())["start"]
    assert (record["taken"], record["renewed"]) == (["log-mel", "cqt"], {"chroma": "k was 6, now 7"})
    assert record["weights"] == load(first).card.weights
    entry = json.loads((folder / "journal.jsonl").read_text().splitlines()[0])
    assert entry == {"step": 0, "event": "started", **record}
    pretrain(other, corpus, folder, device="cpu", resume=True, start=first)
    assert line in (folder / "README.md").read_text()
    assert [event["event"] for event in events(folder / "journal.jsonl")] == ["started"]


def test_another_final_width_or_name_is_told(first, small):
    wider = replace(small, {"objective.final_width": 2 * small.objective.final_width})
    width = small.objective.final_width
    reason = f"final_width was {width}, now {2 * width}"
    assert former(first, wider).renewed == {"log-mel": reason, "chroma": reason}
    values = small.model_dump()
    values["targets"]["mine"] = values["targets"].pop("chroma")
    assert former(first, read_settings(type(small), values, "test")).renewed == {"mine": "no such target there"}


def test_a_teacher_comes_along_as_slow_as_it_was(small, corpus, tmp_path):
    values = small.model_dump() | {"targets": {"slow": {"target": "teacher", "top": 1, "decay": 0.5}}}
    taught = read_settings(type(small), values, "test")
    one = pretrain(taught, corpus, tmp_path / "one", device="cpu")
    _, targets = begun(taught, corpus, tmp_path / "two", one)
    average = load_file(one / "training" / "last.safetensors")
    for name, value in targets["slow"].state_dict().items():
        assert torch.equal(value, average[f"moving.slow.{name}"])
    assert not torch.equal(
        targets["slow"].state_dict()["average.layers.0.layer_norm.weight"],
        trained(one)["encoder.encoder.layers.0.layer_norm.weight"],
    )


def test_an_encoders_licence_and_past_stay_with_it(small, corpus, tmp_path):
    encoder = build(small.encoder, 7, small.network.model_dump())
    facts = {"license": "CC-BY-NC-4.0", "commercial_use": False, "trained_on": ("gtzan",)}
    encoder.card = encoder.card.model_copy(update=facts)
    save_pretrained(encoder, tmp_path / "official")
    folder = pretrain(small, corpus, tmp_path / "x", device="cpu", steps=1, start=tmp_path / "official")
    card = carrara.load(folder).card
    assert (card.license, card.commercial_use, card.trained_on) == ("CC-BY-NC-4.0", False, ("gtzan",))
    why = "no heads are published with it"
    assert json.loads((folder / "run.json").read_text())["start"]["renewed"] == dict.fromkeys(small.targets, why)


def test_another_network_is_named_in_one_line(first, small, corpus, tmp_path):
    wide = replace(small, {"network.width": 48, "network.layers": 2, "network.dropout": 0.0})
    with pytest.raises(UsageError) as told:
        pretrain(wide, corpus, tmp_path / "x", device="cpu", start=first)
    assert f"--from {first}: is another network: width is 32 there and 48 here, layers is 1 there and 2 here" in str(
        told.value
    )
    assert "--set network.width=32 --set network.layers=1" in str(told.value) and "dropout" not in str(told.value)
    assert "\n" not in str(told.value)
    with pytest.raises(UsageError, match="--from noise: is no network of the recipe's kind"):
        pretrain(small, corpus, tmp_path / "x", device="cpu", start="noise")
    with pytest.raises(UsageError, match="there is no encoder 'mert-v9'"):
        pretrain(small, corpus, tmp_path / "x", device="cpu", start="mert-v9")


def test_a_resumed_run_must_have_started_there_and_needs_it_no_more(first, small, corpus, tmp_path):
    source = shutil.copytree(first, tmp_path / "source")
    longer = replace(small, {"steps": 3})
    whole = pretrain(longer, corpus, tmp_path / "whole", device="cpu", start=source)
    half = shutil.copytree(whole, tmp_path / "half")
    shutil.copy(half / "training" / "previous.safetensors", half / "training" / "last.safetensors")
    with pytest.raises(StoreError, match=f"half: started from {source}, not random weights; give --from {source}, or"):
        pretrain(longer, corpus, half, device="cpu", resume=True)
    with pytest.raises(StoreError, match=f"half: started from {source}, not noise; give --from {source}, or"):
        pretrain(longer, corpus, half, device="cpu", resume=True, start="noise")
    with pytest.raises(StoreError, match="first: started from random weights, not x; leave --from out, or"):
        pretrain(small, corpus, first, device="cpu", resume=True, start="x")
    shutil.rmtree(source)
    pretrain(longer, corpus, half, device="cpu", resume=True, start=source)
    one, two = trained(whole), trained(half)
    assert not [name for name in one if not torch.equal(one[name], two[name])]
    assert carrara.load(half).card.weights == carrara.load(whole).card.weights


def test_other_weights_under_the_same_name_are_refused(first, small, corpus, tmp_path):
    source = shutil.copytree(first, tmp_path / "source")
    begun(small, corpus, tmp_path / "x", source)
    save_pretrained(build(small.encoder, 3, small.network.model_dump()), source)
    with pytest.raises(StoreError, match=f"{source} held other weights when this run started"):
        pretrain(small, corpus, tmp_path / "x", device="cpu", resume=True, start=source)


class Books(Target):
    """A stand-in for EnCodec: three books of five codes."""

    books = (5, 5, 5)


def published(seed=0, width=32, final=8):
    """Return what fairseq holds for three books of five codes, with four special symbols before each."""
    draw = torch.Generator().manual_seed(seed)
    return {
        "final_proj.weight": torch.randn(3 * final, width, generator=draw),
        "final_proj.bias": torch.randn(3 * final, generator=draw),
        "label_embs_concat": torch.rand(3 * 9, final, generator=draw),
        "encoder_cqt_model.fc.weight": torch.randn(84, width, generator=draw),
        "encoder_cqt_model.fc.bias": torch.randn(84, generator=draw),
    }


@pytest.fixture
def eight():
    """A recipe as MERT-v1's with three books of five codes from EnCodec and a CQT of 84 bins, on a width of 32."""
    changes = {"network.width": 32, "network.heads": 2, "network.position_groups": 4, "objective.final_width": 8}
    codes = {"targets.codes.source": "encodec", "targets.codes.weights": "x", "targets.codes.books": 3}
    cqt = {"targets.codes.size": 5, "targets.cqt.form": "magnitude"}
    return resolve("mert-v1-95m", "tiny", {**changes, **codes, **cqt})


def model_of(recipe, kept):
    encoder = build(recipe.encoder, 0, recipe.network.model_dump())
    targets = {"codes": Books(TargetSettings(target="x"), Grid(24_000, 320, 200))}
    model = MaskedPrediction(encoder, targets, ObjectiveSettings(final_width=8), 0)
    put(Start({}, Kept(heads={"codes": kept.heads["codes"]})), model, targets)
    return model


@pytest.mark.parametrize("permuted", [False, True])
def test_fairseqs_heads_give_fairseqs_logits(eight, permuted, monkeypatch):
    tensors, codes = published(), [torch.arange(-4, 5)] * 3
    if permuted:
        codes = [torch.cat([torch.full((4,), -1), torch.randperm(5, generator=torch.Generator().manual_seed(book))])
                 for book in range(3)]  # fmt: skip
        tensors |= {f"dictionaries.{book}": order for book, order in enumerate(codes)}
    monkeypatch.setattr(heads, "heads", lambda spec: tensors)
    kept = official("spec", eight, 32)
    assert kept.renewed == {}
    model, hidden_SD = model_of(eight, kept), torch.randn(6, 32)
    for book, projected_SP in enumerate(model.project(hidden_SD).chunk(3, dim=-1)):
        logits = cosine_logits(projected_SP, model.classes[book], 0.1)
        # One code after the other, from the rows that fairseq keeps for it.
        map_PD, bias_P = (tensors[f"final_proj.{kind}"][8 * book : 8 * book + 8] for kind in ("weight", "bias"))
        for row, code in enumerate(codes[book].tolist()):
            if code >= 0:
                cosine_S = torch.cosine_similarity(
                    hidden_SD @ map_PD.T + bias_P, tensors["label_embs_concat"][9 * book + row][None]
                )
                torch.testing.assert_close(logits[:, code], cosine_S / 0.1, rtol=1e-4, atol=1e-4)
    assert torch.equal(kept.heads["cqt"][0].weight, tensors["encoder_cqt_model.fc.weight"])


def test_fairseqs_heads_of_other_labels_are_drawn_anew(eight, monkeypatch):
    monkeypatch.setattr(heads, "heads", lambda spec: published())
    cases = [
        ({"targets.codes.source": "residual-k-means", "targets.codes.weights": None}, "numbered anew by every fit"),
        ({"targets.codes.size": 6}, "its label sets are others"),
        ({"targets.codes.books": 2}, "its label sets are others"),
        ({"objective.final_width": 16}, "its label sets are others"),
        ({"targets.cqt.form": "log"}, "published for the form magnitude, not log"),
        ({"targets.cqt.bins": 72}, "no head of 72 values is published with it"),
    ]
    for changes, reason in cases:
        renewed = official("spec", replace(eight, changes), 32).renewed
        assert len(renewed) == 1 and reason in next(iter(renewed.values()))
    monkeypatch.setattr(heads, "heads", lambda spec: {"encoder_cqt_model.fc.weight": published()["final_proj.bias"]})
    assert official("spec", eight, 32).renewed["codes"] == "no head for label sets is published with it"


def test_data2vecs_regression_is_taken(monkeypatch):
    changes = {"network.width": 32, "network.heads": 2, "network.position_groups": 4}
    recipe = resolve("music2vec", "tiny", changes)
    tensors = {"final_proj.weight": torch.randn(32, 32), "final_proj.bias": torch.randn(32)}
    monkeypatch.setattr(heads, "heads", lambda spec: tensors)
    (name,) = recipe.targets
    assert torch.equal(official("spec", recipe, 32).heads[name][0].weight, tensors["final_proj.weight"])
    assert official("spec", recipe, 48).renewed == {name: "no head of 48 values is published with it"}


@pytest.mark.parametrize("positions", [True, False])
def test_fairseqs_average_is_the_teacher_that_goes_on(corpus, tmp_path, positions):
    """`_ema` holds the Transformer's names from inside the encoder; positions may be left out, being copied."""
    changes = {"network.width": 32, "network.heads": 2, "network.feed_forward": 48, "network.layers": 1}
    changes |= {"network.conv_channels": 8, "network.position_groups": 4, "targets.teacher.top": 1, "crop_seconds": 1}
    recipe = resolve("music2vec", "tiny", changes)
    encoder, folder = build(recipe.encoder, 5, recipe.network.model_dump()), tmp_path / "official"
    maps = {"fc1": (48, 32), "fc2": (32, 48), **{f"self_attn.{part}_proj": (32, 32) for part in ("q", "k", "v", "out")}}
    maps |= {"self_attn_layer_norm": (32,), "final_layer_norm": (32,)}
    slow = {f"layers.0.{name}.weight": torch.randn(shape) for name, shape in maps.items()}
    slow |= {f"layers.0.{name}.bias": torch.randn(shape[0]) for name, shape in maps.items()}
    slow |= {"layer_norm.weight": torch.randn(32), "layer_norm.bias": torch.randn(32)}
    convolutions = {name: own for name, own in encoder.encoder.state_dict().items() if name.startswith("pos_conv")}
    if positions:
        theirs = {name: name.split(".") for name in convolutions}  # pos_conv_embed.layers.3.conv.weight
        slow |= {f"pos_conv.{theirs[name][2]}.0.{theirs[name][4]}": 0 * own for name, own in convolutions.items()}
    head = {"final_proj.weight": torch.randn(32, 32), "final_proj.bias": torch.randn(32)}
    save_pretrained(encoder, folder)
    save_file(head | {f"_ema.{name}": tensor for name, tensor in slow.items()}, folder / _official.HEADS)
    _, targets = begun(recipe, corpus, tmp_path / "x", folder)
    found = targets["teacher"].average.state_dict()
    assert torch.equal(found["layers.0.feed_forward.output_dense.weight"], slow["layers.0.fc2.weight"])
    assert torch.equal(found["layers.0.layer_norm.bias"], slow["layers.0.self_attn_layer_norm.bias"])
    assert torch.equal(found["layer_norm.weight"], slow["layer_norm.weight"])
    assert torch.equal(found["layers.0.attention.k_proj.bias"], slow["layers.0.self_attn.k_proj.bias"])
    assert all(torch.equal(found[name], 0 * own if positions else own) for name, own in convolutions.items())
    del slow["layers.0.fc1.bias"]
    save_file(head | {f"_ema.{name}": tensor for name, tensor in slow.items()}, folder / _official.HEADS)
    with pytest.raises(WeightsError, match=r"1 missing .*layers.0.feed_forward.intermediate_dense.bias"):
        begun(recipe, corpus, tmp_path / "y", folder)


def test_a_fairseq_file_brings_its_encoder_and_heads(small, corpus, tmp_path):
    """A file of fairseq's layout with this micro network: keys as in pretraining.md 2.3, written out by hand."""
    encoder = build(small.encoder, 5, small.network.model_dump())
    names = {
        "masked_spec_embed": "mask_emb",
        "feature_projection.layer_norm": "layer_norm",
        "feature_projection.projection": "post_extract_proj",
        "encoder.pos_conv_embed.conv.parametrizations.weight.original0": "encoder.pos_conv.0.weight_g",
        "encoder.pos_conv_embed.conv.parametrizations.weight.original1": "encoder.pos_conv.0.weight_v",
        "encoder.pos_conv_embed.conv.bias": "encoder.pos_conv.0.bias",
        "feature_extractor.conv_layers.0.layer_norm": "feature_extractor.conv_layers.0.2",
        **{f"feature_extractor.conv_layers.{i}.conv": f"feature_extractor.conv_layers.{i}.0" for i in range(7)},
        "encoder.layers.0.layer_norm": "encoder.layers.0.self_attn_layer_norm",
        "encoder.layers.0.feed_forward.intermediate_dense": "encoder.layers.0.fc1",
        "encoder.layers.0.feed_forward.output_dense": "encoder.layers.0.fc2",
        **{
            f"encoder.layers.0.attention.{p}_proj": f"encoder.layers.0.self_attn.{p}_proj"
            for p in ("q", "k", "v", "out")
        },
    }
    state = encoder.state_dict()
    model = {}
    for name, tensor in state.items():
        stem, _, last = name.rpartition(".")
        model[names.get(name) or (f"{names[stem]}.{last}" if stem in names else name)] = tensor
    head = {"encoder_cqt_model.fc.weight": torch.randn(84, 32), "encoder_cqt_model.fc.bias": torch.randn(84)}
    path = tmp_path / "fairseq.pt"
    torch.save({"args": None, "cfg": {}, "model": model | head}, path)
    bare = replace(small, {"targets.cqt.form": "magnitude"})
    tensors, _ = begun(bare, corpus, tmp_path / "x", path)
    assert not [name for name in state if not torch.equal(tensors[f"encoder.{name}"], state[name])]
    assert torch.equal(tensors["values.cqt.weight"], head["encoder_cqt_model.fc.weight"])
    why = "its classes are numbered anew by every fit"
    record = json.loads((tmp_path / "x" / "run.json").read_text())["start"]
    assert record["renewed"] == {"log-mel": why, "chroma": why} and record["taken"] == ["cqt"]
    with pytest.raises(WeightsError, match=r"fairseq.pt: not the weights of this network: .* of another shape"):
        begun(replace(bare, {"network.width": 48}), corpus, tmp_path / "y", path)


def test_an_imported_folder_brings_its_heads(eight, tmp_path):
    save_file(published(), tmp_path / _official.HEADS)
    assert sorted(official(str(tmp_path), eight, 32).heads) == ["codes", "cqt"]
