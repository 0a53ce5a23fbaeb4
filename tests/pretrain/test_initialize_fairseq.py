"""Continuing from fairseq's checkpoints: the heads that still mean the same, and the teacher."""

import json

import pytest
import torch
from safetensors.torch import save_file

from carrara.core.errors import WeightsError
from carrara.core.settings import replace
from carrara.encoders._frame_encoder import FrameGrid
from carrara.encoders._hub import official as official_files
from carrara.encoders._hub.load import build_encoder, save_pretrained
from carrara.pretrain.initialize import Initialization, load_heads
from carrara.pretrain.objectives._masked_network import MaskedPrediction, cosine_logits
from carrara.pretrain.recipes._base import ObjectiveSettings, resolve
from carrara.pretrain.targets._base import Target, TargetSettings
from carrara.pretrain.transferred_heads import TransferredHeads, heads_from_checkpoint


class ThreeCodebooks(Target):
    """A stand-in for EnCodec: three codebooks of five codes."""

    num_classes = (5, 5, 5)


def published(seed=0, dim=32, final_dim=8):
    """Return what fairseq holds for three codebooks of five codes, with four special symbols before each."""
    draw = torch.Generator().manual_seed(seed)
    return {
        "final_proj.weight": torch.randn(3 * final_dim, dim, generator=draw),
        "final_proj.bias": torch.randn(3 * final_dim, generator=draw),
        "label_embs_concat": torch.rand(3 * 9, final_dim, generator=draw),
        "encoder_cqt_model.fc.weight": torch.randn(84, dim, generator=draw),
        "encoder_cqt_model.fc.bias": torch.randn(84, generator=draw),
    }


@pytest.fixture
def encodec_recipe():
    """A recipe as MERT-v1's with three codebooks of five codes from EnCodec and a CQT of 84 bins, with dim 32."""
    changes = {"network.dim": 32, "network.num_heads": 2, "network.position_groups": 4, "objective.final_dim": 8}
    codes = {"targets.codes.source": "encodec", "targets.codes.weights": "x", "targets.codes.num_codebooks": 3}
    cqt = {"targets.codes.codebook_size": 5, "targets.cqt.form": "magnitude"}
    return resolve("mert-v1-95m", "tiny", {**changes, **codes, **cqt})


def build_model(recipe, transferred):
    encoder = build_encoder(recipe.encoder, 0, recipe.network.model_dump())
    targets = {"codes": ThreeCodebooks(TargetSettings(target="x"), FrameGrid(24_000, 320, 200))}
    model = MaskedPrediction(encoder, targets, ObjectiveSettings(final_dim=8), 0)
    heads = TransferredHeads(heads={"codes": transferred.heads["codes"]})
    load_heads(Initialization({}, heads), model, targets)
    return model


@pytest.mark.parametrize("permuted", [False, True])
def test_fairseqs_heads_give_fairseqs_logits(encodec_recipe, permuted, tmp_path):
    tensors, codes = published(), [torch.arange(-4, 5)] * 3
    if permuted:
        codes = [torch.cat([torch.full((4,), -1), torch.randperm(5, generator=torch.Generator().manual_seed(i))])
                 for i in range(3)]  # fmt: skip
        tensors |= {f"dictionaries.{i}": order for i, order in enumerate(codes)}
    save_file(tensors, tmp_path / official_files.HEADS)
    transferred = heads_from_checkpoint(str(tmp_path), encodec_recipe, 32)
    assert transferred.reinitialized == {}
    model, hidden_SD = build_model(encodec_recipe, transferred), torch.randn(6, 32)
    for codebook, projected_SP in enumerate(model.project(hidden_SD).chunk(3, dim=-1)):
        logits = cosine_logits(projected_SP, model.classes[codebook], 0.1)
        # One code after the other, from the rows that fairseq keeps for it.
        map_PD, bias_P = (tensors[f"final_proj.{kind}"][8 * codebook : 8 * codebook + 8] for kind in ("weight", "bias"))
        for row, code in enumerate(codes[codebook].tolist()):
            if code >= 0:
                cosine_S = torch.cosine_similarity(
                    hidden_SD @ map_PD.T + bias_P, tensors["label_embs_concat"][9 * codebook + row][None]
                )
                torch.testing.assert_close(logits[:, code], cosine_S / 0.1, rtol=1e-4, atol=1e-4)
    assert torch.equal(transferred.heads["cqt"][0].weight, tensors["encoder_cqt_model.fc.weight"])


def test_fairseqs_heads_of_other_labels_are_drawn_again(encodec_recipe, tmp_path):
    save_file(published(), tmp_path / official_files.HEADS)
    cases = [
        ({"targets.codes.source": "residual-k-means", "targets.codes.weights": None}, "numbered anew by every fit"),
        ({"targets.codes.codebook_size": 6}, "its label sets are others"),
        ({"targets.codes.num_codebooks": 2}, "its label sets are others"),
        ({"objective.final_dim": 16}, "its label sets are others"),
        ({"targets.cqt.form": "log"}, "published for the form magnitude, not log"),
        ({"targets.cqt.bins": 72}, "no head of 72 values is published with it"),
    ]
    for changes, reason in cases:
        reasons = heads_from_checkpoint(str(tmp_path), replace(encodec_recipe, changes), 32).reinitialized
        assert len(reasons) == 1 and reason in next(iter(reasons.values()))
    save_file({"encoder_cqt_model.fc.weight": published()["final_proj.bias"]}, tmp_path / official_files.HEADS)
    assert (
        heads_from_checkpoint(str(tmp_path), encodec_recipe, 32).reinitialized["codes"]
        == "no head for label sets is published with it"
    )


def test_data2vecs_regression_is_taken_over(tmp_path):
    changes = {"network.dim": 32, "network.num_heads": 2, "network.position_groups": 4}
    recipe = resolve("music2vec", "tiny", changes)
    tensors = {"final_proj.weight": torch.randn(32, 32), "final_proj.bias": torch.randn(32)}
    save_file(tensors, tmp_path / official_files.HEADS)
    (name,) = recipe.targets
    assert torch.equal(
        heads_from_checkpoint(str(tmp_path), recipe, 32).heads[name][0].weight, tensors["final_proj.weight"]
    )
    assert heads_from_checkpoint(str(tmp_path), recipe, 48).reinitialized == {
        name: "no head of 48 values is published with it"
    }


@pytest.mark.parametrize("positions", [True, False])
def test_fairseqs_average_is_the_initial_teacher(initial_state, corpus, tmp_path, positions):
    """`_ema` holds the Transformer's names from inside the encoder; positions may be left out, being copied."""
    changes = {"network.dim": 32, "network.num_heads": 2, "network.ffn_dim": 48, "network.num_layers": 1}
    changes |= {
        "network.conv_channels": 8,
        "network.position_groups": 4,
        "targets.teacher.top_layers": 1,
        "crop_seconds": 1,
    }
    recipe = resolve("music2vec", "tiny", changes)
    encoder, folder = build_encoder(recipe.encoder, 5, recipe.network.model_dump()), tmp_path / "official"
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
    save_file(head | {f"_ema.{name}": tensor for name, tensor in slow.items()}, folder / official_files.HEADS)
    _, targets = initial_state(recipe, corpus, tmp_path / "x", folder)
    average = targets["teacher"].average.state_dict()
    assert torch.equal(average["layers.0.feed_forward.output_dense.weight"], slow["layers.0.fc2.weight"])
    assert torch.equal(average["layers.0.layer_norm.bias"], slow["layers.0.self_attn_layer_norm.bias"])
    assert torch.equal(average["layer_norm.weight"], slow["layer_norm.weight"])
    assert torch.equal(average["layers.0.attention.k_proj.bias"], slow["layers.0.self_attn.k_proj.bias"])
    assert all(torch.equal(average[name], 0 * own if positions else own) for name, own in convolutions.items())
    del slow["layers.0.fc1.bias"]
    save_file(head | {f"_ema.{name}": tensor for name, tensor in slow.items()}, folder / official_files.HEADS)
    with pytest.raises(WeightsError, match=r"1 missing .*layers.0.feed_forward.intermediate_dense.bias"):
        initial_state(recipe, corpus, tmp_path / "y", folder)


def test_a_fairseq_file_gives_its_encoder_and_heads(initial_state, two_steps, corpus, tmp_path):
    """A file of fairseq's layout with this micro network: keys as in [notes/pretraining §2.3], written out by hand."""
    encoder = build_encoder(two_steps.encoder, 5, two_steps.network.model_dump())
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
    bare = replace(two_steps, {"targets.cqt.form": "magnitude"})
    tensors, _ = initial_state(bare, corpus, tmp_path / "x", path)
    assert not [name for name in state if not torch.equal(tensors[f"encoder.{name}"], state[name])]
    assert torch.equal(tensors["values.cqt.weight"], head["encoder_cqt_model.fc.weight"])
    reason = "its classes are numbered anew by every fit"
    record = json.loads((tmp_path / "x" / "run.json").read_text())["initialization"]
    assert record["reinitialized"] == {"log-mel": reason, "chroma": reason}
    assert record["loaded_heads"] == ["cqt"]
    with pytest.raises(WeightsError, match=r"fairseq.pt: not the weights of this network: .* of another shape"):
        initial_state(replace(bare, {"network.dim": 48}), corpus, tmp_path / "y", path)


def test_an_imported_folder_gives_its_heads(encodec_recipe, tmp_path):
    save_file(published(), tmp_path / official_files.HEADS)
    assert sorted(heads_from_checkpoint(str(tmp_path), encodec_recipe, 32).heads) == ["codes", "cqt"]
