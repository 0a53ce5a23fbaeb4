"""Continuing: encoder and heads come along where they mean the same, and what was drawn anew is told everywhere."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

import carrara
from carrara.core.errors import StoreError, UsageError
from carrara.core.settings import parse_settings as read_settings
from carrara.core.settings import replace
from carrara.encoders._hub.load import build, load, save_pretrained
from carrara.pretrain.dist import Ranks
from carrara.pretrain.metrics_log import events
from carrara.pretrain.run import pretrain
from carrara.pretrain.transferred_heads import former

CPU = Ranks(device=torch.device("cpu"))


@pytest.fixture(scope="module")
def first(two_steps, corpus, tmp_path_factory):
    return pretrain(two_steps, corpus, tmp_path_factory.mktemp("runs") / "first", device="cpu")


def trained(folder):
    tensors = load_file(folder / "training" / "last.safetensors")
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}


def test_a_former_run_comes_along_whole(begun, first, two_steps, corpus, tmp_path, capsys):
    tensors, targets = begun(replace(two_steps, {"optimiser.learning_rate": 1e-4}), corpus / "0", tmp_path / "x", first)
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


def test_what_does_not_fit_is_drawn_anew_and_told_everywhere(begun, first, two_steps, corpus, tmp_path, capsys):
    other = replace(two_steps, {"targets.chroma.k": 7, "targets.log-mel.weight": 2.0, "steps": 1})
    plain, _ = begun(other, corpus, tmp_path / "plain")
    folder = tmp_path / "x"
    tensors, _ = begun(other, corpus, folder, first)
    wanted, final = trained(first), two_steps.objective.final_dim
    for name in ("classes.0", "values.cqt.weight", "values.cqt.bias"):
        assert torch.equal(tensors[name], wanted[name])
    assert torch.equal(tensors["project.weight"][:final], wanted["project.weight"][:final])
    assert torch.equal(tensors["project.weight"][final:], plain["project.weight"][final:])
    assert torch.equal(tensors["classes.1"], plain["classes.1"]) and len(tensors["classes.1"]) == 7
    line = "encoder taken; heads taken: log-mel, cqt; re-initialised: chroma (k was 6, now 7)"
    assert line in capsys.readouterr().err
    record = json.loads((folder / "run.json").read_text())["start"]
    assert (record["taken"], record["renewed"]) == (["log-mel", "cqt"], {"chroma": "k was 6, now 7"})
    assert record["weights"] == load(first).card.weights_sha256
    entry = json.loads((folder / "journal.jsonl").read_text().splitlines()[0])
    assert entry == {"step": 0, "event": "started", **record}
    pretrain(other, corpus, folder, device="cpu", resume=True, start=first)
    assert line in (folder / "README.md").read_text()
    assert [event["event"] for event in events(folder / "journal.jsonl")] == ["started"]


def test_another_final_width_or_name_is_told(first, two_steps):
    wider = replace(two_steps, {"objective.final_dim": 2 * two_steps.objective.final_dim})
    width = two_steps.objective.final_dim
    reason = f"final_width was {width}, now {2 * width}"
    assert former(first, wider).renewed == {"log-mel": reason, "chroma": reason}
    values = two_steps.model_dump()
    values["targets"]["mine"] = values["targets"].pop("chroma")
    assert former(first, read_settings(type(two_steps), values, "test")).renewed == {"mine": "no such target there"}


def test_a_teacher_comes_along_as_slow_as_it_was(begun, two_steps, corpus, tmp_path):
    values = two_steps.model_dump() | {"targets": {"slow": {"target": "teacher", "top": 1, "decay": 0.5}}}
    taught = read_settings(type(two_steps), values, "test")
    one = pretrain(taught, corpus, tmp_path / "one", device="cpu")
    _, targets = begun(taught, corpus, tmp_path / "two", one)
    average = load_file(one / "training" / "last.safetensors")
    for name, value in targets["slow"].state_dict().items():
        assert torch.equal(value, average[f"moving.slow.{name}"])
    assert not torch.equal(
        targets["slow"].state_dict()["average.layers.0.layer_norm.weight"],
        trained(one)["encoder.encoder.layers.0.layer_norm.weight"],
    )


def test_an_encoders_licence_and_past_stay_with_it(two_steps, corpus, tmp_path):
    encoder = build(two_steps.encoder, 7, two_steps.network.model_dump())
    facts = {"license": "CC-BY-NC-4.0", "commercial_use": False, "trained_on": ("gtzan",)}
    encoder.card = encoder.card.model_copy(update=facts)
    save_pretrained(encoder, tmp_path / "official")
    folder = pretrain(two_steps, corpus, tmp_path / "x", device="cpu", steps=1, start=tmp_path / "official")
    card = carrara.load(folder).card
    assert (card.license, card.commercial_use, card.trained_on) == ("CC-BY-NC-4.0", False, ("gtzan",))
    why = "no heads are published with it"
    assert json.loads((folder / "run.json").read_text())["start"]["renewed"] == dict.fromkeys(two_steps.targets, why)


def test_another_network_is_named_in_one_line(first, two_steps, corpus, tmp_path):
    wide = replace(two_steps, {"network.dim": 48, "network.num_layers": 2, "network.dropout": 0.0})
    with pytest.raises(UsageError) as told:
        pretrain(wide, corpus, tmp_path / "x", device="cpu", start=first)
    assert f"--from {first}: is another network: width is 32 there and 48 here, layers is 1 there and 2 here" in str(
        told.value
    )
    assert "--set network.dim=32 --set network.num_layers=1" in str(told.value) and "dropout" not in str(told.value)
    assert "\n" not in str(told.value)
    with pytest.raises(UsageError, match="--from noise: is no network of the recipe's kind"):
        pretrain(two_steps, corpus, tmp_path / "x", device="cpu", start="noise")
    with pytest.raises(UsageError, match="there is no encoder 'mert-v9'"):
        pretrain(two_steps, corpus, tmp_path / "x", device="cpu", start="mert-v9")


def test_a_resumed_run_must_have_started_there_and_needs_it_no_more(first, two_steps, corpus, tmp_path):
    source = shutil.copytree(first, tmp_path / "source")
    longer = replace(two_steps, {"steps": 3})
    whole = pretrain(longer, corpus, tmp_path / "whole", device="cpu", start=source)
    half = shutil.copytree(whole, tmp_path / "half")
    shutil.copy(half / "training" / "previous.safetensors", half / "training" / "last.safetensors")
    with pytest.raises(StoreError, match=f"half: started from {source}, not random weights; give --from {source}, or"):
        pretrain(longer, corpus, half, device="cpu", resume=True)
    with pytest.raises(StoreError, match=f"half: started from {source}, not noise; give --from {source}, or"):
        pretrain(longer, corpus, half, device="cpu", resume=True, start="noise")
    with pytest.raises(StoreError, match="first: started from random weights, not x; leave --from out, or"):
        pretrain(two_steps, corpus, first, device="cpu", resume=True, start="x")
    shutil.rmtree(source)
    pretrain(longer, corpus, half, device="cpu", resume=True, start=source)
    one, two = trained(whole), trained(half)
    assert not [name for name in one if not torch.equal(one[name], two[name])]
    assert carrara.load(half).card.weights_sha256 == carrara.load(whole).card.weights_sha256


def test_other_weights_under_the_same_name_are_refused(begun, first, two_steps, corpus, tmp_path):
    source = shutil.copytree(first, tmp_path / "source")
    begun(two_steps, corpus, tmp_path / "x", source)
    save_pretrained(build(two_steps.encoder, 3, two_steps.network.model_dump()), source)
    with pytest.raises(StoreError, match=f"{source} held other weights when this run started"):
        pretrain(two_steps, corpus, tmp_path / "x", device="cpu", resume=True, start=source)
