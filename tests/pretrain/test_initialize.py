"""Initial weights: encoder and heads are loaded where they fit, and what was drawn again is reported everywhere."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

import carrara
from carrara.core.errors import StoreError, UsageError
from carrara.core.settings import parse_settings, replace
from carrara.encoders._hub.load import build_encoder, load, save_pretrained
from carrara.pretrain.metrics_log import read_events
from carrara.pretrain.run import pretrain
from carrara.pretrain.transferred_heads import heads_from_run


@pytest.fixture(scope="module")
def first(two_steps, corpus, tmp_path_factory):
    return pretrain(two_steps, corpus, tmp_path_factory.mktemp("runs") / "first", device="cpu")


def trained_tensors(folder):
    tensors = load_file(folder / "training" / "last.safetensors")
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}


def test_a_former_run_is_taken_over_whole(initial_state, first, two_steps, corpus, tmp_path, capsys):
    tensors, targets = initial_state(
        replace(two_steps, {"optimiser.learning_rate": 1e-4}), corpus / "0", tmp_path / "x", first
    )
    expected = trained_tensors(first)
    assert tensors.keys() == expected.keys()
    assert not [name for name in tensors if not torch.equal(tensors[name], expected[name])]
    fitted = load_file(first / "targets" / "chroma.safetensors")
    assert all(torch.equal(value, fitted[name]) for name, value in targets["chroma"].state_dict().items())
    assert capsys.readouterr().err.strip().splitlines() == [
        f"{tmp_path / 'x'}: started from {first}: encoder loaded; heads loaded: log-mel, chroma, cqt; "
        "re-initialized: none"
    ]


def test_what_does_not_fit_is_drawn_again_and_reported_everywhere(
    initial_state, first, two_steps, corpus, tmp_path, capsys
):
    other = replace(two_steps, {"targets.chroma.k": 7, "targets.log-mel.weight": 2.0, "steps": 1})
    plain, _ = initial_state(other, corpus, tmp_path / "plain")
    folder = tmp_path / "x"
    tensors, _ = initial_state(other, corpus, folder, first)
    expected, final_dim = trained_tensors(first), two_steps.objective.final_dim
    for name in ("classes.0", "values.cqt.weight", "values.cqt.bias"):
        assert torch.equal(tensors[name], expected[name])
    assert torch.equal(tensors["project.weight"][:final_dim], expected["project.weight"][:final_dim])
    assert torch.equal(tensors["project.weight"][final_dim:], plain["project.weight"][final_dim:])
    assert torch.equal(tensors["classes.1"], plain["classes.1"]) and len(tensors["classes.1"]) == 7
    line = "encoder loaded; heads loaded: log-mel, cqt; re-initialized: chroma (k was 6, now 7)"
    assert line in capsys.readouterr().err
    record = json.loads((folder / "run.json").read_text())["initialization"]
    assert (record["loaded_heads"], record["reinitialized"]) == (["log-mel", "cqt"], {"chroma": "k was 6, now 7"})
    assert record["weights_sha256"] == load(first).card.weights_sha256
    entry = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert entry == {"step": 0, "event": "started", **record}
    pretrain(other, corpus, folder, device="cpu", resume=True, start=first)
    assert line in (folder / "README.md").read_text()
    assert [event["event"] for event in read_events(folder / "metrics.jsonl")] == ["started"]


def test_another_final_dim_or_name_is_a_reason(first, two_steps):
    wider = replace(two_steps, {"objective.final_dim": 2 * two_steps.objective.final_dim})
    final_dim = two_steps.objective.final_dim
    reason = f"final_dim was {final_dim}, now {2 * final_dim}"
    assert heads_from_run(first, wider).reinitialized == {"log-mel": reason, "chroma": reason}
    values = two_steps.model_dump()
    values["targets"]["mine"] = values["targets"].pop("chroma")
    assert heads_from_run(first, parse_settings(type(two_steps), values, "test")).reinitialized == {
        "mine": "no such target there"
    }


def test_an_ema_teacher_is_taken_over(initial_state, two_steps, corpus, tmp_path):
    values = two_steps.model_dump() | {"targets": {"slow": {"target": "teacher", "top_layers": 1, "decay": 0.5}}}
    recipe = parse_settings(type(two_steps), values, "test")
    former = pretrain(recipe, corpus, tmp_path / "one", device="cpu")
    _, targets = initial_state(recipe, corpus, tmp_path / "two", former)
    average = load_file(former / "training" / "last.safetensors")
    for name, value in targets["slow"].state_dict().items():
        assert torch.equal(value, average[f"ema.slow.{name}"])
    assert not torch.equal(
        targets["slow"].state_dict()["average.layers.0.layer_norm.weight"],
        trained_tensors(former)["encoder.encoder.layers.0.layer_norm.weight"],
    )


def test_the_card_inherits_licence_and_training_data(two_steps, corpus, tmp_path):
    encoder = build_encoder(two_steps.encoder, 7, two_steps.network.model_dump())
    facts = {"license": "CC-BY-NC-4.0", "commercial_use": False, "trained_on": ("gtzan",)}
    encoder.card = encoder.card.model_copy(update=facts)
    save_pretrained(encoder, tmp_path / "official")
    folder = pretrain(two_steps, corpus, tmp_path / "x", device="cpu", steps=1, start=tmp_path / "official")
    card = carrara.load(folder).card
    assert (card.license, card.commercial_use, card.trained_on) == ("CC-BY-NC-4.0", False, ("gtzan", corpus.name))
    reason = "no heads are published with it"
    assert json.loads((folder / "run.json").read_text())["initialization"]["reinitialized"] == dict.fromkeys(
        two_steps.targets, reason
    )


def test_another_network_is_named_in_one_line(first, two_steps, corpus, tmp_path):
    wide = replace(two_steps, {"network.dim": 48, "network.num_layers": 2, "network.dropout": 0.0})
    with pytest.raises(UsageError) as error:
        pretrain(wide, corpus, tmp_path / "x", device="cpu", start=first)
    assert f"--from {first}: is another network: dim is 32 there and 48 here, num_layers is 1 there and 2 here" in str(
        error.value
    )
    assert "--set network.dim=32 --set network.num_layers=1" in str(error.value) and "dropout" not in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="--from noise: is no network of the recipe's kind"):
        pretrain(two_steps, corpus, tmp_path / "x", device="cpu", start="noise")
    with pytest.raises(UsageError, match="there is no registered encoder 'mert-v9'"):
        pretrain(two_steps, corpus, tmp_path / "x", device="cpu", start="mert-v9")


def test_a_resumed_run_must_have_the_same_start_and_needs_its_files_no_more(first, two_steps, corpus, tmp_path):
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
    expected, resumed = trained_tensors(whole), trained_tensors(half)
    assert not [name for name in expected if not torch.equal(expected[name], resumed[name])]
    assert carrara.load(half).card.weights_sha256 == carrara.load(whole).card.weights_sha256


def test_other_weights_under_the_same_name_are_refused(initial_state, first, two_steps, corpus, tmp_path):
    source = shutil.copytree(first, tmp_path / "source")
    initial_state(two_steps, corpus, tmp_path / "x", source)
    save_pretrained(build_encoder(two_steps.encoder, 3, two_steps.network.model_dump()), source)
    with pytest.raises(StoreError, match=f"{source} had other weights when this run started"):
        pretrain(two_steps, corpus, tmp_path / "x", device="cpu", resume=True, start=source)
