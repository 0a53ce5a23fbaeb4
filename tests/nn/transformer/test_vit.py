"""The patch Transformer: equal to Hugging Face's AST layer by layer, tokens counted, padding never attended."""

import dataclasses

import pytest
import torch

from carrara.core.errors import UsageError
from carrara.encoders._maest.keys import from_ast
from carrara.nn.transformer.vit import PatchTransformer, VitShape

SMALL = VitShape(frames=316, dim=32, num_layers=3, num_heads=4, ffn_dim=64)


@pytest.fixture(scope="module")
def network():
    return drawn(PatchTransformer(SMALL)).eval()


def drawn(module):
    """Draw every parameter, norms around 1 and biases too, so that one in another's place shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            gain = parameter.ndim == 1 and name.endswith("weight")
            parameter.normal_(float(gain), 0.2 if parameter.ndim == 1 else 0.1, generator=generator)
    return module


def mel(batch=2, frames=316, seed=0):
    return torch.randn(batch, frames, 96, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def inference(request):
    with torch.set_grad_enabled("gradient" in request.node.name):
        yield


@pytest.mark.parametrize(
    ("nominal", "tokens", "hub_frames", "hub_tokens"),
    [(312, 272, 316, 281), (625, 551, 626, 560), (1250, 1118, 1256, 1127), (1875, 1676, 1876, 1685)],
)
def test_tokens_of_the_published_lengths(nominal, tokens, hub_frames, hub_tokens):
    small = VitShape(frames=nominal, dim=8, num_layers=1, num_heads=1, ffn_dim=8)
    module = PatchTransformer(small)
    for frames, count in ((nominal, tokens), (hub_frames, hub_tokens)):
        rows = module(mel(1, frames))
        assert [row.shape for row in rows] == [(1, count, 8)] * 2
    assert module.time_new_pos_embed.shape[-1] == (hub_tokens - 2) // 9


def test_published_names_and_sizes():
    with torch.device("meta"):
        sizes = {name: tuple(p.shape) for name, p in PatchTransformer(VitShape(frames=1875)).named_parameters()}
    assert sum(torch.Size(shape).numel() for shape in sizes.values()) == 86_023_712 - 2 * (400 * 769) - 2 * 768
    target = {
        "cls_token": (1, 1, 768),
        "dist_token": (1, 1, 768),
        "new_pos_embed": (1, 2, 768),
        "freq_new_pos_embed": (1, 768, 9, 1),
        "time_new_pos_embed": (1, 768, 1, 187),
        "patch_embed.proj.weight": (768, 1, 16, 16),
        "blocks.11.norm1.bias": (768,),
        "blocks.11.attn.qkv.weight": (2304, 768),
        "blocks.11.attn.proj.weight": (768, 768),
        "blocks.11.mlp.fc1.weight": (3072, 768),
        "blocks.11.mlp.fc2.weight": (768, 3072),
        "norm.weight": (768,),
    }
    assert {name: sizes.get(name) for name in target} == target


def test_every_layer_equals_hugging_faces():
    transformers = pytest.importorskip("transformers")
    config = transformers.ASTConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        num_mel_bins=96,
        max_length=316,
        layer_norm_eps=1e-6,
        num_labels=5,
    )
    theirs = drawn(transformers.ASTForAudioClassification(config)).eval()
    ast = theirs.audio_spectrogram_transformer
    table = ast.embeddings.position_embeddings
    # Theirs made a sum, as MAEST's are.
    generator = torch.Generator().manual_seed(1)
    first, rows, columns = (torch.randn(size, generator=generator) for size in ((2, 32), (9, 1, 32), (1, 31, 32)))
    table.copy_(torch.cat([first, (rows + columns).reshape(-1, 32)])[None])
    ours = PatchTransformer(SMALL).eval()
    tensors = from_ast(theirs.state_dict(), 9, "test")
    ours.load_state_dict({name[4:]: tensor for name, tensor in tensors.items() if name.startswith("vit.")})
    x = mel()
    expected = theirs(x, output_hidden_states=True).hidden_states
    actual = ours(x)
    assert len(actual) == len(expected) == 4
    for place, (one, other) in enumerate(zip(actual, expected)):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5, msg=lambda text, at=place: f"row {at}: {text}")
    torch.testing.assert_close(ours.norm(actual[-1]), ast(x).last_hidden_state, atol=1e-5, rtol=1e-5)


def test_padding_is_never_attended(network):
    lengths = [316, 130, 27, 16]
    padded = mel(4)
    alone = [network(padded[place : place + 1, :length]) for place, length in enumerate(lengths)]
    together = network(padded, torch.tensor(lengths))
    for place, length in enumerate(lengths):
        columns = (length - 16) // 10 + 1
        for one, row in zip(alone[place], together):
            own = row[place, 2:].unflatten(0, (9, 31))[:, :columns].flatten(0, 1)
            torch.testing.assert_close(torch.cat([row[place, :2], own]), one[0], atol=1e-5, rtol=1e-5)


def test_patchout_keeps_columns_and_rows_after_positions(network):
    columns, rows = torch.tensor([0, 3, 4, 20]), torch.tensor([1, 8])
    whole = network(mel())[0][:, 2:].unflatten(1, (9, 31))
    kept = network(mel(), None, columns, 0, rows)
    assert kept[-1].shape == (2, 2 + 2 * 4, 32)
    torch.testing.assert_close(kept[0][:, 2:].unflatten(1, (2, 4)), whole[:, rows][:, :, columns])
    # A clip whose kept columns end early attends to its own only.
    short = network(mel(), torch.tensor([316, 50]), columns)
    alone = network(mel()[1:, :56], torch.tensor([50]), columns[:3])
    torch.testing.assert_close(short[-1][1, :2], alone[-1][0, :2], atol=1e-5, rtol=1e-5)


def test_a_slice_of_the_table_of_columns(network):
    frames, offset = 126, 7
    patches = network.patch_embed["proj"](mel(1, frames).transpose(1, 2)[:, None])
    expected = patches + network.freq_new_pos_embed + network.time_new_pos_embed[..., offset : offset + 12]
    torch.testing.assert_close(network(mel(1, frames), random_offset=offset)[0][:, 2:], expected.flatten(2).mT)


@pytest.mark.parametrize(
    ("frames", "options", "message"),
    [
        (15, {}, "15 frames are less than one patch of 16"),
        (326, {}, "326 frames, but the table of positions ends after 316"),
        (316, {"random_offset": 1}, "ends after 306"),
        (316, {"keep_columns": torch.tensor([], dtype=torch.long)}, "no patch at all"),
    ],
)
def test_invalid_lengths_and_patchout_are_refused(network, frames, options, message):
    with pytest.raises(UsageError, match=message):
        network(mel(1, frames), **options)


def test_activation_checkpointing_gives_the_same_gradient():
    gradients = []
    for recompute in (False, True):
        module = PatchTransformer(dataclasses.replace(SMALL, num_layers=2))
        module.init_weights(torch.Generator().manual_seed(0))
        module.activation_checkpointing = recompute
        module.train()(mel(1), torch.tensor([100]))[-1][:, :2].square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert float(gradients[0]["blocks.0.attn.qkv.weight"].abs().max()) > 0
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_initial_weights_have_the_documented_distribution():
    module = PatchTransformer(VitShape(frames=312, dim=192, num_layers=2, num_heads=4, ffn_dim=384))
    module.init_weights(torch.Generator().manual_seed(1))
    for name in ("blocks.1.attn.qkv.weight", "blocks.0.mlp.fc2.weight", "time_new_pos_embed"):
        values = module.get_parameter(name)
        assert float(values.std()) == pytest.approx(0.02, rel=0.05)
    assert float(module.patch_embed["proj"].weight.abs().max()) == pytest.approx(1 / 16, rel=1e-3)
    assert not module.get_parameter("blocks.0.mlp.fc1.bias").any()
