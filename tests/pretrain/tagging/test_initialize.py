"""Initial weights from files shaped as DeiT's and PaSST's authors publish them, and from taggers of other lengths."""

import pytest
import torch
from torch.nn.functional import interpolate

from carrara.core.errors import UsageError, WeightsError
from carrara.encoders._hub.load import build_encoder, save_pretrained
from carrara.pretrain.tagging.initialize import load_initial_weights
from carrara.pretrain.tagging.settings import InitialSettings

DIM, LAYERS = 16, 2
SIZES = {"dim": DIM, "num_layers": LAYERS, "num_heads": 2, "ffn_dim": 32}
TAGS = ("a", "b", "c")


def tagger(frames=625, seed=0, labels=TAGS):
    own = {**SIZES, "frames": frames, "labels": labels, "classes": len(labels)}
    return build_encoder("maest-tiny", seed, own)


def body(generator):
    """Return what DeiT and PaSST have in common, by their names, random throughout."""
    shapes = {"cls_token": (1, 1, DIM), "dist_token": (1, 1, DIM), "patch_embed.proj.bias": (DIM,)}
    for block in range(LAYERS):
        for name, shape in {
            "norm1": (DIM,), "norm2": (DIM,), "attn.qkv": (3 * DIM, DIM), "attn.proj": (DIM, DIM),
            "mlp.fc1": (32, DIM), "mlp.fc2": (DIM, 32),
        }.items():  # fmt: skip
            shapes |= {f"blocks.{block}.{name}.weight": shape, f"blocks.{block}.{name}.bias": shape[:1]}
    shapes |= {"norm.weight": (DIM,), "norm.bias": (DIM,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture
def passt(tmp_path):
    generator = torch.Generator().manual_seed(1)
    tensors = body(generator) | {
        "new_pos_embed": torch.randn(1, 2, DIM, generator=generator),
        "freq_new_pos_embed": torch.randn(1, DIM, 12, 1, generator=generator),
        "time_new_pos_embed": torch.randn(1, DIM, 1, 99, generator=generator),
        "patch_embed.proj.weight": torch.randn(DIM, 1, 16, 16, generator=generator),
        "head.0.weight": torch.randn(DIM, generator=generator),
        "head.0.bias": torch.randn(DIM, generator=generator),
        "head.1.weight": torch.randn(527, DIM, generator=generator),
        "head.1.bias": torch.randn(527, generator=generator),
        "head_dist.weight": torch.randn(527, DIM, generator=generator),
        "head_dist.bias": torch.randn(527, generator=generator),
    }
    torch.save(tensors, tmp_path / "passt.pt")
    return tmp_path / "passt.pt", tensors


@pytest.fixture
def deit(tmp_path):
    generator = torch.Generator().manual_seed(2)
    tensors = body(generator) | {
        "pos_embed": torch.randn(1, 2 + 24 * 24, DIM, generator=generator),
        "patch_embed.proj.weight": torch.randn(DIM, 3, 16, 16, generator=generator),
        "head.weight": torch.randn(1000, DIM, generator=generator),
        "head.bias": torch.randn(1000, generator=generator),
        "head_dist.weight": torch.randn(1000, DIM, generator=generator),
        "head_dist.bias": torch.randn(1000, generator=generator),
    }
    torch.save({"model": tensors}, tmp_path / "deit.pth")
    return tmp_path / "deit.pth", tensors


@pytest.mark.parametrize(("frames", "columns"), [(312, 31), (625, 62), (1250, 125), (1875, 187)])
def test_passts_positions_are_interpolated_and_its_classes_dropped(passt, frames, columns):
    path, theirs = passt
    encoder = tagger(frames)
    drawn = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    load_initial_weights(encoder, InitialSettings(kind="passt", weights=str(path)))
    ours = encoder.state_dict()
    for name, size in (("freq_new_pos_embed", (9, 1)), ("time_new_pos_embed", (1, columns))):
        expected = interpolate(theirs.pop(name), size, mode="bicubic", align_corners=False)
        torch.testing.assert_close(ours[f"vit.{name}"], expected)
    for name in ("head.1.weight", "head.1.bias", "head_dist.weight", "head_dist.bias"):
        assert torch.equal(ours[name], drawn[name])
        del theirs[name]
    for name, tensor in theirs.items():
        assert torch.equal(ours[name if name.startswith("head") else f"vit.{name}"], tensor)
    assert encoder.card.trained_on[0] == "AudioSet"


def test_a_table_of_the_same_length_stays_as_it_is(passt):
    path, theirs = passt
    encoder = tagger(990)
    load_initial_weights(encoder, InitialSettings(kind="passt", weights=str(path)))
    torch.testing.assert_close(encoder.vit.time_new_pos_embed.data, theirs["time_new_pos_embed"])


def test_deits_square_becomes_rows_and_columns_and_its_colours_one_channel(deit):
    path, theirs = deit
    encoder = tagger(625)
    load_initial_weights(encoder, InitialSettings(kind="deit", weights=str(path)))
    # Token 2 + 24 y + x stands for the patch of row y, column x.
    grid = torch.empty(1, DIM, 24, 24)
    for y in range(24):
        for x in range(24):
            grid[0, :, y, x] = theirs["pos_embed"][0, 2 + 24 * y + x]
    grid = interpolate(grid, (9, 62), mode="bicubic", align_corners=False)
    torch.testing.assert_close(encoder.vit.freq_new_pos_embed.data[..., 0], grid.sum(3) / 62)
    torch.testing.assert_close(encoder.vit.time_new_pos_embed.data[:, :, 0], grid.sum(2) / 9)
    torch.testing.assert_close(encoder.vit.new_pos_embed.data, theirs["pos_embed"][:, :2])
    red, green, blue = theirs["patch_embed.proj.weight"].unbind(1)
    torch.testing.assert_close(encoder.vit.patch_embed["proj"].weight.data[:, 0], red + green + blue)
    assert torch.equal(encoder.vit.blocks[1].mlp.fc2.weight, theirs["blocks.1.mlp.fc2.weight"])
    assert encoder.head[1].weight.shape == (3, DIM)


def test_files_of_another_kind_are_refused_by_name(passt, deit, tmp_path):
    def begin(**settings):
        load_initial_weights(tagger(), InitialSettings(**settings))

    with pytest.raises(UsageError, match="kind passt come from a file: --set initial.weights=PATH .passt-s-f128"):
        begin(kind="passt")
    with pytest.raises(WeightsError, match="deit.pth: has no freq_new_pos_embed, so it does not hold PaSST's"):
        begin(kind="passt", weights=str(deit[0]))
    with pytest.raises(WeightsError, match="passt.pt: has no pos_embed, so it does not hold a distilled DeiT's"):
        begin(kind="deit", weights=str(passt[0]))
    plain = {**deit[1], "pos_embed": torch.zeros(1, 1 + 24 * 24, DIM)}
    torch.save({"model": plain}, tmp_path / "plain.pth")
    with pytest.raises(WeightsError, match="577 positions are not 2 and a square of patches"):
        begin(kind="deit", weights=str(tmp_path / "plain.pth"))
    with pytest.raises(WeightsError, match="of another shape"):
        wide = build_encoder("maest-tiny", 0, {**SIZES, "dim": 32})
        load_initial_weights(wide, InitialSettings(kind="passt", weights=str(passt[0])))
    with pytest.raises(WeightsError, match="no table of tensors"):
        torch.save([1, 2], tmp_path / "list.pth")
        begin(kind="deit", weights=str(tmp_path / "list.pth"))
    conv = build_encoder("effnet-discogs", 0, {"width_multiplier": 0.25, "classes": 3})
    with pytest.raises(UsageError, match="are for MAEST"):
        load_initial_weights(conv, InitialSettings(kind="passt", weights=str(passt[0])))


def test_a_tagger_of_another_length_is_interpolated_only_on_request(tmp_path):
    before = tagger(312, seed=5)
    save_pretrained(before, tmp_path / "five")
    settings = {"kind": "folder", "weights": str(tmp_path / "five")}
    with pytest.raises(UsageError, match="positions for 31 columns .* this network for 62.*interpolate=true"):
        load_initial_weights(tagger(), InitialSettings(**settings))
    ten = tagger()
    load_initial_weights(ten, InitialSettings(**settings, interpolate=True))
    expected = interpolate(before.vit.time_new_pos_embed, (1, 62), mode="bicubic", align_corners=False)
    torch.testing.assert_close(ten.vit.time_new_pos_embed.data, expected.data)
    assert torch.equal(ten.vit.blocks[0].attn.qkv.weight, before.vit.blocks[0].attn.qkv.weight)
    assert not torch.equal(ten.head[1].weight, before.head[1].weight)


def test_a_convolutional_networks_weights_are_taken_without_its_head(tmp_path):
    changes = {"width_multiplier": 0.1, "classes": 3, "labels": ("a", "b", "c")}
    before, after = (build_encoder("effnet-discogs", seed, changes) for seed in (1, 2))
    head = after.classifier.weight.clone()
    save_pretrained(before, tmp_path / "before")
    load_initial_weights(after, InitialSettings(kind="folder", weights=str(tmp_path / "before")))
    assert torch.equal(after.classifier.weight, head)
    theirs = before.network.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in after.network.state_dict().items())
