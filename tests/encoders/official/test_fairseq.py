"""fairseq's checkpoints without fairseq: every layer equal to transformers' with the same weights, heads kept."""

import sys

import pytest
import torch

from carrara.core.errors import WeightsError
from carrara.encoders import REGISTRY
from carrara.encoders._hub.load import build_encoder
from carrara.encoders._hubert.fairseq import map_fairseq_name
from carrara.encoders._hubert.huggingface import read_hubert_heads, read_hubert_weights
from carrara.formats.weights import load_state_dict_strict

FAMILIES = {"post": "mert-tiny", "pre": "mert-tiny", "layer": "musichubert-tiny", "data2vec": "music2vec-tiny"}


def sound():
    return 0.1 * torch.randn(2, 5000, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", FAMILIES)
def test_every_layer_equals_transformers(tmp_path, twin, changes, write_fairseq, kind, zipped):
    model = twin(kind)
    path = write_fairseq(tmp_path / "mert.pt", model.state_dict(), kind, zipped=zipped)
    encoder = build_encoder(FAMILIES[kind], changes={**changes(kind), "standardise": False}).eval()
    load_state_dict_strict(encoder, read_hubert_weights("x", path), str(path))
    theirs = model(sound(), output_hidden_states=True)
    rows = list(theirs.hidden_states)
    if kind == "pre":
        rows[-1] = theirs.last_hidden_state
    assert len(rows) == 3
    for i, row in enumerate(encoder(sound()).unbind(1)):
        torch.testing.assert_close(row, rows[i], atol=1e-5, rtol=1e-5)
    assert "fairseq" not in sys.modules


@pytest.mark.parametrize(
    ("name", "kind"), [("mert-v1-95m", "post"), ("mert-v1-330m", "pre"), ("music2vec-v1", "data2vec")]
)
def test_the_published_networks_have_a_name_for_every_tensor(fairseq_names, name, kind):
    with torch.device("meta"):
        expected = set(build_encoder(name).state_dict())
    pairs = fairseq_names(REGISTRY.get(name).variants[name][0].num_layers, kind)
    assert set(pairs) == expected
    assert {map_fairseq_name(theirs) for theirs in pairs.values()} - expected == {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        )
        for name in expected
        if "original" in name
    }
    assert all(map_fairseq_name(theirs) == name for name, theirs in pairs.items() if "original" not in name)


@torch.no_grad()
@pytest.mark.parametrize("spelling", ["new", "folded", "fine-tuned"])
def test_other_spellings(tmp_path, twin, changes, write_fairseq, spelling):
    model = twin()
    whole = torch.load(write_fairseq(tmp_path / "x.pt", model.state_dict(), dictionaries=()), weights_only=False,
                       pickle_module=_any_class())["model"]  # fmt: skip
    prefix = "encoder.pos_conv.0"
    gain, direction = whole.pop(f"{prefix}.weight_g"), whole.pop(f"{prefix}.weight_v")
    if spelling == "folded":
        whole[f"{prefix}.weight"] = model.encoder.pos_conv_embed.conv.weight.detach().clone()
    else:
        whole[f"{prefix}.parametrizations.weight.original0"] = gain
        whole[f"{prefix}.parametrizations.weight.original1"] = direction
    if spelling == "fine-tuned":
        whole = {f"w2v_encoder.w2v_model.{name}": tensor for name, tensor in whole.items()}
        whole |= {"w2v_encoder.proj.weight": torch.zeros(3, 32), "w2v_encoder.proj.bias": torch.zeros(3)}
    torch.save({"args": None, "model": whole}, tmp_path / "x.pt")
    encoder = build_encoder("mert-tiny", changes=changes()).eval()
    load_state_dict_strict(encoder, read_hubert_weights("x", tmp_path / "x.pt"), "x")
    theirs = model(sound(), output_hidden_states=True).hidden_states
    torch.testing.assert_close(encoder(sound()), torch.stack(theirs, 1), atol=1e-5, rtol=1e-5)


def _any_class():
    import pickle
    import types

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            stub = type(name, (), {})
            return stub if module.startswith("fairseq") else super().find_class(module, name)

    return types.SimpleNamespace(
        __name__="stubs", Unpickler=Unpickler, load=lambda file, **options: Unpickler(file, **options).load()
    )


def test_heads_are_kept_and_fixed_kernels_are_not(tmp_path, twin, write_fairseq):
    heads = {
        "final_proj.weight": torch.randn(16, 32),
        "final_proj.bias": torch.randn(16),
        "label_embs_concat": torch.randn(2 * 7, 8).half(),
        "encoder_cqt_model.fc.weight": torch.randn(336, 32),
        "encoder_cqt_model.fc.bias": torch.randn(336),
    }
    fixed = {f"encoder_cqt_model.spec_layer.{name}": torch.zeros(336) for name in ("lenghts", "cqt_kernels_real")}
    teacher = {"layers.0.fc1.weight": torch.randn(48, 32), "layer_norm.bias": torch.randn(32)}
    path = write_fairseq(
        tmp_path / "x.pt",
        twin().state_dict(),
        dictionaries=([2, 0, 1], [0, 1, 2]),
        extra={**heads, **fixed, "_ema": teacher},
    )
    heads_read = read_hubert_heads(path)
    expected = {**heads, **{f"_ema.{name}": tensor for name, tensor in teacher.items()}}
    assert heads_read.keys() == {*expected, "dictionaries.0", "dictionaries.1"}
    assert all(torch.equal(heads_read[name], tensor.float()) for name, tensor in expected.items())
    assert heads_read["dictionaries.0"].tolist() == [-1, -1, -1, -1, 2, 0, 1]
    assert not set(read_hubert_weights("x", path)) & set(expected)
    assert map_fairseq_name("encoder.layers.0.fc1.weight") == "encoder.layers.0.feed_forward.intermediate_dense.weight"


def test_half_precision_becomes_single(tmp_path, twin, write_fairseq):
    half = {name: tensor.half() for name, tensor in twin().state_dict().items()}
    tensors = read_hubert_weights("x", write_fairseq(tmp_path / "x.pt", half))
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())
    assert torch.equal(tensors["masked_spec_embed"], half["masked_spec_embed"].float())


@pytest.mark.parametrize("lost", ["layer_norm.weight", "encoder.layer_norm.weight", "encoder.layers.1.fc2.bias"])
def test_tensors_of_other_names_do_not_replace_a_missing_one(tmp_path, twin, changes, write_fairseq, lost):
    path = write_fairseq(tmp_path / "x.pt", twin().state_dict())
    tensors = read_hubert_weights("x", path)
    del tensors[map_fairseq_name(lost)]
    with pytest.raises(WeightsError, match=f"1 missing \\({map_fairseq_name(lost)}\\)"):
        load_state_dict_strict(build_encoder("mert-tiny", changes=changes()), tensors, str(path))


def test_an_unknown_name_is_reported(tmp_path, twin, changes, write_fairseq):
    extra = {"encoder.layers.0.self_attn.k_projection.weight": torch.zeros(2)}
    path = write_fairseq(tmp_path / "x.pt", twin().state_dict(), extra=extra)
    with pytest.raises(WeightsError, match="x.pt.*1 unknown \\(encoder.layers.0.self_attn.k_projection.weight\\)"):
        load_state_dict_strict(build_encoder("mert-tiny", changes=changes()), read_hubert_weights("x", path), str(path))


class Evil:
    def __reduce__(self):
        return print, ("run",)


def test_files_of_another_kind_are_reported(tmp_path, twin, write_fairseq, capsys):
    torch.save({"weights": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match="neither a table of tensors.*print.*nothing in it was run"):
        read_hubert_weights("x", tmp_path / "evil.pt")
    path = write_fairseq(tmp_path / "x.pt", twin().state_dict(), extra={"layer_norm.weight": [1, 2]})
    with pytest.raises(WeightsError, match="layer_norm.weight is not a tensor"):
        read_hubert_weights("x", path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("twin_name", ["w2v_encoder.w2v_model.encoder.layer_norm.weight", "encoder.pos_conv.0.{}0"])
def test_two_names_that_become_one_are_refused(tmp_path, twin, write_fairseq, twin_name):
    extra = {twin_name.format("parametrizations.weight.original"): torch.zeros(32)}
    path = write_fairseq(tmp_path / "x.pt", twin().state_dict(), extra=extra)
    with pytest.raises(WeightsError, match="x.pt: two tensors in it mean encoder"):
        read_hubert_weights("x", path)
